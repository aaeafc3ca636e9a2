"""The loop: what a step does to the weights, when it evaluates and saves, and how it stops."""

import os
import signal
from pathlib import Path

import pytest
import torch

from pipeline.batch import ClipBatch
from pipeline.errors import TooManyBadVideos
from tests.train.standins import (
    POISON,
    STEPS_PER_EPOCH,
    TinyLoader,
    TinyMethod,
    make_batch,
    make_config,
    run_training,
    with_run,
)
from train.checkpoint import LAST, load
from train.metrics import NonFiniteLossError, read_metrics
from train.scoring import Accuracy
from train.step import train_step
from train.stop import Stopped, StopSignal


def _update_norm(clip_norm: float) -> tuple[float, float]:
    torch.manual_seed(0)
    method = TinyMethod()
    before = [parameter.detach().clone() for parameter in method.parameters()]
    optimizer = torch.optim.SGD(method.parameters(), lr=123.0)
    terms = train_step(method, optimizer, make_batch(0), torch.zeros(()), lr=1.0, clip_norm=clip_norm)
    moved = [old - new.detach() for old, new in zip(before, method.parameters(), strict=True)]
    return torch.stack([difference.norm() for difference in moved]).norm().item(), terms["grad_norm"].item()


def test_step_uses_its_learning_rate_and_the_whole_gradient_where_it_is_short() -> None:
    moved, grad_norm = _update_norm(clip_norm=1e6)
    assert moved == pytest.approx(grad_norm, rel=1e-5)


def test_longer_gradients_are_scaled_down_over_all_parameters_together() -> None:
    moved, grad_norm = _update_norm(clip_norm=0.01)
    assert grad_norm > 0.02
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_method_is_told_the_epochs_begun(tmp_path: Path) -> None:
    state = run_training(make_config(tmp_path))
    assert isinstance(state.method, TinyMethod)
    assert state.method.progress == [0.0] * 3 + [1.0] * 3 + [2.0] * 3


def test_evaluates_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    run_training(make_config(tmp_path))
    assert [record["step"] for record in read_metrics(tmp_path) if record["kind"] == "val"] == [6, 9]


def test_records_average_the_steps_since_the_last_one(tmp_path: Path) -> None:
    every_step = make_config(tmp_path / "one")
    run_training(with_run(every_step, log_every=1))
    run_training(make_config(tmp_path / "two"))
    ones, twos = (
        [float(record["loss"] or 0) for record in read_metrics(tmp_path / name) if record["kind"] == "train"]
        for name in ("one", "two")
    )
    assert len(ones) == 9
    means = [(a + b) / 2 for a, b in zip(ones[::2], ones[1::2], strict=False)]
    assert twos == pytest.approx([*means, ones[8]], rel=1e-6)  # the last step stands alone


def test_stop_during_an_evaluation_saves_and_the_evaluation_is_made_up_for(tmp_path: Path) -> None:
    def stop(step: int) -> Accuracy:
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        run_training(make_config(tmp_path), evaluate=stop)
    assert load(tmp_path / LAST)["step"] == 6
    run_training(make_config(tmp_path))
    assert [record["step"] for record in read_metrics(tmp_path) if record["kind"] == "val"] == [6, 9]


def test_non_finite_loss_names_step_terms_and_videos_and_is_not_saved(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run_training(with_run(config, max_steps=STEPS_PER_EPOCH))
    before = (tmp_path / LAST).read_bytes()

    class PoisonedLoader(TinyLoader):
        def __next__(self) -> ClipBatch:
            batch = super().__next__()
            return batch._replace(labels=torch.full_like(batch.labels, POISON)) if self.step == 5 else batch

    with pytest.raises(NonFiniteLossError) as error:
        run_training(config, PoisonedLoader())
    message = str(error.value)
    assert message.startswith("step 5 is not finite: loss = nan, supervised = nan;")
    assert message.endswith("labeled videos: video40.mp4, video41.mp4, video42.mp4, video43.mp4")
    assert (tmp_path / LAST).read_bytes() == before


@pytest.mark.parametrize(
    "error", [TooManyBadVideos({"gone.mp4": "no such file"}, 40, "restore them"), RuntimeError("a bug of a decoder")]
)
def test_a_batch_that_cannot_be_made_costs_no_step(tmp_path: Path, error: Exception) -> None:
    def fail(step: int) -> None:
        if step == 5:
            raise error

    with pytest.raises(type(error)) as caught:
        run_training(make_config(tmp_path / "hurt"), TinyLoader(fail))
    assert caught.value is error
    assert load(tmp_path / "hurt" / LAST)["step"] == 5
    run_training(make_config(tmp_path / "hurt"))
    run_training(make_config(tmp_path / "whole"))
    hurt, whole = (load(tmp_path / name / LAST)["method"] for name in ("hurt", "whole"))
    assert all(torch.equal(hurt[name], whole[name]) for name in whole)


def test_records_count_the_videos_left_out(tmp_path: Path) -> None:
    loader = TinyLoader()
    loader.before = lambda step: loader.quarantined.update({f"{step}.mp4": "gone"} if step in (2, 3) else {})
    run_training(make_config(tmp_path), loader)
    counts = [record["num_quarantined"] for record in read_metrics(tmp_path) if record["kind"] == "train"]
    assert counts == [0, 2, 2, 2, 2]


def test_first_signal_waits_for_check_and_second_interrupt_does_not() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        watched = stop.watch([1, 2])
        with pytest.raises(Stopped) as stopped:
            next(watched)
        assert stopped.value.exit_status == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
