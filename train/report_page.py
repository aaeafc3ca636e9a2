"""A report as one HTML file that needs nothing else: styles, charts and pictures are in it, and it runs no code.

Promises that no text from outside can become markup, whatever characters it holds, and that a browser asks nobody for
anything.  Gathering what is shown is left to :mod:`train.report`.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.text import printable_lines
from train.report_classes import ClassScore, Confusion
from train.report_clips import ExplainedClip

_TEMPLATE = "report.html.jinja"

Row = Sequence[str]


@dataclass(frozen=True)
class ConfusionSection:
    """Which class is taken for which.

    Attributes:
        class_names: K names.
        cells: counts and shares of the true class, row by row; None where there are too many classes for a table.
        png: the matrix as a picture; None where there is the table.
        pairs: the most frequent confusions.
        hardest: classes of least recall.
        num_classes: that have videos.
    """

    class_names: tuple[str, ...]
    cells: list[list[tuple[int, float]]] | None
    png: bytes | None
    pairs: list[Confusion]
    hardest: list[ClassScore]
    num_classes: int


@dataclass(frozen=True)
class Report:
    """All that a report shows; where something is missing, the field ``no_...`` beside it says why.

    Attributes:
        title: methods compared.
        run_dir: folder of the run.
        unfinished: how far a run has come that has not been tested; nothing after that.
        cards: the numbers in large print, and what they are.
        results_header: of the table of accuracies.
        results: a row for each method that was tested.
        trained: what was trained, and on what.
        charts: <svg> elements by what they are about, made by this program.
        confusion: of the main method.
        sheet: JPEG of training clips.
        explained: clips with Grad-CAM.
        speed_header: of the table of speeds.
        speed: a row for each number.
        left_out: why videos were left out, by path.
        command: that started the run.
        environment: it ran in.
        config: as JSON.
    """

    title: str
    run_dir: str
    unfinished: str
    cards: list[tuple[str, str]]
    results_header: Row
    results: list[Row]
    trained: list[tuple[str, str]]
    charts: Mapping[str, str]
    confusion: ConfusionSection | None
    no_predictions: str
    sheet: bytes | None
    no_sheet: str
    explained: list[ExplainedClip]
    no_explained: str
    speed_header: Row
    speed: list[Row]
    left_out: Mapping[str, str]
    command: str
    environment: list[tuple[str, str]]
    config: str


def render(report: Report) -> str:
    """Write a report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template(_TEMPLATE).render(report=report)


def _printable(value: object) -> object:
    """File names that are not UTF-8 would end the writing of the file; control characters are not allowed in HTML."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value
