"""Can this machine train?  One screen: ``python -m train.doctor [DIR]``.

Looks at what is installed, the GPU and its video decoder, the limits of the machine or container, and the videos in a
folder.  Every line is ok, a warning (it works, with less) or a failure, and says what to do about it.  Promises an
answer within seconds whatever is broken, and that nothing is changed.

With ``--json``, standard output is one JSON object:
``{"verdict": "warn", "checks": [{"name": "GPUs", "verdict": "warn", "found": "none: ...", "remedy": "..."}, ...]}``.

Exit status: 0 when nothing fails, 1 when something does, 2 for a mistake in the options.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import InputError
from pipeline.program import run_program
from pipeline.text import printable
from train.doctor_checks import gpu, machine, software
from train.doctor_checks.finding import Check, Finding, Verdict, examine_all

_COLORS: dict[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_MIN_WIDTH = 110  # the table is not for folding, in a log file either


def checks(data_root: Path | None, run_dir: Path) -> list[Check]:
    """All checks, in the order of the table.

    Args:
        data_root: folder of videos; None to look at none.
        run_dir: where runs are written.
    """
    found = [
        Check("Python", software.look_at_python),
        Check("torch", software.look_at_torch, software.INSTALL, late="warn", imports=True),
        Check("torchvision", software.look_at_torchvision, software.INSTALL, "warn", "warn", imports=True),
        Check("DALI", software.look_at_dali, software.INSTALL, late="warn", imports=True),
        Check("FFmpeg", software.look_at_ffmpeg, software.INSTALL, late="warn", imports=True),
        Check("torch.compile", software.look_at_compiler, late="warn", imports=True),
        Check("NVIDIA driver", gpu.look_at_driver, late="warn", imports=True),
        Check("GPUs", gpu.look_at_gpus, late="warn", imports=True),
        Check("NVDEC", gpu.look_at_nvdec, late="warn", imports=True),
        Check("NVDEC library", gpu.look_at_video_library),
        Check("shared memory", machine.look_at_shared_memory),
        Check("open files", machine.look_at_open_files),
        Check("CPU cores", machine.look_at_cores),
        Check("memory", machine.look_at_memory),
        Check("run folder", partial(machine.look_at_run_folder, run_dir)),
    ]
    if data_root is not None:
        found += [
            Check("videos", partial(_look_at_data, data_root), late="warn", imports=True),
            Check("index", partial(_look_at_index, data_root), "", "warn", "warn", imports=True),
        ]
    return found


def _look_at_data(root: Path) -> Finding:
    from train.doctor_checks import data  # loads PyAV and numpy, which may be what is broken

    return data.look_at_data(root)


def _look_at_index(root: Path) -> Finding:
    from train.doctor_checks import data

    return data.look_at_index(root)


def doctor(
    directory: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = None,
    *,
    data_root: Annotated[Path | None, tyro.conf.arg(name="data.root", metavar="DIR")] = None,
    run_dir: Annotated[Path, tyro.conf.arg(name="run.dir", metavar="DIR")] = Path("runs"),
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Look whether this machine can train, and say what is missing and what to do about it.

    Args:
        directory: a folder of videos to look at too.
        data_root: the same, as runs are given it.
        run_dir: folder that runs will be written to.
        as_json: print one JSON object, and nothing else.
    """
    if directory is not None and data_root is not None:
        raise InputError(f"{directory} and --data.root {data_root} are one too many: give the folder once")
    found = []
    console = Console(stderr=True)
    with console.status("looking", spinner="dots") as status:
        for name, finding in examine_all(checks(directory or data_root, run_dir)):
            found.append((name, finding))
            status.update(f"looking: {name} is {finding.verdict}")
    if as_json:
        print(json.dumps(describe(found), indent=2))
    else:
        show(Console(soft_wrap=False, highlight=False, markup=False, emoji=False), found)
    return 1 if any(finding.verdict == "fail" for _, finding in found) else 0


def describe(found: Sequence[tuple[str, Finding]]) -> dict[str, object]:
    """Findings by the names of their checks, as JSON types; the verdict on all is the worst of any."""
    verdicts = {finding.verdict for _, finding in found}
    worst = next(verdict for verdict in ("fail", "warn", "ok") if verdict in verdicts)
    return {"verdict": worst, "checks": [{"name": name, **finding._asdict()} for name, finding in found]}


def show(console: Console, found: Sequence[tuple[str, Finding]]) -> None:
    """Print findings as a table, each remedy below what it is for, and count them."""
    console.width = max(console.width, _MIN_WIDTH)
    table = Table("", "what", "found", show_edge=False)
    for name, finding in found:
        text = Text(printable(finding.found))
        if finding.remedy:
            text.append(f"\n→ {printable(finding.remedy)}", style="italic")
        table.add_row(Text(finding.verdict, _COLORS[finding.verdict]), name, text)
    console.print(table)
    counts = {verdict: sum(finding.verdict == verdict for _, finding in found) for verdict in _COLORS}
    console.print(f"{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failures")


def main() -> int:
    """Run the program; returns its exit status."""
    return run_program(doctor, "python -m train.doctor")


if __name__ == "__main__":
    status = main()
    if threading.active_count() > 1:  # a check hangs in a file system or driver, and would keep the process from ending
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
