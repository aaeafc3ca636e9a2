"""Rounds: when they begin, with what, and that none is repeated or lost wherever a run is cut."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu_checks.ranks import free_port, join_address
from benchmarks.resume import same
from pipeline.errors import TooManyBadVideos
from pipeline.synthetic import generate_motion_dataset
from tests.conftest import TINY_CLIPS
from tests.forks import run_ranks
from tests.train.crashes import live, num_moments
from tests.train.standins import (
    STEPS_PER_EPOCH,
    TinyLoader,
    TinyRounds,
    make_config,
    make_state,
    run_training,
    with_run,
)
from tests.train.test_checkpoint import assert_same_bits
from tests.train.test_resume import KILLED, assert_checkpoints_are_whole, assert_same_run
from train.checkpoint import LAST, TrainState, load
from train.cli import parse
from train.config import Config, resolve
from train.distributed import ALONE, Ranks, joined
from train.fit import new_method
from train.methods import Method
from train.methods.ups import UPS
from train.metrics import read_metrics
from train.scoring import Accuracy
from train.stop import Stopped, StopSignal
from train.train import main
from train.validation import Judged, Validation
from train.videos import prepare_videos

NUM_STEPS = 9  # three epochs of three steps, and as many rounds
FIRST_STEPS = (3, 6)

# --- with a network that takes milliseconds ---


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> TrainState:
    return run_training(make_config(tmp_path_factory.mktemp("straight")), method_type=TinyRounds)


def test_rounds_begin_before_the_first_steps_of_all_but_the_first_and_after_the_evaluation(tmp_path: Path) -> None:
    events: list[tuple[str, int]] = []

    class Noting(TinyRounds):
        def begin_round(self, rows: Tensor, judgments: Tensor, seed: int) -> str:
            events.append(("round", len(self.progress)))
            return super().begin_round(rows, judgments, seed)

    def evaluate(step: int) -> Accuracy:
        events.append(("evaluation", step))
        return Accuracy(0.5, 1.0, 0.5, 4)

    state = run_training(with_run(make_config(tmp_path), eval_every_epochs=1), None, evaluate, Noting)
    assert events == [("evaluation", 3), ("round", 3), ("evaluation", 6), ("round", 6), ("evaluation", 9)]
    assert state.round == 2


def test_the_end_of_a_training_begins_no_round(tmp_path: Path) -> None:
    state = run_training(make_config(tmp_path, max_steps=3), method_type=TinyRounds)
    assert state.round == 0
    assert load(tmp_path / LAST)["round"] == 0
    assert not load(tmp_path / LAST)["method"]["judged"].any()


def test_a_round_begins_without_momentum_at_the_first_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.step import train_step

    seen: list[tuple[bool, float]] = []

    def see(module: Any, optimizer: Any, *rest: Any, **options: Any) -> Any:
        momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
        seen.append((any(bool(momentum.any()) for momentum in momenta), options["lr"]))
        return train_step(module, optimizer, *rest, **options)

    monkeypatch.setattr("train.loop.train_step", see)
    run_training(make_config(tmp_path), method_type=TinyRounds)
    assert [step for step, (moving, _) in enumerate(seen) if not moving] == [0, *FIRST_STEPS]
    rates = [rate for _, rate in seen]
    assert rates[:3] == rates[3:6] == rates[6:]


def test_training_draws_what_it_would_have_whatever_a_round_draws_to_begin(
    tmp_path: Path, straight: TrainState
) -> None:
    class Drawing(TinyRounds):
        def judge(self, clips: Any) -> Tensor:
            judgments = super().judge(clips)
            torch.rand(7)
            return judgments

        def begin_round(self, rows: Tensor, judgments: Tensor, seed: int) -> str:
            said = super().begin_round(rows, judgments, seed)
            torch.rand(7)
            return said

    assert_same_bits(run_training(make_config(tmp_path), method_type=Drawing), straight)


def test_rounds_judge_with_other_draws_and_begin_with_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    weights: list[Tensor] = []

    class Noting(TinyRounds):
        def judge(self, clips: Any) -> Tensor:
            drawn.append(torch.rand(()).item())
            return super().judge(clips)

        def begin_round(self, rows: Tensor, judgments: Tensor, seed: int) -> str:
            said = super().begin_round(rows, judgments, seed)
            weights.append(self.network.conv.weight.detach().clone())
            return said

    for seed in (0, 1):
        run_training(make_config(tmp_path / str(seed), seed=seed), method_type=Noting)
    assert len(set(drawn)) == len(drawn) == 4
    assert len({weight.sum().item() for weight in weights}) == 4


@pytest.mark.parametrize("cut", range(1, NUM_STEPS))
def test_a_training_in_rounds_stopped_after_any_step_resumes_to_the_bit(
    tmp_path: Path, cut: int, straight: TrainState
) -> None:
    def interrupt(step: int) -> None:
        if step == cut - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        run_training(make_config(tmp_path), TinyLoader(interrupt), method_type=TinyRounds)
    # Where it is cut at a round's first step the signal is obeyed when the round has begun.
    assert load(tmp_path / LAST)["round"] == cut // STEPS_PER_EPOCH
    assert_same_bits(run_training(make_config(tmp_path), method_type=TinyRounds), straight)


@pytest.mark.parametrize("steps", [2, 3, 4, 6])
def test_a_training_in_rounds_cut_short_by_max_steps_resumes_to_the_bit(
    tmp_path: Path, steps: int, straight: TrainState
) -> None:
    run_training(make_config(tmp_path, max_steps=steps), method_type=TinyRounds)
    assert_same_bits(run_training(make_config(tmp_path), method_type=TinyRounds), straight)


@pytest.mark.parametrize("call", range(4))
def test_what_fails_or_stops_while_videos_are_judged_costs_nothing(
    tmp_path: Path, call: int, straight: TrainState
) -> None:
    """Before and after the judging of either round; what has been drawn by then is drawn again."""
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise Stopped(signal.SIGTERM) if call % 2 else TooManyBadVideos({"a.mp4": "gone"}, 4, "restore it")

    with pytest.raises((Stopped, TooManyBadVideos)):
        run_training(make_config(tmp_path), method_type=TinyRounds, judging=fail)
    saved = load(tmp_path / LAST)
    assert (saved["step"], saved["round"]) == (FIRST_STEPS[call // 2], call // 2)
    assert_same_bits(run_training(make_config(tmp_path), method_type=TinyRounds), straight)


def test_a_batch_that_fails_after_a_round_has_begun_does_not_repeat_it(tmp_path: Path, straight: TrainState) -> None:
    def fail(step: int) -> None:
        if step == FIRST_STEPS[0]:
            raise ValueError("no batch")

    with pytest.raises(ValueError, match="no batch"):
        run_training(make_config(tmp_path), TinyLoader(fail), method_type=TinyRounds)
    saved = load(tmp_path / LAST)
    assert (saved["step"], saved["round"]) == (3, 1)
    judged: list[None] = []
    resumed = run_training(make_config(tmp_path), method_type=TinyRounds, judging=lambda: judged.append(None))
    assert len(judged) == 2  # before and after the judging of the last round
    assert_same_bits(resumed, straight)


def test_death_at_any_moment_of_a_training_in_rounds_changes_nothing(tmp_path: Path) -> None:
    def config_of(name: str) -> Config:
        config = with_run(
            make_config(tmp_path / name), checkpoint_every=2, log_every=1, eval_every_epochs=1, max_steps=7
        )
        return config

    whole = config_of("straight")
    assert live(whole, method_type=TinyRounds) == 0
    total = num_moments(whole)
    assert total > 40
    for moment in range(1, total + 1):
        config = config_of(f"dies{moment}")
        assert live(config, moment, TinyRounds) == KILLED, moment
        assert_checkpoints_are_whole(config.run.dir)
        assert live(config, method_type=TinyRounds) == 0, moment
        assert_same_run(config.run.dir, whole.run.dir)


def test_checkpoints_from_before_there_were_rounds_are_in_the_first(tmp_path: Path) -> None:
    state = make_state(make_config(tmp_path))
    checkpoint = state.checkpoint()
    del checkpoint["round"]
    state.round = 5
    state.restore(checkpoint, tmp_path / LAST)
    assert state.round == 0


# --- the program ---

OPTIONS = {
    **TINY_CLIPS,
    "run.method": "ups",
    "run.log-every": 1,
    "run.eval-every-epochs": 3,
    "data.val-fraction": 0.25,
    "data.labels-per-class": 1,
    "model.dropout": 0.5,
    "optim.epochs": 2,
    "optim.warmup-epochs": 1,
    "method.num-rounds": 2,
    # All that is judged is chosen: the most certain video of each class, and negatives of the others.
    "method.threshold": 0.0,
    "method.max-deviation": 1.0,
    "method.negative-threshold": 1.0,
    "method.negative-max-deviation": 1.0,
    "method.balanced-rounds": 1,
    "method.min-per-class": 1,
}
PRECISE_BN = {"eval.precise-bn-batches": 2, "eval.precise-bn-batch-size": 3}
BOUNDARY = 5  # steps of the first round: an epoch of ten videos, two a step
NUM_JUDGED = 8  # in two batches


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos to train on, two of them labeled, and four to validate on."""
    root = tmp_path_factory.mktemp("data") / "motions"
    generate_motion_dataset(
        root, motions=("left", "right"), videos_per_class=5, val_videos_per_class=2, size=32, num_frames=8, seed=0
    )
    return root


