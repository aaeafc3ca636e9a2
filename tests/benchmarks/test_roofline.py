"""The roofline puts counts and measurements together, says what is computed, and its pages show that."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import roofline_measure
from benchmarks.results import Record, read
from benchmarks.roofline import RooflineBenchmark, run
from benchmarks.roofline_measure import INTRA, KINDS, ORIGINAL, PREPARED
from benchmarks.roofline_page import chart, markdown
from pipeline.errors import InputError


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, video: Callable[..., Path]) -> Record:
    root = tmp_path_factory.mktemp("roofline")
    (root / "videos").mkdir()
    path = video("h264", gop=60, num_frames=90)
    (root / "videos" / path.name).write_bytes(path.read_bytes())
    benchmark = RooflineBenchmark(
        source=root / "videos", clips=root / "clips", size=32, width=4, batch=2, repeats=2, results=root / "results"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline_measure, "NUM_PLANNED", 20)
        patch.setattr(roofline_measure, "_MIB", 2**10)
        assert run(benchmark) == 0
    return read(root / "results" / "roofline.json")


def test_prepared_files_have_fewer_frames_decoded(record: Record) -> None:
    frames = {files: found["frames"] for files, found in record.findings["files"].items()}
    assert set(frames) == set(KINDS)
    assert 8 < frames[INTRA] < frames[PREPARED] < frames[ORIGINAL] <= 90
    assert all(len(series.values) == 2 for series in record.series.values())


def test_caution_never_promises_more_than_the_ceiling(record: Record) -> None:
    rows = record.findings["k400"]
    assert len(rows) == 3 * 2 * 3 * 2
    for cautious, ceiling in zip(rows[::2], rows[1::2], strict=True):
        assert (cautious["assumption"], ceiling["assumption"]) == ("cautious", "ceiling")
        assert cautious["clips_per_s"] <= ceiling["clips_per_s"] == min(ceiling["stages"].values())
        assert ceiling["stages"][ceiling["binds"]] == ceiling["clips_per_s"]
        assert ceiling["k400-10pct_h"] == pytest.approx(90 * ceiling["epoch_h"])
        assert ceiling["k400-1pct_h"] == pytest.approx(45 * ceiling["epoch_h"])


def test_the_published_step_gives_its_own_rate_and_an_upper_bound(record: Record) -> None:
    published = record.findings["published"]
    assert 0 < published["share"] < 1
    alone = published["theirs"][0]
    assert alone["cautious"] == pytest.approx(alone["clips_per_s"]) == pytest.approx(3405, rel=1e-3)
    assert alone["ceiling"] == pytest.approx(alone["cautious"] / published["share"])


def test_pages_say_what_is_computed(record: Record, tmp_path: Path) -> None:
    text = markdown(record)
    assert "Kinetics-400 with the paper's method, computed" in text
    assert "published by SPDL's documentation (July 2026)" in text
    assert all(f"| {files} |" in text for files in KINDS)
    chart(record, tmp_path / "roofline.png")
    first = (tmp_path / "roofline.png").read_bytes()
    assert 10_000 < len(first) < 100_000
    chart(record, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == first


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="repeats is 0"):
        RooflineBenchmark(repeats=0)
    with pytest.raises(InputError, match="no videos in"):
        run(RooflineBenchmark(source=tmp_path, clips=tmp_path / "clips"))
