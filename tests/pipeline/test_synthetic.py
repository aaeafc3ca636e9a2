"""The generated data set: no frame tells the class, the motion does, and a folder is whole or absent."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import synthetic
from pipeline.errors import InputError
from pipeline.synthetic import MOTIONS, generate_motion_dataset, render_motion

SMALL: dict[str, Any] = {"videos_per_class": 2, "val_videos_per_class": 1, "size": 32, "num_frames": 6}


def render(motions: list[str], videos: int, num_frames: int, seed: int = 0) -> NDArray[np.uint8]:
    """(motions, videos, num_frames, 32, 32, 3) uint8."""

    def one(label: int, video: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([seed, label, video])
        return render_motion(motions[label], rng, size=32, num_frames=num_frames)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(one, label, video) for label in range(len(motions)) for video in range(videos)]
        frames = np.stack([job.result() for job in jobs])
    return frames.reshape(len(motions), videos, *frames.shape[1:])


def appearance(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What a single frame looks like: coarse pixels, their squares, colour and gradient statistics, (..., features)."""
    values = frames.astype(np.float64) / 255
    coarse = values.reshape(*values.shape[:-3], 8, 4, 8, 4, 3).mean(axis=(-4, -2)).reshape(*values.shape[:-3], -1)
    spread = values.std(axis=(-3, -2))
    edges = [np.abs(np.diff(values, axis=axis)).mean(axis=(-3, -2)) for axis in (-3, -2)]
    return np.concatenate([coarse, coarse**2, spread, *edges], axis=-1)


def probe_accuracy(features: NDArray[np.float64], num_train: int) -> float:
    """Test accuracy of a ridge classifier on features (classes, videos, F): the first videos train, the rest test."""
    num_classes = len(features)
    train, test = features[:, :num_train], features[:, num_train:]
    mean, std = train.mean(axis=(0, 1)), train.std(axis=(0, 1)) + 1e-6
    x = ((train - mean) / std).reshape(num_classes * num_train, -1)
    targets = np.repeat(np.eye(num_classes), num_train, axis=0) - 1 / num_classes
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ targets)
    guesses = (((test - mean) / std) @ weights).argmax(axis=-1)
    return float((guesses == np.arange(num_classes)[:, None]).mean())


@pytest.fixture(scope="module")
def all_motions() -> NDArray[np.uint8]:
    return render(list(MOTIONS), videos=60, num_frames=24)


NUM_TRAIN = 40
CHANCE_BOUND = 1 / 8 + 4 * (1 / 8 * 7 / 8 / (8 * 20)) ** 0.5  # four standard deviations above chance


@pytest.mark.parametrize("frame", [0, 12, 23])
def test_a_single_frame_says_nothing_about_the_class(all_motions: NDArray[np.uint8], frame: int) -> None:
    assert probe_accuracy(appearance(all_motions[:, :, frame]), NUM_TRAIN) < CHANCE_BOUND


def test_the_probe_would_find_a_class_that_shows_in_single_frames(all_motions: NDArray[np.uint8]) -> None:
    frames = all_motions[:, :, 0].copy()
    for label in range(8):  # a faint mark, elsewhere for every class
        frames[label, :, 4 * label : 4 * label + 4, :4] //= 2
    assert probe_accuracy(appearance(frames), NUM_TRAIN) > 0.5


def test_the_difference_of_two_frames_tells_left_from_right_and_up_from_down() -> None:
    for axis, motions in ((-2, ["left", "right"]), (-3, ["up", "down"])):
        frames = render(motions, videos=20, num_frames=12, seed=1).astype(np.float64)
        change = frames[:, :, 1:] - frames[:, :, :-1]
        slope = np.gradient(frames, axis=axis)[:, :, :-1]
        velocity = -(change * slope).mean(axis=(2, 3, 4, 5))  # optical flow's constraint: change = -velocity * slope
        assert (velocity[0] < 0).mean() > 0.9
        assert (velocity[1] > 0).mean() > 0.9


def test_growth_tells_in_from_out() -> None:
    frames = render(["in", "out"], videos=20, num_frames=24, seed=2).astype(np.float64)
    change = np.diff(frames, axis=2)
    # Blobs are brighter than their background: where they grow, rims brighten, by more than texture and noise change.
    rims = (np.sign(change) * (np.abs(change) > 40)).mean(axis=(3, 4, 5))
    growth = np.median(rims, axis=2)  # the median passes over blobs that start again
    assert (growth[0] > 0).mean() > 0.9
    assert (growth[1] < 0).mean() > 0.9


def test_turning_blobs_turn_as_their_class_says() -> None:
    for motion, sense in (("clockwise", 1), ("counter-clockwise", -1)):
        angle = synthetic._trajectory(motion, 0.01, 10, np.random.default_rng(0))[3]
        steps = (np.diff(angle) + 0.5) % 1 - 0.5
        assert np.all(np.sign(steps) == sense)
    # A quarter of a turn by the renderer's own sense takes the right edge of a picture to its bottom: clockwise.
    sprite = np.zeros((4, 64, 64), dtype=np.float32)
    sprite[3, 28:36, 44:52] = 1  # right of the centre
    states = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.0, 0.25]])
    _, coverage = synthetic._warp(sprite, states, 64)
    centers = [np.argwhere(picture[0] > 0.5).mean(axis=0) - 31.5 for picture in coverage]
    assert centers[0][1] > 5
    assert abs(centers[0][0]) < 1
    assert centers[1][0] > 5
    assert abs(centers[1][1]) < 1


