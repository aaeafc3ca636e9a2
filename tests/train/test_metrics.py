"""Records of a run: averages, traces of what is not finite, and a file that resuming neither breaks nor repeats."""

import json
import math
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from tests.train.standins import make_batch
from train.metrics import METRICS_FILE, Meter, MetricsLog, NonFiniteLossError, Window, loss_names, read_metrics

NAMES = [f"video{row}.mp4" for row in range(100)]


def _terms(loss: float, accuracy: float = 0.5) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "pseudo_label_accuracy": torch.tensor(accuracy)}


def test_unknown_accuracies_are_left_out_of_the_average() -> None:
    window = Window(10, NAMES)
    for step, accuracy in enumerate([math.nan, 0.25, 0.75]):
        window.add(step, _terms(float(step), accuracy), make_batch(step))
    assert window.means() == pytest.approx({"loss": 1.0, "pseudo_label_accuracy": 0.5})


def test_window_starts_anew_at_multiples_of_log_every() -> None:
    window = Window(2, NAMES)
    for step in range(3):
        window.add(step, _terms(float(step)), make_batch(step))
    assert window.means()["loss"] == 2.0


def test_first_bad_step_is_named_also_behind_steps_from_a_checkpoint() -> None:
    before = Window(10, NAMES)
    for step in range(2):
        before.add(step, _terms(1.0), make_batch(step))
    window = Window(10, NAMES)
    window.load_state_dict(before.state_dict(), 2)
    for step, loss in [(2, 1.0), (3, math.inf), (4, math.nan)]:
        window.add(step, _terms(loss), make_batch(step))
    with pytest.raises(NonFiniteLossError, match=r"step 4 is not finite: loss = inf; labeled videos: video30\.mp4, "):
        window.means()


@pytest.mark.parametrize(
    ("log_every", "since"),
    [(10, 0), (4, 4), (7, 7), (2, 6), (1, 7)],
)
def test_averages_go_back_to_the_last_line_also_where_log_every_has_changed(log_every: int, since: int) -> None:
    before, resumed, whole = Window(10, NAMES), Window(log_every, NAMES), Window(log_every, NAMES)
    for step in range(7):
        before.add(step, _terms(float(step)), make_batch(step))
    resumed.load_state_dict(before.state_dict(), 7)
    for step in range(8):
        whole.add(step, _terms(float(step)), make_batch(step))
    resumed.add(7, _terms(7.0), make_batch(7))
    assert resumed.means() == whole.means()
    assert resumed.means()["loss"] == sum(range(since, 8)) / (8 - since)


@pytest.mark.parametrize("name", ["loss", "supervised", "alignment", "mask_rate", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_term_that_is_not_finite_is_found_and_the_origin_named_first(name: str, value: float) -> None:
    terms = dict.fromkeys(("loss", "supervised", "alignment", "mask_rate", "grad_norm"), torch.tensor(1.0))
    bad = {name: torch.tensor(value), "loss": torch.tensor(math.nan), "grad_norm": torch.tensor(math.nan)}
    window = Window(10, NAMES)
    batch = make_batch(0)._replace(unlabeled_ids=torch.tensor([7, 5]))
    window.add(0, {**terms, **bad, name: torch.tensor(value)}, batch)
    with pytest.raises(NonFiniteLossError) as error:
        window.means()
    origin = name if name not in ("loss", "grad_norm") else "loss"
    assert str(error.value).startswith(f"step 1 is not finite: {origin} = ")
    assert str(error.value).endswith(
        "labeled videos: video0.mp4, video1.mp4, video2.mp4, video3.mp4; unlabeled videos: video7.mp4, video5.mp4"
    )


def test_gathering_reads_no_value() -> None:
    window = Window(10, NAMES)
    meta = {"loss": torch.zeros((), device="meta")}  # has no value that could be read
    window.add(0, meta, make_batch(0))


def test_meter_counts_every_video_once_and_the_wait() -> None:
    meter = Meter()
    batch = make_batch(0)._replace(unlabeled_ids=torch.arange(6))
    for _ in range(5):
        meter.step(0.002, batch)
    read = meter.read()
    assert read["data_wait_ms"] == pytest.approx(2.0)
    assert read["clips_per_s"] * read["step_ms"] / 1000 == pytest.approx(4 + 6)


def test_resuming_drops_what_lies_beyond_the_checkpoint_and_a_half_written_line(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, 0) as log:
        for step in (2, 4, 6):
            log.write({"kind": "train", "step": step, "loss": float(step)})
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"kind": "train", "st')
    with MetricsLog(tmp_path, 4, 4) as log:
        log.write({"kind": "train", "step": 6, "loss": 6.5})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(2, 2.0), (4, 4.0), (6, 6.5)]


def test_resuming_drops_what_an_evaluation_or_a_test_left_that_was_cut_off(tmp_path: Path) -> None:
    lines = [("train", 2), ("val", 2), ("skipped", 2), ("test", 2), ("train", 4), ("val", 4), ("skipped", 4)]
    with MetricsLog(tmp_path, 0, 0) as log:
        for kind, step in lines:
            log.write({"kind": kind, "step": step})
    with MetricsLog(tmp_path, 4, 2):
        pass
    assert [(r["kind"], r["step"]) for r in read_metrics(tmp_path)] == lines[:5]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(b'{"kind": "train", "step": 1}\n\0\0\0\n')
    with pytest.raises(InputError, match=r"line 2 of .*metrics\.jsonl is damaged: delete it"):
        read_metrics(tmp_path)


def test_records_are_in_tensorboard_when_a_checkpoint_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path, 0, 0) as log:
        log.write({"kind": "train", "step": 1, "loss": 0.5})
        log.sync()  # from here on a kill loses nothing
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [event.step for event in events.Scalars("train/loss")] == [1]
    with MetricsLog(tmp_path, 0, 0) as log:
        log.write({"kind": "train", "step": 1, "loss": 0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.25)]


def test_starting_from_scratch_leaves_nothing_of_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, 0) as log:
        log.write({"kind": "train", "step": 2, "loss": 1.0})
    with MetricsLog(tmp_path, 0, 0):
        assert read_metrics(tmp_path) == []


def test_file_is_plain_json_with_null_for_nan(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, 0) as log:
        log.write({"kind": "train", "step": 1, "pseudo_label_accuracy": math.nan, "loss": 0.5})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = (tmp_path / METRICS_FILE).read_text()
    assert json.loads(line, parse_constant=refuse)["pseudo_label_accuracy"] is None


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path, 0, 0) as log:
        log.write({"kind": "val", "step": 3, "top1": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/top1")] == [(3, 0.5)]


def test_losses_are_told_from_measurements() -> None:
    names = ["kind", "step", "lr", "loss", "info_nce", "mask_rate", "rotation", "rotation_accuracy", "clips_per_s"]
    assert loss_names(names) == ["loss", "info_nce", "rotation"]
