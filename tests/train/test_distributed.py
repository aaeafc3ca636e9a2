"""Two ranks are one process with their batches together; what befalls one befalls all, and torchrun goes on from there.

The ranks are processes on the CPU that talk over gloo.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_checks.ranks import free_port, join_address, losses_and_gradients, share, whole_batch
from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.loader import ClipLoader
from tests.conftest import TINY_CLIPS
from tests.forks import run_ranks
from tests.train.method_cases import CASES
from tests.train.standins import make_batch, make_config
from train.checkpoint import LAST, load, saved_world_size
from train.cli import parse
from train.config import resolve
from train.distributed import ALONE, Ranks, batch_share, joined, merged_loader_state, program
from train.fit import new_loader, new_method
from train.methods import METHODS
from train.metrics import Window, read_metrics
from train.stop import Stopped, StopSignal
from train.train import main
from train.videos import prepare_videos

ROOT = Path(__file__).parents[2]
METHOD_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, CASES[name].options) for name in METHODS if not CASES[name].ranks_differ},
    # One of the first rank's two clips has a pseudo-label, and both of the second's; the other clip has negatives.
    "ups": ("ups", {"threshold": 0.33517, "negative_threshold": 1.0}),
    "in its warm-up": ("temporal_gradient", {"warmup_epochs": 1}),
    "without alignment": ("temporal_gradient", {"alignment_weight": 0.0}),
    "without contrast": ("temporal_gradient", {"info_nce_weight": 0.0}),
    "compiled": ("temporal_gradient", {"backend": "aot_eager"}),
}
FAULTS: dict[str, Callable[[int], Exception | None]] = {
    "nothing": lambda rank: None,
    "one fails": lambda rank: ValueError("no") if rank == 1 else None,
    "the first fails": lambda rank: InputError("no") if rank == 0 else None,
    "both alike": lambda rank: InputError("no such file"),
    "each its own way": lambda rank: OSError(f"disk {rank}"),
    "one stops, one fails": lambda rank: Stopped(signal.SIGTERM) if rank == 0 else ValueError("no"),
}


# --- two processes that the test starts itself ---


@contextmanager
def noting(notes: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
        notes[name] = "went on"
    except Exception as error:
        notes[name] = f"{type(error).__name__}: {error}"


def rank_worker(rank: int, folder: str, port: int) -> None:
    """All that the tests ask of a rank, in one process, because starting one takes seconds."""
    torch.set_num_threads(1)
    join_address(rank, port)
    results: dict[str, Any] = {}
    with joined(Ranks(rank, 2, rank, 2), "cpu") as ranks:
        for name, (method, constants) in METHOD_OPTIONS.items():
            results[name] = losses_and_gradients(
                method, share(batch_of(method, constants), rank), ranks, "cpu", **constants
            )
        results["num_graphs"] = int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        notes: dict[str, str] = {}
        for name, fault in FAULTS.items():
            with noting(notes, name), ranks.together():
                if error := fault(rank):
                    raise error
        with noting(notes, "signal"), StopSignal() as stop:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGINT)
            with ranks.together():
                stop.check()
        results["notes"] = notes
        results["first"] = ranks.first(f"from rank {rank}")
        results["window"] = window_means(ranks, [1.0, torch.nan] if rank else [3.0, 0.5])
        dropout = new_method(resolve(make_config(Path(folder))), 3, ranks)
        results["weights"], results["draw"] = dropout.state_dict(), torch.rand(4)
    torch.save(results, Path(folder) / f"rank{rank}.pt")


def batch_of(method: str, constants: dict[str, Any]) -> ClipBatch:
    return whole_batch(method, **{name: value for name, value in constants.items() if name != "backend"})


def window_means(ranks: Ranks, accuracies: list[float]) -> dict[str, float]:
    window = Window(3, [f"{row}.mp4" for row in range(40)], ranks)
    for step, accuracy in enumerate(accuracies):
        terms = {"loss": torch.tensor(ranks.rank + 2.0 * step), "pseudo_label_accuracy": torch.tensor(accuracy)}
        window.add(step, terms, make_batch(step))
    state = window.state_dict()
    restored = Window(3, [], ranks)
    restored.load_state_dict(state, step=len(accuracies))
    assert restored.means() == window.means()
    return window.means()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(rank_worker, (str(folder), free_port()))
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", METHOD_OPTIONS)
def test_two_ranks_have_loss_and_gradients_of_one_process(name: str, ranks: list[dict[str, Any]]) -> None:
    method, constants = METHOD_OPTIONS[name]
    whole = losses_and_gradients(method, batch_of(method, constants), ALONE, "cpu", **{**constants, "backend": None})
    halves = [rank[name] for rank in ranks]
    for term, value in whole["terms"].items():
        mean = torch.stack([half["terms"][term] for half in halves]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=f"{term} differs")
    largest = max(gradient.abs().max() for gradient in whole["gradients"].values())
    for half in halves:
        for parameter, gradient in whole["gradients"].items():
            assert not gradient.isnan().any(), f"{parameter} gets no gradient: DDP would wait for it"
            difference = (half["gradients"][parameter] - gradient).abs().max()
            assert difference < 1e-4 * largest, f"{parameter}: {difference} of {largest}"
        torch.testing.assert_close(half["buffers"], whole["buffers"], rtol=1e-4, atol=1e-5)


def test_several_ranks_too_compile_one_graph(ranks: list[dict[str, Any]]) -> None:
    assert [rank["num_graphs"] for rank in ranks] == [1, 1]


def test_what_is_raised_on_one_rank_is_raised_on_all(ranks: list[dict[str, Any]]) -> None:
    expected = {
        "nothing": ("went on", "went on"),
        "one fails": ("RankFailedError: rank 1: ValueError: no",) * 2,
        "the first fails": ("RankFailedError: rank 0: no",) * 2,
        "both alike": ("RankFailedError: no such file",) * 2,
        "each its own way": ("RankFailedError: rank 0: OSError: disk 0; rank 1: OSError: disk 1",) * 2,
        "one stops, one fails": ("RankFailedError: rank 1: ValueError: no",) * 2,
        "signal": ("Stopped: stopped by SIGINT",) * 2,
    }
    assert {name: tuple(rank["notes"][name] for rank in ranks) for name in expected} == expected


def test_numbers_are_averaged_over_ranks_and_nan_is_passed_over(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["window"] == {"loss": 1.5, "pseudo_label_accuracy": pytest.approx((2.0 + 0.5) / 2)}
        assert rank["first"] == "from rank 0"


def test_ranks_begin_with_the_same_weights_but_draw_other_dropout(ranks: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(ranks[0]["weights"], ranks[1]["weights"], rtol=0, atol=0)
    assert not torch.equal(ranks[0]["draw"], ranks[1]["draw"])


# --- without other processes ---


def test_merged_state_leaves_out_what_any_rank_did_from_the_lowest_step() -> None:
    states = [
        {"step": 9, "quarantine": {"a.mp4": [3, "gone"], "b.mp4": [5, "gone"]}},
        {"step": 9, "quarantine": {"b.mp4": [2, "empty"], "c.mp4": [8, "gone"]}},
    ]
    merged = merged_loader_state(states)
    assert merged == {"step": 9, "quarantine": {"a.mp4": [3, "gone"], "b.mp4": [2, "empty"], "c.mp4": [8, "gone"]}}
    assert merged_loader_state(states[:1]) == states[0]


def test_steps_keep_their_size_on_other_numbers_of_gpus() -> None:
    config = resolve(make_config(Path("run")), world_size=6)  # 4 and 4 clips on each
    shares = {number: batch_share(config, Ranks(0, number)) for number in (1, 2, 3, 4, 6, 24)}
    assert shares == {1: (24, 24), 2: (12, 12), 3: (8, 8), 4: (6, 6), 6: (4, 4), 24: (1, 1)}
    with pytest.raises(InputError, match=r"5 GPUs cannot share the 24 labeled .*: take 1, 2, 3, 4, 6, 8, 12, 24$"):
        batch_share(config, Ranks(0, 5))


def test_learning_rate_and_threads_follow_the_number_of_processes() -> None:
    config = make_config(Path("run"))
    config = replace(config, optim=replace(config.optim, lr=None), data=replace(config.data, num_threads=None))
    one, eight = resolve(config), resolve(config, world_size=8, cores=3)
    assert one.optim.lr is not None
    assert eight.optim.lr == pytest.approx(8 * one.optim.lr)
    assert one.data.num_threads is not None
    assert eight.data.num_threads == 3


@pytest.mark.parametrize(
    ("path", "folder", "typed"),
    [
        (".venv/bin", ".", "python"),
        ("", ".", ".venv/bin/python"),
        ("other", ".", ".venv/bin/python"),
        ("", "other", "'{root}/.venv/bin/python'"),
    ],
)
def test_the_command_to_go_on_starts_what_was_started(
    path: str, folder: str, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my project"
    for name in (".venv/bin/python", "other/python", ".venv/bin/torchrun", "other/torchrun"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(root / ".venv/bin/python"))
    monkeypatch.setenv("PATH", str(root / path) if path else "")
    monkeypatch.chdir(root / folder)
    typed = typed.format(root=root)
    assert program(ALONE, "train") == f"{typed} -m train"
    two = replace(ALONE, world_size=2, local_world_size=2)
    assert program(two, "train") == f"{typed.replace('python', 'torchrun')} --nproc-per-node=2 -m train"


# --- the program under torchrun ---

OPTIONS = {
    **TINY_CLIPS,
    "data.generate.videos-per-class": 4,
    "data.generate.val-videos-per-class": 2,
    "data.generate.size": 32,
    "data.generate.num-frames": 8,
    "data.labels-per-class": 2,
    "data.max-bad-fraction": 0.5,
    "optim.warmup-epochs": 0,
    "optim.epochs": 5000,
    "run.method": "supervised",
    "run.baseline": None,
    "run.log-every": 1,
    "run.eval-every-epochs": 1000,
    "run.checkpoint-every": 8,
}


def words(folder: Path, *more: str) -> list[str]:
    options = {**OPTIONS, "data.root": folder / "data", "run.dir": folder / "run"}
    motions = ["--data.generate.motions", "left", "right"]
    return ["demo", *motions, *(f"--{name}={value}" for name, value in options.items()), *more]


class Torchrun:
    """Two ranks under torchrun, ended with the context."""

    def __init__(self, folder: Path, *more: str, max_restarts: int = 0) -> None:
        self.metrics = folder / "run" / "metrics.jsonl"
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={max_restarts}"]
        self.log = folder / "torchrun.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *launch, "-m", "train", *words(folder, *more)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "Torchrun":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # which ends the ranks too
            self.process.wait(timeout=60)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240  # starting takes ten seconds, on a busy machine a minute
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.log.read_text()}"
            time.sleep(0.05)

    def num_records(self) -> int:
        return self.metrics.read_text().count("\n") if self.metrics.exists() else 0

    def kill_rank(self, rank: int) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and f"RANK={rank}\0" in f"\0{(entry / 'environ').read_text()}":
                    os.kill(int(entry.name), signal.SIGKILL)

    def end(self) -> str:
        self.process.wait(timeout=240)
        return self.log.read_text()


def losses(run: Path) -> list[Any]:
    return [(record["step"], record["loss"]) for record in read_metrics(run) if record["kind"] == "train"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of two ranks of which one is killed; torchrun restarts it, and is told to stop later."""
    folder = tmp_path_factory.mktemp("elastic")
    facts: dict[str, Any] = {"folder": folder}
    with Torchrun(folder, max_restarts=1) as torchrun:
        torchrun.wait_for(lambda: torchrun.num_records() >= 10)
        torchrun.kill_rank(1)
        torchrun.wait_for(lambda: "resumed at step" in torchrun.log.read_text())
        facts["saved"] = load(folder / "run" / LAST)["step"]
        facts["before"] = [
            line for line in torchrun.log.read_text().splitlines() if " step " in line and "  loss " in line
        ]
        torchrun.wait_for(lambda: torchrun.num_records() >= 14)
        torchrun.process.send_signal(signal.SIGTERM)
        facts["printed"] = torchrun.end()
        facts["status"] = torchrun.process.returncode
    return facts


