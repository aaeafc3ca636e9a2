"""The report of a run: ``report/report.html``, and for terminals and papers ``summary.md`` and ``curves.png``.

Promises to show only what stands in the run's folder, so that it can be written again at any time; only Grad-CAM asks
for the videos, and is left out with the reason where they are gone.  How it looks is left to :mod:`train.report_page`.

    python -m train.report RUN
"""

import re
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import numpy as np

from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.files import write_whole
from pipeline.program import run_program
from pipeline.show import contact_sheet
from pipeline.text import printable, printable_lines
from train.config import to_json
from train.confusion import draw_confusion
from train.metrics import write_pictures
from train.predictions import SavedPredictions, read_predictions
from train.report_clips import ExplainedClip, as_jpeg, explain_clips
from train.report_contents import (
    Notes,
    confusion_section,
    describe_machine,
    final_accuracies,
    headline,
    read_notes,
    result_rows,
    results_header,
    speeds,
    what_is_unfinished,
    what_was_trained,
)
from train.report_figures import chart_svgs, draw_curves
from train.report_page import Report, render
from train.saved_run import DataRoot, RunFolder, open_run, open_videos
from train.scoring import confusion_matrix
from train.videos import Videos

REPORT = "report"
PAGE = "report.html"
SHEET = "contact_sheet.png"


def keep_sample(run_dir: Path, batch: ClipBatch | None, class_names: tuple[str, ...]) -> None:
    """Draw clips as the main method gets them, for the report; without a batch an earlier picture goes."""
    sheet = run_dir / REPORT / SHEET
    if batch is None:
        sheet.unlink(missing_ok=True)
    else:
        contact_sheet(batch, sheet, class_names)


def write_report(run_dir: Path, videos: Videos | None = None, data_root: Path | None = None) -> Path:
    """Write the report of a run, replacing an earlier one, and its pictures to TensorBoard.

    Args:
        run_dir: the run; the report goes into its folder ``report``.
        videos: of the run; opened where not given.
        data_root: where they are by now; where they were when the run began, if None.

    Returns:
        Path of the page.

    Raises:
        InputError: this is not the folder of a run, or its notes are damaged.
    """
    notes = read_notes(run_dir)
    predictions, reason = _predictions(run_dir)
    matrix = None if predictions is None else _confusions(predictions, notes)
    explained, why_not = _explain(run_dir, predictions, videos, data_root)
    results = final_accuracies(notes.runs)
    is_finished = notes.config.run.method in results
    folder = run_dir / REPORT
    sheet = (folder / SHEET).read_bytes() if (folder / SHEET).exists() else None
    report = Report(
        title=" and ".join(notes.runs),
        run_dir=str(run_dir),
        unfinished=what_is_unfinished(notes),
        cards=headline(notes, results),
        results_header=results_header(len(notes.output_names)),
        results=list(result_rows(results, len(notes.output_names))),
        trained=what_was_trained(notes),
        charts=chart_svgs(notes.runs),
        confusion=None if matrix is None else confusion_section(matrix, notes.output_names),
        no_predictions=reason,
        sheet=as_jpeg(sheet) if sheet else None,
        no_sheet="too many videos have gone bad since" if is_finished else "the run is not finished",
        explained=explained,
        no_explained=reason or why_not,
        speed_header=("", *notes.runs),
        speed=speeds(notes.runs),
        left_out=notes.left_out,
        command=notes.environment["command"],
        environment=describe_machine(notes.environment),
        config=to_json(notes.config),
    )
    folder.mkdir(exist_ok=True)
    write_whole(folder / "curves.png", draw_curves(notes.runs))
    write_whole(folder / "summary.md", _summary(report).encode())
    write_whole(folder / PAGE, render(report).encode())
    pictures = {"clips": sheet, "confusion": None if matrix is None else draw_confusion(matrix, notes.output_names)}
    write_pictures(run_dir, pictures)
    return folder / PAGE


def _predictions(run_dir: Path) -> tuple[SavedPredictions | None, str]:
    """What the networks said of the validation videos, or why that is not known."""
    try:
        return read_predictions(run_dir), ""
    except InputError as error:
        return None, str(error)


def _confusions(predictions: SavedPredictions, notes: Notes) -> np.ndarray:
    """Of the network that is kept: the one that is named first."""
    logits = next(iter(predictions.logits.values()))
    return confusion_matrix(logits, predictions.labels, len(notes.output_names))


def _explain(
    run_dir: Path, predictions: SavedPredictions | None, videos: Videos | None, data_root: Path | None
) -> tuple[list[ExplainedClip], str]:
    """Clips with Grad-CAM, or why there are none."""
    if predictions is None:
        return [], ""
    try:
        run = open_run(run_dir)
        explained = explain_clips(run, videos or open_videos(run, data_root), predictions)
    except InputError as error:
        return [], str(error)
    return explained, "none of the videos to show can be read"


def _summary(report: Report) -> str:
    """The main things as Markdown."""
    lines = [
        f"# {report.title}",
        "",
        *([f"{report.unfinished}.", ""] if report.unfinished else []),
        *(f"- {name}: {_plain(value)}" for name, value in report.trained),
        "",
        *_list_of_left_out(report.left_out),
        *_table_of_results(report),
        "    " + printable(report.command),
        "",
        "![losses and accuracies by step](curves.png)",
        "",
        f"![clips of one batch]({SHEET})" if report.sheet else f"What they saw is not shown: {report.no_sheet}.",
        "",
        f"More in [{PAGE}]({PAGE}).",
        "",
    ]
    return printable_lines("\n".join(lines))


def _plain(text: str) -> str:
    """A text as one line of Markdown in which nothing is markup, of HTML neither."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(printable(text), quote=False))


def _table_of_results(report: Report) -> Iterable[str]:
    if report.results:
        yield "Accuracy of the network that is kept on the validation videos, 10 clips x 3 crops of each:"
        yield ""
        yield f"| {' | '.join(report.results_header)} |"
        yield "|---" + "|---:" * (len(report.results_header) - 1) + "|"
        yield from (f"| {' | '.join(row)} |" for row in report.results)
        yield ""


def _list_of_left_out(left_out: Mapping[str, str]) -> Iterable[str]:
    if left_out:
        yield f"Videos that went bad meanwhile and were left out: {len(left_out)}."
        yield ""
        yield from (f"- {_plain(path)}: {_plain(reason)}" for path, reason in left_out.items())
        yield ""


def report(run: RunFolder, *, data_root: DataRoot = None) -> None:
    """Write the report of a run again.

    Args:
        run: folder of the run, its --run.dir.
        data_root: where its videos are by now, for Grad-CAM.
    """
    print(f"report: {write_report(run, data_root=data_root)}")


def main() -> int:
    """Run the program; returns its exit status."""
    return run_program(report, "python -m train.report")


if __name__ == "__main__":
    sys.exit(main())
