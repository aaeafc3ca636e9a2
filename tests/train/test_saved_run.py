"""Runs are opened as they were saved, and refused in one line where they cannot be."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from tests.train.tiny_demo import NUM_STEPS
from train.checkpoint import load, save
from train.saved_run import open_run, open_videos


def test_networks_come_with_the_weights_of_the_checkpoint_and_in_eval_mode(finished: Path) -> None:
    run = open_run(finished / "run", device="cpu")
    saved = load(finished / "run" / "last.pt")
    assert (run.step, list(run.class_names)) == (NUM_STEPS, saved["class_names"])
    assert list(run.method.networks) == ["rgb", "tg"]
    assert not any(module.training for module in run.method.modules())
    assert all(torch.equal(value, saved["method"][name]) for name, value in run.method.state_dict().items())
    assert not run.precise_bn


def test_precise_bn_replaces_the_running_averages_of_the_recognizer_alone(run: Path) -> None:
    saved = load(run / "last.pt")
    plain = open_run(run, device="cpu").method
    buffers = {name: value + 1 for name, value in plain.recognizer.named_buffers() if name.endswith("running_mean")}
    save(run / "last.pt", {**saved, "precise_bn": buffers})
    opened = open_run(run, device="cpu")
    assert opened.precise_bn
    found = opened.method.recognizer.state_dict()
    for name, value in plain.recognizer.state_dict().items():
        assert torch.equal(found[name], buffers.get(name, value))
    tg, plain_tg = (method.networks["tg"].state_dict() for method in (opened.method, plain))
    assert all(torch.equal(tg[name], value) for name, value in plain_tg.items())


def test_without_precise_bn_nothing_is_replaced(run: Path) -> None:
    save(run / "last.pt", {**load(run / "last.pt"), "precise_bn": {}})
    opened = open_run(run, device="cpu")
    assert not opened.precise_bn
    saved = load(run / "last.pt")["method"]
    assert all(torch.equal(value, saved[name]) for name, value in opened.method.state_dict().items())


def test_what_is_missing_is_named(run: Path, tmp_path: Path) -> None:
    def refuses(folder: Path, message: str, checkpoint: str = "last") -> None:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            open_run(folder, checkpoint, "cpu")  # type: ignore[arg-type]
        assert "\n" not in str(error.value)

    refuses(tmp_path / "no", f"there is no run {tmp_path / 'no'}")
    refuses(tmp_path, "is not the folder of a run, there is no last.pt in it")
    (run / "best.pt").unlink()
    refuses(run, "has no best.pt: take --checkpoint last", "best")
    (run / "last.pt").unlink()
    refuses(run, "has no last.pt yet: the training writes it at its first evaluation")


def test_damaged_checkpoints_are_named(run: Path) -> None:
    path = run / "last.pt"
    saved, content = load(path), path.read_bytes()

    def refuses(message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            open_run(run, device="cpu")
        assert "\n" not in str(error.value)
        assert "last.pt" in str(error.value)

    path.write_bytes(content[: len(content) // 2])
    refuses("is not a checkpoint of this program, or damaged")
    for damaged in (
        {name: value for name, value in saved.items() if name != "method"},
        {**saved, "class_names": ["one"]},
        {**saved, "config": saved["config"][:-20]},
        {**saved, "precise_bn": {"no.such": torch.zeros(1)}},
    ):
        save(path, damaged)
        refuses("its parts do not fit together: ")


def test_videos_are_found_where_they_were_or_where_they_have_moved(finished: Path, run: Path, tmp_path: Path) -> None:
    saved = open_run(run, device="cpu")
    here = open_videos(saved)
    assert len(here.split.val) == 8
    moved = shutil.copytree(finished / "data", tmp_path / "elsewhere")
    there = open_videos(saved, moved)
    assert there.index.root == moved
    assert there.split.val.tolist() == here.split.val.tolist()
    with pytest.raises(InputError, match=r"nowhere: give the folder they are in as --data\.root"):
        open_videos(saved, tmp_path / "nowhere")
    next(moved.rglob("*.avi")).unlink()
    with pytest.raises(InputError, match=r"are not those the run in .* began with"):
        open_videos(saved, moved)
