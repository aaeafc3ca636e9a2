"""How many clips per second does the loader deliver, and what does one cost?

Reads a folder of class folders through :class:`pipeline.loader.ClipLoader` with everything that the temporal-gradient
method asks for (RGB and TG, labeled clips, unlabeled clips in a weak and a strong view) and throws the batches away, so
that nothing but the loader is timed.  A clip counts once, however many views are made of it.

    python -m benchmarks loader ROOT --num-batches 50 --batch-size 8 --size 224
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from benchmarks import results
from benchmarks.results import RESULTS, finish
from pipeline.batch import Needs
from pipeline.datasets import split_videos
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipSpec


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """Time the loader on a folder of class folders."""

    root: Annotated[Path, tyro.conf.Positional]
    """Folder of class folders."""
    num_batches: int = 50
    """Batches that are timed."""
    num_warmup: int = 5
    """Batches before the clock starts."""
    batch_size: int = 8
    """Labeled clips in a batch, and as many unlabeled ones."""
    size: int = 224
    """Height and width of the clips in pixels."""
    frame_stride: int = 8
    """Distance between two frames of a clip, in frames of the video."""
    decoder: Literal["auto", "ffmpeg", "dali"] = "auto"
    """Who decodes."""
    num_threads: int = 2
    """Threads that decode."""
    device: str = "cpu"
    """Where the clips are delivered: cpu or cuda."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        for name in ("num_batches", "num_warmup", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: use 1 or more")


def measure(benchmark: LoaderBenchmark) -> dict[str, float]:
    """Run the benchmark.

    Returns:
        clips_per_s: labeled and unlabeled clips per second of wall time;
        cpu_ms_per_clip: CPU time of all threads of this process per clip.

    Raises:
        InputError: the folder or an option is not usable.
    """
    index = VideoIndex.build(benchmark.root)
    loader = ClipLoader(
        index,
        split_videos(index),
        Needs(tg=True, unlabeled=True, strong=True),
        ClipSpec(size=benchmark.size, eval_size=max(benchmark.size, 256), frame_stride=benchmark.frame_stride),
        batch_labeled=benchmark.batch_size,
        batch_unlabeled=benchmark.batch_size,
        seed=0,
        device=benchmark.device,
        decoder=benchmark.decoder,
        num_threads=benchmark.num_threads,
    )
    with loader:
        # Nothing happens between batches: once warm, the queue of finished ones is empty when the clock starts, so
        # that every batch that is timed is also made on the clock.
        for _ in range(benchmark.num_warmup):
            next(loader)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(benchmark.num_batches):
            next(loader)
        if torch.device(benchmark.device).type == "cuda":
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    clips = benchmark.num_batches * 2 * benchmark.batch_size
    return {"clips_per_s": clips / wall, "cpu_ms_per_clip": 1000 * cpu / clips}


def run(benchmark: LoaderBenchmark) -> int:
    """Measure, print, keep the result."""
    result = measure(benchmark)
    print(f"{result['clips_per_s']:.1f} clips/s, {result['cpu_ms_per_clip']:.1f} cpu-ms per clip")
    finish("loader", benchmark, benchmark.results, findings=result)
    return 0


def main() -> None:
    """Command line: the fields of :class:`LoaderBenchmark`."""
    results.main(LoaderBenchmark, run)


if __name__ == "__main__":
    main()
