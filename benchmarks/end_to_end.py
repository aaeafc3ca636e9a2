"""How close does training come to the slower of its two halves, and which one is that?

Three things take turns in one run: the loader with nothing that consumes its clips; the trainer's loop on one batch of
random pixels that lies on the device, which is the ceiling; and the trainer's loop on the loader.  The headline is what
the third reaches of the lower of the first two.  The loop's clock starts before it asks for a batch; what is warmed up
and compiled is timed apart; clips and losses are looked at before any of it.

On a CPU both halves want the same cores, so that the lower of the two promises too much.  The shared-core bound is what
all cores could do if they worked on nothing else and never idled: cores / (CPU time of a clip in both halves).

    python -m benchmarks end-to-end ROOT --size 112
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rich.console import Console

from benchmarks import results
from benchmarks.checks import check_batch
from benchmarks.clock import Cost, in_turns
from benchmarks.loader import clips_made, time_loader
from benchmarks.results import Record, Series, finish
from benchmarks.tables import spread
from benchmarks.training import Repeated, Stretch, Training, TrainingOptions, configure, find_videos, synthetic
from benchmarks.utilization import sampled
from benchmarks.verdicts import TARGET_WAIT_PCT
from pipeline.errors import InputError
from pipeline.processes import num_cores
from train.tables import Grid

_LEAST_STEPS = 6  # of a turn: a few batches lie ready when it begins


@dataclass(frozen=True, kw_only=True)
class EndToEndBenchmark(TrainingOptions):
    """Time loader, step and both."""

    seconds: float = 3.0
    """Length of a turn, at least; of six steps in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}: it must be above 0")


@dataclass(frozen=True)
class Turns:
    """What was measured, one a turn.

    Attributes:
        loader: alone.
        ceiling: the loop without a loader.
        whole: the loop with it.
    """

    loader: list[Cost]
    ceiling: list[Stretch]
    whole: list[Stretch]


def measure(benchmark: EndToEndBenchmark, training: Training) -> tuple[Turns, dict[str, float]]:
    """Run the benchmark.

    Returns:
        What was measured, and the seconds of what came before.

    Raises:
        InputError: the loader's clips are not what they should be.
        NonFiniteLossError: a loss or a gradient is infinite or NaN.
    """
    candidates, before = warmed_up(benchmark, training)
    return Turns(**in_turns(candidates, benchmark.repeats, num_warmup=0)), before


