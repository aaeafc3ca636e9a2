"""The paper's recipes: their numbers, and that they train on replicas of the data sets from the command line."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.encode import write_video
from tests.conftest import TINY_CLIPS, moving_frames
from tests.pipeline import replicas
from train.cli import parse
from train.config import resolve
from train.methods import temporal_gradient
from train.recipes import RECIPES
from train.train import main
from train.videos import prepare_videos

TINY = {
    **TINY_CLIPS,
    "run.max-steps": 2,
}


def fill(root: Path, paths: Iterable[str]) -> None:
    """Make every path a video, of 2 to 12 frames."""
    lengths = (12, 2, 7)
    for number, length in enumerate(lengths):
        write_video(root / f".{number}.avi", moving_frames(length, 32, 32, number), "mjpeg")
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(root / f".{number % len(lengths)}.avi", root / path)


def start(recipe: str, folder: Path, *words: str) -> int:
    tiny = [f"--{name}={value}" for name, value in TINY.items()]
    return main([recipe, "--data.root", str(folder), "--run.dir", str(folder / "run"), *tiny, *words])


@pytest.mark.parametrize(
    ("recipe", "labeled", "epochs", "warmup", "batch"),
    [
        ("ucf101-5pct", 0.05, 180, 30, 5),
        ("ucf101-10pct", 0.1, 180, 30, 5),
        ("ucf101-20pct", 0.2, 180, 30, 5),
        ("ucf101-50pct", 0.5, 180, 30, 5),
        ("hmdb51-40pct", 0.4, 360, 60, 5),
        ("hmdb51-50pct", 0.5, 360, 60, 5),
        ("hmdb51-60pct", 0.6, 360, 60, 5),
        ("k400-1pct", 6, 45, 10, 8),
        ("k400-10pct", 60, 90, 15, 8),
    ],
)
def test_recipes_have_the_paper_s_constants(recipe: str, labeled: float, epochs: int, warmup: int, batch: int) -> None:
    config = RECIPES[recipe]()
    data, optim = config.data, config.optim
    assert (data.labels_per_class if recipe.startswith("k400") else data.labeled_uniform) == labeled
    assert (optim.epochs, optim.warmup_epochs, optim.batch_labeled, optim.batch_unlabeled) == (
        epochs,
        warmup,
        batch,
        batch,
    )
    assert isinstance(config.method, temporal_gradient.Config)
    assert (config.method.threshold, config.method.warmup_epochs) == (0.3, warmup)
    assert (data.clip_len, data.frame_stride, data.size, data.eval_size) == (8, 8, 224, 256)
    assert (config.model.width, config.model.dropout) == (64, 0.5)
    assert resolve(config).optim.lr == pytest.approx(0.2 / 8)  # one of the paper's eight GPUs
    assert config.run.dir == Path("runs") / recipe
    assert data.hmdb_unused == recipe.startswith("hmdb51")


@pytest.mark.parametrize(
    "option", ["--data.labeled-list=f.txt", "--data.labels_per_class=3", "--data.labeled-fraction=1"]
)
def test_labels_asked_for_replace_the_recipe_s(option: str) -> None:
    data = parse(["ucf101-20pct", option]).data
    assert data.labeled_uniform is None
    assert (data.labeled_list, data.labels_per_class, data.labeled_fraction).count(None) == 2


def test_ucf101_recipe_trains_and_its_list_trains_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = replicas.ucf101(tmp_path / "ucfTrainTestlist", num_groups=5)
    gone = train[0]
    fill(tmp_path, [f"UCF-101/{path}" for path in [*train[1:], *test]])
    assert start("ucf101-20pct", tmp_path, "--data.labeled-uniform", "0.5") == 0
    printed = capsys.readouterr().out
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    subset = split["digests"]["labeled"]
    assert f"11 to train on, 5 of them with labels (0.5 of all, drawn by seed 0; subset {subset}), 3 to val" in printed
    assert "note: labels are drawn by seed; published lists of them are taken with --data.labeled-list" in printed
    assert f"note: 1 of 12 training videos on the lists cannot be used; the first, {gone}" in printed
    assert f"named in {tmp_path / 'run' / 'missing_videos.txt'}" in printed
    assert (tmp_path / "run" / "missing_videos.txt").read_text().startswith(f"{gone}\tneither in")
    assert split["class_names"] == list(replicas.UCF101_CLASSES)

    listed = tmp_path / "run" / "labeled.txt"
    assert len(listed.read_text().splitlines()) == 5
    again = ("--data.labeled-list", str(listed), "--run.dir", str(tmp_path / "again"), "--run.seed", "7")
    assert start("ucf101-20pct", tmp_path, *again) == 0
    assert f"(listed in labeled.txt; subset {subset})" in capsys.readouterr().out
    assert (tmp_path / "again" / "labeled.txt").read_bytes() == listed.read_bytes()

    lines = listed.read_text().splitlines(keepends=True)
    listed.write_text("".join(lines[1:]))
    assert start("ucf101-20pct", tmp_path, *again, "--run.resume") == 2
    assert "error: the labeled videos or their classes" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["hmdb51-50pct", "k400-1pct"])
def test_other_recipes_find_their_videos(recipe: str, tmp_path: Path) -> None:
    if recipe.startswith("hmdb51"):
        fill(tmp_path, (path for paths in replicas.hmdb51(tmp_path / "splits").values() for path in paths))
        words, expected = [], (6, 12, 3, "0.5 of all, drawn by seed 0")
    else:
        videos = replicas.kinetics(tmp_path / "annotations")
        fill(tmp_path, (f"{subset}/{path}.avi" for subset in videos for path in videos[subset]))
        words, expected = ["--data.labels-per-class", "1"], (3, 4, 3, "1 of each class, drawn by seed 0")
    split = prepare_videos(parse([recipe, "--data.root", str(tmp_path), *words])).split
    assert (len(split.labeled), len(split.unlabeled), len(split.val), split.labels_from) == expected
    assert not split.missing


def test_recipe_without_its_data_set_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, ["a/1.avi"])
    assert start("ucf101-20pct", tmp_path) == 2
    printed = capsys.readouterr().err
    assert f"error: no annotation files of ucf101 in {tmp_path}, {tmp_path / 'annotations'}" in printed
    assert "give their folder with --data.annotations" in printed
    assert not (tmp_path / "run").exists()
