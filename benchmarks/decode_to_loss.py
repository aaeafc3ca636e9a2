"""From files to finished steps: how much faster do we train than the paper's way, and who waits for data?

The paper's way is its loader (decord, OpenCV and imgaug in worker processes that deliver normalised float32) and its
step (:mod:`benchmarks.reference_step`); ours is :class:`pipeline.loader.ClipLoader` and our step.  Each trains on
labeled and unlabeled clips, as many of both, the same way as a run does: RGB and TG, weak and strong.  The paper's way
reads the files as they were downloaded; we read these too, and those that were prepared.  They take turns in processes
of their own.  Before the clock starts, both steps must have given the same losses; what the loaders make is compared
in :mod:`benchmarks.peers`.

    python -m benchmarks decode-to-loss --source FOLDER_OF_VIDEOS
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks import results
from benchmarks.clips import ORIGINAL, describe, make_clips
from benchmarks.peer_loaders import ours
from benchmarks.peer_loaders.common import draw_samples, without_strong
from benchmarks.peers import OURS, REFERENCE, missing_packages
from benchmarks.reference_step import (
    CLIP_NORM,
    LR,
    FloatBatch,
    ReferenceStep,
    ReferenceStepBenchmark,
    verified,
)
from benchmarks.results import RESULTS, Record, Series, finish
from benchmarks.step import NUM_CLASSES
from benchmarks.tables import spread
from benchmarks.turns import Candidate, Made, Speed, in_rounds
from benchmarks.utilization import sampled
from benchmarks.verdicts import TARGET_WAIT_PCT, judge, markdown_verdicts, print_verdicts
from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from train.methods import METHODS
from train.step import check_compiler, compile_method, new_optimizer, new_scaler, train_step
from train.tables import Grid

TARGET = 1.5
BEST = "mjpeg"
"""The prepared files that cost a CPU the least."""
_NUM_SAMPLES = 480
Entrant = tuple[str, str]  # kind of file, side
ENTRANTS: tuple[Entrant, ...] = ((ORIGINAL, REFERENCE), (ORIGINAL, OURS), (BEST, OURS))


@dataclass(frozen=True, kw_only=True)
class DecodeToLossBenchmark:
    """Compare whole training, from files to finished steps, with the paper's way."""

    source: Path | None = None
    """Folder of real videos that the clips are made from; without one they are drawn."""
    clips: Path = Path("data/benchmark-clips")
    """Where the clips are kept, made once."""
    size: int = 112
    """Height and width of the clips in pixels."""
    batch_labeled: int = 2
    """Labeled clips in a batch, and as many unlabeled ones, which go in in two views."""
    width: int = 64
    """Channels of the networks' stems."""
    compiled: bool = False
    """Compile our step, which takes minutes before the first turn."""
    rounds: int = 5
    """Turns of each, at most."""
    seconds: float = 12.0
    """Length of a turn: up to the end of a step."""
    budget_s: float = 420.0
    """No round is begun that would not end within so many seconds; the first one is always taken."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.batch_labeled < 2:
            raise InputError(f"batch_labeled is {self.batch_labeled}: use 2 or more")
        if self.rounds < 1 or self.seconds <= 0:
            raise InputError(f"rounds {self.rounds} and seconds {self.seconds} must be above 0")


def run(benchmark: DecodeToLossBenchmark) -> int:
    """Measure, print, keep the result.

    Raises:
        InputError: a folder or an option is not usable, or the steps do not compute the same.
    """
    console = Console()
    missing = missing_packages().get(REFERENCE, ())
    if missing:
        raise InputError(f"the paper's way needs {', '.join(missing)}: see benchmarks/requirements-peers.txt")
    if benchmark.compiled:
        check_compiler()
    verified(ReferenceStepBenchmark(size=32, width=8, compiled=False))
    folders = make_clips(benchmark.clips, benchmark.source)
    for kind in dict.fromkeys(kind for kind, _ in ENTRANTS):
        VideoIndex.build(folders[kind], progress=False).save(_index_path(benchmark, kind))
    with sampled(children=True) as utilization:
        speeds = _take_turns(benchmark)
    series = {}
    for (kind, side), measured in speeds.items():
        name = f"{kind}: {side}"
        series[name] = Series("clips/s", "higher", tuple(speed.clips_per_s for speed in measured))
        series[f"{name}, cpu"] = Series("cpu-ms/clip", "lower", tuple(speed.cpu_ms_per_clip for speed in measured))
        series[f"{name}, data wait"] = Series("%", "lower", tuple(map(_wait_pct, measured)))
    console.print(_grid(series).table())
    verdicts = {
        kind: judge(
            f"decode to loss: ours on {kind} over {REFERENCE} on {ORIGINAL}",
            series[f"{kind}: {OURS}"].values,
            series[f"{ORIGINAL}: {REFERENCE}"].values,
            TARGET,
        )
        for kind in (ORIGINAL, BEST)
    }
    met = print_verdicts(console, verdicts)
    waits = {kind: series[f"{kind}: {OURS}, data wait"].median for kind in (ORIGINAL, BEST)}
    for kind, wait in waits.items():
        console.print(f"data wait on {kind}: {wait:.1f} % of the time, at most {TARGET_WAIT_PCT:g} are asked for")
    finish(
        "decode_to_loss",
        benchmark,
        benchmark.results,
        series=series,
        utilization=utilization,
        findings={
            "clips": describe(folders),
            "verdicts": verdicts,
            "data_wait_pct": waits,
            "data_wait_target_pct": TARGET_WAIT_PCT,
        },
        packages=("decord", "opencv-python-headless", "imgaug"),
    )
    return 0 if met and max(waits.values()) <= TARGET_WAIT_PCT else 1


def _wait_pct(speed: Speed) -> float:
    return speed.data_wait_ms_per_clip * speed.clips_per_s / 10


def _index_path(benchmark: DecodeToLossBenchmark, kind: str) -> Path:
    return benchmark.clips / f"{kind}.index"


def _take_turns(benchmark: DecodeToLossBenchmark) -> dict[Entrant, list[Speed]]:
    """Speeds of each entrant, one a round.

    Raises:
        InputError: one fails.
    """
    speeds: dict[Entrant, list[Speed]] = {entrant: [] for entrant in ENTRANTS}
    candidates = {side: Candidate(take_steps) for side in (REFERENCE, OURS)}
    try:
        for side, candidate in candidates.items():  # networks are made, and ours compiled, before the first round
            candidate.turn(side, benchmark, _index_path(benchmark, ORIGINAL), warmup_clips=1, seconds=0.0)
        for kind, side in in_rounds(ENTRANTS, benchmark.rounds, benchmark.budget_s):
            speed = candidates[side].turn(
                *(side, benchmark, _index_path(benchmark, kind)), warmup_clips=1, seconds=benchmark.seconds
            )
            if isinstance(speed, str):
                raise InputError(f"{side} on {kind} failed: {speed}")
            speeds[kind, side].append(speed)
    finally:
        for candidate in candidates.values():
            candidate.close()
    return speeds


def take_steps(side: str, benchmark: DecodeToLossBenchmark, index_path: Path) -> Iterator[Made]:
    """Train without end, and say after each step how many clips went in, labeled and unlabeled, and the data wait."""
    index = VideoIndex.load(index_path)
    batches, step = _batches_and_step(benchmark, index, side)
    with closing(batches):
        while True:
            begun = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - begun
            step(batch)
            yield Made(2 * benchmark.batch_labeled, waited)


def _batches_and_step(
    benchmark: DecodeToLossBenchmark, index: VideoIndex, side: str
) -> tuple[Generator[Any], Callable[[Any], object]]:
    """Batches, and the step that takes them."""
    if side == REFERENCE:
        return _reference_batches(benchmark, index), _reference_step(benchmark.width).step
    return _our_batches(benchmark, index), _our_step(benchmark.width, benchmark.compiled)


@lru_cache(maxsize=1)  # trains on from turn to turn: making networks is no part of a step
def _reference_step(width: int) -> ReferenceStep:
    return ReferenceStep(width)


def _reference_batches(benchmark: DecodeToLossBenchmark, index: VideoIndex) -> Generator[FloatBatch]:
    """Two data loaders side by side, as in the paper's code: one of labeled clips, one of unlabeled ones."""
    from benchmarks.peer_loaders import reference

    samples = draw_samples(index, _NUM_SAMPLES, benchmark.size)
    batch_size = benchmark.batch_labeled
    labels = torch.zeros(batch_size, dtype=torch.int64)
    labeled, unlabeled = (
        reference.batches(clips, batch_size, normalized=True) for clips in (without_strong(samples), samples)
    )
    with closing(labeled), closing(unlabeled):
        while True:
            rgb, tg = next(labeled)
            weak_rgb, weak_tg, strong_rgb, strong_tg = next(unlabeled)
            yield FloatBatch((rgb, tg), labels, (weak_rgb, weak_tg), (strong_rgb, strong_tg))


