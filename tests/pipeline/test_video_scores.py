"""Files of scores: what is read is what was written, and what cannot be used is refused before anything is trained."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.video_scores import NUM_SCORES, VideoScores, write_video_scores

VIDEOS = ["jump/a.avi", "run/b b.mp4", os.fsdecode(b"run/caf\xe9.avi"), "run/d.avi"]


def random_scores(num_videos: int, seed: int = 0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 3, (num_videos, NUM_SCORES))
    scores: np.ndarray = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores


@pytest.fixture
def scores() -> np.ndarray:
    return random_scores(len(VIDEOS))


@pytest.fixture
def path(tmp_path: Path, scores: np.ndarray) -> Path:
    write_video_scores(tmp_path / "scores", VIDEOS, scores)
    return tmp_path / "scores"


def test_scores_are_found_by_path_whatever_the_rows_of_the_index(path: Path, scores: np.ndarray) -> None:
    index = ["other/first.avi", *reversed(VIDEOS)]
    found = VideoScores(path, index, np.array([1, 2, 4])).of(np.array([4, 1, 4]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, scores[[0, 3, 0]].astype(np.float16).astype(np.float32))


def test_many_rows_are_checked_and_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.video_scores._ROWS_AT_ONCE", 3)
    videos, scores = [f"{number}.avi" for number in range(10)], random_scores(10)
    write_video_scores(tmp_path / "scores", videos, scores)
    found = VideoScores(tmp_path / "scores", videos, np.arange(10)).of(np.arange(10))
    np.testing.assert_array_equal(found, scores.astype(np.float16).astype(np.float32))
    assert VideoScores(tmp_path / "scores", videos, np.arange(0)).of(np.arange(0)).shape == (0, NUM_SCORES)


def test_a_video_without_scores_is_named(path: Path) -> None:
    with pytest.raises(InputError, match=r"scores says nothing of 2 of 3 videos, first x\.avi: make it again"):
        VideoScores(path, [*VIDEOS, "x.avi", "y.avi"], np.array([0, 4, 5]))


@pytest.mark.parametrize("wrong", [np.nan, -0.5, 0.5])
def test_what_is_no_probability_is_refused_when_written_and_when_read(
    tmp_path: Path, scores: np.ndarray, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores[2, 7] = wrong
    with pytest.raises(InputError, match=r"caf.*no probabilities: take the softmax"):
        write_video_scores(tmp_path / "scores", VIDEOS, scores)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.video_scores._not_probabilities", lambda rows: np.zeros(len(rows), bool))
        write_video_scores(tmp_path / "scores", VIDEOS, scores)
    with pytest.raises(InputError, match=r"scores: the scores of .*caf.* are no probabilities"):
        VideoScores(tmp_path / "scores", VIDEOS, np.arange(4))
    VideoScores(tmp_path / "scores", VIDEOS, np.array([0, 1, 3]))  # nobody asks for the wrong one


def test_a_video_of_which_nothing_is_known_has_zeros(tmp_path: Path, scores: np.ndarray) -> None:
    scores[1] = 0
    write_video_scores(tmp_path / "scores", VIDEOS, scores)
    found = VideoScores(tmp_path / "scores", VIDEOS, np.arange(4)).of(np.arange(4))
    assert found.sum(axis=1).tolist() == pytest.approx([1, 0, 1, 1], abs=1e-3)


@pytest.mark.parametrize("shape", [(len(VIDEOS), 365), (3, NUM_SCORES), (len(VIDEOS),)])
def test_scores_of_another_shape_are_not_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="for 4 videos: 1000 of each are wanted"):
        write_video_scores(tmp_path / "scores", VIDEOS, np.full(shape, 1 / shape[-1]))


def test_scores_of_other_classes_and_other_files_are_refused(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.video_scores.NUM_SCORES", 365)
    write_video_scores(tmp_path / "places", VIDEOS, np.full((len(VIDEOS), 365), 1 / 365))
    monkeypatch.undo()
    with pytest.raises(InputError, match="holds 1460 float16 scores of 4 videos, not 1000 float16 ones of each"):
        VideoScores(tmp_path / "places", VIDEOS, np.arange(4))
    (tmp_path / "text").write_text("a text that is longer than the start of such a file")
    with pytest.raises(InputError, match="text is no file of scores: move it"):
        VideoScores(tmp_path / "text", VIDEOS, np.arange(4))
    with pytest.raises(InputError, match=r"file of scores .*gone cannot be read"):
        VideoScores(tmp_path / "gone", VIDEOS, np.arange(4))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"the file of scores .* bytes, not"):
        VideoScores(path, VIDEOS, np.arange(4))


def test_a_file_cut_short_while_in_use_ends_in_words_and_not_in_a_crash(path: Path) -> None:
    found = VideoScores(path, VIDEOS, np.arange(4))
    os.truncate(path, path.stat().st_size - 2 * NUM_SCORES)
    with pytest.raises(InputError, match="has been cut short while it was read"):
        found.of(np.array([3]))


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    monkeypatch.setattr("pipeline.array_file.os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError, match="no space left"):
        write_video_scores(path, VIDEOS, random_scores(len(VIDEOS), seed=1))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["scores"]
