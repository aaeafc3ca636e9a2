"""Ratios are taken within turns, and said to be met or not."""

import pytest
from rich.console import Console

from benchmarks.verdicts import judge, print_verdicts


def test_a_machine_that_slows_down_for_both_changes_no_verdict() -> None:
    verdict = judge("a over b", [30, 15, 33], [20, 10, 20], 1.5)
    assert verdict["ratio"] == 1.5
    assert verdict["quartiles"] == [1.5, pytest.approx(1.575)]
    assert verdict["met"]
    assert verdict["text"] == "a over b: 1.50 times (1.50-1.57), at least the 1.5 asked for"


def test_one_that_is_missed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = {"far": judge("far", [3], [1], 2), "near": judge("near", [1], [1], 2)}
    assert not print_verdicts(Console(width=100), verdicts)
    assert "near: 1.00 times (1.00-1.00), below the 2 asked for" in capsys.readouterr().out
