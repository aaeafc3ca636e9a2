"""Does the loader outlive everything that can happen to video files, for as long as a training lasts?

Writes a set of small videos, damages 3 % of them in every way there is, half before the loader starts and half while it
runs, lets a reading thread die now and then, and draws batches.  Every step has to arrive with whole clips of videos
that are not left out; memory and open files must not grow; batches replayed from a saved state must have the same bits.

    python -m benchmarks soak --num-batches 20000

Exit status: 0 if all of that holds, 1 if not, 2 for a mistake in the options.
"""

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import results
from benchmarks.results import RESULTS, Record, finish
from benchmarks.tables import markdown_checks
from pipeline.background import READER
from pipeline.batch import ClipBatch, Needs
from pipeline.datasets import DataSplit
from pipeline.encode import ENCODERS, write_video
from pipeline.errors import InputError
from pipeline.graph import ClipGraph, Sample
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipPlan, ClipSpec
from pipeline.record import VideoRecord

SPEC = ClipSpec(clip_len=4, frame_stride=2, size=32, eval_size=32)
NUM_ORIGINALS = 8  # of each codec; the other videos are copies
CODECS = {"ffmpeg": ("mjpeg", "vp8", "h264", "mpeg4"), "dali": ("mjpeg", "vp8", "vp9")}
BATCH_SIZE = 2  # labeled clips, and as many unlabeled ones
BAD_FRACTION = 0.03
MAX_GROWTH = 0.03
WARMUP = 0.2  # of the batches
LAST_DAMAGE = 0.6  # of the batches
REPLAY_FROM = 0.8  # of the batches: what was shown of a video before it was damaged cannot be shown again
READS_TO_A_DEATH = 1000
NUM_USAGES = 200  # taken while batches are drawn
NUM_USAGES_KEPT = 20  # in the result, to see how they went
NUM_REPLAYED = 50

Damage = Callable[[Path, VideoRecord], None]


