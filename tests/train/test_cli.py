"""The command line is a contract: what it accepts, what it means, and how it refuses."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from train.cli import parse
from train.methods import fixmatch, temporal_gradient
from train.recipes import RECIPES


def test_recipes_are_these() -> None:
    ucf101 = [f"ucf101-{percent}pct" for percent in (5, 10, 20, 50)]
    hmdb51 = [f"hmdb51-{percent}pct" for percent in (40, 50, 60)]
    assert list(RECIPES) == ["demo", "folder", *ucf101, *hmdb51, "k400-1pct", "k400-10pct"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_stable_options(recipe: str) -> None:
    words = (
        "--data.root DIR --data.labels-per-class 7 --run.dir RUN --run.max-steps 12 --run.resume --run.seed 3 "
        "--optim.lr 0.1 --method.threshold 0.5"
    )
    config = parse([recipe, *words.split()])
    assert config.data.root == Path("DIR")
    assert config.data.labels_per_class == 7
    assert (config.run.dir, config.run.max_steps, config.run.resume, config.run.seed) == (Path("RUN"), 12, True, 3)
    assert config.optim.lr == 0.1
    assert isinstance(config.method, temporal_gradient.Config)
    assert config.method.threshold == 0.5


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_options_a_recipe_is_what_its_function_returns(recipe: str) -> None:
    assert parse([recipe]) == RECIPES[recipe]()


@pytest.mark.parametrize("words", [["--run.method", "fixmatch"], ["--run.method=fixmatch"]])
def test_method_is_chosen_by_name_and_brings_its_own_options(words: list[str]) -> None:
    config = parse(["folder", "--method.threshold", "0.9", *words])
    assert config.run.method == "fixmatch"
    assert config.method == fixmatch.Config(threshold=0.9, warmup_epochs=10)  # the recipe's warm-up carries over


def test_optional_values_can_be_unset() -> None:
    config = parse(["demo", "--run.baseline", "None", "--data.labels-per-class", "None"])
    assert config.run.baseline is None
    assert config.data.labels_per_class is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fodler"], r"no recipe 'fodler', did you mean folder\?; recipes are demo, folder, ucf"),
        (["folder", "--data.rot", "x"], r"unknown option --data\.rot, did you mean --data\.root\?"),
        (["folder", "--data.labels_per_clas", "3"], r"did you mean --data\.labels-per-class\?"),
        (["folder", "my_videos"], r"unknown option my_videos"),
        (["folder", "--run.method", "supervised", "--method.threshold", "1"], r"unknown option --method\.threshold"),
        (["folder", "--run.method", "fixmach"], r"--run\.method fixmach is unknown: choose one of"),
        (["folder", "--run.max-steps", "0"], r"--run\.max-steps 0 trains nothing"),
        (["folder", "--method.threshold", "7"], r"threshold"),
        (["folder", "--optim.epochs", "3"], r"would outlast --optim\.epochs 3"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse(words)
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


def test_value_of_the_wrong_type_exits_with_an_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["folder", "--run.max-steps", "many"])
    assert exit_.value.code == 2
    assert "--run.max-steps" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "status"), [([], 2), (["--help"], 0)])
def test_usage_lists_the_recipes(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(words)
    assert exit_.value.code == status
    printed = capsys.readouterr().out
    assert all(f"  {recipe} " in printed for recipe in RECIPES)


def test_help_of_a_recipe_shows_the_method_s_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["folder", "--run.method", "fixmatch", "--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "--method.threshold" in printed
    assert "--method.temperature" not in printed
