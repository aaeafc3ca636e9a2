"""Scores of an image network: those torchvision gives, whole or not at all, and what a training takes."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import resnet18
from torchvision.transforms.v2.functional import normalize, to_dtype

from pipeline.evaluation import frame_views
from pipeline.index import VideoIndex
from pipeline.synthetic import generate_motion_dataset
from pipeline.video_scores import NUM_SCORES, VideoScores
from tests.conftest import TINY_CLIPS
from train import score_images
from train.checkpoint import LAST, load
from train.metrics import read_metrics
from train.train import main

OPTIONS = {
    **TINY_CLIPS,
    "run.method": "videossl",
    "run.log-every": 1,
    "data.val-fraction": 0.25,
    "data.labels-per-class": 1,
    "optim.epochs": 2,
    "optim.warmup-epochs": 0,
    "method.warmup-epochs": 0,
    "method.threshold": 0.0,
}
GONE = "cannot be opened any more: No such file or directory"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "motions"
    generate_motion_dataset(
        root, motions=("left", "right"), videos_per_class=3, val_videos_per_class=1, size=32, num_frames=8, seed=0
    )
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18(weights=None).state_dict(), path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    monkeypatch.setattr("sys.argv", ["score_images", *words])
    return score_images.main()


def score(monkeypatch: pytest.MonkeyPatch, data: Path, weights: Path, out: Path, **options: Any) -> int:
    given = {"data.root": data, "weights": weights, "out": out, "network": "resnet18", "device": "cpu"}
    return run(monkeypatch, **given | options)


@pytest.fixture(scope="module")
def scores(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of all eight videos."""
    out = tmp_path_factory.mktemp("scores") / "scores"
    with pytest.MonkeyPatch.context() as patch:
        assert score(patch, data, weights, out) == 0
    return out


