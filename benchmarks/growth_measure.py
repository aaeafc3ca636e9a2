"""What :mod:`benchmarks.growth` has its processes measure: loaders, loaders of several ranks, and large indexes."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.clips import drawn_frames, one_class
from benchmarks.turns import Made, Speed, cpu_s
from pipeline.batch import Needs
from pipeline.encode import write_video
from pipeline.index import FILE_NAME, VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipSpec
from pipeline.record import VideoRecord
from pipeline.scanning import scan
from pipeline.stream import ClipStream

SIZE = 112
"""Height and width of the clips in pixels."""
_NUM_VIDEOS = 2
_RANK_BATCHES = 5
_WARMUP_BATCHES = 2
_NUM_ROWS = 1000
_PLAN_BATCH, _PLAN_BATCHES = 64, 20
_NUM_PACKETS = 24  # of a video of the large indexes; tables of more are longer, and stay in the file

Result = TypeVar("Result")


@dataclass(frozen=True)
class Setting:
    """What a loader is measured on; each axis varies one field.

    Attributes:
        frame_stride: distance of neighbouring frames of a clip, in frames of the video.
        clip_len: frames of a clip.
        gop: distance between keyframes, in frames.
        num_frames: of a video.
        height: of a video in pixels; its width is 4/3 of it.
        threads: that decode.
        batch: labeled clips in a batch, and as many unlabeled ones.
    """

    frame_stride: int = 8
    clip_len: int = 8
    gop: int = 8
    num_frames: int = 250
    height: int = 128
    threads: int = 1
    batch: int = 4


def make_videos(root: Path, setting: Setting) -> Path:
    """Folder of H.264 videos of a setting, drawn unless they are there, and indexed."""
    folder = root / f"gop{setting.gop}-frames{setting.num_frames}-height{setting.height}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_NUM_VIDEOS):
        path, unfinished = folder / f"{number}.mp4", root / "unfinished.mp4"
        if not path.exists():
            frames = drawn_frames(number, setting.num_frames, setting.height * 4 // 6 * 2, setting.height)
            write_video(unfinished, frames, "h264", gop=setting.gop)
            unfinished.replace(path)
    VideoIndex.refresh(folder / FILE_NAME, folder, num_workers=1, progress=False)
    return folder


def clips(folder: Path, setting: Setting) -> Iterator[Made]:
    """Numbers of clips, as a loader makes them with all four views."""
    with _loader(folder, setting, setting.batch) as loader:
        for _ in loader:
            yield Made(2 * setting.batch)


def _loader(folder: Path, setting: Setting, batch: int, rank: int = 0, world_size: int = 1) -> ClipLoader:
    index = VideoIndex.load(folder / FILE_NAME)
    spec = ClipSpec(clip_len=setting.clip_len, frame_stride=setting.frame_stride, size=SIZE, eval_size=SIZE)
    return ClipLoader(
        index,
        one_class(index),
        Needs(tg=True, unlabeled=True, strong=True),
        spec,
        batch_labeled=batch,
        batch_unlabeled=batch,
        seed=0,
        num_threads=setting.threads,
        rank=rank,
        world_size=world_size,
    )


def rank_speed(folder: Path, setting: Setting, world_size: int) -> Speed:
    """Speed of ranks that share the setting's batch and meet after each, as the gradients make them do in training.

    Args:
        folder: of the videos.
        setting: threads are each rank's, the batch all ranks'.
        world_size: ranks, processes over gloo.
    """
    context = get_context("spawn")
    answers: Queue[Speed] = context.Queue()
    with tempfile.TemporaryDirectory() as store:
        ranks = [
            context.Process(target=_run_rank, args=(rank, world_size, store, folder, setting, answers))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    if any(process.exitcode for process in ranks):
        raise RuntimeError(f"ranks ended with exit status {[process.exitcode for process in ranks]}")
    return answers.get()


def _run_rank(rank: int, world_size: int, store: str, folder: Path, setting: Setting, answers: "Queue[Speed]") -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=world_size)
    with _loader(folder, setting, setting.batch // world_size, rank, world_size) as loader:
        for _ in range(_WARMUP_BATCHES):
            next(loader)
        dist.barrier()
        used, began = cpu_s(), time.perf_counter()
        for _ in range(_RANK_BATCHES):
            next(loader)
            dist.barrier()
        wall = time.perf_counter() - began
        total = torch.tensor(cpu_s() - used)
        dist.all_reduce(total)
    made = 2 * (setting.batch // world_size) * world_size * _RANK_BATCHES
    if rank == 0:
        answers.put(Speed(made / wall, 1000 * total.item() / made))
    dist.destroy_process_group()


def index_costs(folder: Path, num_videos: int, repeats: int) -> dict[str, list[float]]:
    """What an index of so many videos costs, measured in processes of its own.

    Returns:
        By measurement and unit, a value for each repeat: see :data:`benchmarks.growth_page.INDEX`.
    """
    example = folder / "example.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    if not example.exists():
        write_video(example, drawn_frames(0, _NUM_PACKETS, 96, 64), "h264")
    path = folder / f"index-{num_videos}"
    try:
        built = _in_process(_build, path, example, num_videos, repeats)
        opened = [_in_process(_open, path) for _ in range(repeats)]
    finally:
        path.unlink(missing_ok=True)
    return {"build, s": built, **{name: [one[name] for one in opened] for name in opened[0]}}


def _in_process(function: Callable[..., Result], *arguments: object) -> Result:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _build(path: Path, example: Path, num_videos: int, repeats: int) -> list[float]:
    """CPU seconds to put scanned videos together and save them."""
    record = scan(example)
    root = path.parent.absolute()
    names = (f"train/class {number % 400:03}/video_{number:07}.mp4" for number in range(num_videos))
    records: dict[str, VideoRecord] = {name: replace(record, path=f"{root}/{name}") for name in names}
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        VideoIndex.of_records(root, records).save(path)
        seconds.append(time.process_time() - began)
    return seconds


def _open(path: Path) -> dict[str, float]:
    before = _resident_mb()
    began = time.perf_counter()
    index = VideoIndex.load(path)
    open_ms = 1000 * (time.perf_counter() - began)
    rows = np.random.default_rng(0).integers(0, len(index), _NUM_ROWS).tolist()
    began = time.thread_time()
    for row in rows:
        index[row]
    record_us = 1e6 * (time.thread_time() - began) / _NUM_ROWS
    stream = ClipStream(index, np.arange(len(index)), ClipSpec(), seed=0, name="unlabeled", batch_size=_PLAN_BATCH)
    began = time.thread_time()
    stream.batch(0)  # draws the epoch's order
    first_ms = 1000 * (time.thread_time() - began)
    steps = [step % max(1, len(index) // _PLAN_BATCH) for step in range(_PLAN_BATCHES)]  # of the same epoch
    began = time.thread_time()
    for step in steps:
        stream.batch(step)
    plan_us = 1e6 * (time.thread_time() - began) / (_PLAN_BATCHES * _PLAN_BATCH)
    return {
        "open, ms": open_ms,
        "memory, MB": max(0.1, _resident_mb() - before),
        "a record, µs": record_us,
        "an epoch's first batch, ms": first_ms,
        "a clip's plan, µs": plan_us,
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
