"""PreciseBN in a run: what it evaluates with, what it keeps, and that training does not notice it."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import apply_precise_bn
from pipeline.evaluation import _CenterStream
from pipeline.plan import ClipPlan
from pipeline.synthetic import generate_motion_dataset
from tests.conftest import TINY_CLIPS
from tests.train.standins import make_config, make_state
from train.checkpoint import load
from train.cli import parse
from train.config import Config, resolve
from train.fit import new_method
from train.metrics import read_metrics
from train.predictions import read_predictions
from train.stop import Stopped, StopSignal
from train.train import main
from train.validation import Validation
from train.videos import prepare_videos

NUM_OUTPUTS = 5  # three more than classes
OPTIONS = {
    **TINY_CLIPS,
    "run.method": "supervised",
    "run.log-every": 1,
    "run.eval-every-epochs": 1,
    "data.val-fraction": 0.25,
    "optim.epochs": 2,
    "optim.warmup-epochs": 0,
    "eval.precise-bn-batch-size": 3,
    "eval.average": "probabilities",
    "model.num-classes": NUM_OUTPUTS,
}
ON = "--eval.precise-bn-batches=3"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "motions"
    generate_motion_dataset(
        root, motions=("left", "right"), videos_per_class=3, val_videos_per_class=2, size=32, num_frames=8, seed=0
    )
    return root


def words(data: Path, run: Path, *more: str) -> list[str]:
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    return ["folder", *options, "--data.root", str(data), "--run.dir", str(run), *more]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run without PreciseBN, and one with it that was stopped in the middle of an epoch and went on."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(words(data, folder / "off")) == 0
    assert main(words(data, folder / "on", ON, "--run.max-steps=5")) == 0
    assert main(words(data, folder / "on", ON, "--run.resume")) == 0
    return folder / "off", folder / "on"


def losses(run: Path) -> list[Any]:
    return [(record["step"], record["loss"]) for record in read_metrics(run) if record["kind"] == "train"]


def test_training_does_not_notice_it_and_resumes_to_the_bit(runs: tuple[Path, Path]) -> None:
    off, on = runs
    assert losses(off) == losses(on)
    assert len(losses(on)) == 6
    ours, theirs = (load(run / "last.pt") for run in runs)
    assert all(torch.equal(ours["method"][name], theirs["method"][name]) for name in ours["method"])
    assert torch.equal(ours["rng"]["cpu"], theirs["rng"]["cpu"])


def test_checkpoints_hold_both_sets_of_statistics(runs: tuple[Path, Path]) -> None:
    off, on = (load(run / "last.pt") for run in runs)
    assert off["precise_bn"] == {}
    method, precise = on["method"], on["precise_bn"]
    assert {f"rgb.{name}" for name in precise} == {name for name in method if name.endswith(("_mean", "_var"))}
    assert not any(torch.equal(value, method[f"rgb.{name}"]) for name, value in precise.items())
    assert load(runs[1] / "best.pt")["precise_bn"].keys() == precise.keys()


def test_the_test_averages_as_asked_for_and_dead_outputs_are_in_it(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = read_predictions(runs[0]).logits["rgb"]
    assert logits.shape == (4, NUM_OUTPUTS)
    assert np.exp(logits).sum(axis=1) == pytest.approx(1)  # logarithms of probabilities, not logits
    assert main(words(data, tmp_path / "run", "--model.num-classes=1")) == 2
    assert "error: --model.num-classes 1: the videos are of 2 classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_final_test_sees_the_statistics_of_the_checkpoint(
    runs: tuple[Path, Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = runs
    config = resolve(parse(words(data, run, ON)))
    checkpoint, videos = load(run / "last.pt"), prepare_videos(config)
    method = new_method(config, NUM_OUTPUTS)
    method.load_state_dict(checkpoint["method"])
    apply_precise_bn(method.recognizer, checkpoint["precise_bn"])
    test = Validation(config, videos, "ffmpeg", StopSignal()).test({"rgb": method.recognizer})
    assert (test["rgb"].logits.numpy() == read_predictions(run).logits["rgb"]).all()

    # Started again after the last evaluation but before the test, it takes the same ones, not others.
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if '"test"' not in line))
    (run / "predictions.npz").unlink()
    monkeypatch.setattr(Validation, "precise_bn", None)
    assert main(words(data, run, ON, "--run.resume")) == 0
    assert (test["rgb"].logits.numpy() == read_predictions(run).logits["rgb"]).all()


def validation(config: Config, stop: StopSignal) -> Validation:
    return Validation(config, prepare_videos(config), "ffmpeg", stop)


@pytest.mark.parametrize("modality", ["rgb", "tg"])
def test_a_recognizer_sees_its_modality_and_statistics_depend_on_the_pass(
    data: Path, tmp_path: Path, modality: str
) -> None:
    more = ["--run.method=fixmatch", f"--method.modality={modality}", "--method.warmup-epochs=0", ON]
    config = resolve(parse(words(data, tmp_path, *more)))
    method = new_method(config, NUM_OUTPUTS)
    assert method.modality == modality
    shown = validation(config, StopSignal())
    first, again, later = (shown.precise_bn(method.recognizer, method.modality, step) for step in (3, 3, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layer4.1.bn2.running_var"], later["layer4.1.bn2.running_var"])
    other = shown.precise_bn(method.recognizer, "tg" if modality == "rgb" else "rgb", 3)
    assert not torch.allclose(first["bn1.running_var"], other["bn1.running_var"], rtol=0.1)


def test_a_signal_stops_it_and_leaves_the_running_averages(data: Path, tmp_path: Path) -> None:
    class AfterOne(StopSignal):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks == 2:
                raise Stopped(signal.SIGTERM)

    config = resolve(parse(words(data, tmp_path, ON)))
    method = new_method(config, NUM_OUTPUTS)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(Stopped):
        validation(config, AfterOne()).precise_bn(method.recognizer, "rgb", 0)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_statistics_of_older_weights_are_not_saved_and_checkpoints_without_any_load(tmp_path: Path) -> None:
    state = make_state(make_config(tmp_path))
    state.precise_bn = {"norm.running_mean": torch.zeros(4)}
    state.step = state.evaluated_step = 6
    current = state.checkpoint()
    assert current["precise_bn"].keys() == {"norm.running_mean"}
    state.step = 7
    assert state.checkpoint()["precise_bn"] == {}
    del current["precise_bn"]
    state.restore(current, tmp_path / "last.pt")
    assert state.precise_bn == {}


def test_a_pass_over_a_large_data_set_plans_only_what_it_shows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[int] = []
    plans = _CenterStream._plans

    def note(self: _CenterStream, rows: np.ndarray, epoch: int, place: int) -> list[ClipPlan]:
        planned.append(len(rows))
        return plans(self, rows, epoch, place)

    monkeypatch.setattr(_CenterStream, "_plans", note)
    config = resolve(parse(words(data, tmp_path, ON)))
    method = new_method(config, NUM_OUTPUTS)
    validation(config, StopSignal()).precise_bn(method.recognizer, "rgb", 0)
    assert max(planned) <= 3  # a batch at a time
    assert sum(planned) < 3 * (3 + 20)  # those shown, and those read ahead
