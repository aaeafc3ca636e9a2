"""The same numbers in a terminal and in a log file."""

import io

from rich.console import Console

from train.display import Display

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


def test_terminal_gets_a_live_panel_with_the_same_numbers() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, highlight=False, markup=False, _environ={})
    with Display("fixmatch", 0, 100, console) as display:
        display.advance(50)
        display.log(50, RECORD)
    printed = file.getvalue()
    assert SHOWN in printed
    assert "50/100" in printed


def test_unknown_accuracy_of_pseudo_labels_is_not_shown() -> None:
    file = io.StringIO()
    with Display("fixmatch", 0, 100, Console(file=file, soft_wrap=True)) as display:
        display.log(50, {**RECORD, "pseudo_label_accuracy": float("nan")})
    assert "of which right" not in file.getvalue()
    assert "nan" not in file.getvalue()
