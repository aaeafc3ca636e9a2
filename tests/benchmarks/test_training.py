"""A benchmark's training is the trainer's own, for as many steps as it is asked for."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.training import Repeated, Training, TrainingOptions, configure, synthetic
from pipeline.batch import ClipBatch
from pipeline.errors import InputError


class Slow(Repeated):
    def __next__(self) -> ClipBatch:
        time.sleep(0.05)
        return super().__next__()


def test_stretches_go_on_where_the_last_one_ended(training: Training, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    before = [parameter.clone() for parameter in training.state.method.parameters()]
    with training.loader as loader:
        first = training.run(2)
        assert training.state.step == loader.state_dict()["step"] == 2
        batch = next(loader)
    training.run(3, Repeated(synthetic(batch)))
    assert training.state.step == 5
    assert first.clips_per_s == pytest.approx(4000 / first.step_ms)
    assert 0 <= first.data_wait_ms < first.step_ms
    assert any(not torch.equal(old, new) for old, new in zip(before, training.state.method.parameters(), strict=True))
    assert not list(tmp_path.iterdir())


def test_the_clock_starts_before_the_batch_is_asked_for(training: Training) -> None:
    with training.loader as loader:
        noise = synthetic(next(loader))
    fast, slow = (training.run(2, source(noise)) for source in (Repeated, Slow))
    assert fast.data_wait_ms < 10
    assert 50 <= slow.data_wait_ms < slow.step_ms
    assert slow.cpu_ms_per_clip < slow.step_ms / 4 - 10  # asleep


def test_noise_has_the_shapes_of_the_batch_and_nothing_of_its_pixels(training: Training) -> None:
    with training.loader as loader:
        batch = next(loader)
    noise = synthetic(batch)
    assert batch.strong is not None and noise.strong is not None
    for ours, theirs in ((noise.labeled.rgb, batch.labeled.rgb), (noise.strong.of("tg"), batch.strong.of("tg"))):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.ne(ours, theirs).float().mean() > 0.9
    assert torch.equal(noise.labels, batch.labels)


def test_impossible_trainings_are_refused(tiny: dict[str, Any]) -> None:
    for option, value, complaint in (
        ("repeats", 0, "repeats is 0"),
        ("kind", "betamax", "kind betamax is unknown: choose one of h264"),
        ("method", "magic", "method magic is unknown"),
    ):
        with pytest.raises(InputError, match=complaint):
            TrainingOptions(**{**tiny, option: value})
    with pytest.raises(InputError, match="size 16"):
        configure(TrainingOptions(**{**tiny, "size": 16}))
