"""Predictions for any videos: those of the evaluation, in order, whatever else lies among them."""

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from tests.train.tiny_demo import contents
from train.predict import main, predict
from train.predictions import read_predictions

ODD = ["we ird:$x.avi", "[red]-1.avi", "line\nbreak.avi", os.fsdecode(b"caf\xe9.avi")]


@pytest.fixture(scope="module")
def videos(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good videos with odd names in a sub-folder, and of bad ones."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    good = sorted((finished / "data" / "val").rglob("*.avi"))
    for source, name in zip(good[::2], ODD, strict=True):
        shutil.copy(source, folder / "sub" / name)
    (folder / "broken.avi").write_bytes(good[0].read_bytes()[:1000])
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def lines_of(printed: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_bad_videos_are_named_and_counted_and_cost_no_other(
    finished: Path, videos: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(finished / "run"), contents(videos)
    missing = videos / "gone.mp4"
    monkeypatch.setattr(sys, "argv", ["predict", str(finished / "run"), str(missing), str(videos), "--json"])
    assert main() == 1
    printed = capfd.readouterr()
    found = lines_of(printed.out)
    order = [missing, videos / "broken.avi", videos / "empty.mp4", *sorted((videos / "sub").iterdir())]
    assert [one["video"] for one in found] == [str(path) for path in order]
    assert [one.get("error", "") for one in found[:3]] == ["no such file", found[1]["error"], "the file is empty"]
    assert all("predictions" in one for one in found[3:])
    assert printed.err.splitlines()[-1] == "error: 3 of 7 videos could not be predicted"
    assert printed.err.count("not predicted: ") == printed.err.count("\n") - 1 == 3
    assert (contents(finished / "run"), contents(videos)) == before


def test_probabilities_are_those_of_the_evaluation_to_the_bit(
    finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = read_predictions(finished / "run")
    data = finished / "data"
    assert predict(finished / "run", tuple(data / path for path in saved.paths), as_json=True, device="cpu") == 0
    names = json.loads((finished / "run" / "split.json").read_text())["class_names"]
    expected = torch.from_numpy(saved.logits["rgb"])
    for one, logits in zip(lines_of(capfd.readouterr().out), expected, strict=True):
        predictions: list[dict[str, object]] = one["predictions"]  # type: ignore[assignment]
        found = {str(prediction["class"]): prediction["probability"] for prediction in predictions}
        assert [found[name] for name in names] == logits.softmax(dim=0).tolist()
        assert list(found.values()) == sorted(found.values(), reverse=True)  # type: ignore[type-var]


def test_text_names_each_video_and_its_likeliest_classes(
    finished: Path, videos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = (videos / "sub" / ODD[1], videos / "sub", videos / "sub" / ODD[0])
    assert predict(finished / "run", given, top=2, center_clip=True, device="cpu") == 0
    printed = capfd.readouterr()
    lines = printed.out.split("\n")
    assert lines[0] == str(videos / "sub" / ODD[1])  # each once, where it is named first
    assert printed.out.count("%") == 2 * len(ODD)
    assert f"{videos}/sub/caf\ufffd.avi" in lines
    assert all(line.endswith(("left", "right", "up", "down")) for line in lines if "%" in line)


def test_videos_in_tars_are_predicted_as_loose_ones(
    finished: Path, videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(videos, tmp_path / "loose")
    with tarfile.open(tmp_path / "loose/odd.tar", "w") as tar:
        for name in ("sub", "broken.avi"):
            tar.add(videos / name, arcname=name)
    shutil.rmtree(tmp_path / "loose/sub")
    (tmp_path / "loose/broken.avi").unlink()
    outputs = []
    for given in ((videos,), (tmp_path / "loose",), (tmp_path / "loose/odd.tar", tmp_path / "loose")):
        assert predict(finished / "run", given, as_json=True, center_clip=True, device="cpu") == 1
        lines = lines_of(capfd.readouterr().out)
        outputs.append({str(one.pop("video")).rpartition("/")[2]: one for one in lines})
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0]) == len(ODD) + 2


def test_temporal_gradients_are_what_a_network_on_them_sees(
    finished: Path, finished_tg: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = read_predictions(finished_tg)
    assert predict(finished_tg, (finished / "data" / saved.paths[3],), as_json=True, device="cpu") == 0
    (found,) = lines_of(capfd.readouterr().out)
    likeliest = torch.from_numpy(saved.logits["tg"][3]).softmax(dim=0).max().item()
    assert found["predictions"][0]["probability"] == likeliest  # type: ignore[index]


def test_nothing_to_predict_is_said(finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no videos to predict"):
        predict(finished / "run", ())
    with pytest.raises(InputError, match="--top 0 names no class"):
        predict(finished / "run", (tmp_path,), top=0)
    assert predict(finished / "run", (tmp_path,), device="cpu") == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert f"not predicted: {tmp_path}: there are no videos in it" in printed.err
    assert printed.err.endswith("error: no videos found in 1 folder\n")
    assert predict(finished / "run", (tmp_path, tmp_path / "gone.mp4"), device="cpu") == 1
    assert capfd.readouterr().err.endswith("error: 1 of 1 videos could not be predicted; no videos found in 1 folder\n")
