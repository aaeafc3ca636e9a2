"""What ``benchmarks stages`` has found, as a table and a chart: what each stage adds to what a clip has cost so far."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.charts import save_png
from benchmarks.results import Record
from benchmarks.tables import with_quartiles
from train.tables import markdown_table

_COLORS = {"data": "#3b82f6", "step": "#f97316"}
_FIRST_OF_STEP = ("forward RGB", "forward+losses")
_NUDGE = 0.012  # of the axis, between a bar and its number


def markdown(record: Record) -> str:
    """The stages: what each adds, and what a clip has cost by its end."""
    done, rows = record.settings, record.findings["stages"]
    caption = (
        f"A clip's way with `{done['method']}`: {done['clip_len']} frames of {done['size']}×{done['size']}, "
        f"{done['batch_labeled']} + {done['batch_unlabeled']} clips a step, one stage after the other with nothing "
        f"overlapped; medians of {done['repeats']} turns, in brackets quartiles. Differences of medians: what costs "
        "little may come out below zero."
    )
    lines = []
    for row in rows:
        cpu, so_far = record.series[f"{row['stage']}/marginal/cpu_ms"], row["cumulative"]
        rate = so_far["clips_per_s"]
        lines.append(
            (
                row["stage"],
                with_quartiles(row["marginal"]["cpu_ms"], cpu.quartiles, ".2f"),
                f"{row['marginal']['ms']:.2f}",
                f"{so_far['cpu_ms']:.1f}",
                "" if rate is None else f"{rate:,.1f}",
            )
        )
    header = ("stage", "cpu-ms a clip", "ms", "cpu-ms so far", "clips/s so far")
    return "\n\n".join([caption, markdown_table(header, lines)])


def chart(record: Record, path: Path) -> None:
    """CPU time of a clip from plan to optimizer, each stage on top of those before; beside it the time that passed."""
    rows = record.findings["stages"]
    is_gpu = rows[-1]["cumulative"]["gpu_ms"] is not None
    figure = Figure(figsize=(12, 0.42 * len(rows) + 1.6))
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, rows, "cpu_ms", "CPU time, ms per clip")
    _draw(right, rows, "ms", "GPU time, ms per clip" if is_gpu else "time, ms per clip, nothing overlapped")
    left.set_yticks(range(len(rows)), [row["stage"] for row in rows])
    left.invert_yaxis()
    machine = record.hardware["gpus"][0] if is_gpu else f"{record.hardware['cores']} cores"
    size, batch = record.settings["size"], (record.settings["batch_labeled"], record.settings["batch_unlabeled"])
    figure.suptitle(
        f"From plan to optimizer: {record.settings['method']}, {record.settings['clip_len']} frames of {size}x{size}, "
        f"{batch[0]} + {batch[1]} clips a step, on {machine}",
        fontsize=11,
    )
    figure.subplots_adjust(left=0.11, right=0.97, top=0.91, bottom=0.11, wspace=0.06)
    save_png(figure, path)


def _draw(axes: Axes, rows: list[dict[str, Any]], name: str, label: str) -> None:
    total = rows[-1]["cumulative"][name]
    kind = "data"
    for place, row in enumerate(rows):
        kind = "step" if row["stage"] in _FIRST_OF_STEP else kind
        own, so_far = row["marginal"][name], row["cumulative"][name]
        axes.barh(place, own, left=so_far - own, color=_COLORS[kind], height=0.62)
        if place:
            axes.plot([so_far - own] * 2, [place - 0.69, place + 0.31], color="gray", linewidth=0.7)
        end = max(so_far, so_far - own)
        # To the left of a bar that ends far on the right, or the number would leave the axes.
        fits = end < 0.8 * total
        at = end + _NUDGE * total if fits else so_far - own - _NUDGE * total
        text = f"{own:.2f}" if abs(own) < 10 else f"{own:.0f}"
        axes.text(at, place, text, va="center", ha="left" if fits else "right", fontsize=8)
    axes.set_xlim(0, 1.02 * total)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.2)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
