"""Which classes are recognised, and for which others they are taken: tables for a terminal, CSV, and a picture.

Promises names printed as they are, whatever characters are in them.  Counting is left to :mod:`train.scoring`,
which classes are worth a line to :mod:`train.report_classes`.
"""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.cells import cell_len, set_cell_size
from rich.table import Table

from pipeline.text import printable
from train.report_classes import hardest_classes, recalls_of, top_confusions

_CORNER = "true \\ guessed"
_FORMULA = ("=", "+", "-", "@")
_TERMINAL = 80  # cells of a line
_BORDERS = 3  # of these around each column, and one more at the end
_MAX_COLUMNS = 12  # classes whose matrix fits a terminal
_MAX_PAIRS = 10  # confused pairs that are listed where it does not
_MAX_NUMBERS = 25  # classes whose counts can be read in the picture
_MAX_NAMES = 120  # classes whose names can be


def class_table(matrices: Mapping[str, np.ndarray], class_names: Sequence[str], *, max_classes: int) -> Table:
    """Recall of every class by every network, the classes that the first network recognises worst first.

    Args:
        matrices: (K, K) counts by network, rows true; the first one's confusions are named.
        class_names: K names.
        max_classes: rows at most.
    """
    first = next(iter(matrices.values()))
    hardest = hardest_classes(first, tuple(class_names), max_classes)
    recalls = [dict(zip(class_names, recalls_of(matrix).tolist(), strict=True)) for matrix in matrices.values()]
    num_present = np.count_nonzero(first.sum(axis=1))
    title = f"the {len(hardest)} hardest of {num_present} classes" if len(hardest) < num_present else None
    table = Table("class", "videos", *matrices, "most often taken for", title=title, title_justify="left")
    for score in hardest:
        found = (f"{recall[score.name]:.1%}" for recall in recalls)
        mistaken = f"{printable(score.taken_for)} ({score.num_taken})" if score.taken_for is not None else ""
        table.add_row(printable(score.name), str(score.num_videos), *found, mistaken)
    return table


def confusion_table(matrix: np.ndarray, class_names: Sequence[str]) -> Table:
    """The matrix for a terminal, or the pairs confused most often where there are too many classes for it.

    Args:
        matrix: (K, K) counts, rows true.
        class_names: K names.
    """
    names = [printable(name) for name in class_names]
    if len(names) <= _MAX_COLUMNS:
        rows, columns = _headings(names)
        table = Table(_CORNER, *columns)
        for row, counts in zip(rows, matrix.tolist(), strict=True):
            table.add_row(row, *(str(count) if count else "." for count in counts))
        return table
    table = Table("class", "taken for", "times", "of")
    for pair in top_confusions(matrix, tuple(class_names), _MAX_PAIRS):
        table.add_row(printable(pair.name), printable(pair.taken_for), str(pair.num_taken), str(pair.num_videos))
    return table


def _headings(names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Of rows and columns: names, cut where they must be; numbers for columns where that leaves none, or two alike."""
    room = (_TERMINAL - max(map(cell_len, (_CORNER, *names))) - _BORDERS - 1) // len(names) - _BORDERS
    cut = [name if cell_len(name) <= room else set_cell_size(name, max(room - 1, 0)) + "…" for name in names]
    if room > 1 and len(set(cut)) == len(cut):
        return names, cut
    return [f"{row} {name}" for row, name in enumerate(names)], [str(column) for column in range(len(names))]


def confusion_csv(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """The matrix as CSV with the names of the classes in its first row and column; rows are the true classes.

    Spreadsheets compute what begins as a formula does: such names get an apostrophe in front, which they do not show.

    Args:
        matrix: (K, K) counts.
        class_names: K names.
    """
    names = [f"'{name}" if name.startswith(_FORMULA) else name for name in map(printable, class_names)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_CORNER, *names])
    writer.writerows([name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True))
    return text.getvalue()


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> bytes:
    """The matrix as a PNG: colours are shares of the true class, numbers are counts of videos.

    Args:
        matrix: (K, K) counts, rows true.
        class_names: K names.
    """
    num_classes = len(class_names)
    side = float(np.clip(1.5 + 0.32 * num_classes, 4, 20))
    figure = Figure((side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, label="share of the true class", shrink=0.8)
    axes.set(xlabel="guessed", ylabel="true")
    if num_classes <= _MAX_NAMES:
        names = [printable(name) for name in class_names]
        size = 9 if num_classes <= _MAX_NUMBERS else 5
        # Names may hold dollar signs, which are no formulas.
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(num_classes), names, fontsize=size, parse_math=False)
    if num_classes <= _MAX_NUMBERS:
        for row, column in np.argwhere(matrix).tolist():
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(png, dpi=110, format="png")
    return png.getvalue()
