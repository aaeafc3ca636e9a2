"""The learning rate against the numbers of the reference's schedule."""

import pytest

from train.schedule import Schedule, scaled_lr

UCF101 = Schedule(lr=0.2, epochs=180, warmup_epochs=30, steps_per_epoch=238)


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.02),
        (30 * 238 - 1, 0.18743),  # the last step of the warm-up
        (31 * 238, 0.18572),
        (180 * 238 - 1, 1.5e-5),  # the last step
    ],
)
def test_lr_is_the_reference_s(step: int, lr: float) -> None:
    tolerance = 1e-5 if lr > 1e-4 else 1e-6  # in the last digit quoted
    assert UCF101.lr_at(step) == pytest.approx(lr, rel=0, abs=tolerance)


def test_lr_is_constant_within_an_epoch_after_warmup() -> None:
    assert len({UCF101.lr_at(step) for step in range(40 * 238, 41 * 238)}) == 1
    assert UCF101.lr_at(41 * 238) < UCF101.lr_at(41 * 238 - 1)


def test_lr_without_warmup_starts_at_the_peak() -> None:
    schedule = Schedule(lr=0.5, epochs=2, warmup_epochs=0, steps_per_epoch=3)
    assert [schedule.lr_at(step) for step in range(6)] == pytest.approx([0.5] * 3 + [0.25] * 3)
    assert schedule.num_steps == 6


def test_lr_scales_with_the_labeled_batch() -> None:
    assert scaled_lr(40) == pytest.approx(0.2)
    assert scaled_lr(5) == pytest.approx(0.025)