def test_a_killed_rank_is_restarted_and_repeats_its_losses_to_the_bit(story: dict[str, Any]) -> None:
    run = story["folder"] / "run"
    assert story["saved"] >= 8
    assert f"resumed at step {story['saved']}" in story["printed"]
    steps = [step for step, _ in losses(run)]
    assert steps == list(range(1, len(steps) + 1))
    lines = {line.partition("  epoch")[0]: line.partition("  lr ")[0] for line in story["before"]}
    assert len(lines) >= 10
    again = [line for line in story["printed"].splitlines() if line.partition("  epoch")[0] in lines]
    assert len(again) > len(lines), "no step was repeated"
    assert all(line.partition("  lr ")[0] == lines[line.partition("  epoch")[0]] for line in again)


def test_sigterm_to_torchrun_saves_and_says_how_to_go_on(story: dict[str, Any]) -> None:
    assert story["status"] != 0
    said = "stopped by SIGTERM; the checkpoint is written. Go on with: "
    assert story["printed"].count(said) == 1, story["printed"]
    assert "torchrun --nproc-per-node=2 -m train demo" in story["printed"]
    checkpoint = load(story["folder"] / "run" / LAST)
    assert checkpoint["step"] == losses(story["folder"] / "run")[-1][0]
    assert len(checkpoint["rng_of_others"]) == 1
    assert saved_world_size(story["folder"] / "run" / LAST) == 2


