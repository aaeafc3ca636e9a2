"""Methods side by side: real trainings of the tiny demo, in processes that are forked where that changes nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train.train
from pipeline.errors import InputError
from tests.forks import begin
from tests.train.tiny_demo import TINY
from train import compare, sweep
from train.compare import main
from train.compare_table import grid, markdown_of, summarize
from train.metrics import read_metrics
from train.sweep import Run

ROOT = Path(__file__).parents[2]


def words(folder: Path, *more: str, **options: Any) -> list[str]:
    """A command line on the tiny demo, stopped after two steps."""
    shared: dict[str, Any] = {name: value for name, value in TINY.items() if not name.startswith("method")}
    shared |= {"optim.epochs": 5, "run.max-steps": 2, "run.log-every": 1}
    # One index of all spares every run the processes that would make it.
    shared |= {"data.root": folder / "data", "data.index": folder / "index", **options}
    return ["demo", *(f"--{name}={value}" for name, value in shared.items()), "--out", str(folder / "out"), *more]


class Forked:
    """A training in a process forked from one that has the libraries loaded, as if it were a program's; no report."""

    def __init__(self, run: Run, parallel: int = 1) -> None:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        self._process = begin(_train, run.words, run.log)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self._process.join()


def _train(argv: list[str], log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    train.train.write_report = lambda *_: Path()  # type: ignore[attr-defined]  # of this process, which does nothing else
    sys.exit(train.train.main(argv))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "begin", Forked)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two methods compared from two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "begin", Forked)
        assert main(two_methods(folder)) == 0
    return folder


def videos_of(folder: Path) -> dict[str, Path]:
    return {"data.root": folder / "data", "data.index": folder / "index"}


def two_methods(folder: Path) -> list[str]:
    own = ["--set", "fixmatch.warmup-epochs=0", "--set", "fixmatch.split-batches=True", "--set", "fixmatch.threshold=0"]
    return words(folder, "--methods", "fixmatch", "supervised", "--seeds", "2", *own)


def test_the_table_has_every_method_from_every_seed(compared: Path) -> None:
    found = json.loads((compared / "out" / "compare.json").read_text())
    assert list(found["methods"]) == ["supervised", "fixmatch"]  # in the order of METHODS
    assert {(one["method"], one["seed"]) for one in found["runs"]} == {
        (method, seed) for method in ("supervised", "fixmatch") for seed in (0, 1)
    }
    assert found["steps"] == 2
    assert found["failed"] == []
    for method, summary in found["methods"].items():
        assert summary["num_seeds"] == 2
        assert summary["memory_gib"] > 0.1
        assert (summary["late_mask_rate"] is None) == (method == "supervised")
    table = (compared / "out" / "table.md").read_text()
    assert "| supervised |" in table
    assert "| fixmatch |" in table
    assert "| 54.1 |" in table


def test_options_of_one_method_are_of_its_runs_alone(compared: Path) -> None:
    configs = {
        method: json.loads((compared / "out" / f"{method}-seed1" / "config.json").read_text())
        for method in ("supervised", "fixmatch")
    }
    assert configs["fixmatch"]["method"]["split_batches"] is True
    assert configs["fixmatch"]["method"]["threshold"] == 0
    for config, method in zip(configs.values(), configs, strict=True):
        assert config.pop("method") is not None
        assert config["run"].pop("method") == method
        assert config["run"].pop("dir").endswith(f"{method}-seed1")
    assert configs["supervised"] == configs["fixmatch"]


