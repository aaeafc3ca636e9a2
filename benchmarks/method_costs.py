"""What does each method cost beside supervised training: its views, its extra networks, and both together?

Of each method three things take turns with those of all others, as in ``end-to-end``: the trainer's loop on one batch
of random pixels, which is what its networks and losses cost; the loader with nothing that consumes its batches, which
is what its views cost; and the loop on the loader, files to weights.  A method is compared with the base turn by turn.

    python -m benchmarks method-costs ROOT --size 112 --batch-labeled 4 --batch-unlabeled 4
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from benchmarks import results
from benchmarks.clock import in_turns
from benchmarks.end_to_end import EndToEndBenchmark, Turns, warmed_up
from benchmarks.results import Record, Series, finish
from benchmarks.tables import spread, times
from benchmarks.training import Training, configure, find_videos
from benchmarks.utilization import sampled
from pipeline.errors import InputError
from train.methods import METHODS
from train.tables import Grid

_COLUMNS = {"step_ms": ("ms", ",.0f"), "batch_ms": ("ms", ",.1f"), "clips_per_s": ("clips/s", ".2f")}


@dataclass(frozen=True, kw_only=True)
class MethodCostsBenchmark(EndToEndBenchmark):
    """Time step, loader and both of each method."""

    method: str = "supervised"
    """Method that the others are held against."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise InputError(f"method {unknown[0]} is unknown: choose from {', '.join(METHODS)}")


def measure(benchmark: MethodCostsBenchmark) -> tuple[dict[str, Series], dict[str, Any]]:
    """Run the benchmark.

    Returns:
        All turns, by names such as "fixmatch/step_ms", and what else is worth telling.

    Raises:
        InputError: a loader's clips are not what they should be, or a method cannot be trained with these options.
        NonFiniteLossError: a loss or a gradient is infinite or NaN.
    """
    videos, described = find_videos(benchmark)
    candidates: dict[str, Callable[[], Any]] = {}
    clips_of: dict[str, int] = {}
    for method in dict.fromkeys((benchmark.method, *benchmark.methods)):
        training = Training(configure(replace(benchmark, method=method)), videos)
        of_method, _ = warmed_up(benchmark, training)
        candidates |= {f"{method}/{part}": candidate for part, candidate in of_method.items()}
        unlabeled = benchmark.batch_unlabeled if training.state.method.needs.unlabeled else 0
        clips_of[method] = benchmark.batch_labeled + unlabeled
    found = in_turns(candidates, benchmark.repeats, num_warmup=0)
    series: dict[str, Series] = {}
    for method, num_clips in clips_of.items():
        turns = Turns(**{part: found[f"{method}/{part}"] for part in ("loader", "ceiling", "whole")})
        series |= {f"{method}/{name}": one for name, one in _series_of(turns, num_clips).items()}
    return series, {
        "clips_a_step": clips_of,
        "decoder": training.loader.decoder,
        "data_threads": training.state.config.data.num_threads,
        "torch_threads": torch.get_num_threads(),
        "clips": described,
    }


def _series_of(turns: Turns, num_clips: int) -> dict[str, Series]:
    values = {
        "step_ms": [one.step_ms for one in turns.ceiling],
        "batch_ms": [num_clips * one.wall_ms for one in turns.loader],
        "clips_per_s": [one.clips_per_s for one in turns.whole],
    }
    series = {
        name: Series(unit, "higher" if unit == "clips/s" else "lower", tuple(values[name]))
        for name, (unit, _) in _COLUMNS.items()
    }
    waits = tuple(100 * one.data_wait_ms / one.step_ms for one in turns.whole)
    return {**series, "data_wait_pct": Series("%", "lower", waits)}


def _grid(series: Mapping[str, Series], base: str) -> Grid:
    rows = []
    for method in dict.fromkeys(name.partition("/")[0] for name in series):
        row = [method]
        for name, (_, form) in _COLUMNS.items():
            ours, theirs = series[f"{method}/{name}"], series[f"{base}/{name}"]
            row += [spread(ours, form), "" if method == base else f"{times(ours, theirs).median:.2f}"]
        rows.append((*row, f"{series[f'{method}/data_wait_pct'].median:.1f}"))
    heads = ("ms a step, no loader", "ms a batch, no step", "clips/s, files to weights")
    return Grid("", ("method", *(head for one in heads for head in (one, f"× {base}")), "data wait, %"), tuple(rows))


def markdown(record: Record) -> str:
    """What each method costs, alone and beside the base."""
    done = record.settings
    caption = (
        f"{done['clip_len']} frames of {done['size']}×{done['size']}, width {done['width']}; {done['batch_labeled']} "
        f"labelled clips a step and, where a method takes unlabelled ones, {done['batch_unlabeled']} of these. "
        f"{done['repeats']} turns of each, beside all others, in brackets quartiles; ratios are of the same turn. "
        "clips/s counts each clip of a step once, however many views it has."
    )
    return f"{caption}\n\n{_grid(record.series, done['method']).markdown()}"


def run(benchmark: MethodCostsBenchmark) -> int:
    """Measure, print, keep the result."""
    with sampled(configure(benchmark).run.device) as utilization:
        series, told = measure(benchmark)
    console = Console()
    console.width = max(console.width, 150)  # the table is not for folding, in a log file either
    console.print(_grid(series, benchmark.method).table())
    finish("method-costs", benchmark, benchmark.results, series=series, findings=told, utilization=utilization)
    return 0


def main() -> None:
    """Command line: the fields of :class:`MethodCostsBenchmark`."""
    results.main(MethodCostsBenchmark, run)


if __name__ == "__main__":
    main()
