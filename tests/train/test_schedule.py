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


@pytest.mark.parametrize(("epochs", "rounds"), [(180, 5), (8, 5), (6, 3), (7, 7), (9, 1), (5, 2)])
def test_rounds_are_as_long_as_one_another_as_far_as_whole_epochs_allow(epochs: int, rounds: int) -> None:
    schedule = Schedule(lr=0.2, epochs=epochs, warmup_epochs=0, steps_per_epoch=3, rounds=rounds)
    of_epoch = [schedule.round(3 * epoch) for epoch in range(epochs)]
    assert [schedule.round(3 * epoch + 2) for epoch in range(epochs)] == of_epoch
    assert of_epoch == sorted(of_epoch)
    lengths = [of_epoch.count(number) for number in range(rounds)]
    assert sum(lengths) == epochs
    assert max(lengths) - min(lengths) <= 1


def test_each_round_has_the_schedule_of_a_training_as_short_and_its_share_of_the_warm_up() -> None:
    whole = Schedule(lr=0.2, epochs=180, warmup_epochs=30, steps_per_epoch=7, rounds=5)
    part = Schedule(lr=0.2, epochs=36, warmup_epochs=6, steps_per_epoch=7)
    for number in range(5):
        rates = [whole.lr_at(number * 36 * 7 + step) for step in range(36 * 7)]
        assert rates == [part.lr_at(step) for step in range(36 * 7)]
    assert whole.num_steps == 180 * 7
    assert whole.epoch(180 * 7 - 1) == 179  # of the training, not of the round


def test_a_warm_up_shorter_than_an_epoch_is_one_of_some_steps() -> None:
    schedule = Schedule(lr=0.2, epochs=4, warmup_epochs=1, steps_per_epoch=8, rounds=2)
    assert [schedule.lr_at(16 + step) for step in range(5)] == pytest.approx([0.02, 0.065, 0.11, 0.155, 0.2])


def test_lr_scales_with_the_labeled_batch() -> None:
    assert scaled_lr(40) == pytest.approx(0.2)
    assert scaled_lr(5) == pytest.approx(0.025)
