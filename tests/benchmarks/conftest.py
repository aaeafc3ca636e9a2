"""What benchmarks of a training share: a few tiny videos, and options that make a step take no time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training import Training, TrainingOptions, configure, find_videos
from pipeline.index import VideoIndex


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory: pytest.TempPathFactory, video: Callable[..., Path]) -> VideoIndex:
    """Two classes of three videos that every decoder takes."""
    root = tmp_path_factory.mktemp("tiny")
    for number in range(6):
        source = video(("mjpeg", "vp8")[number % 2], seed=number)
        folder = root / ("left" if number < 3 else "right")
        folder.mkdir(exist_ok=True)
        os.link(source, folder / f"{number}{source.suffix}")
    return VideoIndex.build(root, num_workers=1, progress=False)


@pytest.fixture
def tiny(tiny_index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of :class:`TrainingOptions` and those made from it; the videos are indexed once for all."""
    monkeypatch.setattr(VideoIndex, "build", lambda *_, **__: tiny_index)
    return {
        "root": tiny_index.root,
        "clip_len": 4,
        "frame_stride": 2,
        "size": 32,
        "width": 4,
        "num_threads": 1,
        "device": "cpu",
        "repeats": 2,
    }


@pytest.fixture
def training(tiny: dict[str, Any]) -> Training:
    """One that nothing has been done with."""
    options = TrainingOptions(**tiny)
    return Training(configure(options), find_videos(options)[0])
