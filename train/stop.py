"""Stopping in good order: a signal asks, the training stops at the next safe moment.

Promises that SIGTERM (a scheduler's, Docker's) and SIGINT (Ctrl-C) raise :class:`Stopped` only where
:meth:`StopSignal.check` is called.  A second Ctrl-C interrupts at once.  Before and after training, when there is
nothing to save, both interrupt at once; while the libraries load, which takes seconds, both end the process.  Saving is
left to :mod:`train.loop`.
"""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

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


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing has to be saved: what holds for Ctrl-C holds for it."""


def end_at_signals() -> None:
    """From now on SIGTERM and SIGINT end the process with one line; for a program that has not begun."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _end)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    os.write(2, f"stopped by {signal.Signals(signum).name}\n".encode())
    os._exit(128 + signum)


@contextmanager
def interrupting_signals() -> Iterator[None]:
    """Context in which SIGINT raises KeyboardInterrupt and SIGTERM Terminated, wherever the program is."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, _terminate),
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


class StopSignal:
    """Context in which SIGTERM and SIGINT are remembered instead of obeyed at once; left, it raises what it remembers.

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
        if error is None:
            self.check()  # a signal that came after the last safe moment would be lost

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
