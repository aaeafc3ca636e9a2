"""Videos that tests share, written once a session."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encode import ENCODERS, write_video
from pipeline.index import VideoIndex

# A suite that a shell has started in the background ignores SIGINT, and so would the programs it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # small tensors, and the machine may have few cores

REAL_VIDEOS = Path(__file__).parents[2] / "shared" / "videos"
ODD_VIDEOS = REAL_VIDEOS / "odd"

TINY_CLIPS = {
    "data.clip-len": 4,
    "data.frame-stride": 1,
    "data.size": 32,
    "data.eval-size": 32,
    "data.num-threads": 1,
    "model.width": 4,
    "optim.batch-labeled": 2,
    "optim.batch-unlabeled": 2,
}
"""Options of a run that takes a second a step or less."""


def moving_frames(num_frames: int = 40, width: int = 96, height: int = 72, seed: int = 0) -> np.ndarray:
    """(N, H, W, 3) uint8: a smooth colour texture that drifts, so that every frame differs from every other."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    phases, waves = rng.uniform(0, 6.28, (3, 4)), rng.uniform(0.04, 0.25, (3, 4, 2))
    for t in range(num_frames):
        for channel in range(3):
            waves_sum = sum(
                np.sin(wx * (x + 1.5 * t) + wy * (y - 0.7 * t) + phase)
                for (wx, wy), phase in zip(waves[channel], phases[channel], strict=True)
            )
            frames[t, :, :, channel] = np.clip(128 + 30 * waves_sum, 0, 255)
    return frames


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of video files: ``video(codec, gop=8, bframes=0, num_frames=40, width=96, height=72)``."""
    folder = tmp_path_factory.mktemp("videos")

    def make(codec: str, *, gop: int = 8, bframes: int = 0, **shape: int) -> Path:
        name = "_".join(f"{key}{value}" for key, value in {"gop": gop, "bframes": bframes, **shape}.items())
        path = folder / f"{codec}_{name}{ENCODERS[codec].suffix}"
        if not path.exists():
            write_video(path, moving_frames(**shape), codec, gop=gop, bframes=bframes)
        return path

    return make


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory, video: Callable[..., Path]) -> VideoIndex:
    """Twelve videos of two classes: several codecs, lengths and sizes; the first six decode in DALI on a CPU."""
    root = tmp_path_factory.mktemp("data")
    shapes = [("mjpeg", 40), ("vp8", 30), ("vp9", 24), ("mjpeg", 20), ("vp8", 12), ("vp9", 90)]
    shapes += [("h264", 40), ("mpeg4", 33), ("h264", 9), ("mjpeg", 64), ("vp8", 65), ("h264", 70)]
    for number, (codec, num_frames) in enumerate(shapes):
        source = video(codec, num_frames=num_frames, width=96 + 8 * (number % 3), seed=number)
        folder = root / ("left" if number % 2 else "right")
        folder.mkdir(exist_ok=True)
        os.link(source, folder / f"{number:02}{source.suffix}")
    return VideoIndex.build(root, num_workers=2, progress=False)


@pytest.fixture(scope="session")
def odd_videos() -> list[Path]:
    """Real files with something unusual each; not part of the project."""
    if not ODD_VIDEOS.is_dir():
        pytest.skip(f"no collection of odd videos at {ODD_VIDEOS}")
    return sorted(path for path in ODD_VIDEOS.iterdir() if path.suffix != ".md")


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Function that waits for a condition, and fails after a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "waited a minute in vain"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def real_videos() -> list[Path]:
    """H.264 as found in the wild, most with B-frames; not part of the project."""
    folder = REAL_VIDEOS / "actions"
    if not folder.is_dir():
        pytest.skip(f"no collection of real videos at {folder}")
    return sorted(folder.glob("*/*.mp4"))
