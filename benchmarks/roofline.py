"""How many clips/s could a machine do at most, stage by stage, and which stage binds?

Counts what the real training step computes and moves, and how many frames the real planner and index have decoded for a
clip; measures here what a core does per clip, and how fast memory and matrix products are.  From these follow ceilings
of this machine, and, computed, of GPUs that are not here: hours of the paper's Kinetics-400 recipes, beside what
SPDL's documentation publishes of 8 H100.  What is assumed stands in :mod:`benchmarks.ceilings`.

    python -m benchmarks roofline --source FOLDER_OF_VIDEOS
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import ceilings, results
from benchmarks.ceilings import ASSUMPTIONS, GPUS, PUBLISHED, ClipCost, StepCost
from benchmarks.counting import Counted, Taken, count_frames, count_method, count_published
from benchmarks.results import RESULTS, Series, finish
from benchmarks.roofline_measure import (
    INTRA,
    NUM_PLANNED,
    ORIGINAL,
    PREPARED,
    Kind,
    host_costs,
    make_folders,
    rates,
    read_kind,
)
from benchmarks.roofline_page import grids
from benchmarks.utilization import sampled
from pipeline.errors import InputError
from pipeline.plan import ClipSpec
from pipeline.processes import num_cores
from train.precision import best_precision
from train.recipes import RECIPES

_RECIPES = ("k400-1pct", "k400-10pct")
_NUM_GPUS = (1, 8, 64)


@dataclass(frozen=True, kw_only=True)
class RooflineBenchmark:
    """Ceilings of this machine, and computed ones of GPUs."""

    source: Path | None = None
    """Folder of videos as downloaded, four of which are taken; without one they are drawn, 340x256, 10 s."""
    clips: Path = Path("data/benchmark-roofline")
    """Where prepared copies of them are kept."""
    size: int = 224
    """Height and width of clips in pixels."""
    clip_len: int = 8
    """Frames of a clip."""
    width: int = 64
    """Channels of the networks' stems."""
    batch: int = 8
    """Labeled clips of a step on one GPU, and as many unlabeled ones."""
    repeats: int = 5
    """Of each measurement."""
    device: str = "cpu"
    """Whose rates are measured: cpu or cuda."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats}: use 1 or more, 5 for numbers to be trusted")
        if self.batch < 2:
            raise InputError(f"batch is {self.batch}: use 2 or more")
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device {self.device}: torch finds no usable GPU here, take cpu")


def run(benchmark: RooflineBenchmark) -> int:
    """Count, measure, compute, print, keep the result."""
    spec = ClipSpec(clip_len=benchmark.clip_len, size=benchmark.size, eval_size=max(benchmark.size, 256))
    kinds = {kind: read_kind(folder, spec) for kind, folder in make_folders(benchmark.clips, benchmark.source).items()}
    step = _count(benchmark, best_precision(torch.device(benchmark.device).type))
    step_16 = _count(benchmark, "bf16")
    with sampled(benchmark.device) as utilization:
        series = {**host_costs(kinds, spec, benchmark.repeats), **rates(benchmark.device, benchmark.repeats)}
    costs = {name: _clip_cost(kind, name, series, spec) for name, kind in kinds.items()}
    findings = {
        "step": {**asdict(step.cost), "parameter_bytes": step.parameter_bytes, "bf16": asdict(step_16.cost)},
        "layers": {name: layer._asdict() for name, layer in step.layers.items()},
        "files": {
            name: {**kind.taken._asdict(), "refused_by_nvdec": kind.refusal, "size": kind.record.display_size}
            for name, kind in kinds.items()
        },
        "here": _here(benchmark, costs, step.cost, series),
        **computed(costs, step_16.cost, _spdl_like(kinds)),
    }
    console = Console()
    console.width = max(console.width, 120)
    for grid in grids(findings):
        console.print(grid.table())
    finish("roofline", benchmark, benchmark.results, series=series, findings=findings, utilization=utilization)
    return 0


def _count(benchmark: RooflineBenchmark, precision: Any) -> Counted:
    return count_method(
        "temporal_gradient",
        clip_len=benchmark.clip_len,
        size=benchmark.size,
        width=benchmark.width,
        batch=benchmark.batch,
        precision=precision,
    )


def _clip_cost(kind: Kind, name: str, series: dict[str, Series], spec: ClipSpec) -> ClipCost:
    width, height = kind.record.display_size
    on_nvdec = kind.refusal is None
    return ClipCost(
        frames=kind.taken.frames_closed if on_nvdec else kind.taken.frames,
        pixels=width * height,
        packet_bytes=kind.taken.packet_bytes,
        host_s=series[f"host, {name}"].median / 1000,
        decode_s=series[f"decode, {name}"].median / 1000,
        on_nvdec=on_nvdec,
        pixel_bytes=2 * 3 * spec.clip_len * spec.size**2,
    )


def _here(
    benchmark: RooflineBenchmark, costs: dict[str, ClipCost], step: StepCost, series: dict[str, Series]
) -> dict[str, dict[str, float]]:
    """Clips/s that each stage of this machine could do, by kind of file."""
    flops, memory = series["matrix product"].median, series["memory"].median
    if torch.device(benchmark.device).type == "cpu":
        views_s = series["views"].median / 1000
        return {
            name: ceilings.cpu_stages(num_cores(), cost, views_s, step, flops, memory) for name, cost in costs.items()
        }
    listed = next((gpu for name, gpu in GPUS.items() if name in torch.cuda.get_device_name()), None)
    if listed is None:
        raise InputError(f"{torch.cuda.get_device_name()} is not in benchmarks/ceilings.py: add its row to GPUS")
    gpu = ceilings.Gpu(
        **{
            **asdict(listed),
            "flops_per_s": flops,
            "memory_bytes_per_s": memory,
            "host_bytes_per_s": series["to the GPU"].median,
            "cores": num_cores() / torch.cuda.device_count(),
        }
    )
    return {name: ceilings.gpu_stages(gpu, 1, cost, step, "ceiling", 1.0) for name, cost in costs.items()}


def _spdl_like(kinds: dict[str, Kind]) -> dict[str, Taken]:
    """What clips of SPDL's run, 16 neighbouring frames without temporal gradients, would take from our files."""
    spec = ClipSpec(
        clip_len=ceilings.PUBLISHED_CLIP_LEN, frame_stride=1, size=ceilings.PUBLISHED_SIZE, eval_size=128, tg_stride=0
    )
    return {
        name: count_frames([kinds[name].index[row] for row in kinds[name].rows.tolist()], spec, NUM_PLANNED)
        for name in (PREPARED, INTRA)
    }


