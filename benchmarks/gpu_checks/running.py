"""Does the loader run on the device for long, through bad files, and how fast?"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.clips import one_class
from benchmarks.gpu_checks.bench import FAIL, INFO, PASS, SKIP, Bench, Finding
from benchmarks.soak import damage_packets
from pipeline.batch import ClipBatch, Needs
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader

_NUM_COPIES = 16
_DELETED, _DAMAGED = 3, 9  # rows of the index
_BATCH = 8
THREADS = (1, 2, 4, 8, 16)
_SPEED_WARMUP_S, _SPEED_S = 1.0, 5.0
_MEMORY_S = 20.0
_MEMORY_QUARTER = 30  # batches; what is in the queues varies from batch to batch
_MEMORY_GROWTH = 0.03


def check_faults(bench: Bench) -> Iterator[Finding]:
    """Deleted and damaged videos cost no step, and leave the clips of all others as they were."""
    for variant, _ in bench.decodable():
        with TemporaryDirectory() as folder:
            yield _faults(variant, bench.copies(Path(folder) / "videos", variant, _NUM_COPIES), bench)


def _faults(variant: str, index: VideoIndex, bench: Bench) -> Finding:
    num_steps = 2 * len(index) // _BATCH
    with loader_on(bench, index, seed=1) as loader:
        whole = [_clips(next(loader)) for _ in range(num_steps)]
    deleted, damaged = index.paths[_DELETED], index.paths[_DAMAGED]
    (index.root / deleted).unlink()
    damage_packets(index.root / damaged, index[_DAMAGED])
    with loader_on(bench, index, seed=1) as loader:
        found = [_clips(next(loader)) for _ in range(num_steps)]
        left_out = loader.quarantined
    changed: set[int] = set()
    for (rows, clips), (rows_now, clips_now) in zip(whole, found, strict=True):
        same_video = (rows == rows_now) & (rows != _DELETED) & (rows != _DAMAGED)
        same_bits = (clips == clips_now).flatten(1).all(dim=1)
        changed |= set(rows[same_video & ~same_bits].tolist())
    unjustly = set(left_out) - {deleted, damaged}
    if changed or unjustly or deleted not in left_out:
        wrong = f"other videos' clips changed: {sorted(changed)}; left out: {sorted(left_out)}"
        return Finding(variant, FAIL, f"{wrong}; expected of {deleted} and {damaged} only")
    named = "named" if damaged in left_out else "SHOWN AS IF IT WERE WHOLE, since the decoder does not complain"
    return Finding(variant, PASS, f"{num_steps} of {num_steps} steps; deleted video named, damaged one {named}")


def check_threads(bench: Bench) -> Iterator[Finding]:
    """Clips per second by the number of decoding threads, each of which is an NVDEC session on a GPU."""
    variant = next(variant for variant, _ in bench.decodable())
    with TemporaryDirectory() as folder:
        index = bench.copies(Path(folder) / "videos", variant, _NUM_COPIES)
        speeds = {}
        for num_threads in THREADS:
            with loader_on(bench, index, num_threads=num_threads) as loader:
                speeds[num_threads] = clips_per_s(loader, _SPEED_S)
            yield Finding(f"{num_threads} threads", INFO, f"{speeds[num_threads]:.0f} clips/s of {variant}")
        best = max(speeds, key=lambda num_threads: speeds[num_threads])
        yield Finding("best", INFO, f"--data.num-threads {best}: {speeds[best]:.0f} clips/s")
        with loader_on(bench, index, decoder="ffmpeg", num_threads=os.cpu_count() or 1) as loader:
            speed = clips_per_s(loader, _SPEED_S)
        yield Finding("decoder ffmpeg", INFO, f"{speed:.0f} clips/s on all {os.cpu_count()} cores")


def clips_per_s(loader: ClipLoader, seconds: float) -> float:
    """Labeled and unlabeled clips together."""
    for _ in batches_for(loader, _SPEED_WARMUP_S):
        pass
    start = time.perf_counter()
    batches = sum(1 for _ in batches_for(loader, seconds))
    return batches * 2 * _BATCH / (time.perf_counter() - start)


def batches_for(loader: ClipLoader, seconds: float) -> Iterator[ClipBatch]:
    """Batches for a while, at least one, each complete on its device."""
    stop = time.perf_counter() + seconds
    while True:
        yield next(loader)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if time.perf_counter() > stop:
            return


def check_memory(bench: Bench) -> Iterator[Finding]:
    """Neither the host's memory nor the device's grows with the batches."""
    variant = next(variant for variant, _ in bench.decodable())
    with TemporaryDirectory() as folder:
        index = bench.copies(Path(folder) / "videos", variant, _NUM_COPIES)
        with loader_on(bench, index) as loader:
            host, device = zip(
                *((host_mib(), device_mib(bench.device)) for _ in batches_for(loader, _MEMORY_S)), strict=True
            )
    yield memory_finding("host", host)
    if bench.device_type == "cuda":
        yield memory_finding("device", device)


def memory_finding(name: str, mib: Sequence[float]) -> Finding:
    """Compare the last quarter of the batches with the second; the first warms up.

    Args:
        name: of the memory.
        mib: in use after each batch.
    """
    quarter = len(mib) // 4
    if quarter < _MEMORY_QUARTER:
        return Finding(name, SKIP, f"only {len(mib)} batches in {_MEMORY_S:.0f} s: too few to tell")
    early, late = median(mib[quarter : 2 * quarter]), median(mib[-quarter:])
    note = f"{late:.0f} MiB, {100 * (late / early - 1):+.1f} % over {2 * quarter} batches"
    return Finding(name, FAIL if late > early * (1 + _MEMORY_GROWTH) else PASS, note)


def host_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def device_mib(device: str) -> float:
    """Memory in use on a GPU, whoever uses it; 0 on a CPU."""
    if torch.device(device).type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 2**20


def loader_on(
    bench: Bench, index: VideoIndex, *, decoder: str = "dali", seed: int = 0, num_threads: int = 4
) -> ClipLoader:
    """A loader as training has it, with all four views."""
    return ClipLoader(
        index,
        one_class(index),
        Needs(tg=True, unlabeled=True, strong=True),
        bench.spec,
        batch_labeled=_BATCH,
        batch_unlabeled=_BATCH,
        seed=seed,
        device=bench.device,
        decoder=decoder,
        num_threads=num_threads,
        max_bad_fraction=0.5,
    )


def _clips(batch: ClipBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a batch's unlabeled videos, and their weak RGB clips on the host."""
    assert batch.weak is not None and batch.unlabeled_ids is not None
    return batch.unlabeled_ids, batch.weak.rgb.cpu()
