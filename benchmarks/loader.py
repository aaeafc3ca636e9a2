"""How many clips per second does the loader deliver, and what does one cost?

Reads videos through the trainer's own loader, with all views that the method asks for, and throws the batches away, so
that nothing but the loader is timed.  A clip counts once, however many views are made of it.  The first batch is looked
at before the clock starts.

    python -m benchmarks loader ROOT --size 224 --batch-labeled 8 --batch-unlabeled 8
"""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import torch

from benchmarks import results
from benchmarks.checks import check_batch
from benchmarks.clock import Cost, cost, now, synchronize
from benchmarks.results import Record, Series, finish
from benchmarks.tables import spread
from benchmarks.training import ClipOptions, Training, configure, find_videos
from benchmarks.utilization import sampled
from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.loader import ClipLoader


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark(ClipOptions):
    """Time the loader, with nothing that consumes its batches."""

    size: int = 224
    """Height and width of the clips in pixels."""
    batch_labeled: int = 8
    """Labeled clips in a batch."""
    batch_unlabeled: int = 8
    """Unlabeled clips in a batch."""
    seconds: float = 6.0
    """Length of a repeat, at least."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}: it must be above 0")


def num_clips(batch: ClipBatch) -> int:
    """Clips of a batch, each once."""
    return len(batch.labeled_ids) + (0 if batch.unlabeled_ids is None else len(batch.unlabeled_ids))


def clips_made(loader: ClipLoader) -> Generator[int, None, None]:
    """Numbers of clips as they come, from the loader's first step on; the loader is closed with it."""
    with loader:
        loader.load_state_dict({"step": 0, "quarantine": {}})
        for batch in loader:
            yield num_clips(batch)


def time_loader(clips: Generator[int, None, None], device: torch.device, seconds: float) -> Cost:
    """What a clip costs, over whole batches of so many seconds.

    Nothing happens between batches: once warm, the queue of finished ones is empty when the clock starts, so that every
    batch that is timed is also made on the clock.
    """
    synchronize(device)
    start, made = now(device), 0
    while not made or time.perf_counter() - start.wall_s < seconds:
        made += next(clips)
    synchronize(device)
    return cost(start, now(device), made)


def markdown(record: Record) -> str:
    """Clips per second, and what one costs, in a sentence."""
    done, series = record.settings, record.series
    return (
        f"{spread(series['clips_per_s'])} clips/s, {spread(series['cpu_ms_per_clip'])} cpu-ms a clip: "
        f"{done['size']}×{done['size']}, {done['batch_labeled']} + {done['batch_unlabeled']} clips a batch, "
        f"{record.findings['num_threads']} threads, {done['repeats']} repeats, in brackets quartiles."
    )


def run(benchmark: LoaderBenchmark) -> int:
    """Measure, print, keep the result."""
    config = configure(benchmark)
    videos, described = find_videos(benchmark)
    training = Training(config, videos)
    loader, device = training.loader, torch.device(config.run.device)
    started = time.perf_counter()
    with loader:
        batch = next(loader)
        first_batch_s = time.perf_counter() - started
        check_batch(batch, training.state.method.needs, config, videos)
    with closing(clips_made(loader)) as clips:
        time_loader(clips, device, benchmark.seconds / 2)
        with sampled(device) as utilization:
            costs = [time_loader(clips, device, benchmark.seconds) for _ in range(benchmark.repeats)]
    speed = Series("clips/s", "higher", tuple(1000 / one.wall_ms for one in costs))
    cpu = Series("cpu-ms/clip", "lower", tuple(one.cpu_ms for one in costs))
    low, high = speed.quartiles
    print(f"{speed.median:.1f} clips/s ({low:.1f} to {high:.1f}), {cpu.median:.1f} cpu-ms per clip")
    finish(
        "loader",
        benchmark,
        benchmark.results,
        series={"clips_per_s": speed, "cpu_ms_per_clip": cpu},
        findings={
            "clips_per_s": speed.median,
            "cpu_ms_per_clip": cpu.median,
            "first_batch_s": first_batch_s,
            "decoder": loader.decoder,
            "num_threads": config.data.num_threads,
            "clips": described,
        },
        utilization=utilization,
    )
    return 0


def main() -> None:
    """Command line: the fields of :class:`LoaderBenchmark`."""
    results.main(LoaderBenchmark, run)


if __name__ == "__main__":
    main()
