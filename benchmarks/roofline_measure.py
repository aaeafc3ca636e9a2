"""What :mod:`benchmarks.roofline` measures: files of every kind, what the host does for a clip, the machine's rates."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

from benchmarks.clips import HEIGHT, WIDTH, drawn_frames, write_downloaded
from benchmarks.counting import Taken, count_frames
from benchmarks.results import Series
from pipeline.decode import decode_clip
from pipeline.errors import BadVideo, InputError
from pipeline.files import find_videos
from pipeline.graph import ClipGraph, GraphSpec, dali_refusal
from pipeline.index import VideoIndex
from pipeline.matroska import to_matroska
from pipeline.plan import ClipPlan, ClipSpec
from pipeline.record import VideoRecord
from pipeline.slicing import slice_clip
from pipeline.stream import ClipStream
from pipeline.strong import strong_parameters
from pipeline.transcode import Options, transcode

ORIGINAL, PREPARED, INTRA, INTRA_CPU = "original", "prepared, GOP 8", "all-intra", "all-intra, MJPEG"
# The first as it was downloaded, the others as pipeline.prepare writes them, the last on a machine without a GPU.
KINDS: dict[str, Options | None] = {
    ORIGINAL: None,
    PREPARED: Options("h264", 256, 8),
    INTRA: Options("h264", 256, 1),
    INTRA_CPU: Options("mjpeg", 256, 1),
}
NUM_PLANNED = 400
"""Clips that are planned to count frames."""
_NUM_VIDEOS = 4
_NUM_FRAMES = 300  # Kinetics: 10 s
_BATCH = 8
_MIB = 2**20


@dataclass(frozen=True, eq=False)
class Kind:
    """Files of one kind, their index, and what clips take from them."""

    index: VideoIndex
    rows: np.ndarray
    taken: Taken
    refusal: str | None

    @property
    def record(self) -> VideoRecord:
        """Of the first of its sliceable videos."""
        return self.index[int(self.rows[0])]


def make_folders(clips: Path, source: Path | None) -> dict[str, Path]:
    """Make files of every kind, or what is missing of them.

    Args:
        clips: where they are kept.
        source: folder of videos as downloaded; None for drawn ones.

    Returns:
        The folder of each kind.

    Raises:
        InputError: there are no videos in ``source``, or one of them cannot be prepared.
    """
    found = find_videos(source) if source else [f"{number}.mp4" for number in range(_NUM_VIDEOS)]
    if not found:
        raise InputError(f"no videos in {source}: name a folder of videos, such as UCF-101")
    root = clips / (source.absolute().name if source else "drawn")
    names = [found[at] for at in np.linspace(0, len(found) - 1, min(_NUM_VIDEOS, len(found))).astype(int)]
    folders = {kind: root / kind.replace(",", "").replace(" ", "-") for kind in KINDS}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(track(names, "making clips", console=Console(stderr=True), transient=True)):
        original = folders[ORIGINAL] / f"{number}{Path(name).suffix}"
        if not original.exists() and source:
            original.symlink_to((source / name).absolute())
        elif not original.exists():
            write_downloaded(original, drawn_frames(number, _NUM_FRAMES, WIDTH, HEIGHT))
        for kind, options in KINDS.items():
            copy = folders[kind] / f"{number}{'.avi' if options and options.codec == 'mjpeg' else '.mp4'}"
            if options and not copy.exists():
                unfinished = root / f"unfinished{copy.suffix}"
                try:
                    transcode(original, unfinished, options)
                except BadVideo as error:
                    raise InputError(f"{error}: take it out of {source}") from error
                unfinished.replace(copy)
    return folders


def read_kind(folder: Path, spec: ClipSpec) -> Kind:
    """Index the files of a kind, and count what clips take from them.

    Raises:
        InputError: none of them is sliceable.
    """
    index = VideoIndex.build(folder, num_workers=1, progress=False)
    rows = np.array([row for row in range(len(index)) if index[row].sliceable], np.int64)
    if not len(rows):
        raise InputError(f"no clip can be cut from the videos in {folder}: name others")
    records = [index[row] for row in rows.tolist()]
    refusals = [refusal for record in records if (refusal := dali_refusal(record, "cuda"))]
    return Kind(index, rows, count_frames(records, spec, NUM_PLANNED), refusals[0] if refusals else None)


def host_costs(kinds: dict[str, Kind], spec: ClipSpec, repeats: int) -> dict[str, Series]:
    """CPU milliseconds a clip of what the host does, for each kind, and of the views; all in turns."""
    work: dict[str, Callable[[], object]] = {}
    for name, kind in kinds.items():
        stream = ClipStream(kind.index, kind.rows, spec, seed=0, name="roofline", batch_size=_BATCH)
        work[f"host, {name}"] = partial(_for_all, _cut, stream)
        work[f"decode, {name}"] = partial(_for_all, _decode, stream)
    graph = ClipGraph(GraphSpec(spec.clip_len, tg=True, strong=True, decoder="ffmpeg"), spec.size, _BATCH, "cpu", 1)
    samples = [graph.read(stream.index[row], plan) for row, plan in stream.batch(0)]
    work["views"] = lambda: graph(samples)
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in track(range(repeats + 1), "timing", console=Console(stderr=True), transient=True):
        for name, station in work.items():
            began = time.process_time()
            station()
            if turn:  # the first one warms up
                times[name].append(1000 * (time.process_time() - began) / _BATCH)
    return {name: Series("cpu-ms/clip", "lower", tuple(values)) for name, values in times.items()}


def _for_all(work: Callable[[VideoRecord, ClipPlan], None], stream: ClipStream) -> None:
    for row, plan in stream.batch(0):
        work(stream.index[row], plan)


def _cut(record: VideoRecord, plan: ClipPlan) -> None:
    """What the host does where a GPU decodes."""
    clip = slice_clip(record, np.concatenate([plan.frames, plan.later]), closed=True)
    if record.joinable:
        to_matroska(record, clip)
    _draw(plan)


def _decode(record: VideoRecord, plan: ClipPlan) -> None:
    """What it does where it decodes itself."""
    decode_clip(record, np.concatenate([plan.frames, plan.later]), plan.box, plan.flip, plan.size)
    _draw(plan)


def _draw(plan: ClipPlan) -> None:
    for drawn in (plan.strong_rgb, plan.strong_tg):
        assert drawn is not None
        strong_parameters(drawn, plan.size[0])


def rates(device: str, repeats: int) -> dict[str, Series]:
    """Bytes/s of memory, and FLOP/s of a matrix product and of R3D-18's commonest convolution, both passes."""
    gpu = torch.device(device).type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    source, target = (torch.zeros(64 * _MIB, dtype=torch.uint8, device=device) for _ in range(2))
    pinned = torch.zeros(64 * _MIB, dtype=torch.uint8, pin_memory=gpu)
    side = 8192 if gpu else 1024
    square = torch.ones(side, side, dtype=dtype, device=device)
    clips = torch.ones(32 if gpu else 2, 64, 8, 28, 28, dtype=dtype, device=device, requires_grad=True)
    kernel = torch.ones(64, 64, 3, 3, 3, dtype=dtype, device=device, requires_grad=True)
    clips_last = clips.to(memory_format=torch.channels_last_3d)

    def convolve() -> None:
        torch.autograd.grad(F.conv3d(clips_last, kernel, padding=1).sum(), (clips, kernel), retain_graph=False)

    measured: dict[str, tuple[str, float, Callable[[], object]]] = {
        "memory": ("bytes/s", 2.0 * source.numel(), lambda: target.copy_(source)),
        "matrix product": ("FLOP/s", 2.0 * side**3, lambda: square @ square),
        "convolution": ("FLOP/s", 6.0 * kernel.numel() * clips.numel() / clips.shape[1], convolve),
    }
    if gpu:
        measured["to the GPU"] = ("bytes/s", source.numel(), lambda: target.copy_(pinned, non_blocking=True))
    return {
        name: Series(unit, "higher", tuple(amount / _seconds(work, gpu) for _ in range(repeats)))
        for name, (unit, amount, work) in measured.items()
    }


def _seconds(work: Callable[[], object], gpu: bool) -> float:
    def wait() -> None:
        if gpu:
            torch.cuda.synchronize()

    work()
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began
