"""Stopping in good order: a signal asks, the training stops at the next safe moment.

Promises that SIGTERM (a scheduler's, Docker's) and SIGINT (Ctrl-C) raise :class:`Stopped` only where
:meth:`StopSignal.check` is called.  A second Ctrl-C interrupts at once.  Saving is left to :mod:`train.loop`.
"""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")


class Stopped(Exception):
    """A signal asked to stop, and it was a safe moment to.

    Args:
        signum: number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """128 + signal number, as shells report it: whatever was to follow the training must not start."""
        return 128 + self.signum


class StopSignal:
    """Context in which SIGTERM and SIGINT are remembered instead of obeyed at once.

    Signals can only be handled in the main thread; use it there.
    """

    def __init__(self) -> None:
        self._requested: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self._requested is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = signum

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self._requested is not None:
            raise Stopped(self._requested)

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hand on items, checking before each: a long evaluation can be stopped too."""
        for item in items:
            self.check()
            yield item