@pytest.mark.parametrize("motion", MOTIONS)
def test_state_is_uniform_on_its_circle_in_every_frame(motion: str) -> None:
    rng = np.random.default_rng(3)
    states = np.stack([synthetic._trajectory(motion, rng.uniform(0.01, 0.02), 40, rng) for _ in range(2000)])
    for frame in (0, 20, 39):
        for state in range(4):
            counts, _ = np.histogram(states[:, state, frame], bins=10, range=(0, 1))
            assert np.abs(counts - 200).max() < 5 * (2000 * 0.1 * 0.9) ** 0.5


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate_motion_dataset(tmp_path / name, seed=seed, **SMALL)
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[path] == other[path] for path in first)
    assert len(set(first.values())) == len(first)  # no video twice


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_files_are_ordinary_videos_in_class_folders(tmp_path: Path, codec: str) -> None:
    root = tmp_path / "deep" / "set"
    generate_motion_dataset(root, codec=codec, **SMALL)
    assert sorted(path.name for path in (root / "train").iterdir()) == sorted(MOTIONS)
    assert sorted(path.name for path in (root / "val").iterdir()) == sorted(MOTIONS)
    videos = [path for path in root.rglob("*") if path.is_file() and path.name != synthetic.MANIFEST]
    assert len(videos) == 8 * 3
    for path in videos:
        with av.open(str(path)) as container:
            shapes = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
        assert shapes == [(32, 32, 3)] * 6


def test_second_call_with_same_parameters_touches_nothing(tmp_path: Path) -> None:
    root = tmp_path / "set"
    generate_motion_dataset(root, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate_motion_dataset(root, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_parameters_or_another_folder_are_refused_and_left_alone(tmp_path: Path) -> None:
    root, mine = tmp_path / "set", tmp_path / "mine"
    generate_motion_dataset(root, **SMALL)
    before = files(root)
    with pytest.raises(InputError, match=r"other parameters \(seed 0 there, 5 here\): remove it or choose another"):
        generate_motion_dataset(root, seed=5, **SMALL)
    assert files(root) == before
    mine.mkdir()
    (mine / "notes.txt").write_text("precious")
    for taken in (mine, mine / "notes.txt"):
        with pytest.raises(InputError, match="exists and is no generated data set: choose another folder"):
            generate_motion_dataset(taken, **SMALL)
    assert files(mine) == {"notes.txt": b"precious"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_generation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    written: list[Path] = []

    def write_then_fail(path: Path, *_: object) -> None:
        if len(written) == 5:
            raise error
        written.append(path)
        path.write_bytes(b"")

    monkeypatch.setattr(synthetic, "_write_motion", write_then_fail)
    with pytest.raises(error):
        generate_motion_dataset(tmp_path / "set", **SMALL)
    assert written
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"videos_per_class": 0}, "videos_per_class is 0: use 1 or more"),
        ({"size": 8}, "size is 8: use 16 or more"),
        ({"size": 33, "codec": "h264"}, "h264 takes even sizes only, not 33x33"),
        ({"codec": "gif"}, "unknown codec 'gif'"),
        ({"speed": (0.02, 0.01)}, r"speed is 0\.02 to 0\.01"),
        ({"seed": -1}, "seed is -1"),
        ({"motions": ("left", "sideways")}, r"motions are \('left', 'sideways'\): use two or more of"),
        ({"motions": ("left",)}, "use two or more of"),
    ],
)
def test_parameters_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generate_motion_dataset(tmp_path / "set", **{**SMALL, **options})
    assert not list(tmp_path.iterdir())


def test_fewer_motions_can_be_asked_for_and_have_the_same_videos(tmp_path: Path) -> None:
    generate_motion_dataset(tmp_path / "all", **SMALL)
    generate_motion_dataset(tmp_path / "two", motions=("up", "left"), **SMALL)
    assert sorted(path.name for path in (tmp_path / "two" / "train").iterdir()) == ["left", "up"]
    for path in (tmp_path / "two").rglob("*.avi"):
        assert path.read_bytes() == (tmp_path / "all" / path.relative_to(tmp_path / "two")).read_bytes()


def test_command_line_generates_and_says_one_line_when_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--videos-per-class", "1", "--val-videos-per-class", "1", "--size", "16", "--num-frames", "2"]
    monkeypatch.setattr("sys.argv", ["synthetic", str(tmp_path / "set"), *options, "--speed", "0.01", "0.03"])
    synthetic.main()
    assert json.loads((tmp_path / "set" / synthetic.MANIFEST).read_text())["speed"] == [0.01, 0.03]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["synthetic", str(tmp_path), *options])
    with pytest.raises(SystemExit) as stop:
        synthetic.main()
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
