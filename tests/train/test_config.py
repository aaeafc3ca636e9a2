"""Configurations: through JSON and back, and every mistake named with its remedy."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model import R3D18
from model.r3d import num_last_positions
from pipeline.errors import InputError
from train.cli import parse
from train.config import (
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    from_json,
    options,
    resolve,
    to_json,
    with_method,
)
from train.methods import (
    METHODS,
    actor_cutmix,
    fixmatch,
    mean_teacher,
    pseudo_label,
    tcl,
    temporal_gradient,
    uda,
)
from train.recipes import RECIPES, demo, folder
from train.validation import clip_spec


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_survive_json(recipe: str) -> None:
    config = RECIPES[recipe]()
    assert from_json(to_json(config)) == config
    assert from_json(to_json(resolve(config))) == resolve(config)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_survives_json(method: str) -> None:
    config = with_method(folder(), method)
    assert from_json(to_json(config)) == config


def test_tuples_come_back_as_tuples() -> None:
    config = replace(folder(), method=temporal_gradient.Config(alignment_blocks=(1, 3)))
    assert from_json(to_json(config)) == config


def test_files_and_formats_survive_json() -> None:
    data = DataConfig(format="kinetics", annotations=Path("csv"), train_list=Path("t.txt"), labeled_list=Path("l.txt"))
    config = replace(folder(), data=data)
    assert from_json(to_json(config)) == config


def test_unknown_saved_option_is_named() -> None:
    values = json.loads(to_json(folder()))
    values["optim"]["warp"] = 9
    with pytest.raises(InputError, match="unknown options: warp"):
        from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (RunConfig, {"max_steps": 0}, r"--run\.max-steps 0 trains nothing: take 1 or more"),
        (RunConfig, {"seed": -1}, r"--run\.seed -1"),
        (RunConfig, {"log_every": 0}, r"--run\.log-every 0: take 1"),
        (RunConfig, {"eval_every_epochs": 0}, r"--run\.eval-every-epochs 0: take 1"),
        (RunConfig, {"checkpoint_every": 0}, r"--run\.checkpoint-every 0: take 1"),
        (RunConfig, {"cuda_graphs": True, "compile": "off"}, r"--run\.cuda-graphs and --run\.compile off contradict"),
        (RunConfig, {"method": "magic"}, r"--run\.method magic is unknown: choose one of supervised, "),
        (RunConfig, {"baseline": "magic"}, r"--run\.baseline magic is unknown: choose one of supervised"),
        (RunConfig, {"method": "fixmatch", "baseline": "fixmatch"}, r"--run\.baseline fixmatch is the method itself"),
        (DataConfig, {"labels_per_class": 0}, r"--data\.labels-per-class 0: take 1"),
        (DataConfig, {"labels_per_class": 2, "labeled_fraction": 0.5}, r"give one of them"),
        (DataConfig, {"labeled_fraction": 1.5}, r"--data\.labeled-fraction 1\.5: take a fraction"),
        (DataConfig, {"labeled_uniform": 0.0}, r"--data\.labeled-uniform 0\.0: take a fraction"),
        (
            DataConfig,
            {"labeled_uniform": 0.1, "labeled_list": Path("l.txt")},
            r"-uniform 0\.1 and --data\.labeled-list l",
        ),
        (DataConfig, {"split": 4}, r"--data\.split 4: UCF-101 and HMDB-51 have splits 1, 2 and 3"),
        (DataConfig, {"format": "list"}, r"--data\.format list needs --data\.train-list FILE"),
        (DataConfig, {"val_list": Path("v.txt")}, r"--data\.val-list v\.txt needs --data\.train-list"),
        (DataConfig, {"format": "folder", "train_list": Path("t.txt")}, r"--data\.format folder takes no"),
        (OptimConfig, {"lr_batch": 0}, r"--optim\.lr-batch 0: take 1"),
        (DataConfig, {"val_fraction": 0.0}, r"--data\.val-fraction 0\.0"),
        (DataConfig, {"clip_len": 1}, r"--data\.clip-len 1"),
        (DataConfig, {"frame_stride": 0}, r"--data\.frame-stride 0"),
        (DataConfig, {"tg_stride": 0}, r"--data\.tg-stride 0"),
        (DataConfig, {"tg_stride": 7, "tg_form": "reference_slow"}, r"--data\.tg-stride 7 and --data\.tg-form"),
        (DataConfig, {"size": 16}, r"--data\.size 16: .* take 32 or more"),
        (DataConfig, {"size": 112, "eval_size": 100}, r"--data\.eval-size 100 is smaller than --data\.size 112"),
        (DataConfig, {"num_threads": 0}, r"--data\.num-threads 0"),
        (ModelConfig, {"width": 0}, r"--model\.width 0"),
        (ModelConfig, {"dropout": 1.0}, r"--model\.dropout 1\.0"),
        (ModelConfig, {"num_classes": 0}, r"--model\.num-classes 0: take 1 or more, or None"),
        (EvalConfig, {"precise_bn_batches": -1}, r"--eval\.precise-bn-batches -1: take 0 or more"),
        (EvalConfig, {"precise_bn_batch_size": 0}, r"--eval\.precise-bn-batch-size 0: take 1"),
        (OptimConfig, {"lr": 0.0}, r"--optim\.lr 0\.0"),
        (OptimConfig, {"momentum": 1.0}, r"--optim\.momentum 1\.0"),
        (OptimConfig, {"weight_decay": -1.0}, r"--optim\.weight-decay -1\.0"),
        (OptimConfig, {"clip_norm": 0.0}, r"--optim\.clip-norm 0\.0"),
        (OptimConfig, {"epochs": 0}, r"--optim\.epochs 0"),
        (OptimConfig, {"warmup_epochs": -1}, r"--optim\.warmup-epochs -1"),
        (OptimConfig, {"batch_labeled": 0}, r"--optim\.batch-labeled 0"),
        (OptimConfig, {"batch_unlabeled": 0}, r"--optim\.batch-unlabeled 0"),
    ],
)
def test_mistakes_are_named_in_one_line(group: Callable[..., Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        group(**values)
    assert "\n" not in str(error.value)


def test_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(InputError, match=r"--optim\.warmup-epochs 30 and --method\.warmup-epochs 10 would outlast"):
        replace(folder(), optim=OptimConfig(epochs=5))


def test_more_rounds_than_epochs_are_refused() -> None:
    words = ["demo", "--run.method", "ups", "--optim.epochs", "4", "--optim.warmup-epochs", "0"]
    with pytest.raises(InputError, match=r"--method\.num-rounds 5 of --run\.method ups cannot share --optim\.epochs 4"):
        parse(words)
    parse([*words, "--method.num-rounds", "4"])


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("--run.method supervised --optim.batch-labeled 1", True),
        ("--run.method supervised --optim.batch-labeled 1 --data.size 64", False),
        ("--run.method supervised --optim.batch-labeled 1 --data.clip-len 18", False),
        ("--run.method supervised --optim.batch-labeled 2 --optim.batch-unlabeled 1", False),
        ("--run.method fixmatch --optim.batch-labeled 1 --optim.batch-unlabeled 1", False),
        ("--run.method fixmatch --optim.batch-unlabeled 1 --method.split-batches", True),
        ("--optim.batch-unlabeled 1 --method.split-batches", True),
        ("--eval.precise-bn-batches 2 --eval.precise-bn-batch-size 1", True),
        ("--eval.precise-bn-batches 0 --eval.precise-bn-batch-size 1", False),
    ],
)
def test_batches_that_leave_batch_norm_one_value_are_refused_and_no_others(words: str, refused: bool) -> None:
    argv = ["folder", "--data.size=32", "--data.eval-size=64", "--optim.batch-labeled=2", *words.split()]
    if refused:
        with pytest.raises(InputError, match=r"nothing to compare: take --.* of 2 or more, or a larger --data\.size"):
            parse(argv)
    else:
        parse(argv)


@pytest.mark.parametrize(("clip_len", "size"), [(8, 32), (8, 33), (17, 32), (18, 32), (2, 224)])
def test_positions_of_the_last_stage_are_counted_as_the_network_makes_them(clip_len: int, size: int) -> None:
    with torch.inference_mode():
        _, features = R3D18(2, width=1).eval()(torch.zeros(1, 3, clip_len, size, size))
    assert features[-1][0, 0].numel() == num_last_positions(clip_len, size)


def test_classifier_may_have_more_outputs_than_classes_but_not_fewer() -> None:
    names = ("a", "b", "c")
    assert ModelConfig().num_outputs(names) == 3
    assert ModelConfig(num_classes=101).num_outputs(names) == 101
    with pytest.raises(InputError, match=r"--model\.num-classes 2: the videos are of 3 classes, take as many or None"):
        ModelConfig(num_classes=2).num_outputs(names)


def test_another_method_keeps_what_the_recipe_changed_and_its_own_defaults() -> None:
    changed = replace(demo(), method=temporal_gradient.Config(threshold=0.7, warmup_epochs=1, temperature=0.1))
    assert with_method(changed, "fixmatch").method == fixmatch.Config(threshold=0.7, warmup_epochs=1)
    assert fixmatch.Config().supervised_weight != temporal_gradient.Config().supervised_weight


def test_method_that_was_the_baseline_has_no_baseline() -> None:
    assert demo().run.baseline == "supervised"
    assert with_method(demo(), "supervised").run.baseline is None


def test_another_method_s_ramps_and_warm_ups_come_in_proportion_to_the_epochs() -> None:
    """Defaults are meant for 180 epochs; what a recipe has chosen for its own method stays."""
    short = replace(folder(), optim=replace(folder().optim, epochs=60))
    assert with_method(short, "mean_teacher").method == mean_teacher.Config(rampup_epochs=16)
    assert with_method(folder(), "tcl").method == tcl.Config(warmup_epochs=10, threshold=0.8)
    paper = RECIPES["ucf101-20pct"]()
    assert with_method(paper, "mean_teacher").method == mean_teacher.Config()
    assert with_method(paper, "uda").method == uda.Config()
    assert with_method(short, "temporal_gradient") == short
    # The paper's warm-up of 60 epochs in 360 is its 30 in 180: no reason for another method to wait.
    long = RECIPES["hmdb51-50pct"]()
    assert with_method(long, "fixmatch").method == fixmatch.Config(warmup_epochs=60)
    assert with_method(long, "actor_cutmix").method == actor_cutmix.Config()
    assert with_method(long, "pseudo_label").method == pseudo_label.Config(rampup_epochs=144)
    assert with_method(long, "tcl").method == tcl.Config(warmup_epochs=44)


def test_learning_rate_follows_the_batch_unless_given() -> None:
    batch_10 = replace(folder(), optim=OptimConfig(batch_labeled=10))
    assert resolve(batch_10).optim.lr == pytest.approx(0.05)
    assert resolve(replace(folder(), optim=OptimConfig(lr=0.3, batch_labeled=10))).optim.lr == 0.3
    assert resolve(replace(folder(), optim=OptimConfig(lr_batch=64, batch_labeled=8))).optim.lr == pytest.approx(0.025)


def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve(folder()).run.device == "cpu"
    with pytest.raises(InputError, match=r"--run\.device cuda: torch finds no usable GPU"):
        resolve(replace(folder(), run=RunConfig(device="cuda")))


def test_how_a_step_is_computed_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(**values: Any) -> tuple[str, str, bool]:
        run = resolve(Config(run=RunConfig(**values))).run
        return run.compile, run.precision, run.cuda_graphs

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolved() == ("off", "fp32", False)
    assert resolved(compile="on", precision="fp16") == ("on", "fp16", False)
    with pytest.raises(InputError, match=r"--run\.cuda-graphs needs a GPU"):
        resolve(Config(run=RunConfig(cuda_graphs=True)))

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for has_bf16, precision in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        assert resolved(cuda_graphs=True) == ("on", precision, True)
    assert resolved(compile="off", precision="fp32") == ("off", "fp32", False)
    assert resolved(device="cpu") == ("off", "fp32", False)


def test_options_are_listed_with_their_groups() -> None:
    names = dict(options(Config()))
    assert names["run.seed"] == 0
    assert names["method.threshold"] == temporal_gradient.Config().threshold


def test_every_option_of_a_clip_reaches_the_pipeline() -> None:
    changed: dict[str, Any] = {
        "clip_len": 6,
        "frame_stride": 3,
        "size": 64,
        "eval_size": 80,
        "min_crop_area": 0.3,
        "flip": False,
        "tg_stride": 5,
        "strong_fixed_sign": True,
        "strong_shared_ops": True,
    }
    assert asdict(clip_spec(Config(data=DataConfig(**changed)))) == {**changed, "tg_form": "aligned"}
    assert clip_spec(Config(data=DataConfig(tg_form="reference_slow"))).tg_form == "reference_slow"
