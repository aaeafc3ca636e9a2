"""A change is told from noise as often as promised, and what else differs is said first."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import Compare, change, cut_pairs, load, run
from benchmarks.results import Better, Record, Series, to_json
from pipeline.errors import InputError

RECORD = Record(
    benchmark="speed",
    command="python -m benchmarks speed",
    commit="abc",
    hardware={"cpu": "one", "cores": 2, "memory_gib": 8.0, "gpus": []},
    versions={"torch": "1"},
    settings={"size": 112},
    series={"ours": Series("clips/s", "higher", (10.0, 10.1, 10.2, 9.9, 10.0))},
    findings={},
)


def series(values: np.ndarray, better: Better = "higher") -> Series:
    return Series("clips/s", better, tuple(values.tolist()))


def write(folder: Path, record: Record) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{record.benchmark}.json"
    path.write_text(json.dumps(to_json(record)))
    return path


@pytest.mark.parametrize(
    ("sizes", "critical"), [((3, 3), None), ((4, 4), 0), ((5, 5), 2), ((8, 8), 13), ((4, 10), 5), ((20, 20), 127)]
)
def test_the_interval_is_that_of_the_tables_of_mann_and_whitney(sizes: tuple[int, int], critical: int | None) -> None:
    assert cut_pairs(*sizes) == cut_pairs(*reversed(sizes)) == (None if critical is None else critical + 1)


def test_of_very_many_repeats_the_interval_goes_on_where_the_exact_one_ends() -> None:
    exact, normal = cut_pairs(50, 50), cut_pairs(50, 51)
    assert exact and normal and 0 < normal - exact < 50


def test_of_all_orders_that_chance_can_give_one_in_twenty_at_most_is_no_noise() -> None:
    values = 2.0 ** np.arange(9)  # far enough apart that no change is too small
    verdicts = [
        change(series(np.delete(values, chosen)), series(values[list(chosen)])).verdict
        for chosen in combinations(range(9), 4)
    ]
    assert verdicts.count("better") == verdicts.count("worse") == 2  # of 126; 4 would be more than 2.5 % at either end


def test_series_of_one_distribution_are_noise_as_often_as_promised() -> None:
    generator = np.random.default_rng(0)
    samples = np.exp(generator.normal(0, 0.1, (1000, 2, 5)))
    verdicts = [change(series(before), series(after)).verdict for before, after in samples]
    assert 0.95 <= verdicts.count("noise") / len(verdicts) < 0.99


@pytest.mark.parametrize(("better", "verdict"), [("higher", "better"), ("lower", "worse")])
def test_a_fifth_more_is_found_among_repeats_that_spread_by_a_fiftieth(better: Better, verdict: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        before, after = generator.normal(1, 0.02, (2, 5))
        found = change(series(before, better), series(1.2 * after, better))
        assert found.verdict == verdict
        assert found.interval and found.interval[0] <= found.median <= found.interval[1]


def test_the_interval_holds_the_true_factor_as_often_as_promised() -> None:
    generator = np.random.default_rng(0)
    samples = np.exp(generator.normal(0, 0.1, (1000, 2, 7)))
    intervals = [change(series(before), series(1.3 * after)).interval for before, after in samples]
    assert (
        0.95 <= np.mean([interval is not None and interval[0] <= 1.3 <= interval[1] for interval in intervals]) < 0.99
    )


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((1.0,), (2.0,), "too few repeats to tell"),
        ((1.0, 1.1), (2.0, 2.1), "too few repeats to tell"),
        ((1.0, 1.001, 1.002, 1.003), (1.01, 1.011, 1.012, 1.013), "noise"),  # certain, and not worth a word
        ((0.0, 0.0, 0.0, 0.0), (3.0, 3.1, 3.2, 3.3), "worse"),  # no factor leads from nothing to something
        ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), "noise"),
    ],
)
def test_what_cannot_be_told_is_not(before: tuple[float, ...], after: tuple[float, ...], verdict: str) -> None:
    assert change(Series("ms", "lower", before), Series("ms", "lower", after)).verdict == verdict


def test_what_was_not_the_same_is_said_before_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = Series("clips/s", "higher", (5.0, 5.1, 5.2, 5.1, 5.0))
    new = replace(
        RECORD,
        commit="def-dirty",
        hardware={**RECORD.hardware, "cores": 4},
        settings={"size": 224},
        series={"ours": slower, "theirs": slower},
    )
    assert run(Compare(before=write(tmp_path / "a", RECORD), after=write(tmp_path / "b", new))) == 0
    lines = capsys.readouterr().out.splitlines()
    (table,) = (number for number, line in enumerate(lines) if "verdict" in line)
    said = "\n".join(lines[:table])
    assert "commit: abc -> def-dirty" in said
    assert "hardware cores: 2 -> 4" in said and "WARNING other hardware" in said
    assert "settings size: 112 -> 224" in said and "WARNING other settings" in said
    assert "versions" not in said
    assert "in one alone or in other units: theirs" in said
    (row,) = (line for line in lines[table:] if "ours" in line)
    assert "0.510x" in row and "worse" in row


def test_folders_are_compared_by_the_names_of_their_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, names in ((old, ("speed", "gone")), (new, ("speed", "step"))):
        for name in names:
            write(folder, replace(RECORD, benchmark=name))
    assert load(old).keys() == {"speed", "gone"}
    assert run(Compare(before=old, after=new)) == 0
    output = capsys.readouterr().out
    assert "old alone: gone" in output and "new alone: step" in output
    assert "1 noise" in output


def test_results_without_a_common_name_are_refused(tmp_path: Path) -> None:
    other = write(tmp_path, replace(RECORD, benchmark="step"))
    with pytest.raises(InputError, match=r"no result is in both: .* has speed, .* has step"):
        run(Compare(before=write(tmp_path, RECORD), after=other))
