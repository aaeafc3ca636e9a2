"""What the trace of a clip says, against the README's copy, and against the arrays that a run is given."""

import re
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from pipeline.synthetic import generate_motion_dataset
from train.cli import parse
from train.trace import Row, main, trace

README = Path(__file__).parents[2] / "README.md"
COMMAND = "python -m train.trace "
# What another processor may change: a pixel here and there of the generated video and so a few bytes of the file; grey
# levels, by FFmpeg's and DALI's code for it; the networks' numbers, by the order of sums in float32.
BYTES, PIXELS, SHARE = 0.01, 3, 0.1


@pytest.fixture(scope="module")
def demo_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the first videos of the demo's data set, which are the same however many there are."""
    folder = tmp_path_factory.mktemp("trace")
    demo = parse(["demo"]).data
    assert demo.generate is not None
    generate_motion_dataset(
        folder / demo.root,
        motions=("left", "right"),
        videos_per_class=1,
        val_videos_per_class=1,
        size=demo.generate.size,
        num_frames=demo.generate.num_frames,
        seed=demo.generate.seed,
    )
    return folder


def printed(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["trace", *words])
    assert main() == 0
    return capsys.readouterr().out.splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    """The table's rows without ms."""
    return [[cell.strip() for cell in line.split("│")[1:-2]] for line in lines if line.startswith("│")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[0-9.]+(?:e[-+]?[0-9]+)?", text.replace(",", ""))]


def test_the_readme_shows_what_the_command_prints(
    demo_video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.read_text().partition("## One clip, station by station")[2]
    command, *copy = section.split("```\n")[1].splitlines()
    monkeypatch.chdir(demo_video)
    found = printed(command.partition(COMMAND)[2].split(), monkeypatch, capsys)
    assert (found[0], found[-1]) == (copy[0], copy[-1])
    assert len(cells(found)) == len(cells(copy)) > 30
    for now, then in zip(cells(found), cells(copy), strict=True):
        (station, shape, dtype, values, size), (*what, as_then, size_then) = now, then
        assert [station, shape, dtype] == what
        assert numbers(size) == pytest.approx(numbers(size_then), rel=BYTES), now
        if station.startswith("plan"):
            assert values == as_then
        elif dtype == "uint8":
            assert numbers(values) == pytest.approx(numbers(as_then), abs=PIXELS), now
        else:
            assert numbers(values) == pytest.approx(numbers(as_then), rel=SHARE, abs=0.05), now
    height, width, _ = imread(demo_video / "trace.png").shape
    assert width > 8 * 72 and height > 5 * 72  # eight frames in five rows


def test_the_same_options_give_the_same_rows_and_another_seed_others(demo_video: Path, tmp_path: Path) -> None:
    video = next(demo_video.rglob("*.avi"))

    def rows(*words: str) -> list[Row]:
        return [row._replace(ms=None) for row in trace(video, parse(["demo", *words]), tmp_path / "a.png")[1]]

    assert repr(rows()) == repr(rows())
    assert rows()[1] != rows("--run.seed", "1")[1]


def test_a_method_is_shown_only_what_it_needs(demo_video: Path, tmp_path: Path) -> None:
    video = next(demo_video.rglob("*.avi"))
    config = parse(["demo", "--run.method", "supervised", "--run.baseline", "None", "--data.decoder", "dali"])
    stations = [row.station for row in trace(video, config, tmp_path / "a.png")[1]]
    assert stations[3:6] == ["stream for DALI", "weak RGB", "batch for torch"]
    assert stations[-2:] == ["loss", "supervised"]
    assert not [name for name in stations if "TG" in name or "strong" in name]


@pytest.mark.parametrize("words", [["mvpl", "--method.flow"], ["videossl", "--method.scores", "videos.scores"]])
def test_what_a_method_needs_is_there(words: list[str], demo_video: Path, tmp_path: Path) -> None:
    config = parse(["demo", "--run.baseline", "None", "--data.decoder", "ffmpeg", "--run.method", *words])
    rows = trace(next(demo_video.rglob("*.avi")), config, tmp_path / "a.png")[1]
    assert "loss" in [row.station for row in rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "no video to trace"), (["gone.mp4"], "gone.mp4: no such file"), (["gone.mp4", "dmeo"], "no recipe 'dmeo'")],
)
def test_what_cannot_be_traced_is_said_in_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trace", *words])
    assert main() == 2
    assert message in capsys.readouterr().err