def test_what_is_finished_is_only_gathered_again(
    compared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (compared / "out" / "compare.json").read_bytes()
    monkeypatch.setattr(sweep, "begin", lambda run, parallel: pytest.fail("trained again"))
    assert main(two_methods(compared)) == 0
    assert (compared / "out" / "compare.json").read_bytes() == before
    printed = capsys.readouterr().out
    assert printed.count("trained before") == 4
    assert "54.1" in printed  # the paper's, in the table


def test_a_method_that_fails_is_named_and_left_out(
    compared: Path, tmp_path: Path, forked: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(tmp_path, "--methods", "supervised", "fixmatch", "--seeds", "1", **videos_of(compared))
    assert main([*argv, "--set", "fixmatch.supervised-weight=1e39"]) == 1
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert list(found["methods"]) == ["supervised"]
    (failure,) = found["failed"]
    assert (failure["method"], failure["seed"]) == ("fixmatch", 0)
    assert "step 1 is not finite: loss" in failure["reason"]
    assert "FAILED and left out: fixmatch, seed 0: error: step 1" in (tmp_path / "out" / "table.md").read_text()
    assert "FAILED and left out: fixmatch, seed 0" in capsys.readouterr().out


def test_stopped_by_ctrl_c_it_goes_on_where_it_was(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    options = {"optim.epochs": 30, "run.max-steps": 200}
    argv = words(tmp_path, "--methods", "supervised", "--seeds", "1", **videos_of(compared), **options)
    argv = [word for word in argv if not word.startswith("--run.eval-every")]
    run = tmp_path / "out" / "supervised-seed0"
    program = subprocess.Popen(
        [sys.executable, "-m", "train.compare", *argv], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(read_metrics(run)) > 2)
    program.send_signal(signal.SIGINT)  # to this process alone: it has to hand it on
    _, said = program.communicate(timeout=60)
    assert (program.returncode, said) == (
        130,
        "stopped by SIGINT; all that is trained is kept. Go on with the same command\n",
    )
    done = max(int(record["step"] or 0) for record in read_metrics(run))
    assert done < 200
    assert (run / "last.pt").exists()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "begin", Forked)
    assert main(argv) == 0
    log = run.with_suffix(".log").read_text()
    assert f"resumed at step {done}\n" in log
    steps = [record["step"] for record in read_metrics(run) if record["kind"] == "train"]
    assert steps == list(range(1, 201))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--methods", "supervised", "neither"], "--methods neither is unknown: choose from supervised"),
        (["--set", "neither.threshold=1"], "--set neither is unknown"),
        (["--set", "fixmatch.treshold=1"], "fixmatch: unknown option --method.treshold=1, did you mean --method.thre"),
        (["--set", "fixmatch.threshold=2"], "fixmatch: threshold 2.0 is not a probability"),
        (["--set", "fixmatch.threshold"], "--set fixmatch.threshold is not METHOD.OPTION=VALUE"),
        (["--methods", "supervised", "--set", "fixmatch.threshold=1"], "fixmatch is not among --methods supervised"),
        (["--set", "fixmatch.threshold=high"], "could not convert string to float: 'high'"),
        (["--method.threshold", "1"], "--method.threshold is of one method: give it as --set METHOD.threshold=VALUE"),
        (["--run.seed=3"], "--run.seed differs from run to run"),
        (["--data.sice", "3"], "supervised: unknown option --data.sice, did you mean --data.size?"),
        (["--seeds", "0"], "--seeds 0"),
        (["--parallel", "2"], "--data.num-threads and --parallel 2 contradict each other"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    complaint: str,
) -> None:
    monkeypatch.setattr(compare, "prepare_videos", lambda config: pytest.fail("went on"))
    try:
        status = main(words(tmp_path, *more))
    except SystemExit as end:  # tyro has printed what is wrong
        status = int(end.code or 0)
    assert status == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- the table ---


def outcome(method: str, seed: int, top1: float, **others: Any) -> dict[str, Any]:
    numbers = {
        "mean_class": top1 / 2,
        "steps": 8,
        "clips_per_s": 10.0 + seed,
        "step_ms": 100.0,
        "beside": False,
        "memory_gib": 1.0 + seed,
        "gpu_memory_gib": None,
        "late_mask_rate": None,
        "late_pseudo_label_accuracy": None,
    }
    return {"method": method, "seed": seed, "top1": top1, **numbers, **others}


def found(*outcomes: dict[str, Any], recipe: str = "demo", failed: list[Any] | None = None) -> dict[str, Any]:
    summary = summarize(outcomes)
    return {"recipe": recipe, "options": "", "set": [], "steps": 8, "methods": summary, "failed": failed or []}


def test_means_deviations_medians_and_most_are_over_the_seeds() -> None:
    rates = [{"late_mask_rate": rate, "late_pseudo_label_accuracy": right} for rate, right in ((0.5, 0.9), (1.0, None))]
    runs = [
        outcome("supervised", 0, 0.3),
        *(outcome("fixmatch", seed, 0.2 + seed / 5, **rates[seed]) for seed in (0, 1)),
    ]
    table = grid(found(*runs))
    assert table.columns == (
        "method",
        "top-1 %",
        "over supervised",
        "mean of classes %",
        "pseudo-labels kept %",
        "of these right %",
        "clips/s",
        "ms a step",
        "memory, GiB",
        "paper, UCF-101 20 %, not these videos",
    )
    assert table.rows == (
        ("supervised", "30.0", "", "15.0", "", "", "10", "100", "1.00", ""),
        ("fixmatch", "30.0 ± 14.1", "-10.0", "15.0 ± 7.1", "75", "90", "10", "100", "2.00", "54.1"),
    )


def test_gains_are_over_supervised_from_the_same_seed() -> None:
    runs = [outcome("supervised", seed, 0.2 + seed / 2) for seed in (0, 1)]
    runs += [outcome("fixmatch", seed, 0.3 + seed / 2) for seed in (0, 1, 2)]
    assert summarize(runs)["fixmatch"]["over_supervised"] == {"mean": 10.0, "std": 0.0}
    assert "over supervised" not in grid(found(*runs[2:])).columns


def test_the_papers_row_is_that_of_the_recipe() -> None:
    table = grid(found(outcome("fixmatch", 0, 0.3), outcome("temporal_gradient", 0, 0.3), recipe="hmdb51-40pct"))
    assert table.columns[-1] == "paper, HMDB-51 40 %"
    assert [row[-1] for row in table.rows] == ["", "46.5"]  # FixMatch has no number there


def test_speed_beside_other_runs_is_marked_and_said() -> None:
    runs = [outcome("supervised", 0, 0.3), outcome("fixmatch", 0, 0.3, beside=True)]
    text = markdown_of(found(*runs))
    assert "| 10 | 100 |" in text
    assert "| 10† | 100† |" in text
    assert "† measured beside other runs" in text
    assert "†" not in markdown_of(found(*runs[:1]))


def test_runs_of_different_lengths_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"supervised, seed 0 took 8 steps; fixmatch, seed 1 took 9 steps"):
        summarize([outcome("supervised", 0, 0.3), outcome("fixmatch", 1, 0.3, steps=9)])
