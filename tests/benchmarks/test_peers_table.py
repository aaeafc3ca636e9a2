"""The table of loaders is of the turns that were measured."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmarks.peers_table import chart, markdown
from benchmarks.results import RESULTS, Record, Series, read

RATES = {
    "h264: decord_torchvision": (10.0, 10.0, 10.0),
    "h264: ours": (20.0, 30.0, 22.0),
    "h264: torchcodec_torchvision": (10.0, 20.0, 20.0),
    "h264: reference": (5.0, 5.0, 4.0),
    "vp8: ours": (40.0, 41.0, 42.0),
    "vp8: decord_torchvision": (50.0, 50.0, 50.0),
}


@pytest.fixture
def record() -> Record:
    series = {name: Series("clips/s", "higher", values) for name, values in RATES.items()}
    series |= {f"{name}, cpu": Series("cpu-ms/clip", "lower", values) for name, values in RATES.items()}
    verdicts = {"vp8": {"text": "ours over it: 1.07 times"}}
    findings = {
        "verdicts": verdicts,
        "missing": {"spdl_torchvision": ["spdl"]},
        "errors": {"decord_torchvision on mjpeg": "it died"},
    }
    return replace(read(RESULTS / "peers.json"), series=series, findings=findings)


def test_ratios_are_of_the_same_turn_and_the_paper_s_way_is_met_on_its_best_files(record: Record) -> None:
    caption, table, verdicts = markdown(record).split("\n\n")
    header, _, h264, vp8 = table.split("\n")
    assert header.startswith("| file | ours | torchcodec | decord | the paper's way |")
    assert h264 == (
        "| H.264 as downloaded | **22.0** | 20.0 | 10.0 | 5.0 | 1.50 (1.30–1.75), torchcodec | 5.50 (4.75–5.75) |"
    )
    assert vp8 == "| prepared, VP8 | **41.0** |  | 50.0 |  | 0.82 (0.81–0.83), decord | 8.20 (8.10–9.35) |"
    assert verdicts == "- ours over it: 1.07 times"
    assert caption.startswith("Clips/s, medians of 3 turns.")
    assert "Not installed: SPDL." in caption and "it died" in caption


def test_every_kind_of_file_has_its_part_of_the_chart(record: Record, tmp_path: Path) -> None:
    sizes = []
    for kinds in (1, 2, 3):
        series = {f"{kind}: ours": Series("clips/s", "higher", (1.0, 2.0)) for kind in range(kinds)}
        chart(replace(record, series=series), path := tmp_path / f"{kinds}.png")
        image = imread(path)
        assert image[..., :3].min() < 0.5
        sizes.append(image.shape[0])
    assert sizes[0] == sizes[1] < sizes[2]