def test_scores_are_what_torchvision_gives_for_the_same_frames(data: Path, weights: Path, scores: Path) -> None:
    index = VideoIndex.build(data, progress=False)
    rows = np.arange(len(index))
    found = VideoScores(scores, index.paths, rows).of(rows)
    network = resnet18(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    ((_, frames),) = frame_views(index, rows, 3, batch_size=len(index))
    with torch.inference_mode():
        for own, video in zip(found, frames, strict=True):
            images = to_dtype(video.permute(0, 3, 1, 2), torch.float32, scale=True)
            images = normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            expected = network(images).softmax(dim=1).mean(dim=0)
            np.testing.assert_allclose(own, expected.numpy(), rtol=2e-3, atol=1e-6)
    assert not np.allclose(found[0], found[-1], rtol=1e-3)


def test_the_number_of_frames_is_that_asked_for(
    data: Path, weights: Path, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(monkeypatch, data, weights, tmp_path / "one", num_frames=1) == 0
    index = VideoIndex.build(data, progress=False)
    rows = np.arange(len(index))
    three, one = (VideoScores(path, index.paths, rows).of(rows) for path in (scores, tmp_path / "one"))
    ((_, frames),) = frame_views(index, rows, 1, batch_size=len(index))
    network = score_images.load_network("resnet18", weights)
    with torch.inference_mode():
        np.testing.assert_allclose(one, score_images.mean_probabilities(network, frames).numpy(), rtol=2e-3, atol=1e-6)
    assert not np.array_equal(one, three)


def test_videos_that_cannot_be_read_are_named_and_have_zeros(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = shutil.copytree(data, tmp_path / "data")
    index = VideoIndex.refresh(tmp_path / "index", root, progress=False)
    (root / "empty.avi").write_bytes(b"")
    read = VideoIndex.__getitem__

    def unreadable(self: VideoIndex, row: int) -> Any:
        if row == 2:
            Path(root / self.paths[row]).unlink(missing_ok=True)
        return read(self, row)

    monkeypatch.setattr(VideoIndex, "__getitem__", unreadable)
    out = tmp_path / "scores"
    assert score(monkeypatch, root, weights, out, **{"data.index": tmp_path / "index"}) == 1
    printed = capsys.readouterr()
    assert printed.err == f"no scores: empty.avi: the file is empty\nno scores: {index.paths[2]}: {GONE}\n"
    assert "scores of 7 of 9 videos" in printed.out
    assert not caplog.text
    rows = np.arange(len(index))
    found = VideoScores(out, index.paths, rows).of(rows)
    assert found.sum(axis=1).tolist() == pytest.approx([0 if row == 2 else 1 for row in rows], abs=1e-3)


@pytest.mark.parametrize(
    ("place", "error", "status"),
    [("mean_probabilities", KeyboardInterrupt(), 130), ("write_video_scores", OSError("no space left"), 1)],
)
def test_a_scoring_that_is_cut_off_leaves_nothing(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    error: BaseException,
    status: int,
) -> None:
    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(score_images, place, fail)
    assert score(monkeypatch, data, weights, tmp_path / "scores") == status
    assert capsys.readouterr().err.endswith("; nothing has been written\n")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_said_in_one_line_before_any_work(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("not weights")
    torch.save([1, 2], tmp_path / "list.pth")
    state = torch.load(weights, weights_only=True)
    torch.save({**state, "fc.weight": state["fc.weight"][:10]}, tmp_path / "ten.pth")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out"
    monkeypatch.setattr(VideoIndex, "build", None)
    for options, message in (
        ({"network": "resnet50"}, "resnet18.pth is not the state dict of torchvision's resnet50: "),
        ({"weights": tmp_path / "ten.pth"}, "ten.pth is not the state dict of torchvision's resnet18: "),
        ({"weights": tmp_path / "list.pth"}, "list.pth is not the state dict of torchvision's resnet18: "),
        ({"weights": tmp_path / "text"}, "text is no file of weights that can be read: "),
        ({"weights": tmp_path / "gone"}, "gone is no file of weights that can be read: No such file or directory"),
        ({"out": tmp_path / "text"}, "text exists already: choose another name, or delete it"),
        ({"out": tmp_path / "no" / "out"}, "cannot be written there"),
        ({"num_frames": 0}, "--num-frames 0 shows nothing: take 1 or more"),
    ):
        given: dict[str, Any] = {"data.root": data, "weights": weights, "out": out, "network": "resnet18", **options}
        assert run(monkeypatch, **given) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.startswith("error: ") and printed.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


# --- in a training ---


def words(data: Path, run_dir: Path, *more: str) -> list[str]:
    given = [f"--{name}={value}" for name, value in OPTIONS.items()]
    return ["folder", *given, "--data.root", str(data), "--run.dir", str(run_dir), *more]


def test_a_training_distills_them_and_resumes_where_they_are_by_then(
    data: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert main(words(data, straight, "--method.scores", str(scores))) == 0
    losses = [record["distillation"] for record in read_metrics(straight) if record["kind"] == "train"]
    assert len(losses) == 6
    assert all(loss > 0 for loss in losses)  # type: ignore[operator]
    assert main(words(data, cut, "--method.scores", str(scores), "--run.max-steps=2")) == 0
    moved = shutil.copy(scores, tmp_path / "moved")
    assert main(words(data, cut, "--run.resume")) == 2
    assert f"method.scores {scores} is now None" in capsys.readouterr().err
    assert main(words(data, cut, "--method.scores", str(moved), "--run.resume")) == 0
    ours, theirs = load(cut / LAST)["method"], load(straight / LAST)["method"]
    assert "distillation.weight" in theirs
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_training_whose_videos_have_no_scores_is_refused_before_it_begins(
    data: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(data, tmp_path / "data")
    video = sorted((root / "train" / "left").iterdir())[0]
    os.rename(video, video.with_name("renamed.avi"))
    assert main(words(root, tmp_path / "run", "--method.scores", str(scores))) == 2
    assert "says nothing of 1 of 6 videos, first train/left/renamed.avi" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_scores_are_probabilities_of_imagenet_s_classes(weights: Path) -> None:
    network = score_images.load_network("resnet18", weights)
    frames = torch.randint(0, 256, (2, 3, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        found = score_images.mean_probabilities(network, frames)
    assert found.shape == (2, NUM_SCORES)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
