"""The report as a run's folder gives it, and again from the folder alone."""

import io
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from pipeline.errors import InputError
from tests.train.standins import make_batch, make_config, with_run
from train.config import to_json
from train.environment import describe_environment
from train.metrics import METRICS_FILE, MetricsLog, Record
from train.predictions import PREDICTIONS, write_predictions
from train.report import keep_sample, main, write_report
from train.report_contents import read_notes, result_table, results_header, speeds, what_is_unfinished, what_was_trained
from train.report_figures import CHARTS, chart_svgs, draw_curves
from train.scoring import Accuracy, Predictions
from train.split_record import write_left_out


def _train(step: int, **numbers: float | None) -> Record:
    return {
        "kind": "train",
        "step": step,
        "epoch": 0,
        "lr": 0.1,
        "loss": 2.0 / step,
        "clips_per_s": 9.0 + step,
        "step_ms": 200.0,
        "data_wait_ms": 10.0,
        "gpu_pct": 93.0,
        "num_quarantined": 0,
        **numbers,
    }


RECORDS: list[Record] = [
    _train(1, info_nce=1.0, mask_rate=0.0, pseudo_label_accuracy=None),
    _train(2, info_nce=0.5, mask_rate=0.5, pseudo_label_accuracy=0.7),
    {"kind": "val", "step": 2, "top1": 0.4, "top5": 0.9, "mean_class": 0.4, "num_videos": 6},
    {"kind": "test", "step": 2, "top1": 0.5, "top5": 1.0, "mean_class": 0.45, "num_videos": 6},
]
BASELINE: list[Record] = [_train(2), {**RECORDS[2], "top1": 0.2}, {**RECORDS[3], "top1": 0.25}]


