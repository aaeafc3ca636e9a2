"""What :mod:`benchmarks.growth` found: how steep each curve is, in a sentence, a table and a chart."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.charts import STYLE, save_png
from benchmarks.results import Record, Series
from benchmarks.tables import spread
from train.tables import Grid

LABELS = {
    "frame_stride": "frame stride",
    "clip_len": "frames of a clip",
    "gop": "frames between keyframes",
    "num_frames": "frames of a video",
    "height": "height of a video in pixels",
    "threads": "threads",
    "batch": "clips in a batch, labeled and unlabeled each",
    "ranks": "ranks",
    "videos": "videos of a data set",
}
MEANINGS = {
    "frame_stride": "A clip that is spread wider touches more keyframes, and what lies between is decoded for it.",
    "clip_len": "Decoding and views grow with the frames; the plan, the packet table and the hand-over do not.",
    "gop": "Rare keyframes are what makes downloaded files dear, and what `pipeline.prepare` is for.",
    "num_frames": "The index tells where a clip's packets lie, so nothing before them is read or decoded.",
    "height": "Decoding follows the number of pixels: in proportion to these would be a power of 2.",
    "threads": "The views are made by a thread of their own, which wants a core beside those that decode.",
    "batch": "Batches of any size will do, so theirs can be what the networks want.",
    "ranks": "Processes share nothing but the cores: where these are taken, another one gains nothing.",
    "videos": "A clip's cost hardly depends on how many videos there are; opening the index and ordering an epoch do.",
}
"""What follows from how the loader is made, by axis; how far it holds is what the numbers say."""
LOADER = ("clips/s", "cpu-ms")
INDEX = ("build, s", "open, ms", "memory, MB", "a record, µs", "an epoch's first batch, ms", "a clip's plan, µs")
_SPEEDS_UP = ("threads", "batch", "ranks")  # whose point is clips/s, not the CPU time of a clip
_LOG_FROM = 30  # times the least: what spans more is drawn in logarithms

Measured = Mapping[str, Series]


def point(axis: str, value: int, measurement: str) -> str:
    """Name of a point's series."""
    return f"{axis} {value}: {measurement}"


def measurements(axis: str) -> tuple[str, ...]:
    """What is measured along an axis."""
    return INDEX if axis == "videos" else LOADER


def curve(axis: str, measurement: str, series: Measured) -> dict[int, Series]:
    """Points of an axis, by value, ascending."""
    found = {}
    for name, one in series.items():
        where, _, what = name.partition(": ")
        of, _, value = where.partition(" ")
        if (of, what) == (axis, measurement):
            found[int(value)] = one
    return dict(sorted(found.items()))


def exponent(points: Mapping[int, Series]) -> float:
    """e of the power law y = c x^e that is nearest to the medians, in logarithms; 0 for a single point."""
    if len(points) < 2:
        return 0.0
    x, y = np.log(list(points)), np.log([one.median for one in points.values()])
    return round(float(np.polyfit(x, y, 1)[0]), 3) + 0.0  # no minus zero


def verdict(power: float) -> str:
    """What an exponent of a cost means, in words."""
    if power < -0.05:
        return "it falls"
    limits = ((0.05, "no dependence"), (0.5, "far slower than in proportion"), (0.9, "slower than in proportion"))
    for limit, words in limits:
        if power < limit:
            return words
    return "in proportion" if power <= 1.1 else "faster than in proportion"


def finding(axis: str, series: Measured) -> dict[str, Any]:
    """Exponents by measurement, and sentences, all computed from the medians."""
    curves = {one: curve(axis, one, series) for one in measurements(axis)}
    told = ["clips/s"] if axis in _SPEEDS_UP else ["cpu-ms"] if axis != "videos" else list(INDEX)
    return {
        "exponents": {one: exponent(points) for one, points in curves.items()},
        "sentences": [_sentence(axis, one, curves[one]) for one in told],
    }


def _sentence(axis: str, measurement: str, points: Mapping[int, Series]) -> str:
    (first, low), (last, high) = next(iter(points.items())), list(points.items())[-1]
    label, power = LABELS[axis], exponent(points)
    if measurement == "clips/s":
        gains = [f"{value:,} give {one.median / low.median:.2f}" for value, one in points.items() if value != first]
        return f"{label}: {', '.join(gains) or 'nothing else tried'} times the clips/s of {first:,}."
    subject = "CPU time of a clip" if measurement == "cpu-ms" else measurement.rpartition(", ")[0]
    unit = "cpu-ms" if measurement == "cpu-ms" else measurement.rpartition(", ")[2]
    return (
        f"{label}, {first:,} to {last:,}: {subject} goes from {low.median:.3g} to {high.median:.3g} {unit}, "
        f"as the power {power:.3g}: {verdict(power)}."
    )


def grid(axis: str, series: Measured) -> Grid:
    """Medians and quartiles of an axis."""
    columns = measurements(axis)
    curves = [curve(axis, one, series) for one in columns]
    rows = tuple((f"{value:,}", *(spread(points[value], ".3g") for points in curves)) for value in curves[0])
    return Grid(f"By {LABELS[axis]}, median (quartiles)", (LABELS[axis], *columns), rows)


def markdown(record: Record) -> str:
    """Sentences of every axis, and the chart of each, for a document in docs/."""
    parts = []
    for axis, found in record.findings.items():
        parts.append("\n".join(f"- {sentence}" for sentence in found["sentences"]) + f"\n\n{MEANINGS[axis]}")
        parts.append(f"![by {LABELS[axis]}](charts/growth-{axis}.png)")
    return "\n\n".join(parts)


def charts(record: Record) -> dict[str, "partial[None]"]:
    """By the name of the file without its suffix, what draws the chart of each axis, with its sentence."""
    return {f"growth-{axis}": partial(draw, axis, record) for axis in record.findings}


def draw(axis: str, record: Record, path: Path) -> None:
    """Draw one axis as PNG."""
    sentences, series = record.findings[axis]["sentences"], record.series
    shown = measurements(axis)
    rows = -(-len(shown) // 3)
    with style.context(STYLE):
        figure = Figure(figsize=(3.4 * min(3, len(shown)), 2.7 * rows + 0.4))
        panels = np.atleast_1d(figure.subplots(rows, min(3, len(shown)))).flat
        for panel, measurement in zip(panels, shown, strict=True):
            _panel(panel, axis, measurement, curve(axis, measurement, series))
        figure.tight_layout(rect=(0, 0, 1, 0.92 if len(sentences) == 1 else 1))
        if len(sentences) == 1:
            figure.suptitle(fill(sentences[0], 110), fontsize=7)
        save_png(figure, path)


def _panel(panel: Axes, axis: str, measurement: str, points: Mapping[int, Series]) -> None:
    values, medians = list(points), [one.median for one in points.values()]
    spread = [(one.median - one.quartiles[0], one.quartiles[1] - one.median) for one in points.values()]
    panel.errorbar(values, medians, np.array(spread).T, marker="o", markersize=4, capsize=3, color="#3b82f6")
    panel.set(title=measurement, xlabel=LABELS[axis], xscale="log")
    if max(medians) > _LOG_FROM * min(medians):
        panel.set(yscale="log")
    else:
        panel.set(ylim=(0, 1.15 * max(one.quartiles[1] for one in points.values())))
    if axis != "videos":
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.xaxis.set_minor_locator(NullLocator())
