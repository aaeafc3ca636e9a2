"""Where does the time of a clip go, from its plan to the optimizer?

The way is cut off after each stage (:mod:`benchmarks.data_stages`), or looked at between two (of the step,
:mod:`benchmarks.step_stages`); the cuts take turns.  What a stage costs is the difference of two medians, so that all
add up to the whole, and one that costs nothing may come out below zero.  Stages of the step count on top of the
hand-over as if nothing ran beside anything: what overlapping gains is the question of ``end-to-end``.  A second table
prices each strong operation.

    python -m benchmarks stages ROOT --size 112
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.checks import check_batch, check_losses
from benchmarks.clock import Cost, in_turns, time_batches
from benchmarks.data_stages import HAND_OVER, Batches, data_stages
from benchmarks.results import Series, finish
from benchmarks.stages_page import chart
from benchmarks.step_stages import SteppedTraining
from benchmarks.strong_prices import strong_prices
from benchmarks.training import Training, TrainingOptions, configure, find_videos
from benchmarks.utilization import sampled
from pipeline.errors import InputError

_NUM_WARMUP = 2  # batches of a cut before its clock starts


@dataclass(frozen=True, kw_only=True)
class StagesBenchmark(TrainingOptions):
    """Price every stage of a training, from plans to weights."""

    num_batches: int = 8
    """Batches that each stage of the data path is timed over; the step takes one."""
    num_strong_clips: int = 8
    """Clips that each strong operation is timed on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_batches", "num_strong_clips"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: use 1 or more")


def measure(training: Training, num_batches: int, repeats: int) -> tuple[dict[str, list[Cost]], dict[str, Any]]:
    """Time all stages.

    Args:
        training: that they are of.
        num_batches: batches that each stage of the data path is timed over.
        repeats: times each is timed.

    Returns:
        What a clip had cost at the end of each stage, one a turn, in the order of the stages; and what else is worth
        telling.

    Raises:
        InputError: the loader's clips are not what they should be, or the losses not finite.
    """
    config, device = training.state.config, torch.device(training.state.config.run.device)
    with training.loader as loader:
        batch = next(loader)
    check_batch(batch, training.state.method.needs, config, training.videos)
    step = SteppedTraining(training.state, batch)
    started = time.perf_counter()
    step.step()
    check_losses(step.terms)
    first_step_s = time.perf_counter() - started
    data = data_stages(training)

    def timed(begin: Batches) -> Cost:
        return time_batches(begin(), device, num_warmup=_NUM_WARMUP, num_batches=num_batches)

    turns: dict[str, Callable[[], Any]] = {name: partial(timed, begin) for name, begin in data.items()}
    found = in_turns({**turns, "step": step.step}, repeats)
    stages: dict[str, list[Cost]] = {name: found[name] for name in data}
    for name in step.stages:
        pairs = zip(found[HAND_OVER], found["step"], strict=True)
        stages[name] = [made.plus(parts[name]) for made, parts in pairs]
    return stages, {
        "first_step_s": first_step_s,
        "decoder": loader.decoder,
        "data_threads": config.data.num_threads,
        "torch_threads": torch.get_num_threads(),
    }


Point = dict[str, float | None]


def summarize(stages: Mapping[str, Sequence[Cost]]) -> list[dict[str, Any]]:
    """Medians of the turns.

    Args:
        stages: what a clip had cost at the end of each, one a turn, in their order.

    Returns:
        For each "stage", "cumulative" and "marginal": ms, cpu_ms, gpu_ms (None without a GPU) and clips_per_s, None
        where a stage took no time that could be told.  Marginal ones are differences of cumulative ones.
    """
    rows: list[dict[str, Any]] = []
    before = Cost(0.0, 0.0, 0.0)
    for stage, costs in stages.items():
        gpu = [one.gpu_ms for one in costs if one.gpu_ms is not None]
        here = Cost(
            median(one.wall_ms for one in costs),
            median(one.cpu_ms for one in costs),
            median(gpu) if gpu else None,
        )
        rows.append({"stage": stage, "cumulative": _point(here), "marginal": _point(here.minus(before))})
        before = here
    return rows