def test_one_rank_goes_on_with_the_clips_of_two_and_two_end_what_one_went_on_with(
    story: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = story["folder"]
    run = folder / "run"
    step = load(run / LAST)["step"]
    seen: list[list[int]] = []

    def see(module: Any, optimizer: Any, scaler: Any, batch: ClipBatch, *rest: Any, **options: Any) -> Any:
        seen.append(batch.labeled_ids.tolist())
        return train_step(module, optimizer, scaler, batch, *rest, **options)

    from train.step import train_step

    monkeypatch.setattr("train.loop.train_step", see)
    expected = batches_of_two(folder, load(run / LAST)["loader"])
    assert main(words(folder, "--run.resume", f"--run.max-steps={step + 2}")) == 0
    whole = [torch.cat([next(loader).labeled_ids for loader in expected]).tolist() for _ in range(2)]
    assert seen == whole
    assert saved_world_size(run / LAST) == 2

    # Two again, of which the second loses a video that is its next one.
    row = int(next(expected[1]).labeled_ids[0])
    for loader in expected:
        loader.close()
    path = prepare_videos(resolve(parse(words(folder)), 2)).index.paths[row]
    (folder / "data" / path).unlink()
    again = words(folder, "--run.resume", f"--run.max-steps={step + 6}", "--run.profile")
    run_ranks(program_worker, (free_port(), again, str(folder)))
    printed = (folder / "printed").read_text()
    checkpoint = load(run / LAST)
    assert checkpoint["step"] == step + 6
    assert set(checkpoint["loader"]["quarantine"]) == {path}
    assert [record["num_quarantined"] for record in read_metrics(run) if record["kind"] == "train"][-1] == 1

    # The first rank alone writes, and what one process writes; profiled, too.
    assert printed.count(f"supervised  step {step + 6}/{step + 6}  epoch") == 1
    assert printed.count("profile.json.gz") == 1
    assert [kind for kind in (record["kind"] for record in read_metrics(run)) if kind == "test"] == ["test"] * 2
    assert {entry.name for entry in run.iterdir()} == {
        *("best.pt", "config.json", "environment.json", "index", "labeled.txt", LAST, "metrics.jsonl"),
        *("left_out_videos.json", "predictions.npz", "profile.json.gz", "report", "split.json", "tensorboard"),
    }
    assert len(list((run / "tensorboard").iterdir())) == 4 + 2  # one a start, one a report


def program_worker(rank: int, port: int, argv: list[str], folder: str) -> None:
    """The program on one of two ranks, as torchrun starts it but without the seconds that loading libraries takes."""
    torch.set_num_threads(1)
    join_address(rank, port)
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "forked"}
    output = os.open(Path(folder) / "printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    assert main(argv) == 0
    sys.stdout.flush()


def batches_of_two(folder: Path, state: dict[str, Any]) -> list[ClipLoader]:
    """The loaders of two ranks, where a checkpoint's are."""
    config = resolve(parse(words(folder)), 2)
    videos = prepare_videos(config)
    method = new_method(config, 2, ALONE)
    loaders = [new_loader(config, videos, method, Ranks(rank, 2)) for rank in range(2)]
    for loader in loaders:
        loader.load_state_dict(state)
    return loaders


def test_without_restarts_a_killed_rank_ends_the_job_with_its_name(tmp_path: Path, story: dict[str, Any]) -> None:
    (tmp_path / "data").symlink_to(story["folder"] / "data")
    with Torchrun(tmp_path) as torchrun:
        torchrun.wait_for(lambda: torchrun.num_records() >= 2)
        torchrun.kill_rank(1)
        killed = time.monotonic()
        printed = torchrun.end()
    assert time.monotonic() - killed < 60
    assert torchrun.process.returncode != 0
    cause = printed.partition("Root Cause (first observed failure)")[2]
    assert "rank      : 1 (local_rank: 1)" in cause
    assert "Signal 9 (SIGKILL)" in cause
