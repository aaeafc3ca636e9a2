"""What a person sees while training: a live panel in a terminal, plain lines anywhere else.

Promises that nothing here makes the host wait for the device: the numbers come in as they are logged.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from train.hardware import describe_hardware
from train.metrics import loss_names
from train.scoring import Accuracy

_BARS = "▁▂▃▄▅▆▇█"
_GAP = 3  # characters between blocks
_HISTORY = 8  # log lines of which the course of a loss is drawn
_MAX_WIDTH = 104  # of the panel: numbers far apart are hard to compare


class Display:
    """Progress of one training; a context manager.

    Args:
        title: what is trained.
        step: steps done before.
        num_steps: steps in all.
        console: where to, standard output by default.
        quiet: shows nothing, for ranks other than the first.
    """

    def __init__(
        self, title: str, step: int, num_steps: int, console: Console | None = None, *, quiet: bool = False
    ) -> None:
        self._console = console or Console(soft_wrap=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        self._title = title
        self._first_step, self._num_steps = step, num_steps
        self._started = time.perf_counter()
        self._numbers: RenderableType = Text("waiting for the first clips", style="dim")
        self._record: dict[str, float] = {}
        self._history: dict[str, deque[float]] = {}
        self._accuracy: list[tuple[str, str]] = []  # of the last evaluation, and the best
        self._progress = Progress(
            BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("steps"), TextColumn("{task.description}")
        )
        self._task = self._progress.add_task("", total=num_steps, completed=step)
        self._live: Live | None = None

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def advance(self, step: int) -> None:
        """Move the bar; cheap enough for every step."""
        self._progress.update(self._task, completed=step)

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Show the numbers of a log line."""
        remaining = self._remaining(step)
        self._record = dict(record)
        for name in loss_names(record):
            self._history.setdefault(name, deque(maxlen=_HISTORY)).append(record[name])
        self._numbers = self._arranged()
        self._progress.update(self._task, description=f"epoch {record['epoch']}  ETA {remaining}")
        if self._live is None:
            line = f"{self._title}  step {step}/{self._num_steps}  {format_numbers(record)}  ETA {remaining}"
            self._console.print(line)

    def evaluated(self, step: int, accuracy: Accuracy, best_top1: float) -> None:
        """Show an evaluation during training, and print a line that stays."""
        self._accuracy = [("last top-1", f"{accuracy.top1:.1%}"), ("best", f"{best_top1:.1%}"), ("at step", str(step))]
        if self._record:
            self._numbers = self._arranged()
        self.note(f"step {step}: val top-1 {accuracy.top1:.1%} on one center clip of {accuracy.num_videos} videos")

    def note(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(f"{self._title}  {message}")

    def show(self, renderable: RenderableType) -> None:
        """Print something that stays, a table say."""
        self._console.print(renderable)

    def _render(self) -> Panel:
        """The panel; called by the thread of the live display."""
        title, width = Text(f" {self._title} ", style="bold"), min(self._console.width, _MAX_WIDTH)
        return Panel(Group(self._progress, Text(), self._numbers), title=title, title_align="left", width=width)

    def _arranged(self) -> Columns:
        """All numbers, in as many columns as there is room for."""
        losses = [(name, f"{self._record[name]:.3f}", _sparkline(past)) for name, past in self._history.items()]
        labels, rotations = _pseudo_label_rows(self._record), _rotation_rows(self._record)
        blocks = [
            _table(losses=losses),
            _table(**{"pseudo-labels": labels, "rotations": rotations, "validation": self._accuracy}),
            _table(speed=_speed_rows(self._record)),
            _table(machine=describe_hardware(self._record)),
        ]
        return Columns(blocks, padding=(0, _GAP))

    def _remaining(self, step: int) -> timedelta:
        done = max(1, step - self._first_step)
        seconds = (time.perf_counter() - self._started) / done * (self._num_steps - step)
        return timedelta(seconds=round(seconds))


def format_numbers(record: Mapping[str, float]) -> str:
    """A record of a step as one line of text: losses, then pseudo-labels or rotations, then speed."""
    parts = [f"epoch {record['epoch']}", *(f"{name} {record[name]:.3f}" for name in loss_names(record))]
    if "mask_rate" in record:
        parts.append(f"mask rate {record['mask_rate']:.0%}")
    if _accuracy_is_known(record):
        parts.append(f"of which right {record['pseudo_label_accuracy']:.0%}")
    if "rotation_accuracy" in record:
        parts.append(f"rotations right {record['rotation_accuracy']:.0%}")
    if record.get("num_quarantined"):
        parts.append(f"bad videos {record['num_quarantined']}")
    parts += [f"lr {record['lr']:.4f}", f"{record['clips_per_s']:.1f} clips/s", f"data wait {_data_wait(record):.0%}"]
    return "  ".join(parts)


def _pseudo_label_rows(record: Mapping[str, float]) -> list[tuple[str, str]]:
    if "mask_rate" not in record:
        return []
    right = f"{record['pseudo_label_accuracy']:.0%}" if _accuracy_is_known(record) else "–"
    return [("mask rate", f"{record['mask_rate']:.0%}"), ("of which right", right)]


def _rotation_rows(record: Mapping[str, float]) -> list[tuple[str, str]]:
    return [("right", f"{record['rotation_accuracy']:.0%}")] if "rotation_accuracy" in record else []


def _speed_rows(record: Mapping[str, float]) -> list[tuple[str, str]]:
    return [
        ("clips/s", f"{record['clips_per_s']:.1f}"),
        ("step", f"{record['step_ms']:.0f} ms"),
        ("data wait", f"{_data_wait(record):.0%}"),
        ("lr", f"{record['lr']:.4f}"),
        ("bad videos", str(record.get("num_quarantined", 0))),
    ]


def _table(**blocks: Sequence[tuple[str, ...]]) -> Table:
    """Blocks of rows below each other, each under its title: names to the left, values to the right."""
    table = Table.grid(padding=(0, 1))
    for title, rows in blocks.items():
        if rows:
            if table.row_count:
                table.add_row()
            table.add_row(Text(title, style="bold cyan"))
        for name, *values in rows:
            table.add_row(Text(name), *(Text(value, justify="right") for value in values))
    return table


def _sparkline(values: Sequence[float]) -> str:
    """The course of some numbers, scaled to the range they take."""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _accuracy_is_known(record: Mapping[str, float]) -> bool:
    """NaN where nothing was kept or no label is known."""
    return record.get("pseudo_label_accuracy", float("nan")) >= 0


def _data_wait(record: Mapping[str, float]) -> float:
    """Share of a step in which it waited for its batch."""
    return record["data_wait_ms"] / record["step_ms"]
