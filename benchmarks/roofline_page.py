"""What :mod:`benchmarks.roofline` found, as tables and as a chart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ceilings import ASSUMPTIONS, NVDEC_FRAMES_PER_S, PUBLISHED_CPU_CLIPS_PER_S
from benchmarks.charts import STYLE, save_png
from benchmarks.results import Record
from train.tables import Grid

_COLORS = {"cautious": "#f97316", "ceiling": "#3b82f6"}
_CHARTED_GPUS = 8

_CODECS = ("h264", "hevc", "vp9", "av1")


def grids(findings: Mapping[str, Any]) -> list[Grid]:
    """All tables: this machine, Kinetics-400, SPDL's run, files and layers."""
    return [
        _here(findings),
        _k400(findings),
        _theirs(findings),
        _ours(findings),
        _engines(findings),
        _files(findings),
        _layers(findings),
    ]


def markdown(record: Record) -> str:
    """All tables, for a document."""
    return "\n\n".join(grid.markdown() for grid in grids(record.findings))


def _here(findings: Mapping[str, Any]) -> Grid:
    here = findings["here"]
    stages = list(next(iter(here.values())))
    rows = [
        (files, *(_number(rates[stage]) for stage in stages), min((s for s in stages if s != "all"), key=rates.get))
        for files, rates in here.items()
    ]
    return Grid("This machine, clips/s of each stage alone, measured rates", ("files", *stages, "binds"), tuple(rows))


def _k400(findings: Mapping[str, Any]) -> Grid:
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in findings["k400"]:
        found.setdefault((row["files"], row["gpu"], row["gpus"]), {})[row["assumption"]] = row
    rows = [
        (
            f"{files}, {gpus} × {gpu}",
            *(_range(by, "clips_per_s"), f"{by['cautious']['binds']}; {by['ceiling']['binds']}"),
            _range(by, "epoch_h", 60),
            *(_range(by, name) for name in ("k400-1pct_h", "k400-10pct_h")),
        )
        for (files, gpu, gpus), by in found.items()
    ]
    return Grid(
        "Kinetics-400 with the paper's method, computed, cautious to ceiling",
        ("files, GPUs", "clips/s", "binds", "min an epoch", "h k400-1pct", "h k400-10pct"),
        tuple(rows),
    )


def _theirs(findings: Mapping[str, Any]) -> Grid:
    rows = []
    for row in findings["published"]["theirs"]:
        low, high, rate = row["cautious"], row["ceiling"], row["clips_per_s"]
        verdict = "by definition" if not row["frames"] else "below" if rate < low else "above" if rate > high else "in"
        rows.append((row["what"], _number(rate), f"{_number(low)} – {_number(high)}", verdict))
    rows.append(("FFmpeg on the node's CPUs", _number(PUBLISHED_CPU_CLIPS_PER_S), "not computed", ""))
    return Grid(
        "R3D-18 at 112², 16 frames, on 8 × H100: published by SPDL's documentation (July 2026) beside what is computed",
        ("what is fed", "published clips/s", "computed, cautious – ceiling", "published is"),
        tuple(rows),
    )


def _engines(findings: Mapping[str, Any]) -> Grid:
    """Clips/s are those of one engine with H.264, at the listed rate."""
    frames = {files: counted["frames"] for files, counted in findings["files"].items() if "MJPEG" not in files}
    rows = [
        (
            generation,
            *(_number(rates[codec]) if codec in rates else "" for codec in _CODECS),
            *(_number(rates["h264"] / number) for number in frames.values()),
        )
        for generation, rates in NVDEC_FRAMES_PER_S.items()
    ]
    return Grid(
        "One NVDEC engine by generation (A100 and H100 have Turing's): frames/s at 1080p as NVIDIA lists them, and the "
        "clips/s they come to",
        ("generation", *_CODECS, *(f"clips/s, {files}" for files in frames)),
        tuple(rows),
    )


def _ours(findings: Mapping[str, Any]) -> Grid:
    rows = [
        (
            row["files"],
            f"{row['frames']:.1f}",
            f"{_number(row['cautious'])} – {_number(row['ceiling'])}",
            _number(row["engine_frames_per_s_to_be_step_bound"]),
        )
        for row in findings["published"]["ours"]
    ]
    return Grid(
        "The same training by this design, computed",
        (
            "files",
            "frames decoded a clip",
            "clips/s, cautious – ceiling",
            "frames/s an engine must do to keep the step fed",
        ),
        tuple(rows),
    )


