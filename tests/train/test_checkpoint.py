"""Checkpoints: exact resumption, whole files whatever happens, and refusal of what belongs to another training."""

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from pipeline.errors import InputError
from tests.train.standins import CLASS_NAMES, TinyLoader, make_config, make_state, run_training, with_run
from train.checkpoint import BEST, LAST, TrainState, check_same_training, load, save
from train.config import Config
from train.methods.videossl import Config as VideoConfig
from train.metrics import CLOCKED, Record, read_metrics
from train.scoring import Accuracy
from train.stop import Stopped

NUM_STEPS = 9


def assert_same_bits(left: TrainState, right: TrainState) -> None:
    for ours, theirs in zip(
        [*left.method.state_dict().values(), *_momenta(left)],
        [*right.method.state_dict().values(), *_momenta(right)],
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def _momenta(state: TrainState) -> list[torch.Tensor]:
    return [entry["momentum_buffer"] for entry in state.optimizer.state_dict()["state"].values()]


def _losses(run_dir: Path) -> list[Record]:
    return [
        {name: value for name, value in record.items() if name not in CLOCKED}
        for record in read_metrics(run_dir)
        if record["kind"] == "train"
    ]


@pytest.mark.parametrize("cut", range(1, NUM_STEPS))
def test_resumed_training_is_bit_identical(tmp_path: Path, cut: int) -> None:
    straight = run_training(make_config(tmp_path / "straight"))

    def interrupt(step: int) -> None:
        if step == cut - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = make_config(tmp_path / "cut")
    with pytest.raises(Stopped):
        run_training(config, TinyLoader(interrupt))
    assert load(config.run.dir / LAST)["step"] == cut
    resumed = run_training(config)

    assert resumed.step == NUM_STEPS
    assert_same_bits(straight, resumed)
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "straight")


def test_training_cut_short_by_max_steps_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    straight = run_training(make_config(tmp_path / "straight"))
    run_training(make_config(tmp_path / "cut", max_steps=4))
    assert_same_bits(straight, run_training(make_config(tmp_path / "cut")))


def test_different_seed_gives_different_weights(tmp_path: Path) -> None:
    ours, theirs = (run_training(make_config(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    with pytest.raises(AssertionError):
        assert_same_bits(ours, theirs)


def _fail_to_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    def replace_(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", replace_)


def _die_while_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(checkpoint: Any, file: Any) -> None:
        file.write(b"PK half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)


@pytest.mark.parametrize(("breaks", "error"), [(_fail_to_rename, OSError), (_die_while_writing, KeyboardInterrupt)])
def test_failure_while_saving_leaves_the_old_checkpoint_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[pytest.MonkeyPatch], None],
    error: type[BaseException],
) -> None:
    path = tmp_path / LAST
    save(path, make_state(make_config(tmp_path)).checkpoint())
    with monkeypatch.context() as patch:
        breaks(patch)
        with pytest.raises(error):
            save(path, {**make_state(make_config(tmp_path)).checkpoint(), "step": 7})
    assert load(path)["step"] == 0
    save(path, {**load(path), "step": 8})  # what was left behind is not in the way
    assert load(path)["step"] == 8
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_reported_and_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    path = tmp_path / LAST
    save(path, make_state(make_config(tmp_path)).checkpoint())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # writing beyond this many bytes fails
    try:
        with pytest.raises(OSError, match=r"last\.pt .*the one before it, if any, is whole"):
            save(path, {**make_state(make_config(tmp_path)).checkpoint(), "big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load(path)["step"] == 0
    assert list(tmp_path.iterdir()) == [path]


def test_best_is_kept_when_accuracy_falls(tmp_path: Path) -> None:
    run_training(make_config(tmp_path), evaluate=lambda step: Accuracy(1 / step, 1.0, 0.5, 4))
    assert load(tmp_path / BEST)["step"] == 6
    assert load(tmp_path / LAST)["step"] == NUM_STEPS
    assert load(tmp_path / LAST)["best_top1"] == 1 / 6


def _other_width(config: Config) -> Config:
    return replace(config, model=replace(config.model, width=16))


def _other_seed(config: Config) -> Config:
    return with_run(config, seed=5)


def _other_batch(config: Config) -> Config:
    return replace(config, optim=replace(config.optim, batch_labeled=2))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_other_width, "model.width 8 is now 16"),
        (_other_seed, "run.seed 0 is now 5"),
        (_other_batch, "optim.batch_labeled 4 is now 2"),
    ],
)
def test_checkpoint_of_other_options_is_refused_by_name(
    tmp_path: Path, change: Callable[[Config], Config], names: str
) -> None:
    config = make_config(tmp_path)
    run_training(config)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(InputError, match=names) as error:
        run_training(change(config))
    assert "\n" not in str(error.value)
    assert (tmp_path / LAST).read_bytes() == before


def test_checkpoint_of_other_classes_or_method_is_refused_by_name(tmp_path: Path) -> None:
    state = make_state(make_config(tmp_path))
    checkpoint = state.checkpoint()
    state.class_names = ("fall", "jump")
    with pytest.raises(InputError, match=r"classes \[fall, jump, run\] are now \[fall, jump\]"):
        state.restore(checkpoint, Path("last.pt"))
    state = make_state(make_config(tmp_path))
    other = checkpoint["config"].replace('"method": "supervised"', '"method": "fixmatch"')
    with pytest.raises(InputError, match=r"run\.method fixmatch is now supervised"):
        state.restore({**checkpoint, "config": other}, Path("last.pt"))


def test_options_that_change_no_result_may_differ(tmp_path: Path) -> None:
    config = make_config(tmp_path, max_steps=3)
    run_training(config)
    moved = replace(config, data=replace(config.data, root=Path("elsewhere"), num_threads=7))
    assert run_training(with_run(moved, max_steps=5, resume=True)).step == 5


def _path_options(group: Any, prefix: str = "") -> list[str]:
    """Names of the options that hold a path, as "data.root"."""
    found = []
    for name, hint in get_type_hints(type(group)).items():
        value = getattr(group, name)
        if is_dataclass(value):
            found += _path_options(value, f"{prefix}{name}.")
        elif hint is Path or Path in get_args(hint):
            found.append(prefix + name)
    return found


def test_everything_on_disk_may_have_moved(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    checkpoint = make_state(config).checkpoint()
    paths = _path_options(config)
    assert {"run.dir", "data.root", "data.index", "data.labeled_list"} <= set(paths)
    for path in paths:
        group, name = path.split(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: Path("elsewhere")})})
    check_same_training(checkpoint, config, CLASS_NAMES, tmp_path / LAST)