def _point(at: Cost) -> Point:
    return {
        "ms": at.ms,
        "cpu_ms": at.cpu_ms,
        "gpu_ms": at.gpu_ms,
        "clips_per_s": 1000 / at.ms if at.ms > 0 else None,
    }


def series_of(stages: Mapping[str, Sequence[Cost]]) -> dict[str, Series]:
    """All turns, cumulative and marginal, under names such as "decode/marginal/cpu_ms"."""
    series: dict[str, Series] = {}
    before: Sequence[Cost] | None = None
    for stage, costs in stages.items():
        marginal = [here.minus(there) for here, there in zip(costs, before, strict=True)] if before else costs
        series[f"{stage}/cumulative/clips_per_s"] = Series("clips/s", "higher", tuple(1000 / one.ms for one in costs))
        for name, points in (("cumulative", costs), ("marginal", marginal)):
            series[f"{stage}/{name}/ms"] = Series("ms", "lower", tuple(one.ms for one in points))
            series[f"{stage}/{name}/cpu_ms"] = Series("cpu-ms/clip", "lower", tuple(one.cpu_ms for one in points))
            gpu = tuple(one.gpu_ms for one in points if one.gpu_ms is not None)
            if gpu:
                series[f"{stage}/{name}/gpu_ms"] = Series("gpu-ms/clip", "lower", gpu)
        before = costs
    return series


def _table(rows: list[dict[str, Any]], series: Mapping[str, Series], unit: str) -> Table:
    table = Table(title="what a clip costs, stage by stage (quartiles in brackets)")
    table.add_column("stage")
    for name in ("cpu-ms", unit, "clips/s", "cpu-ms so far", "clips/s so far"):
        table.add_column(name, justify="right")
    for row in rows:
        stage, here, so_far = row["stage"], row["marginal"], row["cumulative"]
        low, high = series[f"{stage}/marginal/cpu_ms"].quartiles
        table.add_row(
            stage,
            f"{here['cpu_ms']:.2f} ({low:.2f} to {high:.2f})",
            f"{here['ms']:.2f}",
            _rate(here["clips_per_s"]),
            f"{so_far['cpu_ms']:.1f}",
            _rate(so_far["clips_per_s"]),
        )
    return table


def _rate(clips_per_s: float | None) -> str:
    return "–" if clips_per_s is None else f"{clips_per_s:,.1f}" if clips_per_s < 1000 else f"{clips_per_s:,.0f}"


def _price_table(prices: Mapping[str, Series]) -> Table:
    table = Table(title="strong operations, each for a view that drew it")
    table.add_column("operation")
    table.add_column("cpu-ms per view", justify="right")
    for name, price in prices.items():
        table.add_row(name, f"{price.median:.2f}")
    return table


def run(benchmark: StagesBenchmark) -> int:
    """Measure, print, keep the result and its chart."""
    config = configure(benchmark)
    videos, described = find_videos(benchmark)
    training = Training(config, videos)
    with sampled(config.run.device) as utilization:
        stages, told = measure(training, benchmark.num_batches, benchmark.repeats)
        prices = strong_prices(training, benchmark.num_strong_clips, benchmark.repeats)
    rows, series = summarize(stages), series_of(stages)
    console = Console()
    console.width = max(console.width, 110)
    is_gpu = rows[-1]["cumulative"]["gpu_ms"] is not None
    console.print(_table(rows, series, "gpu-ms" if is_gpu else "ms"))
    console.print(_price_table(prices))
    dearest = max(rows, key=lambda row: row["marginal"]["ms"])
    share = dearest["marginal"]["ms"] / rows[-1]["cumulative"]["ms"]
    print(f"{dearest['stage']} takes most: {share:.0%} of a clip's way")
    record = finish(
        "stages",
        benchmark,
        benchmark.results,
        series=series | {f"strong/{name}": price for name, price in prices.items()},
        findings={
            "stages": rows,
            "takes_most": dearest["stage"],
            "strong_operations": {name: price.median for name, price in prices.items()},
            **told,
            "clips": described,
        },
        utilization=utilization,
    )
    chart(record, benchmark.results / "stages.png")
    return 0


def main() -> None:
    """Command line: the fields of :class:`StagesBenchmark`."""
    results.main(StagesBenchmark, run)


if __name__ == "__main__":
    main()