def warmed_up(
    benchmark: EndToEndBenchmark, training: Training
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """Do what a training does but once, and look at its first batch.

    Returns:
        What takes turns, as :class:`Turns` calls it: functions that measure one each; and the seconds of what came
        before.

    Raises:
        InputError: the loader's clips are not what they should be.
        NonFiniteLossError: a loss or a gradient is infinite or NaN.
    """
    config = training.state.config
    device, loader = torch.device(config.run.device), training.loader
    started = time.perf_counter()
    with loader:
        batch = next(loader)
    first_batch_s = time.perf_counter() - started
    check_batch(batch, training.state.method.needs, config, training.videos)
    noise = Repeated(synthetic(batch))
    started = time.perf_counter()
    training.run(1, noise)
    first_step_s = time.perf_counter() - started

    step_s = training.run(1, noise).step_ms / 1000
    num_steps = max(_LEAST_STEPS, round(benchmark.seconds / step_s))

    def loader_alone() -> Cost:
        with closing(clips_made(loader)) as clips:
            time_loader(clips, device, benchmark.seconds / 3)
            return time_loader(clips, device, benchmark.seconds)

    def whole() -> Stretch:
        with loader:
            # Long enough for the loader to get ahead as far as it will, if the model is what limits.
            training.run(max(1, round(benchmark.seconds / 3 / step_s)))
            return training.run(num_steps)

    candidates: dict[str, Callable[[], Any]] = {
        "loader": loader_alone,
        "ceiling": lambda: training.run(num_steps, noise),
        "whole": whole,
    }
    return candidates, {"first_batch_s": first_batch_s, "first_step_s": first_step_s, "steps_a_turn": num_steps}


def series_of(turns: Turns) -> dict[str, Series]:
    """All turns, by name."""
    columns: dict[str, tuple[str, list[float]]] = {
        "loader/clips_per_s": ("clips/s", [1000 / one.wall_ms for one in turns.loader]),
        "loader/cpu_ms": ("cpu-ms/clip", [one.cpu_ms for one in turns.loader]),
    }
    for name, stretches in (("ceiling", turns.ceiling), ("end_to_end", turns.whole)):
        columns[f"{name}/clips_per_s"] = ("clips/s", [one.clips_per_s for one in stretches])
        columns[f"{name}/cpu_ms"] = ("cpu-ms/clip", [one.cpu_ms_per_clip for one in stretches])
        columns[f"{name}/step_ms"] = ("ms", [one.step_ms for one in stretches])
    columns["end_to_end/data_wait_ms"] = ("ms", [one.data_wait_ms for one in turns.whole])
    columns["end_to_end/data_wait_pct"] = ("%", [100 * one.data_wait_ms / one.step_ms for one in turns.whole])
    columns["end_to_end/gc_ms"] = ("ms", [one.gc_ms for one in turns.whole])
    return {
        name: Series(unit, "higher" if unit == "clips/s" else "lower", tuple(values))
        for name, (unit, values) in columns.items()
    }


def conclude(series: dict[str, Series], cores: int) -> tuple[Series, dict[str, Any]]:
    """What the turns come to.

    Args:
        series: as :func:`series_of` names them.
        cores: that loader and step share.

    Returns:
        The headline: in each turn, end-to-end in percent of the half that binds; that is the one with the lower median
        of clips per second, "loader" or "model".  And the findings, numbers and a sentence.
    """
    rates = {name: series[f"{name}/clips_per_s"] for name in ("loader", "ceiling", "end_to_end")}
    half = min(("loader", "ceiling"), key=lambda name: rates[name].median)
    pairs = zip(rates["end_to_end"].values, rates[half].values, strict=True)
    headline = Series("%", "higher", tuple(100 * whole / bound for whole, bound in pairs))
    shared = [
        1000 * cores / (loader + step)
        for loader, step in zip(series["loader/cpu_ms"].values, series["ceiling/cpu_ms"].values, strict=True)
    ]
    binds = "model" if half == "ceiling" else "loader"
    wait_pct, wait_ms = series["end_to_end/data_wait_pct"].median, series["end_to_end/data_wait_ms"].median
    met = binds == "loader" or wait_pct <= TARGET_WAIT_PCT
    of_shared = median(100 * one / bound for one, bound in zip(rates["end_to_end"].values, shared, strict=True))
    return headline, {
        "of_min_pct": headline.median,
        "binds": binds,
        "data_wait_ms": wait_ms,
        "data_wait_pct": wait_pct,
        "target_data_wait_pct": TARGET_WAIT_PCT,
        "met": met,
        "shared_core_bound_clips_per_s": median(shared),
        "of_shared_core_bound_pct": of_shared,
        **{f"{name}_clips_per_s": rate.median for name, rate in rates.items()},
        "says": (
            f"{binds} binds: end-to-end is {headline.median:.0f} % of the "
            f"{'ceiling' if half == 'ceiling' else 'loader'}, {of_shared:.0f} % of what the shared cores allow; "
            f"data wait {wait_pct:.1f} % ({wait_ms:.1f} ms of a step)"
        ),
    }


def _grid(series: Mapping[str, Series]) -> Grid:
    rows = []
    for name, title in (("loader", "loader alone"), ("ceiling", "step alone"), ("end_to_end", "end-to-end")):
        step = series.get(f"{name}/step_ms")
        rate, cpu = spread(series[f"{name}/clips_per_s"], ".2f"), f"{series[f'{name}/cpu_ms'].median:.1f}"
        rows.append((title, rate, cpu, f"{step.median:.0f}" if step else ""))
    return Grid("", ("", "clips/s (quartiles)", "cpu-ms per clip", "ms a step"), tuple(rows))


def markdown(record: Record) -> str:
    """The two halves, the whole, and what binds."""
    done = record.settings
    caption = (
        f"`{done['method']}` on {done['clip_len']} frames of {done['size']}×{done['size']}, {done['batch_labeled']} + "
        f"{done['batch_unlabeled']} clips a step, {done['repeats']} turns of each."
    )
    return "\n\n".join([caption, _grid(record.series).markdown(), f"{record.findings['says']}."])


def run(benchmark: EndToEndBenchmark) -> int:
    """Measure, print, keep the result."""
    config = configure(benchmark)
    videos, described = find_videos(benchmark)
    training = Training(config, videos)
    with sampled(config.run.device) as utilization:
        turns, before = measure(benchmark, training)
    series = series_of(turns)
    headline, findings = conclude(series, num_cores())
    Console().print(_grid(series).table())
    print(findings["says"])
    finish(
        "end-to-end",
        benchmark,
        benchmark.results,
        series={**series, "of_min_pct": headline},
        findings={
            **findings,
            **before,
            "decoder": training.loader.decoder,
            "data_threads": config.data.num_threads,
            "torch_threads": torch.get_num_threads(),
            "precision": config.run.precision,
            "compile": config.run.compile,
            "clips": described,
        },
        utilization=utilization,
    )
    return 0 if findings["met"] else 1


def main() -> None:
    """Command line: the fields of :class:`EndToEndBenchmark`."""
    results.main(EndToEndBenchmark, run)


if __name__ == "__main__":
    main()