def _files(findings: Mapping[str, Any]) -> Grid:
    rows = [
        (
            files,
            f"{row['frames']:.1f}",
            f"{row['frames_closed']:.1f} ({row['spread'][0]:.0f}–{row['spread'][1]:.0f})",
            f"{row['packet_bytes'] / 1e3:.0f}",
            row["refused_by_nvdec"] or "yes",
        )
        for files, row in findings["files"].items()
    ]
    columns = ("files", "by FFmpeg", "by NVDEC (first and last decile)", "kB read", "decoded on a GPU")
    return Grid("Frames decoded for a clip, counted", columns, tuple(rows))


def _layers(findings: Mapping[str, Any]) -> Grid:
    step = findings["step"]
    clips, flops = step["clips"], sum(layer["flops"] for layer in findings["layers"].values())
    rows = [
        (
            name,
            f"{layer['flops'] / clips / 1e9:.1f}",
            f"{100 * layer['flops'] / flops:.0f}",
            f"{layer['activation_bytes'] / clips / 1e6:.1f}",
        )
        for name, layer in findings["layers"].items()
    ]
    moved = step["product_bytes"] + step["other_bytes"]
    rows.append(
        ("whole step", f"{step['flops'] / clips / 1e9:.1f}", "", f"read and written: {moved / clips / 1e6:,.0f}")
    )
    columns = ("part of both networks, forward", "GFLOP a clip", "% of the parts", "MB of activations a clip")
    return Grid("What a step computes, counted", columns, tuple(rows))


def _range(rows: Mapping[str, Mapping[str, float]], name: str, factor: float = 1) -> str:
    low, high = (_number(factor * rows[assumption][name]) for assumption in ASSUMPTIONS)
    return low if low == high else f"{low} – {high}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def chart(record: Record, path: Path) -> None:
    """Clips/s of each stage alone on the measured machine; minutes of a Kinetics-400 epoch on 8 GPUs, computed."""
    with style.context(STYLE):
        figure = Figure(figsize=(11, 4.2))
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(0.13, 0.12, 0.98, 0.93, wspace=0.45)
        _draw_here(left, record.findings["here"])
        _draw_epochs(right, record.findings["k400"])
        save_png(figure, path)


def _draw_here(axes: Axes, here: Mapping[str, Mapping[str, float]]) -> None:
    stages = list(next(iter(here.values())))
    height = 0.8 / len(here)
    for number, (files, rates) in enumerate(here.items()):
        places = [place + (number - (len(here) - 1) / 2) * height for place in range(len(stages))]
        bars = axes.barh(places, [rates[stage] for stage in stages], height * 0.9, label=files)
        axes.bar_label(bars, [_number(rates[stage]) for stage in stages], fontsize=7, padding=2)
    axes.set(xscale="log", xlabel="clips/s", title="this machine: each stage alone")
    axes.set_xlim(right=axes.get_xlim()[1] * 3)
    axes.set_yticks(range(len(stages)), stages)
    axes.invert_yaxis()
    axes.legend(fontsize=7)


def _draw_epochs(axes: Axes, rows: list[Mapping[str, Any]]) -> None:
    shown = [row for row in rows if row["gpus"] == _CHARTED_GPUS]
    names = list(dict.fromkeys(f"{row['files']}, {row['gpu']}" for row in shown))
    for number, assumption in enumerate(ASSUMPTIONS):
        hours = {f"{row['files']}, {row['gpu']}": row for row in shown if row["assumption"] == assumption}
        values = [60 * hours[name]["epoch_h"] for name in names]
        places = [place + 0.4 * (number - 0.5) for place in range(len(names))]
        bars = axes.barh(places, values, 0.36, label=assumption, color=_COLORS[assumption])
        labels = [f"{value:.2g} min, {hours[name]['binds']}" for name, value in zip(names, values, strict=True)]
        axes.bar_label(bars, labels, fontsize=7, padding=2)
    axes.set(xscale="log", xlabel="minutes an epoch", title=f"Kinetics-400 on {_CHARTED_GPUS} GPUs, computed")
    axes.set_xlim(right=axes.get_xlim()[1] * 6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.legend(fontsize=7)
