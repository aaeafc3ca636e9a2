"""What a person sees while training: a live panel in a terminal, plain lines anywhere else.

Promises that the same numbers are shown in both, and that nothing here makes the host wait for the device: the
numbers come in as they are logged.
"""

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from train.metrics import loss_names


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
        self._console = console or Console(soft_wrap=True, highlight=False, markup=False, quiet=quiet)
        self._title = title
        self._first_step, self._num_steps = step, num_steps
        self._started = time.perf_counter()
        self._numbers = Text("waiting for the first clips", style="dim")
        self._progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("steps")
        )
        self._task = self._progress.add_task(title, total=num_steps, completed=step)
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
        numbers = format_numbers(record) + f"  ETA {self._remaining(step)}"
        self._numbers = Text(numbers)
        if self._live is None:
            self._console.print(f"{self._title}  step {step}/{self._num_steps}  {numbers}")

    def note(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(f"{self._title}  {message}")

    def _render(self) -> Group:
        return Group(self._progress, self._numbers)

    def _remaining(self, step: int) -> timedelta:
        done = max(1, step - self._first_step)
        seconds = (time.perf_counter() - self._started) / done * (self._num_steps - step)
        return timedelta(seconds=round(seconds))


def format_numbers(record: Mapping[str, float]) -> str:
    """A record of a step as one line of text: losses, then pseudo-labels, then speed."""
    parts = [f"epoch {record['epoch']}", *(f"{name} {record[name]:.3f}" for name in loss_names(record))]
    if "mask_rate" in record:
        parts.append(f"mask rate {record['mask_rate']:.0%}")
    if record.get("pseudo_label_accuracy", float("nan")) >= 0:  # NaN where nothing was kept or no label is known
        parts.append(f"of which right {record['pseudo_label_accuracy']:.0%}")
    if record.get("num_quarantined"):
        parts.append(f"bad videos {record['num_quarantined']}")
    wait = record["data_wait_ms"] / record["step_ms"]
    parts += [f"lr {record['lr']:.4f}", f"{record['clips_per_s']:.1f} clips/s", f"data wait {wait:.0%}"]
    return "  ".join(parts)
