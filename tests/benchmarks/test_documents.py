"""Documents show what the committed results say, and it is noticed where they do not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import report
from benchmarks.report import ROOT, Report, run, stale
from benchmarks.results import Record, Series, read, to_json
from pipeline.errors import InputError


def test_the_documents_are_as_the_committed_results_say() -> None:
    assert [one.what for one in stale(ROOT)] == [], "python -m benchmarks report"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's documents and results, for spoiling."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    return tmp_path


def change_record(copy: Path, name: str) -> None:
    path = copy / "benchmarks" / "results" / f"{name}.json"
    path.write_text(json.dumps(to_json(replace(read(path), commit="1234567890"))))


def test_a_number_changed_by_hand_is_noticed_and_mended(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = copy / "README.md"
    right = readme.read_text()
    start = right.index("<!-- benchmarks:peers -->")
    digit = next(place for place in range(start, len(right)) if right[place].isdigit())
    readme.write_text(f"{right[:digit]}{(int(right[digit]) + 1) % 10}{right[digit + 1 :]}")
    assert run(Report(check=True)) == 1
    assert capsys.readouterr().err == "README.md, peers: stale, draw anew by python -m benchmarks report\n"
    assert run(Report()) == 0
    assert readme.read_text() == right
    assert run(Report(check=True)) == 0


def test_a_record_measured_anew_makes_its_table_and_chart_stale(copy: Path) -> None:
    change_record(copy, "peers")
    assert [one.what for one in stale(copy)] == ["README.md, peers", "docs/charts/peers.png"]
    assert run(Report()) == 0
    assert "commit 1234567:" in (copy / "README.md").read_text()
    assert stale(copy) == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"no picture")])
def test_a_chart_that_is_lost_or_another_is_drawn_anew(copy: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(copy / "docs" / "charts" / "peers.png")
    (chart,) = stale(copy)
    assert chart.what == "docs/charts/peers.png"
    chart.mend()
    assert stale(copy) == []


def test_a_chart_is_stale_when_another_function_draws_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import peers_table

    def chart(record: Record, path: Path) -> None:
        """Clips/s of each loader, by kind of file; whiskers are quartiles."""

    monkeypatch.setattr(peers_table, "chart", chart)
    assert [one.what for one in stale(copy)] == ["docs/charts/peers.png"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- benchmarks:nothing -->\n<!-- /benchmarks:nothing -->", "section nothing is unknown"),
        ("<!-- benchmarks:soak -->\n", "section soak is not between one mark that opens and one that closes"),
        ("<!-- /benchmarks:soak -->\n", "section soak is not between"),
        (
            "<!-- benchmarks:soak -->\n<!-- benchmarks:step -->\n<!-- /benchmarks:soak -->",
            "section step is not between",
        ),
    ],
)
def test_marks_that_do_not_match_are_named(copy: Path, text: str, complaint: str) -> None:
    (copy / "docs" / "more.md").write_text(text)
    with pytest.raises(InputError, match=f"docs/more.md: {complaint}"):
        stale(copy)


def test_a_section_without_a_result_is_named(copy: Path) -> None:
    (copy / "benchmarks" / "results" / "soak.json").unlink()
    with pytest.raises(InputError, match=r"docs/benchmarks.md: section soak has no result: .*soak.json"):
        stale(copy)


def test_a_result_that_no_document_shows_is_named(copy: Path) -> None:
    results = copy / "benchmarks" / "results"
    shutil.copy(results / "step.json", results / "mine.json")
    with pytest.raises(InputError, match=r"benchmarks/results/mine.json is shown by no document"):
        stale(copy)


def test_a_module_without_a_chart_has_none(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("benchmarks.plain")
    module.__dict__["markdown"] = lambda record: f"{record.series['ours'].median:.0f} clips/s"
    monkeypatch.setitem(report.SECTIONS, "plain", "plain")
    monkeypatch.setattr(report, "import_module", {"benchmarks.plain": module}.__getitem__)
    root = copy / "other"
    (root / "benchmarks" / "results").mkdir(parents=True)
    record = replace(
        read(copy / "benchmarks" / "results" / "step.json"), series={"ours": Series("clips/s", "higher", (7.0,))}
    )
    (root / "benchmarks" / "results" / "plain.json").write_text(json.dumps(to_json(record)))
    (root / "README.md").write_text("Before.\n<!-- benchmarks:plain -->\n<!-- /benchmarks:plain -->\nBehind.\n")
    (readme,) = stale(root)
    readme.mend()
    assert (root / "README.md").read_text().startswith("Before.\n<!-- benchmarks:plain -->\n\n7 clips/s\n\n<sub>")
    assert (root / "README.md").read_text().endswith("</sub>\n\n<!-- /benchmarks:plain -->\nBehind.\n")
    assert not (root / "docs").exists()
