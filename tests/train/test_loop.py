"""The loop: what a step does to the weights, when it evaluates and saves, and how it stops."""

import os
import signal
from pathlib import Path
from typing import Any

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
from train.checkpoint import BEST, LAST, load
from train.metrics import MetricsLog, NonFiniteLossError, read_metrics
from train.scoring import Accuracy
from train.step import new_optimizer, new_scaler, train_step
from train.stop import Stopped, StopSignal, Terminated, interrupting_signals


def _update_norm(clip_norm: float) -> tuple[float, float]:
    torch.manual_seed(0)
    method = TinyMethod()
    before = [parameter.detach().clone() for parameter in method.parameters()]
    optimizer = new_optimizer(method, lr=123.0, momentum=0.0, weight_decay=0.0)
    scaler = new_scaler(torch.device("cpu"), "fp32")
    terms = train_step(
        method, optimizer, scaler, make_batch(0), torch.zeros(()), lr=1.0, clip_norm=clip_norm, precision="fp32"
    )
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


def test_checkpoints_are_written_every_so_many_steps_and_at_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr("train.loop.save", lambda path, checkpoint: saved.append(checkpoint["step"]))
    run_training(
        with_run(make_config(tmp_path / "often"), checkpoint_every=2), evaluate=lambda step: Accuracy(0, 0, 0, 1)
    )
    assert saved == [2, 4, 6, 6, 8, 9]  # at step 6 the best one too
    saved.clear()
    run_training(make_config(tmp_path / "default"), evaluate=lambda step: Accuracy(0, 0, 0, 1))
    assert saved == [6, 6, 9]


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

    with pytest.raises(NonFiniteLossError) as error:
        run_training(config, PoisonedLoader())
    message = str(error.value)
    assert message.startswith("step 4 is not finite: supervised = nan, loss = nan;")
    assert message.endswith("labeled videos: video30.mp4, video31.mp4, video32.mp4, video33.mp4")
    assert (tmp_path / LAST).read_bytes() == before


class PoisonedLoader(TinyLoader):
    """The loss of its fourth batch is NaN; a signal may come while the fifth is made."""

    def __init__(self, signum: int | None = None) -> None:
        super().__init__()
        self.signum = signum

    def __next__(self) -> ClipBatch:
        batch = super().__next__()
        if self.step == 5 and self.signum:
            os.kill(os.getpid(), self.signum)
        poisoned = torch.full_like(batch.labels, POISON)
        return batch._replace(labels=poisoned) if self.step == 4 else batch


@pytest.mark.parametrize("signum", [None, signal.SIGTERM])
def test_nothing_is_saved_between_a_bad_step_and_the_line_that_tells(tmp_path: Path, signum: int | None) -> None:
    """Checkpoints each step, lines each ninth, evaluations each third: the step that follows the bad one finds it."""
    config = with_run(make_config(tmp_path), checkpoint_every=1, log_every=9, eval_every_epochs=1)
    with pytest.raises(NonFiniteLossError, match=r"^step 4 is not finite: supervised = nan, "):
        run_training(config, PoisonedLoader(signum))
    assert load(tmp_path / LAST)["step"] == 3
    with pytest.raises(NonFiniteLossError, match=r"^step 4 is not finite: "):
        run_training(with_run(config, checkpoint_every=None), PoisonedLoader(signum))
    assert load(tmp_path / LAST)["step"] == 3
    run_training(config)
    run_training(with_run(make_config(tmp_path / "whole"), eval_every_epochs=1))
    ours, whole = (load(path / LAST)["method"] for path in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_bad_weights_are_not_evaluated(tmp_path: Path) -> None:
    def evaluate(step: int) -> Accuracy:
        assert step < 4, "of weights that are NaN"
        return Accuracy(0.5, 1.0, 0.5, 4)

    config = with_run(make_config(tmp_path), log_every=9, eval_every_epochs=1)
    with pytest.raises(NonFiniteLossError):
        run_training(config, PoisonedLoader(), evaluate=evaluate)


def test_an_infinite_gradient_of_a_finite_loss_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = TinyMethod.forward

    def steep(self: TinyMethod, batch: ClipBatch, progress: torch.Tensor) -> dict[str, torch.Tensor]:
        terms = forward(self, batch, progress)
        if len(self.progress) == 3:
            weight = self.network.classifier.bias[0]
            terms["loss"] = terms["loss"] + (weight - weight.detach()).sqrt()  # 0, and its slope is infinite
        return terms

    monkeypatch.setattr(TinyMethod, "forward", steep)
    with pytest.raises(NonFiniteLossError, match=r"^step 3 is not finite: grad_norm = inf; labeled videos: video20"):
        run_training(with_run(make_config(tmp_path), checkpoint_every=1))
    assert load(tmp_path / LAST)["step"] == 2


def test_a_val_record_that_cannot_be_written_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = MetricsLog.write

    def full(self: MetricsLog, record: Any) -> None:
        if record["kind"] == "val":
            raise OSError(28, "No space left on device")
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", full)
        with pytest.raises(OSError, match="No space left"):
            run_training(make_config(tmp_path))
    checkpoint = load(tmp_path / LAST)
    assert (checkpoint["step"], checkpoint["evaluated_step"], checkpoint["best_top1"]) == (6, 0, -1.0)
    run_training(make_config(tmp_path))
    assert [record["step"] for record in read_metrics(tmp_path) if record["kind"] == "val"] == [6, 9]
    assert load(tmp_path / BEST)["step"] == 6


def test_an_evaluation_made_up_for_twice_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(step: int) -> Accuracy:
        raise Stopped(signal.SIGTERM)

    def die(path: Path, checkpoint: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Stopped):
        run_training(make_config(tmp_path), evaluate=stop)
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.save", die)
        with pytest.raises(KeyboardInterrupt):
            run_training(make_config(tmp_path))
    run_training(make_config(tmp_path))
    assert [record["step"] for record in read_metrics(tmp_path) if record["kind"] == "val"] == [6, 9]


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
        stop._requested = None  # or leaving would raise it once more
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_after_the_last_safe_moment_is_not_lost() -> None:
    with pytest.raises(Stopped), StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)


def test_where_nothing_is_to_be_saved_signals_interrupt_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interrupting_signals():
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