def _our_batches(benchmark: DecodeToLossBenchmark, index: VideoIndex) -> Generator[ClipBatch]:
    with ours.clip_loader(index, benchmark.size, benchmark.batch_labeled, benchmark.batch_labeled) as loader:
        yield from loader


@lru_cache(maxsize=1)
def _our_step(width: int, compiled: bool) -> Callable[[ClipBatch], dict[str, Tensor]]:
    """As :mod:`train.loop` does it."""
    method_type = METHODS["temporal_gradient"]
    method = method_type(NUM_CLASSES, method_type.config_type(), width).to(memory_format=torch.channels_last_3d)
    if compiled:
        compile_method(method)
    optimizer = new_optimizer(method, lr=LR, momentum=0.9, weight_decay=1e-4)
    scaler, progress = new_scaler(torch.device("cpu"), "fp32"), torch.zeros(())

    def step(batch: ClipBatch) -> dict[str, Tensor]:
        return train_step(method, optimizer, scaler, batch, progress, lr=LR, clip_norm=CLIP_NORM, precision="fp32")

    return step


def _grid(series: Mapping[str, Series]) -> Grid:
    rows = []
    for name in (f"{kind}: {side}" for kind, side in ENTRANTS):
        cpu, wait = (series[f"{name}, {part}"].median for part in ("cpu", "data wait"))
        rows.append((name, spread(series[name], ".2f"), f"{cpu:.0f}", f"{wait:.1f}"))
    return Grid("", ("file: side", "clips/s (quartiles)", "cpu-ms per clip", "data wait, %"), tuple(rows))


def markdown(record: Record) -> str:
    """Both sides, and how many times faster ours is."""
    done = record.settings
    caption = (
        f"From files to finished steps of the whole method at {done['size']}×{done['size']}, {done['batch_labeled']} + "
        f"{done['batch_labeled']} clips a step, in turns; ours {'compiled' if done['compiled'] else 'eager'}, "
        "decoded by 2 threads; the paper's by 4 processes, two for each kind of clips."
    )
    verdicts = markdown_verdicts(record.findings["verdicts"])
    waits = ", ".join(f"{kind} {wait:.1f} %" for kind, wait in record.findings["data_wait_pct"].items())
    verdicts += f"\n- data wait of ours: {waits}, at most {record.findings['data_wait_target_pct']:g} % asked for"
    return "\n\n".join([caption, _grid(record.series).markdown(), verdicts])


def main() -> None:
    """Command line: the fields of :class:`DecodeToLossBenchmark`."""
    results.main(DecodeToLossBenchmark, run)


if __name__ == "__main__":
    main()