def computed(costs: dict[str, ClipCost], step: StepCost, taken: dict[str, Taken]) -> dict[str, Any]:
    """What follows for machines that are not here: nothing of it is measured there.

    Args:
        costs: of clips, by kind of file.
        step: on one GPU in bf16.
        taken: of clips as in SPDL's run.

    Returns:
        "k400": a row for each GPU, number of them, kind of file and assumption; "published": SPDL's run.
    """
    theirs = count_published().cost
    gpu = GPUS[ceilings.PUBLISHED_GPU]
    ideal_s = ceilings.step_s(theirs, gpu.flops_per_s, gpu.memory_bytes_per_s)
    ideal_s += ceilings.all_reduce_s(theirs.gradient_bytes, gpu, ceilings.PUBLISHED_GPUS)
    share = ideal_s / ceilings.PUBLISHED_STEP_S
    rows = []
    for name in (ORIGINAL, PREPARED, INTRA):
        for gpu_name, kind_of_gpu in GPUS.items():
            for num_gpus in _NUM_GPUS:
                for assumption in ASSUMPTIONS:
                    stages = ceilings.gpu_stages(kind_of_gpu, num_gpus, costs[name], step, assumption, share)
                    stage, clips_per_s = ceilings.binding(stages)
                    hours = ceilings.epoch_hours(clips_per_s)
                    rows.append(
                        {
                            **{"files": name, "gpu": gpu_name, "gpus": num_gpus, "assumption": assumption},
                            **{"stages": stages, "binds": stage, "clips_per_s": clips_per_s, "epoch_h": hours},
                            **{f"{recipe}_h": hours * RECIPES[recipe]().optim.epochs for recipe in _RECIPES},
                        }
                    )
    pixels = costs[PREPARED].pixels
    return {"k400": rows, "published": _published(share, theirs, ideal_s, pixels, taken)}


def _published(
    share: float, theirs: StepCost, ideal_s: float, pixels: float, taken: dict[str, Taken]
) -> dict[str, Any]:
    gpu, num = GPUS[ceilings.PUBLISHED_GPU], ceilings.PUBLISHED_GPUS
    step_at = {"cautious": num * theirs.clips / ceilings.PUBLISHED_STEP_S, "ceiling": num * theirs.clips / ideal_s}

    def bounds(frames: float) -> dict[str, float]:
        """Clips/s under each assumption."""
        decode = {one: num * ceilings.nvdec_frames_per_s(gpu, pixels, one) for one in ASSUMPTIONS}
        return {one: min(step_at[one], decode[one] / frames if frames else float("inf")) for one in ASSUMPTIONS}

    engines = num * gpu.num_nvdec
    return {
        "share": share,
        "flops_per_clip": theirs.flops / theirs.clips,
        "theirs": [{**one._asdict(), **bounds(one.frames)} for one in PUBLISHED],
        "ours": [
            {
                "files": name,
                "frames": one.frames_closed,
                **bounds(one.frames_closed),
                "engine_frames_per_s_to_be_step_bound": step_at["cautious"] * one.frames_closed / engines,
            }
            for name, one in taken.items()
        ],
    }


def main() -> None:
    """Command line: the fields of :class:`RooflineBenchmark`."""
    results.main(RooflineBenchmark, run)


if __name__ == "__main__":
    main()
