"""All numbers in a terminal, the main ones in a log file."""

import io

import pytest
from rich.console import Console

from train.display import Display, format_numbers
from train.scoring import Accuracy

RECORD = {
    "epoch": 2,
    "lr": 0.0183,
    "loss": 1.25,
    "supervised": 0.75,
    "mask_rate": 0.4,
    "pseudo_label_accuracy": 0.8,
    "grad_norm": 3.0,
    "clips_per_s": 12.34,
    "step_ms": 200.0,
    "data_wait_ms": 10.0,
}
SHOWN = (
    "epoch 2  loss 1.250  supervised 0.750  mask rate 40%  of which right 80%  lr 0.0183  12.3 clips/s  data wait 5%"
)


def test_log_file_gets_one_plain_line_a_record() -> None:
    file = io.StringIO()
    console = Console(file=file, soft_wrap=True, highlight=False, markup=False, width=40)
    with Display("fixmatch", 0, 100, console) as display:
        display.advance(49)
        display.log(50, RECORD)
        display.note("val top-1 [of 3] 50%")
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"fixmatch  step 50/100  {SHOWN}  ETA 0:00:0")
    assert lines[1] == "fixmatch  val top-1 [of 3] 50%"


def panel(width: int, record: dict[str, float]) -> list[str]:
    """The lines of the panel as it stands at the end, in a terminal of this width."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=width, _environ={})
    with Display("fixmatch", 0, 100, console) as display:
        for step in (25, 50):
            display.advance(step)
            display.log(step, {**record, "loss": 100 / step})
        display.evaluated(50, Accuracy(0.4, 0.8, 0.39, 20), best_top1=0.45)
    printed = file.getvalue()
    return printed[printed.rindex("╭") : printed.rindex("╯") + 1].splitlines()


@pytest.mark.parametrize("width", [60, 80, 140])
def test_terminal_gets_a_panel_with_all_numbers_at_any_width(width: int) -> None:
    lines = panel(width, {**RECORD, "num_quarantined": 2, "cpu_pct": 187.4, "memory_gib": 1.25})
    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    for numbers in (
        "50/100 steps epoch 2 ETA 0:00:",
        "loss 2.000 █▁",
        "supervised 0.750 ▁▁",
        "mask rate 40%",
        "of which right 80%",
        "last top-1 40.0%",
        "best 45.0%",
        "clips/s 12.3",
        "data wait 5%",
        "bad videos 2",
        "CPU 187%",
        "memory 1.2 GiB",
    ):
        assert numbers in shown, numbers


def test_rotations_are_shown_where_there_are_some() -> None:
    record = {name: value for name, value in RECORD.items() if not name.startswith(("mask", "pseudo"))}
    rotating = {**record, "rotation_accuracy": 0.37}
    assert "supervised 0.750  rotations right 37%  lr" in format_numbers(rotating)
    shown = " ".join(" ".join(panel(140, rotating)).split())
    assert "rotations" in shown
    assert "right 37%" in shown
    assert "rotations" not in "\n".join([format_numbers(record), *panel(140, record)])


def test_panel_has_what_there_is_and_no_more() -> None:
    supervised = {name: value for name, value in RECORD.items() if not name.startswith(("mask", "pseudo"))}
    shown = "\n".join(panel(80, supervised))
    assert "pseudo-labels" not in shown
    assert "GPU" not in shown
    assert "validation" in shown
    assert "nan" not in "\n".join(panel(80, {**RECORD, "pseudo_label_accuracy": float("nan")}))


def test_unknown_accuracy_of_pseudo_labels_is_not_shown() -> None:
    file = io.StringIO()
    with Display("fixmatch", 0, 100, Console(file=file, soft_wrap=True)) as display:
        display.log(50, {**RECORD, "pseudo_label_accuracy": float("nan")})
    assert "of which right" not in file.getvalue()
    assert "nan" not in file.getvalue()