def words(data: Path, run: Path, *more: str, **options: Any) -> list[str]:
    given = [f"--{name}={value}" for name, value in (OPTIONS | options).items()]
    return ["folder", *given, "--data.root", str(data), "--run.dir", str(run), *more]


@pytest.fixture(scope="module", params=[{}, PRECISE_BN], ids=["", "PreciseBN"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


@pytest.fixture(scope="module")
def whole(data: Path, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing came between."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(words(data, run, **options)) == 0
    return run


def assert_same_training(ours: Path, theirs: Path) -> None:
    for name in ("method", "optimizer", "rng", "round", "step", "precise_bn"):
        assert same(load(ours / LAST)[name], load(theirs / LAST)[name]), name
    losses = [
        [(record["step"], record["loss"]) for record in read_metrics(run) if record["kind"] == "train"]
        for run in (ours, theirs)
    ]
    assert losses[0] == losses[1]


def test_the_program_trains_in_rounds_and_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(words(data, run)) == 0
    printed = capsys.readouterr().out
    assert "ups  round 2 of 2: judging the unlabeled videos\n" in printed
    assert "ups  round 2 of 2: 8 unlabeled videos judged; 2 pseudo-labels, 6 videos with negative ones\n" in printed
    records = [record for record in read_metrics(run) if record["kind"] == "train"]
    assert all(record["pseudo_label"] == record["negative"] == 0 for record in records[:BOUNDARY])
    assert any(record["pseudo_label"] > 0 for record in records[BOUNDARY:])  # type: ignore[operator]
    assert any(record["negative"] > 0 for record in records[BOUNDARY:])  # type: ignore[operator]
    method = load(run / LAST)["method"]
    videos = prepare_videos(resolve(parse(words(data, run))))
    assert (method["pseudo_labels"] >= 0).sum() == 2
    labeled = torch.from_numpy(videos.split.labeled)
    assert (method["pseudo_labels"][labeled] == -1).all() and not method["negatives"][labeled].any()


@pytest.mark.parametrize("more", [{}, PRECISE_BN], ids=["", "PreciseBN"])
def test_videos_are_judged_with_the_statistics_of_evaluations(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    judge, begin_round = UPS.judge, UPS.begin_round
    seen: dict[str, Tensor] = {}

    def noting(self: UPS, clips: Any) -> Tensor:
        seen["judging"] = self.rgb.bn1.running_mean.clone()  # type: ignore[union-attr]
        return judge(self, clips)

    def noting_too(self: UPS, *args: Any) -> str:
        seen["training"] = self.rgb.bn1.running_mean.clone()  # type: ignore[union-attr]
        return begin_round(self, *args)

    monkeypatch.setattr(UPS, "judge", noting)
    monkeypatch.setattr(UPS, "begin_round", noting_too)
    assert main(words(data, tmp_path / "run", f"--run.max-steps={BOUNDARY + 1}", **more)) == 0
    assert torch.equal(seen["judging"], seen["training"]) == (not more)


@pytest.mark.parametrize("steps", [BOUNDARY - 1, BOUNDARY, BOUNDARY + 1])
def test_the_program_cut_about_the_beginning_of_a_round_ends_with_the_same_bits(
    data: Path, options: dict[str, Any], whole: Path, tmp_path: Path, steps: int
) -> None:
    run = tmp_path / "run"
    assert main(words(data, run, f"--run.max-steps={steps}", **options)) == 0
    assert load(run / LAST)["round"] == (steps > BOUNDARY)
    assert main(words(data, run, "--run.resume", **options)) == 0
    assert_same_training(run, whole)


@pytest.mark.parametrize("moment", ["judging", "begun"])
def test_sigterm_at_the_beginning_of_a_round_neither_repeats_nor_loses_it(
    data: Path, options: dict[str, Any], whole: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, begin_round = UPS.judge, UPS.begin_round

    def interrupted(self: UPS, *args: Any) -> Any:
        result = judge(self, *args) if moment == "judging" else begin_round(self, *args)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(UPS, "judge" if moment == "judging" else "begin_round", interrupted)
        assert main(words(data, run, **options)) == 128 + signal.SIGTERM
    saved = load(run / LAST)
    assert (saved["step"], saved["round"]) == (BOUNDARY, int(moment == "begun"))
    with monkeypatch.context() as patch:
        if moment == "begun":
            patch.setattr(UPS, "judge", None)  # not asked again
        assert main(words(data, run, "--run.resume", **options)) == 0
    assert_same_training(run, whole)


def test_videos_that_cannot_be_judged_are_counted_named_and_without_pseudo_labels(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run, root = tmp_path / "run", tmp_path / "data"
    os.symlink(data, root)
    assert main(words(root, run, f"--run.max-steps={BOUNDARY}")) == 0
    videos = prepare_videos(resolve(parse(words(root, run))))
    row = int(videos.split.without_label[1])
    root.unlink()
    root.mkdir()
    for path in videos.index.paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path != videos.index.paths[row]:
            os.link(data / path, root / path)
    capsys.readouterr()
    assert main(words(root, run, "--run.resume", "--data.max-bad-fraction=0.5")) == 0
    printed = capsys.readouterr().out
    assert "round 2 of 2: 7 unlabeled videos judged, 1 could not be read; " in printed
    assert f"gone bad, left out: {videos.index.paths[row]}: " in printed
    assert f"{videos.index.paths[row]} is not evaluated: " in caplog.text
    assert load(run / LAST)["method"]["pseudo_labels"][row] == -1
    assert not load(run / LAST)["method"]["negatives"][row].any()


def test_a_training_in_rounds_of_labeled_videos_alone_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(data, tmp_path / "run", **{"data.labels-per-class": None})) == 2
    assert "error: every training video is labeled, and ups has unlabeled ones judged" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- what is shown to the method ---


class Showing(Method):
    """Keeps what it is shown, and judges the mean of its pixels."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.needs = method.needs
        self.shown: list[Tensor] = []

    @property
    def recognizer(self) -> Any:
        return self.method.recognizer

    def forward(self, batch: Any, progress: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def judge(self, clips: Any) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.shown.append(clips.rgb)
        means: Tensor = clips.rgb.float().mean(dim=(1, 2, 3))
        return means


def judged_of(data: Path, folder: Path, ranks: Ranks = ALONE, stop: StopSignal | None = None) -> Judged:
    config = resolve(parse(words(data, folder / "run")))
    videos = prepare_videos(config)
    method = Showing(new_method(config, 2))
    judged = Validation(config, videos, "ffmpeg", stop or StopSignal(), ranks=ranks).judge(method)
    assert method.training
    return judged


def rank_worker(rank: int, data: str, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    join_address(rank, port)
    with joined(Ranks(rank, 2, rank, 2), "cpu") as ranks:
        judged = judged_of(Path(data), Path(folder), ranks)
    torch.save(tuple(judged), Path(folder) / f"rank{rank}.pt")


def test_each_video_without_a_label_is_judged_once_in_the_order_of_rows(data: Path, tmp_path: Path) -> None:
    videos = prepare_videos(resolve(parse(words(data, tmp_path / "run"))))
    judged = judged_of(data, tmp_path)
    assert len(videos.split.unlabeled) == NUM_JUDGED + 2
    np.testing.assert_array_equal(judged.rows.numpy(), np.setdiff1d(videos.split.unlabeled, videos.split.labeled))
    assert judged.judgments.shape == (NUM_JUDGED, 3)
    assert judged.num_unread == 0


def test_two_ranks_judge_what_one_does_and_both_know_all(data: Path, tmp_path: Path) -> None:
    run_ranks(rank_worker, (str(data), str(tmp_path), free_port()))
    alone = judged_of(data, tmp_path)
    for rank in range(2):
        rows, judgments, num_unread = torch.load(tmp_path / f"rank{rank}.pt")
        assert torch.equal(rows, alone.rows)
        assert torch.equal(judgments, alone.judgments)
        assert num_unread == 0


def test_a_signal_stops_the_judging_between_two_batches(data: Path, tmp_path: Path) -> None:
    class AfterOne(StopSignal):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks == 2:
                raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        judged_of(data, tmp_path, stop=AfterOne())


def test_too_few_videos_to_judge_end_the_run_by_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: Any, skipped: dict[str, str], **options: Any) -> Any:
        skipped |= {"left/0.avi": "gone", "left/1.avi": "gone"}
        return iter([])

    monkeypatch.setattr("train.validation.center_views", none)
    with pytest.raises(
        TooManyBadVideos, match=r"2 of 8 videos have gone bad: they are needed to be judged between rounds"
    ):
        judged_of(data, tmp_path)
