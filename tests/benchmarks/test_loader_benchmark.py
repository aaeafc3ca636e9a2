"""The loader is timed as often as asked, with nothing that consumes its clips, and only if they are good."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import loader
from benchmarks.loader import LoaderBenchmark, run
from benchmarks.results import read
from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.loader import ClipLoader


@pytest.fixture
def benchmark(tiny: dict[str, Any], tmp_path: Path) -> LoaderBenchmark:
    options = {name: value for name, value in tiny.items() if name != "width"}
    return LoaderBenchmark(**options, batch_labeled=2, batch_unlabeled=3, seconds=0.05, results=tmp_path)


def test_every_repeat_is_in_the_record(benchmark: LoaderBenchmark) -> None:
    assert run(benchmark) == 0
    record = read(benchmark.results / "loader.json")
    assert len(record.series["clips_per_s"].values) == len(record.series["cpu_ms_per_clip"].values) == 2
    assert record.findings["clips_per_s"] == record.series["clips_per_s"].median > 0
    assert record.utilization["cpu_pct"].values


def test_a_loader_of_black_clips_is_not_timed(benchmark: LoaderBenchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ClipLoader.__next__

    def black(self: ClipLoader) -> ClipBatch:
        batch = original(self)
        batch.labeled.rgb.zero_()
        return batch

    monkeypatch.setattr(ClipLoader, "__next__", black)
    monkeypatch.setattr(loader, "time_loader", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(InputError, match="labeled rgb clips show one colour"):
        run(benchmark)
    assert not list(benchmark.results.iterdir())
