"""The charts of a report: losses, self-made labels, accuracies, learning rate and speed.

Promises to draw only what stands in the records, the same each time, in SVG that takes the colour of the text around
it, with no text in it that users choose.
"""

import io
import re
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from train.metrics import Record, loss_names

Runs = Mapping[str, list[Record]]
"""Records by method, the main one first."""

_INK = "#010203"  # stands for the colour of text until the SVG is written
_COLORS = ["#3b82f6", "#f97316", "#10b981", "#ec4899", "#8b5cf6", "#06b6d4", "#eab308", "#ef4444"]  # on black and white
_STYLE = {
    "axes.prop_cycle": f"cycler(color={_COLORS})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "report",
}
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
_LONG_LABEL = 18  # characters, of which three do not fit side by side
_MAX_POINTS = 400  # of a line; of more the means of as many stretches are drawn


def _losses(axes: Axes, runs: Runs) -> None:
    main, steps = _main(runs)
    for name in loss_names(steps[-1]) if steps else ():
        _plot(axes, steps, name, name, linewidth=2.2 if name == "loss" else 1.1)
    axes.set(title=f"losses of {main}", ylim=(0, None))


def _made_labels(axes: Axes, runs: Runs) -> None:
    steps = _main(runs)[1]
    _plot(axes, steps, "mask_rate", "pseudo-labels kept")
    _plot(axes, steps, "pseudo_label_accuracy", "of these right")
    _plot(axes, steps, "rotation_accuracy", "rotations right")
    axes.set(title="self-made labels", ylim=(0, 1.02))


def _accuracies(axes: Axes, runs: Runs) -> None:
    for number, (method, records) in enumerate(runs.items()):
        color = f"C{number}"
        _plot(axes, _of_kind(records, "val"), "top1", f"{method}, one clip", marker="o", markersize=4.0, color=color)
        final = _of_kind(records, "test")[-1:]
        _plot(axes, final, "top1", f"{method}, 30 views", marker="*", markersize=13.0, linestyle="none", color=color)
    axes.set(title="top-1 on validation videos", ylim=(0, 1.02))


def _learning_rate(axes: Axes, runs: Runs) -> None:
    _plot(axes, _main(runs)[1], "lr", "learning rate")
    axes.set(title="learning rate", ylim=(0, None))


def _throughput(axes: Axes, runs: Runs) -> None:
    for method, records in runs.items():
        _plot(axes, _of_kind(records, "train"), "clips_per_s", method)
    axes.set(title="clips/s", ylim=(0, None))


def _machine(axes: Axes, runs: Runs) -> None:
    steps = [{**record, "data_wait_pct": data_wait_pct(record)} for record in _main(runs)[1]]
    for name, label in (("data_wait_pct", "waiting for data"), ("gpu_pct", "GPU"), ("nvdec_pct", "NVDEC")):
        _plot(axes, steps, name, label)
    axes.set(title="share of the time, %", ylim=(0, 102))


CHARTS: Mapping[str, Callable[[Axes, Runs], None]] = {
    "losses": _losses,
    "self-made labels": _made_labels,
    "accuracy": _accuracies,
    "learning rate": _learning_rate,
    "throughput": _throughput,
    "machine": _machine,
}
"""What is drawn of a run, by what it is about."""


def draw_curves(runs: Runs) -> bytes:
    """All charts side by side, as PNG."""
    with style.context(_STYLE):
        figure = Figure(figsize=(15, 9))
        figure.subplots_adjust(0.05, 0.12, 0.99, 0.96, wspace=0.17, hspace=0.5)
        for axes, draw in zip(figure.subplots(2, 3).flat, CHARTS.values(), strict=True):
            _draw(draw, axes, runs)
        return _png(figure)


def chart_svgs(runs: Runs) -> dict[str, str]:
    """Every chart that has something to show, as an <svg> element, by what it is about."""
    found = {}
    with style.context({**_STYLE, **dict.fromkeys(_INKED, _INK)}):
        for name, draw in CHARTS.items():
            figure = Figure(figsize=(5.2, 3.6))
            figure.subplots_adjust(0.12, 0.3, 0.98, 0.92)  # "constrained" takes twice as long
            axes = figure.subplots()
            _draw(draw, axes, runs)
            if axes.lines:
                found[name] = _svg(figure)
    return found


def data_wait_pct(record: Mapping[str, float | int | str | None]) -> float | None:
    """Share of the steps in which they waited for their batch, in percent; None where the record does not tell."""
    wait, step = record.get("data_wait_ms"), record.get("step_ms")
    return 100 * float(wait) / float(step) if wait is not None and step else None


def _main(runs: Runs) -> tuple[str, list[Record]]:
    """The first method and its records of training."""
    name, records = next(iter(runs.items()))
    return name, _of_kind(records, "train")


def _of_kind(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def _draw(draw: Callable[[Axes, Runs], None], axes: Axes, runs: Runs) -> None:
    draw(axes, runs)
    axes.set_xlabel("step")
    if axes.lines:
        longest = max(len(str(line.get_label())) for line in axes.lines)
        # Below the axes, since within them it would hide lines.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3 if longest < _LONG_LABEL else 2)


def _plot(axes: Axes, records: list[Record], name: str, label: str, **line: float | str) -> None:
    """Plot a number over the steps, a lone one as a dot; does nothing where no record has it."""
    points = np.array([(r["step"], r[name]) for r in records if r.get(name) is not None], dtype=float)
    if len(points):
        stretches = np.array_split(points, min(len(points), _MAX_POINTS))
        line = {"marker": "o", "markersize": 4.0, **line} if len(points) == 1 else line  # it would not be seen
        axes.plot(*np.array([stretch.mean(axis=0) for stretch in stretches]).T, label=label, **line)  # type: ignore[arg-type]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    """One <svg> element of paths: no fonts, no declarations, no metadata, and nothing that names an address."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return svg.replace(_INK, "currentColor")
