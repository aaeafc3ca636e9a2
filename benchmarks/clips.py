"""The 24 clips every comparison reads: the same 250 frames of 340x256, in four kinds of files.

    h264:           as data sets are downloaded: x264's defaults (B-frames, crf 23, keyframes at cuts and every 250)
    prepared_h264:  as :mod:`pipeline.prepare` writes H.264: a keyframe every 8 frames, no B-frames, quick to decode
    mjpeg:          prepared for CPUs: every frame a keyframe, quantiser 3
    vp8:            prepared for CPUs, small: a keyframe every 8 frames

They are made from a folder of real videos, evenly spread over its files, each stretched to 250 frames by playing it
forward and backward.  Without such a folder they are drawn: a pan over noisy texture, which costs about as many bits.
Promises: every kind shows the same frames; a set that was interrupted is finished, one of another source refused.
"""

import json
import os
from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from rich.progress import track

from pipeline.datasets import DataSplit
from pipeline.encode import video_writer
from pipeline.errors import InputError
from pipeline.files import find_videos
from pipeline.index import VideoIndex
from pipeline.transcode import CODECS

ORIGINAL = "h264"
PREPARED = {"prepared_h264": "h264", "mjpeg": "mjpeg", "vp8": "vp8"}
"""Kinds that :mod:`pipeline.prepare` writes, and the codec it is asked for."""
KINDS = (ORIGINAL, *PREPARED)
NUM_CLIPS = 24
NUM_FRAMES = 250
WIDTH, HEIGHT = 340, 256
FPS = 25
GOP = 8

_SUFFIXES = {ORIGINAL: ".mp4", **{kind: CODECS[codec].suffix for kind, codec in PREPARED.items()}}
_NOTE = "clips.json"
_SYNTHETIC = "synthetic"


def make_clips(root: Path, source: Path | None) -> dict[str, Path]:
    """Make the set, or what is missing of it.

    Args:
        root: folder of the set.
        source: folder of real videos; None for drawn ones.

    Returns:
        The folder of each kind, with the files ``00`` to ``23``.

    Raises:
        InputError: the folder holds another set, or there is no readable video in ``source``.
    """
    note = {"source": str(source.resolve()) if source else _SYNTHETIC}
    folders = {kind: root / kind for kind in KINDS}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    _check_note(root / _NOTE, note)
    files = {
        (number, kind): folder / f"{number:02}{_SUFFIXES[kind]}"
        for number in range(NUM_CLIPS)
        for kind, folder in folders.items()
    }
    missing = {at: path for at, path in files.items() if not path.exists()}
    sources = _spread(source) if source and missing else []
    numbers = dict.fromkeys(number for number, _ in missing)
    for number in track(numbers, "making clips", disable=not missing):
        frames = _real_frames(sources, number) if source else drawn_frames(number, NUM_FRAMES, WIDTH, HEIGHT)
        for kind in KINDS:
            if (number, kind) in missing:
                unfinished = root / f"unfinished{_SUFFIXES[kind]}"
                _write(unfinished, frames, kind)
                os.replace(unfinished, missing[number, kind])
    return folders


def one_class(index: VideoIndex) -> DataSplit:
    """All videos of an index in one class, labeled and unlabeled at once: what only loads does not learn."""
    rows = np.arange(len(index))
    return DataSplit(("clip",), np.zeros(len(index), np.int64), rows, rows, rows[:0])


def describe(folders: dict[str, Path]) -> dict[str, object]:
    """What the set was made of, and the bytes a frame takes in each kind of file."""
    note: dict[str, object] = json.loads((next(iter(folders.values())).parent / _NOTE).read_text())
    sizes = {kind: sum(path.stat().st_size for path in folder.iterdir()) for kind, folder in folders.items()}
    return {
        "source": Path(str(note["source"])).name,  # the rest of the path says nothing of the clips
        "bytes_per_frame": {kind: round(size / NUM_CLIPS / NUM_FRAMES) for kind, size in sizes.items()},
    }


def _check_note(path: Path, note: dict[str, str]) -> None:
    if not path.exists():
        path.write_text(json.dumps(note))
    found = json.loads(path.read_text())
    if found != note:
        raise InputError(f"{path.parent} holds clips made from {found['source']}: delete it or name another folder")


def _spread(source: Path) -> list[Path]:
    found = find_videos(source)
    if not found:
        raise InputError(f"no videos in {source}: name a folder of videos, such as UCF-101")
    picked = np.linspace(0, len(found) - 1, NUM_CLIPS).astype(int)
    return [source / found[number] for number in picked]


def _real_frames(sources: list[Path], number: int) -> np.ndarray:
    """(NUM_FRAMES, HEIGHT, WIDTH, 3) uint8, of the next video that can be read."""
    for path in chain(sources[number:], sources[:number]):
        try:
            with av.open(str(path)) as container:
                frames = [
                    frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray()
                    for frame in islice(container.decode(video=0), NUM_FRAMES)
                ]
        except av.error.FFmpegError:
            continue
        if len(frames) > 1:
            return np.stack(list(islice(cycle(frames + frames[-2:0:-1]), NUM_FRAMES)))
    raise InputError(f"none of the {len(sources)} videos tried can be read, the last {sources[-1]}")


def drawn_frames(seed: int, num_frames: int, width: int, height: int) -> np.ndarray:
    """(num_frames, height, width, 3) uint8: a pan over texture of all scales, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    side = 1024
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1
    phases = rng.standard_normal((3, side, side // 2 + 1)) + 1j * rng.standard_normal((3, side, side // 2 + 1))
    texture = np.fft.irfft2(phases / frequency, s=(side, side))  # the spectrum of natural pictures
    texture = np.moveaxis(128 + 50 * texture / texture.std(axis=(1, 2), keepdims=True), 0, -1)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2.0)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t, frame in enumerate(frames):
        y = int(speed * t * np.sin(angle)) + np.arange(height)
        x = int(speed * t * np.cos(angle)) + np.arange(width)
        view = texture[y[:, None] % side, x[None] % side]
        frame[:] = np.clip(view + rng.normal(0, 3, view.shape), 0, 255)
    return frames


def _write(path: Path, frames: np.ndarray, kind: str) -> None:
    if kind == ORIGINAL:
        write_downloaded(path, frames)
        return
    with video_writer(path, CODECS[PREPARED[kind]], (WIDTH, HEIGHT), rate=Fraction(FPS), gop=GOP) as write:
        for frame in frames:
            write(av.VideoFrame.from_ndarray(frame, format="rgb24"))


def write_downloaded(path: Path, frames: np.ndarray) -> None:
    """Write H.264 as x264 does when it is told nothing, which is how most data sets were made."""
    with av.open(str(path), "w", container_options={"fflags": "bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "23", "preset": "medium"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
