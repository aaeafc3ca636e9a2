"""The report of a finished run: ``report/summary.md``, ``curves.png`` and ``contact_sheet.png`` in its folder.

Promises to draw only what stands in the run's ``metrics.jsonl``.  What the clips look like is drawn by
:mod:`pipeline.show`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from pipeline.batch import ClipBatch
from pipeline.files import write_whole
from pipeline.show import contact_sheet
from train.metrics import Record, loss_names, read_metrics
from train.scoring import Accuracy

REPORT = "report"


def write_report(
    run_dir: Path,
    run_dirs: Mapping[str, Path],
    results: Mapping[str, Accuracy],
    batch: ClipBatch | None,
    class_names: tuple[str, ...],
    videos: str,
    left_out: Mapping[str, str],
    command: str,
) -> Path:
    """Write the report of a run, replacing an earlier one.

    Args:
        run_dir: the run; the report goes into its folder ``report``.
        run_dirs: folder of each trained method, the main one first.
        results: final accuracy of each method.
        batch: clips to show, as the main method gets them; None where too many videos have gone bad to have any.
        class_names: K names.
        videos: how many there are and what they serve for, in one line.
        left_out: why videos that went bad were left out, by path.
        command: the command line that started the run.

    Returns:
        Path of the summary.
    """
    folder = run_dir / REPORT
    folder.mkdir(exist_ok=True)
    draw_curves({method: read_metrics(path) for method, path in run_dirs.items()}, folder / "curves.png")
    if batch is not None:
        contact_sheet(batch, folder / "contact_sheet.png", class_names)
    summary = folder / "summary.md"
    write_whole(summary, _summary(results, videos, left_out, command, sheet=batch is not None).encode())
    return summary


def result_table(results: Mapping[str, Accuracy]) -> Table:
    """Final accuracies for a terminal."""
    table = Table(*_HEADER)
    for row in _rows(results):
        table.add_row(*row)
    return table


_HEADER = ("method", "top-1", "top-5", "mean of classes", "videos")


def _rows(results: Mapping[str, Accuracy]) -> Iterable[tuple[str, ...]]:
    for method, r in results.items():
        yield method, f"{r.top1:.1%}", f"{r.top5:.1%}", f"{r.mean_class:.1%}", str(r.num_videos)


_SHEET = (
    "What the networks see; rows are weak RGB, weak TG, strong RGB and strong TG:",
    "",
    "![clips of one batch](contact_sheet.png)",
)
_NO_SHEET = ("What the networks see is not shown: too many videos have gone bad since.",)


def _summary(
    results: Mapping[str, Accuracy], videos: str, left_out: Mapping[str, str], command: str, *, sheet: bool
) -> str:
    lines = [
        f"# {' and '.join(results)}",
        "",
        f"{videos}.",
        "",
        *_list_of_left_out(left_out),
        "Accuracy of the RGB network on the validation videos, 10 clips x 3 crops of each:",
        "",
        f"| {' | '.join(_HEADER)} |",
        "|---|---:|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in _rows(results)),
        "",
        "    " + command,
        "",
        "![losses and accuracies by step](curves.png)",
        "",
        *(_SHEET if sheet else _NO_SHEET),
        "",
    ]
    return "\n".join(lines)


def _list_of_left_out(left_out: Mapping[str, str]) -> Iterable[str]:
    if left_out:
        yield f"Videos that went bad meanwhile and were left out: {len(left_out)}."
        yield ""
        yield from (f"- `{path}`: {reason}" for path, reason in sorted(left_out.items()))
        yield ""


def draw_curves(runs: Mapping[str, list[Record]], path: Path) -> None:
    """Draw losses and pseudo-labels of the first run and the accuracies of all.

    Args:
        runs: records by method, the main one first.
        path: the PNG to write.
    """
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, labels, accuracies = figure.subplots(1, 3)
    main, records = next(iter(runs.items()))
    steps = [record for record in records if record["kind"] == "train"]
    for name in loss_names(steps[-1]) if steps else ():
        _plot(losses, steps, name, name, linewidth=2.5 if name == "loss" else 1.2)
    losses.set(title=f"losses of {main}", xlabel="step", ylim=(0, None))
    for name, label in (("mask_rate", "kept"), ("pseudo_label_accuracy", "of these right")):
        _plot(labels, steps, name, label)
    labels.set(title="pseudo-labels", xlabel="step", ylim=(0, 1))
    for number, (method, method_records) in enumerate(runs.items()):
        during = [record for record in method_records if record["kind"] == "val"]
        final = [record for record in method_records if record["kind"] == "test"][-1:]
        style = {"color": f"C{number}"}
        _plot(accuracies, during, "top1", f"{method}, one clip", marker="o", **style)
        _plot(accuracies, final, "top1", f"{method}, 30 views", marker="*", markersize=14.0, linestyle="none", **style)
    accuracies.set(title="top-1 on validation videos", xlabel="step", ylim=(0, 1))
    for axes in (losses, labels, accuracies):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)


def _plot(axes: Axes, records: list[Record], name: str, label: str, **style: float | str) -> None:
    """Plot a number over the steps; does nothing where no record has it."""
    points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)  # type: ignore[arg-type]
