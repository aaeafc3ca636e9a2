"""docs/paper.md: every command in it is understood, and means what its row says."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from train.cli import parse
from train.config import options, with_method
from train.methods import METHODS
from train.paper_results import SETTINGS, TOP1
from train.recipes import RECIPES

TEXT = (Path(__file__).parents[1] / "docs" / "paper.md").read_text()
COMMAND = re.compile(r"(?:python -m train|torchrun --nproc-per-node=8 -m train) (.+)")

FIXMATCH = {"run.method": "fixmatch"}
TG_ALONE = {**FIXMATCH, "method.modality": "tg"}
NO_CONTRAST = {"method.info_nce_weight": 0.0}
NO_PRECISE_BN = {"eval.precise_bn_batches": 0}
SLOW = {"data.tg_stride": 7}
NO_SUPERVISED_WARMUP = {"method.warmup_epochs": 0}
NO_LR_WARMUP = {"optim.warmup_epochs": 0}

TABLE_1 = {
    ("no", "no"): FIXMATCH,
    ("yes", "no"): NO_CONTRAST,
    ("no", "yes"): {"method.alignment_weight": 0.0},
    ("yes", "yes"): {},
}

# By table and what a row's first cells say: the options that differ from the recipe, and from the method's defaults.
TABLE_3: dict[tuple[str, ...], dict[str, Any]] = {
    ("3a", "RGB", "–"): {**FIXMATCH, **NO_PRECISE_BN},
    ("3a", "slow TG", "–"): {**TG_ALONE, **SLOW, **NO_PRECISE_BN},
    ("3a", "fast TG", "–"): {**TG_ALONE, **NO_PRECISE_BN},
    ("3a", "RGB", "slow TG"): {**NO_CONTRAST, **SLOW, **NO_PRECISE_BN},
    ("3a", "RGB", "fast TG"): {**NO_CONTRAST, **NO_PRECISE_BN},
    ("3b", "none"): FIXMATCH,
    ("3b", "L1"): {**NO_CONTRAST, "method.alignment_kind": "l1"},
    ("3b", "L2"): {**NO_CONTRAST, "method.alignment_kind": "l2"},
    ("3b", "cosine"): NO_CONTRAST,
    ("3c", "yes, on TG"): NO_CONTRAST,
    ("3c", "no"): {**NO_CONTRAST, "method.stop_gradient": None},
    ("3c", "on RGB, in the code only"): {**NO_CONTRAST, "method.stop_gradient": "rgb"},
    ("3d", "RGB"): {**NO_CONTRAST, "method.pseudo_label_source": "rgb"},
    ("3d", "TG"): {**NO_CONTRAST, "method.pseudo_label_source": "tg"},
    ("3d", "self"): {**NO_CONTRAST, "method.pseudo_label_source": "individual"},
    ("3d", "average"): NO_CONTRAST,
    ("3e", "4"): {**NO_CONTRAST, "method.alignment_blocks": (3,)},
    ("3e", "3, 4"): {**NO_CONTRAST, "method.alignment_blocks": (2, 3)},
    ("3e", "2, 3, 4"): {**NO_CONTRAST, "method.alignment_blocks": (1, 2, 3)},
    ("3e", "1, 2, 3, 4"): NO_CONTRAST,
    ("3f", "plain"): {**NO_CONTRAST, **NO_LR_WARMUP, **NO_SUPERVISED_WARMUP, **NO_PRECISE_BN},
    ("3f", "+ LR warm-up"): {**NO_CONTRAST, **NO_SUPERVISED_WARMUP, **NO_PRECISE_BN},
    ("3f", "+ supervised warm-up"): {**NO_CONTRAST, **NO_PRECISE_BN},
    ("3f", "+ PreciseBN"): NO_CONTRAST,
    ("3g", "0.1"): {"method.temperature": 0.1},
    ("3g", "0.2"): {"method.temperature": 0.2},
    ("3g", "0.5"): {},
    ("3g", "1.0"): {"method.temperature": 1.0},
}

DIFFERENCES: dict[str, dict[str, Any]] = {
    "D1": {"method.pseudo_label_fuse": "probabilities"},
    "D2": {"optim.batch_labeled": 5, "optim.batch_unlabeled": 5, "optim.lr_batch": 40},
    "D3": {"data.tg_form": "reference_slow"},
    "D6": {"method.alignment_reduce": "mean"},
    "D9": {**NO_LR_WARMUP, **NO_SUPERVISED_WARMUP, **NO_PRECISE_BN},
    "D10": {"eval.average": "probabilities"},
    "D12": {"model.num_classes": 101},
    "D13": {"data.hmdb_unused": False},
    "D14": {"data.strong_fixed_sign": True},
    "D15": {"data.strong_shared_ops": True},
    "D18": {"method.pseudo_label_dropout": False},
    "D19": {"method.split_batches": True},
    "D21": {"data.exclude_labeled": True},
    "D22": {"run.method": "mvpl"},
    "D26": {"optim.epochs": 180},
    "D27": {"data.labeled_uniform": None, "data.labeled_fraction": 0.05},
}


def rows(heading: str) -> Iterator[list[str]]:
    """Cells of the tables below a heading, down to the next one, without their heads."""
    _, _, section = TEXT.partition(f"# {heading}:")
    lines = section.partition("\n#")[0].splitlines()
    for line, following in pairwise([*lines, ""]):
        if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@cache
def changes(command: str) -> tuple[str, dict[str, Any]]:
    """Recipe and options of a command, as far as they are not those of the recipe with that method."""
    match = COMMAND.fullmatch(command.strip("`"))
    assert match, command
    recipe, *words = shlex.split(match[1])
    config = parse([recipe, *words])
    default = dict(options(with_method(RECIPES[recipe](), config.run.method)))
    changed = {name: value for name, value in options(config) if value != default[name]}
    if config.run.method != RECIPES[recipe]().run.method:
        changed["run.method"] = config.run.method
    return recipe, changed


def recipe_of(setting: str) -> str:
    """Name of the recipe for "UCF-101 5 %"."""
    data_set, percent, _ = setting.split()
    short = {"Kinetics-400": "k400", "UCF-101": "ucf101", "HMDB-51": "hmdb51"}[data_set]
    return f"{short}-{percent}pct"


def test_every_command_is_understood() -> None:
    commands = [match[0] for match in COMMAND.finditer(TEXT.replace("`", "\n"))]
    assert len(commands) > 70
    for command in commands:
        changes(command)


def test_table_1() -> None:
    found, setting = [], ""
    for named, alignment, contrast, paper, command in (cells for cells in rows("Table 1") if len(cells) == 5):
        setting = named or setting
        assert changes(command) == (recipe_of(setting), TABLE_1[alignment, contrast])
        assert re.fullmatch(r"\d+\.\d / \d+\.\d", paper)
        found.append((setting, alignment, contrast))
    assert len(set(found)) == 5 * 4
    for alignment, contrast, words in (cells for cells in rows("Table 1") if len(cells) == 3):
        assert changes(f"python -m train ucf101-20pct {words.strip('`')}")[1] == TABLE_1[alignment, contrast]


def test_table_2() -> None:
    *settings, (last, _, labels_alone) = rows("Table 2")
    assert [changes(command) for _, _, command in settings] == [(recipe_of(setting), {}) for setting, *_ in settings]
    assert {recipe_of(setting) for setting, *_ in settings} == set(RECIPES) - {"demo", "folder"}
    assert (last, changes(labels_alone)[1]) == ("any, labels alone", {"run.method": "supervised"})


def test_the_others_of_table_2() -> None:
    *others, uda = rows("Table 2, the others")
    assert changes(uda[-1]) == ("ucf101-20pct", {"run.method": "uda"})
    methods = []
    for _, *papers, command in others:
        recipe, changed = changes(command)
        (method,) = changed.values()
        methods.append(method)
        assert (recipe, changed) == ("ucf101-20pct", {"run.method": method})
        numbers = [None if number == "–" else float(number) for cell in papers for number in cell.split(", ")]
        assert numbers == list(TOP1[method].values())
    assert {*methods, "uda", "fixmatch", "supervised", "temporal_gradient"} == set(METHODS)


def test_comparisons_show_these_numbers_beside_ours() -> None:
    assert {recipe_of(title): title for title in SETTINGS.values()} == {recipe: SETTINGS[recipe] for recipe in SETTINGS}
    in_table_2 = {recipe_of(setting): float(paper) for setting, paper, _ in rows("Table 2") if paper != "–"}
    assert TOP1["temporal_gradient"] == in_table_2
    in_table_1, setting = {}, ""
    for named, alignment, contrast, paper, _ in (cells for cells in rows("Table 1") if len(cells) == 5):
        setting = named or setting
        if (alignment, contrast) == ("no", "no"):
            in_table_1[recipe_of(setting)] = float(paper.partition(" / ")[0])
    assert TOP1["fixmatch"] == {recipe: in_table_1.get(recipe) for recipe in SETTINGS}


@pytest.mark.parametrize("table", sorted({table for table, *_ in TABLE_3}))
def test_table_3(table: str) -> None:
    expected = {row: changed for (name, *row_), changed in TABLE_3.items() if name == table and (row := tuple(row_))}
    found = set()
    for *cells, command in rows(table):
        row = tuple(cells[: len(next(iter(expected)))])
        recipe, changed = changes(command)
        if "data.tg_form" in changed:  # the other slow TG
            changed = {**changed, "data.tg_stride": 7}
            assert changed.pop("data.tg_form") == "reference_slow"
        assert (recipe, changed) == ("ucf101-20pct", expected[row])
        found.add(row)
    assert found == expected.keys()


def test_every_switch_of_a_difference_is_what_it_says() -> None:
    _, _, section = TEXT.partition("## Where the paper and its code differ")
    lines = [line for line in section.splitlines() if re.match(r"\| D\d", line)]
    switches = {}
    for line in lines:
        number, *_, command = (cell.strip() for cell in line.strip("|").split("|"))
        if command:
            switches[number] = changes(command)[1]
    assert switches == DIFFERENCES
    assert [line.split("|")[1].strip() for line in lines] == [f"D{number}" for number in range(1, 30)]