@dataclass(frozen=True, kw_only=True)
class Soak:
    """Draw batches while videos go bad."""

    num_batches: int = 20_000
    """Batches to draw."""
    num_videos: int = 600
    """Videos to draw from; 3 % of them go bad."""
    decoder: Literal["ffmpeg", "dali"] = "ffmpeg"
    """Who decodes."""
    num_threads: int = 2
    """Threads that decode."""
    seed: int = 0
    """Another seed gives other batches and damages other videos."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.num_videos < 2 * len(_damages()) / BAD_FRACTION:
            raise InputError(f"num_videos {self.num_videos}: too few for every damage, use 600 or more")
        if self.num_batches < 2 * self.num_videos:
            raise InputError(
                f"num_batches {self.num_batches}: too few to meet every bad video, use {2 * self.num_videos} or more"
            )


def delete(path: Path, record: VideoRecord) -> None:
    """Remove it."""
    path.unlink()


def truncate(path: Path, record: VideoRecord) -> None:
    """Cut it in half."""
    os.truncate(path, record.file_size // 2)


def empty(path: Path, record: VideoRecord) -> None:
    """Leave nothing in it."""
    os.truncate(path, 0)


def overwrite(path: Path, record: VideoRecord) -> None:
    """Noise of the same size."""
    path.write_bytes(np.random.default_rng(0).bytes(record.file_size))


def replace_by_a_page(path: Path, record: VideoRecord) -> None:
    """What a server sends in place of a file."""
    path.write_text("<html><body>404 not found</body></html>")


def replace_by_a_folder(path: Path, record: VideoRecord) -> None:
    """Something that cannot be read as a file."""
    path.unlink()
    path.mkdir()


def forbid(path: Path, record: VideoRecord) -> None:
    """Take the right to read it; root may all the same."""
    path.chmod(0)


def flip_bits(path: Path, record: VideoRecord) -> None:
    """A few bits of every packet; neither size nor modification time tells."""
    rng = np.random.default_rng(0)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    for offset, size in zip(record.offsets.tolist(), record.sizes.tolist(), strict=True):
        content[offset + rng.integers(0, size, 8)] ^= 1 << rng.integers(0, 8, 8).astype(np.uint8)
    path.write_bytes(content.tobytes())
    os.utime(path, ns=(record.mtime_ns, record.mtime_ns))


def damage_packets(path: Path, record: VideoRecord) -> None:
    """All packets; neither size nor modification time tells."""
    rng = np.random.default_rng(0)
    content = bytearray(path.read_bytes())
    for offset, size in zip(record.offsets.tolist(), record.sizes.tolist(), strict=True):
        content[offset : offset + size] = rng.bytes(size)
    path.write_bytes(content)
    os.utime(path, ns=(record.mtime_ns, record.mtime_ns))


def _damages() -> dict[str, Damage]:
    damages: dict[str, Damage] = {
        "deleted": delete,
        "truncated": truncate,
        "emptied": empty,
        "overwritten with noise": overwrite,
        "replaced by a web page": replace_by_a_page,
        "replaced by a folder": replace_by_a_folder,
        "bits flipped in packets": flip_bits,
        "packets overwritten": damage_packets,
    }
    if os.geteuid() != 0:  # root may read everything
        damages["made unreadable"] = forbid
    return damages


@dataclass(frozen=True)
class Victim:
    """A video that is damaged before a step."""

    path: str
    damage: str
    step: int


def choose_victims(soak: Soak, paths: list[str]) -> list[Victim]:
    """3 % of the videos, every damage at least once before the first step and once while running."""
    rng = np.random.default_rng(soak.seed)
    chosen = rng.choice(len(paths), round(BAD_FRACTION * len(paths)), replace=False)
    kinds = list(_damages())
    half = len(chosen) // 2
    steps = [0] * half + np.linspace(1, LAST_DAMAGE * soak.num_batches, len(chosen) - half, dtype=int).tolist()
    return [
        Victim(paths[row], kinds[(i if i < half else i - half) % len(kinds)], step)
        for i, (row, step) in enumerate(zip(chosen, steps, strict=True))
    ]


def write_videos(soak: Soak, root: Path) -> VideoIndex:
    """Small videos of two classes, alike in all but name within a codec and number."""
    originals = []
    for codec in CODECS[soak.decoder]:
        for number in range(NUM_ORIGINALS):
            path = root.parent / f"{codec}{number}{ENCODERS[codec].suffix}"
            rng = np.random.default_rng(number)
            coarse = rng.integers(0, 256, (16 + number, 6, 8, 3), np.uint8)
            write_video(path, coarse.repeat(8, axis=1).repeat(8, axis=2), codec)
            originals.append(path)
    for number in range(soak.num_videos):
        original = originals[number % len(originals)]
        target = root / "ab"[number % 2] / f"{number:04}{original.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(original, target)
    return VideoIndex.build(root)


@contextmanager
def mortal_readers() -> Iterator[Counter[str]]:
    """Let every thousandth clip be the death of the thread that reads it; counts them."""
    read, reads, deaths = ClipGraph.read, count(1), Counter[str]()

    def deadly(graph: ClipGraph, record: VideoRecord, plan: ClipPlan) -> Sample:
        if threading.current_thread().name.startswith(READER) and next(reads) % READS_TO_A_DEATH == 0:
            deaths["threads"] += 1
            raise SystemExit("a reading thread dies")
        return read(graph, record, plan)

    ClipGraph.read = deadly  # type: ignore[method-assign, assignment]
    try:
        yield deaths
    finally:
        ClipGraph.read = read  # type: ignore[method-assign]


def _digest(batch: ClipBatch) -> bytes:
    digest = blake2b(digest_size=16)
    for value in batch:
        for part in value if isinstance(value, tuple) else (value,):
            if part is not None:
                digest.update(part.numpy().tobytes())
    return digest.digest()


def _check(batch: ClipBatch, labels: torch.Tensor, left_out: set[int]) -> None:
    assert batch.weak is not None and batch.strong is not None and batch.unlabeled_ids is not None
    for views in (batch.labeled, batch.weak, batch.strong):
        for view in views:
            assert view is not None and view.shape == (BATCH_SIZE, SPEC.clip_len, SPEC.size, SPEC.size, 3)
    assert torch.equal(batch.labels, labels[batch.labeled_ids])
    assert not left_out & {*batch.labeled_ids.tolist(), *batch.unlabeled_ids.tolist()}, "a video left out was shown"


def _usage() -> dict[str, int]:
    """Resident bytes, open files and threads of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "resident_bytes": resident,
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def draw(soak: Soak, index: VideoIndex, victims: list[Victim]) -> dict[str, Any]:
    """Draw the batches and damage the videos.

    Returns:
        What happened, all of it plain numbers and strings.
    """
    rows = {path: row for row, path in enumerate(index.paths)}
    labels = np.array([path.startswith("b/") for path in index.paths], np.int64)
    every = np.arange(len(index))
    split = DataSplit(("a", "b"), labels, every[::4], every, every[:0])
    usages: list[dict[str, int]] = []
    digests: dict[int, bytes] = {}
    replay_from = int(REPLAY_FROM * soak.num_batches)
    state: dict[str, Any] = {}
    num_delivered = 0
    started = time.perf_counter()
    with (
        mortal_readers() as deaths,
        ClipLoader(
            index,
            split,
            Needs(tg=True, unlabeled=True, strong=True),
            SPEC,
            batch_labeled=BATCH_SIZE,
            batch_unlabeled=BATCH_SIZE,
            seed=soak.seed,
            decoder=soak.decoder,
            num_threads=soak.num_threads,
            max_bad_fraction=2 * BAD_FRACTION,
        ) as loader,
    ):
        for step in track(range(soak.num_batches), "soaking", console=Console(stderr=True)):
            for victim in victims:
                if victim.step == step:
                    _damages()[victim.damage](index.root / victim.path, index[rows[victim.path]])
            if step == replay_from:
                state = json.loads(json.dumps(loader.state_dict()))
            batch = next(loader)
            _check(batch, torch.from_numpy(labels), {rows[path] for path in loader.quarantined})
            num_delivered += 1
            if 0 <= step - replay_from < NUM_REPLAYED:
                digests[step] = _digest(batch)
            if step % max(1, soak.num_batches // NUM_USAGES) == 0:
                usages.append(_usage())
        seconds = time.perf_counter() - started
        quarantine = loader.state_dict()["quarantine"]
        # By now more videos are left out than were then: each from the step on in which it failed.
        loader.load_state_dict({"step": replay_from, "quarantine": quarantine})
        same = all(_digest(next(loader)) == digests[step] for step in sorted(digests))
    return {
        "num_delivered": num_delivered,
        "batches_per_s": num_delivered / seconds,
        "num_reader_deaths": deaths["threads"],
        "replay_is_identical": same and set(state["quarantine"]) <= set(quarantine),
        "quarantine": quarantine,
        **_growth(usages),
    }


def _growth(usages: list[dict[str, int]]) -> dict[str, Any]:
    """Median and extremes of each kind of usage after the warm-up."""
    settled = usages[int(WARMUP * len(usages)) :]
    result: dict[str, Any] = {"usages": usages[:: max(1, len(usages) // NUM_USAGES_KEPT)]}
    for name in settled[0]:
        values = [usage[name] for usage in settled]
        result[name] = {"median": float(np.median(values)), "lowest": min(values), "highest": max(values)}
    return result


def verdicts(soak: Soak, result: dict[str, Any], victims: list[Victim]) -> dict[str, bool]:
    """What had to hold, and whether it did."""
    memory, files = result["resident_bytes"], result["open_files"]
    spread = max(memory["highest"] - memory["median"], memory["median"] - memory["lowest"])
    # Bits that flip and still decode go unseen: only a checksum of every packet would tell.
    must_be_seen = {victim.path for victim in victims if victim.damage != "bits flipped in packets"}
    return {
        "every step arrived": result["num_delivered"] == soak.num_batches,
        "every bad video was found": must_be_seen <= result["quarantine"].keys(),
        "no good video was left out": result["quarantine"].keys() <= {victim.path for victim in victims},
        "replay is identical to the bit": result["replay_is_identical"],
        f"memory is flat within {MAX_GROWTH:.0%}": spread <= MAX_GROWTH * memory["median"],
        "open files are flat but for one a reader": files["highest"] - files["lowest"] <= soak.num_threads,
    }


def _print(result: dict[str, Any], checks: dict[str, bool], victims: list[Victim]) -> None:
    console = Console(highlight=False)
    table = Table("damage", "when", "found in step", "reason", title=f"{len(victims)} videos damaged")
    for victim in sorted(victims, key=lambda victim: (victim.damage, victim.step)):
        step, reason = result["quarantine"].get(victim.path, ("never", "decodes all the same"))
        table.add_row(victim.damage, f"step {victim.step}" if victim.step else "before", str(step), reason)
    console.print(table)
    for name in ("resident_bytes", "open_files", "threads"):
        usage = result[name]
        console.print(f"{name}: median {usage['median']:,.0f}, {usage['lowest']:,} to {usage['highest']:,}")
    console.print(f"reading threads that died: {result['num_reader_deaths']}; {result['batches_per_s']:.1f} batches/s")
    for name, holds in checks.items():
        console.print(f"{'yes' if holds else 'NO '}  {name}")


def run(soak: Soak) -> int:
    """Draw the batches, judge, print, keep the result."""
    logging.getLogger("pipeline").setLevel(logging.ERROR)  # the table says it
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        index = write_videos(soak, Path(folder, "videos"))
        victims = choose_victims(soak, index.paths)
        result = draw(soak, index, victims)
    checks = verdicts(soak, result, victims)
    _print(result, checks, victims)
    finish("soak", soak, soak.results, findings={"checks": checks, **result})
    return 0 if all(checks.values()) else 1


def markdown(record: Record) -> str:
    """What was borne, for a document."""
    found = record.findings
    caption = (
        f"{found['num_delivered']:,} batches of {record.settings['num_videos']} videos, {found['batches_per_s']:.0f} a "
        f"second; {len(found['quarantine'])} videos were found bad and left out, {found['num_reader_deaths']} reading "
        "threads died:"
    )
    return f"{caption}\n\n{markdown_checks(found['checks'])}"


def main() -> None:
    """Command line: the fields of :class:`Soak`."""
    results.main(Soak, run)


if __name__ == "__main__":
    main()