def test_a_file_that_a_method_takes_may_have_moved_but_neither_come_nor_go(tmp_path: Path) -> None:
    def with_scores(scores: Path | None) -> Config:
        config = make_config(tmp_path)
        run = replace(config.run, method="videossl")
        return replace(config, run=run, method=VideoConfig(scores=scores, warmup_epochs=0))

    saved = make_state(with_scores(Path("here"))).checkpoint()
    check_same_training(saved, with_scores(Path("there")), CLASS_NAMES, tmp_path / LAST)
    with pytest.raises(InputError, match=r"method\.scores here is now None"):
        check_same_training(saved, with_scores(None), CLASS_NAMES, tmp_path / LAST)
    none = make_state(with_scores(None)).checkpoint()
    with pytest.raises(InputError, match=r"method\.scores None is now there"):
        check_same_training(none, with_scores(Path("there")), CLASS_NAMES, tmp_path / LAST)


def test_a_checkpoint_that_the_loader_refuses_changes_nothing(tmp_path: Path) -> None:
    class Refuses(TinyLoader):
        def load_state_dict(self, state: dict[str, int]) -> None:
            raise InputError("leaves out a video that is not in the index")

    checkpoint = run_training(make_config(tmp_path / "run")).checkpoint()
    ours, untouched = make_state(make_config(tmp_path / "run"), Refuses()), make_state(make_config(tmp_path / "run"))
    with pytest.raises(InputError, match="leaves out"):
        ours.restore(checkpoint, tmp_path / LAST)
    assert_same_bits(ours, untouched)
    assert ours.step == 0


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("mmap", [False, True])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, mmap: bool) -> None:
    checkpoint = run_training(make_config(tmp_path / "run")).checkpoint()
    save(tmp_path / LAST, {**checkpoint, "loader": Malicious(tmp_path / "was here")})
    with pytest.raises(InputError, match=r"last\.pt is not a checkpoint.*may be code; nothing of it was run"):
        load(tmp_path / LAST, mmap=mmap)
    assert not (tmp_path / "was here").exists()
    torch.load(tmp_path / LAST, weights_only=False)
    assert (tmp_path / "was here").exists()  # it would have been


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_damaged_checkpoint_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(InputError, match=r"last\.pt is not a checkpoint of this program, or damaged") as error:
        load(tmp_path / LAST)
    assert "\n" not in str(error.value)
