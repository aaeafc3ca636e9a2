"""Work in processes of its own.

:class:`Candidate` measures: nothing of one candidate is in the memory, threads or caches of another, and its process
idles between its turns, so that candidates take turns without paying for their start each time.  :func:`isolated`
contains: what crashes or hangs there leaves this process as it was.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.errors import InputError

Item = TypeVar("Item")

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Speed(NamedTuple):
    """What was measured in one turn.

    Attributes:
        clips_per_s: of wall time.
        cpu_ms_per_clip: of the process and all below it.
    """

    clips_per_s: float
    cpu_ms_per_clip: float


class Candidate:
    """A function that yields numbers of clips as it makes them, run in turns in a process of its own.

    Args:
        make: ``make(*arguments)`` is an iterator over clips made; a new one is begun for each turn.  Importable.
        arguments: sent to the process.
    """

    def __init__(self, make: Callable[..., Iterator[int]], *arguments: object) -> None:
        context = get_context("spawn")  # no inherited threads, no inherited memory
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()

    def turn(self, warmup_clips: int, seconds: float) -> Speed | str:
        """Measure for a while.

        Args:
            warmup_clips: made before the clock starts.
            seconds: at least so long, up to the end of a batch.

        Returns:
            The speed, or the error that prevented it.
        """
        try:
            self._connection.send((warmup_clips, seconds))
            answer: Speed | str = self._connection.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            return f"its process died (exit status {self._process.exitcode})"
        return answer

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._connection.send(None)
        self._process.join(5)
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection, make: Callable[..., Iterator[int]], arguments: tuple[object, ...]) -> None:
    while (turn := connection.recv()) is not None:
        try:
            connection.send(_measure(make(*arguments), *turn))
        except Exception as error:  # one candidate's failure is a line in the table
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = "" if isinstance(error, InputError) else f" ({Path(where.filename).name}:{where.lineno})"
            connection.send(f"{type(error).__name__}: {error}{place}")


def _measure(clips: Iterator[int], warmup_clips: int, seconds: float) -> Speed:
    """The clock starts and stops where a batch arrives, so that what is made ahead at either end evens out."""
    try:
        made = 0
        while made < warmup_clips:
            made += next(clips)
        made, wall, cpu = 0, time.perf_counter(), cpu_s()
        while time.perf_counter() - wall < seconds:
            made += next(clips)
        wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    finally:
        close = getattr(clips, "close", None)
        if close:
            close()
    return Speed(made / wall, 1000 * cpu / made)


def cpu_s() -> float:
    """CPU seconds so far of this process and its living descendants, such as a DataLoader's workers."""
    used: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(stat.parent.name)
        used[pid] = int(fields[11]) + int(fields[12])
        children.setdefault(int(fields[1]), []).append(pid)
    total, todo = 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        total += used.get(pid, 0)
        todo += children.get(pid, [])
    return total / _TICKS_PER_S


class IsolationError(Exception):
    """What was run in a process of its own failed, died or took too long."""


def isolated(work: Callable[..., Iterator[Item]], *arguments: object, limit_s: float) -> Iterator[Item]:
    """Run a generator in a process of its own.

    Args:
        work: importable, as are its arguments and items.
        arguments: of ``work``.
        limit_s: seconds after which it is killed.

    Yields:
        What it yields.

    Raises:
        IsolationError: it raised, its process died, or it took too long.
    """
    context = get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_all, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    stop = time.perf_counter() + limit_s
    try:
        while ours.poll(max(0.0, stop - time.perf_counter())):
            kind, content = ours.recv()
            if kind == "end":
                return
            if kind == "error":
                raise IsolationError(content)
            yield content
        raise IsolationError(f"no answer within {limit_s:.0f} s: it hangs, or the machine is slow")
    except EOFError:
        process.join()
        raise IsolationError(f"its process died, exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def _send_all(connection: Connection, work: Callable[..., Iterator[object]], arguments: tuple[object, ...]) -> None:
    try:
        for item in work(*arguments):
            connection.send(("item", item))
        connection.send(("end", None))
    except Exception as error:  # whatever it is: it is reported, not shown
        connection.send(("error", f"{type(error).__name__}: {first_line(error)}"))


def first_line(error: Exception) -> str:
    """What of an error fits into a table; DALI's begin with lines that say nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("Critical error", "Current pipeline"))), repr(error))
