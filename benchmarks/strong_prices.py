"""What each strong operation costs for a view that drew it, and what a strong view costs that drew none.

On the CPU, in one thread, with clips that FFmpeg has decoded beforehand: the graph with a strong view of RGB, all of
whose clips draw the one operation, against the same graph with none.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.checks import streams_of
from benchmarks.clock import cost, in_turns, now
from benchmarks.results import Series
from benchmarks.training import Training
from pipeline.batch import Needs
from pipeline.graph import ClipGraph, GraphSpec, Sample
from pipeline.plan import StrongPlan
from pipeline.strong import OPS, StrongParameters, strong_parameters

NONE = "none"
_CPU = torch.device("cpu")


def strong_prices(training: Training, num_clips: int, repeats: int) -> dict[str, Series]:
    """Run the benchmark.

    Args:
        training: whose videos and clips are taken.
        num_clips: clips that each operation is timed on.
        repeats: times each is timed.

    Returns:
        CPU milliseconds by operation, beyond those of a strong view without any; and those, as "none".
    """
    config, videos = training.state.config, training.videos
    optim = replace(config.optim, batch_labeled=1, batch_unlabeled=num_clips)
    needs = Needs(tg=False, unlabeled=True, strong=True)
    stream = streams_of(needs, replace(config, optim=optim), videos)["unlabeled"]
    size = config.data.size

    def build(strong: bool) -> ClipGraph:
        spec = GraphSpec(config.data.clip_len, tg=False, strong=strong, decoder="ffmpeg")
        return ClipGraph(spec, size, num_clips, "cpu", num_threads=1)

    weak, strong = build(False), build(True)
    frames = [weak.read(videos.index[row], plan) for row, plan in stream.batch(0)]
    candidates: dict[str, Callable[[], float]] = {"weak": partial(_cpu_ms, weak, frames)}
    for name, drawn in _operations(size).items():
        candidates[name] = partial(_cpu_ms, strong, [sample | drawn for sample in frames])
    found = in_turns(candidates, repeats)

    def beyond(name: str, other: str) -> Series:
        values = (here - there for here, there in zip(found[name], found[other], strict=True))
        return Series("cpu-ms/clip", "lower", tuple(values))

    return {name: beyond(name, NONE) for name in OPS} | {NONE: beyond(NONE, "weak")}


def _cpu_ms(graph: ClipGraph, samples: list[Sample]) -> float:
    start = now(_CPU)
    graph(samples)
    return cost(start, now(_CPU), len(samples)).cpu_ms


def _operations(size: int) -> dict[str, Sample]:
    """The inputs that draw each operation alone, and none."""
    drawn = {name: strong_parameters(StrongPlan((op, op), (1, 1), (0.5, 0.5)), size) for op, name in enumerate(OPS)}
    blank = drawn[OPS[0]]
    drawn[NONE] = blank._replace(switches=np.zeros_like(blank.switches))
    return {name: _named(parameters) for name, parameters in drawn.items()}


def _named(parameters: StrongParameters) -> Sample:
    return {f"rgb_{name}": value for name, value in parameters._asdict().items()}
