"""The loader's way can be cut off after each of its stations, whoever decodes, and none is made up."""

from contextlib import closing
from typing import Any

import pytest

from benchmarks import data_stages as module
from benchmarks.data_stages import data_stages
from benchmarks.training import Training, TrainingOptions, configure, find_videos
from pipeline.slicing import PacketSlice
from pipeline.slicing import slice_clip as slice_whole

FFMPEG = ["plan+slice", "read", "decode", "crop+resize", "feed", "TG", "strong views", "hand-over"]
DALI = [name for name in FFMPEG if name != "feed"]
RGB_ALONE = [name for name in FFMPEG if name not in ("TG", "strong views")]


@pytest.mark.parametrize(
    ("decoder", "method", "expected", "num_clips"),
    [
        ("ffmpeg", "temporal_gradient", FFMPEG, 5),
        ("dali", "temporal_gradient", DALI, 5),
        ("ffmpeg", "supervised", RGB_ALONE, 2),
    ],
)
def test_there_is_a_cut_for_every_station_there_is(
    decoder: str, method: str, expected: list[str], num_clips: int, tiny: dict[str, Any]
) -> None:
    options = TrainingOptions(**tiny | {"decoder": decoder, "method": method, "batch_unlabeled": 3})
    training = Training(configure(options), find_videos(options)[0])
    stages = data_stages(training)
    assert list(stages) == expected
    for begin in stages.values():
        with closing(begin()) as batches:
            assert [next(batches) for _ in range(2)] == [num_clips] * 2


def test_nothing_is_done_that_comes_after_the_cut(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def slice_clip(*arguments: Any, **options: Any) -> PacketSlice:
        reads.append(arguments)
        return slice_whole(*arguments, **options)

    monkeypatch.setattr(module, "slice_clip", slice_clip)
    monkeypatch.setattr(module, "decode_clip", lambda *_: pytest.fail("a clip was scaled"))
    stages = data_stages(training)
    for stage, has_read in (("plan+slice", False), ("read", True), ("decode", True)):
        with closing(stages[stage]()) as batches:
            next(batches)
        assert bool(reads) == has_read
