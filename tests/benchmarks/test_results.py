"""Every result is one whole record, which says what it was measured on and nothing of where that stands."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.results import RESULTS, Series, finish, from_json, read, to_json
from pipeline.errors import InputError


@dataclass(frozen=True)
class Options:
    source: Path
    label: str
    rounds: int = 2
    results: Path = RESULTS


SPEED = Series("clips/s", "higher", (1.0, 2.0, 4.0))


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> results.Record:
    monkeypatch.setattr("sys.argv", ["python -m benchmarks speed", "/home/me/videos", "--out=../x/y", "--rounds", "2"])
    options = Options(Path("/home/me/videos"), "a/b", results=tmp_path)
    return finish("speed", options, tmp_path, series={"ours": SPEED}, findings={"best": ["ours"]})


def test_a_record_is_read_as_it_was_written(record: results.Record, tmp_path: Path) -> None:
    assert read(tmp_path / "speed.json") == record
    assert record.series["ours"] == SPEED
    assert record.hardware["cores"] >= 1
    assert record.versions["torch"]


def test_the_last_line_printed_is_the_record(capsys: pytest.CaptureFixture[str], record: results.Record) -> None:
    assert from_json(json.loads(capsys.readouterr().out.splitlines()[-1])) == record


def test_a_record_does_not_tell_where_folders_lie(record: results.Record) -> None:
    assert record.command == "python -m benchmarks speed videos --out=y --rounds 2"
    assert record.settings == {"source": "videos", "label": "a/b", "rounds": 2}


def test_quartiles_are_of_the_repeats() -> None:
    assert (SPEED.median, SPEED.quartiles) == (2.0, (1.5, 3.0))
    assert Series("ms", "lower", (5.0,)).quartiles == (5.0, 5.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 0}, "schema is 0"),
        ({"command": None}, "command is missing or of another type"),
        ({"notes": ""}, "notes is not part of a record"),
        ({"series": {"ours": [1.0]}}, "series ours is no object of unit, better and values"),
        ({"series": {"ours": {"unit": "ms", "better": "more", "values": [1.0]}}}, "better 'more'"),
        ({"series": {"ours": {"unit": "ms", "better": "lower", "values": []}}}, "series ours has no values"),
        ({"utilization": {"cpu": {"unit": "%", "better": "lower", "values": [True]}}}, "no numbers"),
    ],
)
def test_what_is_no_whole_record_is_refused_by_the_name_of_the_key(
    change: dict[str, Any], complaint: str, record: results.Record, tmp_path: Path
) -> None:
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**to_json(record), **change}))
    with pytest.raises(InputError, match=complaint) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_is_a_whole_record(path: Path) -> None:
    assert read(path).benchmark == path.stem
