"""The report: what it draws from the records, and its table."""

import io
from pathlib import Path

import pytest
from matplotlib.image import imread
from rich.console import Console

from train.metrics import Record
from train.report import draw_curves, result_table
from train.scoring import Accuracy


def _train(step: int, **numbers: float | None) -> Record:
    return {"kind": "train", "step": step, "epoch": 0, "lr": 0.1, "loss": 2.0 / step, "clips_per_s": 9.0, **numbers}


RECORDS: list[Record] = [
    _train(1, info_nce=1.0, mask_rate=0.0, pseudo_label_accuracy=None),
    _train(2, info_nce=0.5, mask_rate=0.5, pseudo_label_accuracy=0.7),
    {"kind": "val", "step": 2, "top1": 0.4},
    {"kind": "test", "step": 2, "top1": 0.5},
]


def test_curves_show_the_baseline_too(tmp_path: Path) -> None:
    baseline: list[Record] = [_train(2), {"kind": "val", "step": 2, "top1": 0.9}]
    draw_curves({"fixmatch": RECORDS}, tmp_path / "alone.png")
    draw_curves({"fixmatch": RECORDS, "supervised": baseline}, tmp_path / "both.png")
    alone, both = (imread(tmp_path / f"{name}.png") for name in ("alone", "both"))
    third = alone.shape[1] * 2 // 3
    assert alone.shape == both.shape
    assert (alone[:, :third] == both[:, :third]).mean() > 0.99  # losses and pseudo-labels are the method's alone
    assert (alone[:, third:] != both[:, third:]).any()


@pytest.mark.parametrize("records", [[], RECORDS[2:]])
def test_curves_of_a_run_without_steps_are_empty_not_an_error(tmp_path: Path, records: list[Record]) -> None:
    draw_curves({"fixmatch": records}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_table_has_a_row_for_each_method() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table({"fixmatch": Accuracy(0.5, 1.0, 0.45, 20), "supervised": Accuracy(0.25, 0.75, 0.2, 20)}))
    lines = console.export_text().splitlines()
    assert any("fixmatch" in line and "50.0%" in line and "100.0%" in line and "45.0%" in line for line in lines)
    assert any("supervised" in line and "25.0%" in line for line in lines)