def write_records(run_dir: Path, records: list[Record]) -> None:
    run_dir.mkdir(exist_ok=True)
    (run_dir / METRICS_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(run_dir: Path, class_names: tuple[str, ...] = ("fall", "jump", "run"), command: str = "train it") -> None:
    """What a run leaves in its folder, but for its networks and videos."""
    run_dir.mkdir()
    config = with_run(make_config(run_dir), baseline="fixmatch")
    (run_dir / "config.json").write_text(to_json(config))
    (run_dir / "environment.json").write_text(json.dumps(describe_environment(command)))
    split = {
        "labels_from": "1 of each class",
        "digests": {"labeled": "be3ac89b"},
        "class_names": class_names,
        "num_videos": {"in all": 12},
    }
    (run_dir / "split.json").write_text(json.dumps(split))
    (run_dir / "labeled.txt").write_text("".join(f"{label}.mp4 {label}\n" for label in range(len(class_names))))
    write_records(run_dir, RECORDS)
    write_records(run_dir / "fixmatch", BASELINE)
    labels = torch.arange(6) % len(class_names)
    logits = torch.randn(6, len(class_names), generator=torch.Generator().manual_seed(0))
    paths = [f"{row}.mp4" for row in range(6)]
    write_predictions(run_dir, 2, {"rgb": Predictions(torch.arange(6), logits)}, paths, labels.numpy())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run, of which reports are made without charts: those take two seconds."""
    monkeypatch.setattr("train.report.draw_curves", lambda runs: b"")
    monkeypatch.setattr("train.report.chart_svgs", lambda runs: {})
    write_run(tmp_path / "run")
    return tmp_path / "run"


def test_report_shows_both_methods_and_what_made_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    write_left_out(run, {"b.mp4": "gone", "a.mp4": "empty"})
    keep_sample(run, make_batch(0), ("fall", "jump", "run"))
    page = write_report(run)
    assert page == run / "report" / "report.html"
    text, summary = page.read_text(), (run / "report" / "summary.md").read_text()
    for shown in ("50.0%", "25.0%", "train it", "1 of each class", "be3ac89b", "a.mp4", "gone", "12 in all"):
        assert shown in text, shown
        assert shown in summary, shown
    for shown in ("+25.0", "Hardest classes", torch.__version__.partition("+")[0], "max_steps", "93%", "11.0"):
        assert shown in text, shown
    assert text.count("<svg") == 6
    for namespace in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"):
        text = text.replace(namespace, "")
    assert "http" not in text.replace("http-equiv", "")
    assert "data:image/jpeg" in text
    assert "has no last.pt" in text  # so that there is no Grad-CAM


def test_names_are_no_markup_in_the_summary(run: Path) -> None:
    path = "a`<img src=x onerror=alert(1)>`[red](javascript:x)\x1b[2J\n# b|.mp4"
    write_left_out(run, {path: "*gone*"})
    write_report(run)
    summary = (run / "report" / "summary.md").read_text()
    escaped = r"a\`&lt;img src=x onerror=alert(1)&gt;\`\[red\](javascript:x)\\x1b\[2J\\n# b\|.mp4: \*gone\*"
    assert f"- {escaped}\n" in summary
    assert "\x1b" not in summary


def test_report_is_the_same_each_time_and_leaves_the_notes_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    assert main_on(run) == 0
    assert str(run / "report" / "report.html") in capsys.readouterr().out
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    assert after == before


def main_on(run: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["report", str(run)])
        return main()


def test_what_is_missing_is_said(run: Path) -> None:
    shutil.rmtree(run / "fixmatch")
    (run / PREDICTIONS).unlink()
    text = write_report(run).read_text()
    assert "predictions.npz is not there" in text
    assert "Hardest classes" not in text
    assert "points of top-1" not in text
    assert "too many videos have gone bad since" in text


@pytest.mark.parametrize("records", [[], RECORDS[:1]])
def test_unfinished_run_has_a_report_of_what_there_is(run: Path, records: list[Record]) -> None:
    write_records(run, records)
    shutil.rmtree(run / "fixmatch")
    (run / PREDICTIONS).unlink()
    text = write_report(run).read_text()
    assert "the run is not finished" in text
    assert ("0 steps in " in text) == (not records)
    summary = (run / "report" / "summary.md").read_text()
    shown = f"unfinished: step {len(records)}"
    assert shown in text
    assert summary.split("\n")[2].startswith(shown)
    assert "Accuracy of the network" not in summary


def test_stopped_run_says_how_far_its_checkpoint_is_and_how_good_it_was(run: Path) -> None:
    split = json.loads((run / "split.json").read_text())
    split["num_videos"] = {"in all": 12, "to train on": 9}
    (run / "split.json").write_text(json.dumps(split))
    write_records(run, RECORDS[:3])
    torch.save({"format": 1, "step": 3}, run / "last.pt")
    notes = read_notes(run)
    optim = notes.config.optim
    last = min(9 // optim.batch_unlabeled * optim.epochs, notes.config.run.max_steps or 1000)
    center = "at step 2 top-1 40.0% on one center clip of 6 videos"
    assert what_is_unfinished(notes) == f"unfinished: step 3 of {last}; {center}"
    assert dict(what_was_trained(notes))["done"] == "3 steps, the first 2 in 0 min 0 s"
    write_records(run, RECORDS)
    assert what_is_unfinished(read_notes(run)) == ""


def test_sample_of_an_earlier_end_goes_when_there_is_none_any_more(run: Path) -> None:
    keep_sample(run, make_batch(0), ("fall", "jump", "run"))
    assert "data:image/jpeg" in write_report(run).read_text()
    keep_sample(run, None, ("fall", "jump", "run"))
    assert "data:image/jpeg" not in write_report(run).read_text()


def test_folder_that_is_no_run_and_damaged_notes_are_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing is not the folder of a run: there is no .*config\.json"):
        write_report(tmp_path / "nothing")
    for name in ("config.json", "environment.json", "split.json"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=r"a note of the run in .* is damaged"):
            write_report(run)
        (run / name).write_bytes(whole)


def test_tensorboard_gets_the_pictures_once_and_keeps_the_curves(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(run, 2, 2) as log:
        log.describe(2, {"command": "train <it>"})
        log.write({"kind": "val", "step": 2, "top1": 0.5})
    for _ in range(2):
        time.sleep(1)  # files of one second are read in the order of their names, and the tenth comes before the ninth
        write_report(run)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/top1")] == [(2, 0.5)]
    assert [event.step for event in events.Images("report/confusion")] == [3]
    assert b"train <it>" in events.Tensors("command/text_summary")[0].tensor_proto.string_val[0]


def test_speeds_are_medians_for_each_method(run: Path) -> None:
    rows = {row[0]: row[1:] for row in speeds(read_notes(run).runs)}
    assert rows["clips/s"] == ("10.5", "11.0")
    assert rows["waiting for data"] == ("5%", "5%")
    assert rows["GPU"] == ("93%", "93%")


def test_time_is_that_of_all_steps(run: Path) -> None:
    write_records(run, [_train(10), _train(2000)])
    assert dict(what_was_trained(read_notes(run)))["done"] == "2000 steps in 6 min 40 s"


def test_curves_show_the_baseline_too() -> None:
    alone, both = (imread(io.BytesIO(draw_curves(runs))) for runs in ({"a": RECORDS}, {"a": RECORDS, "b": BASELINE}))
    height, third = alone.shape[0] // 2, alone.shape[1] * 2 // 3
    assert alone.shape == both.shape
    assert (alone[:height, :third] == both[:height, :third]).all()  # losses and self-made labels are the method's alone
    assert (alone[:height, third:] != both[:height, third:]).any()


@pytest.mark.parametrize("records", [[], RECORDS[2:]])
def test_curves_of_a_run_without_steps_are_empty_not_an_error(records: list[Record]) -> None:
    assert draw_curves({"fixmatch": records}).startswith(b"\x89PNG")
    assert set(chart_svgs({"fixmatch": records})) == ({"accuracy"} if records else set())


def test_a_lone_number_is_a_dot() -> None:
    axes = Figure().subplots()
    CHARTS["self-made labels"](axes, {"a": RECORDS[:2]})
    assert [line.get_marker() for line in axes.lines] == ["None", "o"]


@pytest.mark.parametrize(
    ("numbers", "labels"),
    [
        ({"mask_rate": 0.5, "pseudo_label_accuracy": 0.7}, ["pseudo-labels kept", "of these right"]),
        ({"rotation_accuracy": 0.6}, ["rotations right"]),
    ],
)
def test_labels_a_method_makes_are_drawn_apart_from_its_losses(numbers: dict[str, float], labels: list[str]) -> None:
    for chart, expected in (("self-made labels", labels), ("losses", ["loss"])):
        axes = Figure().subplots()
        CHARTS[chart](axes, {"a": [_train(1, **numbers)]})
        assert [line.get_label() for line in axes.lines] == expected


def test_charts_of_long_runs_stay_small() -> None:
    short, long = ([_train(step) for step in range(1, number)] for number in (400, 40_000))
    sizes = [sum(map(len, chart_svgs({"a": records}).values())) for records in (short, long)]
    assert sizes[1] < 1.5 * sizes[0]


@pytest.mark.parametrize("num_classes", [5, 6])
def test_table_has_a_row_for_each_method_and_top5_where_it_tells_something(num_classes: int) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    results = {"fixmatch": Accuracy(0.5, 0.875, 0.45, 20), "supervised": Accuracy(0.25, 0.75, 0.2, 20)}
    console.print(result_table(results, num_classes))
    text = console.export_text()
    lines = text.splitlines()
    assert all(name in lines[1] for name in results_header(num_classes))
    assert any("fixmatch" in line and "50.0%" in line and "45.0%" in line for line in lines)
    assert any("supervised" in line and "25.0%" in line for line in lines)
    assert ("87.5%" in text) == ("top-5" in text) == (num_classes > 5)
