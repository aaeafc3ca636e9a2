"""Candidates that are measured in turns, each in a process of its own.

So nothing of one is in the memory, threads or caches of another, and what slows the machine for a while slows all.  A
process idles between its turns, so that nobody pays for its start each time.  Turns come in rounds: :func:`in_rounds`.
"""

import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.progress import Progress

from pipeline.errors import InputError

Entrant = TypeVar("Entrant", bound=tuple[str, str])

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Made(NamedTuple):
    """What a candidate has made since it last said so.

    Attributes:
        clips: how many.
        waited_s: wall seconds of that in which it waited for data.
    """

    clips: int
    waited_s: float = 0.0


class Speed(NamedTuple):
    """What was measured in one turn.

    Attributes:
        clips_per_s: of wall time.
        cpu_ms_per_clip: of the process and all below it.
        data_wait_ms_per_clip: of wall time, where the candidate tells.
    """

    clips_per_s: float
    cpu_ms_per_clip: float
    data_wait_ms_per_clip: float = 0.0


class Candidate:
    """A function that yields what it makes as it makes it, run in turns in a process of its own.

    Args:
        make: ``make(*arguments)`` is an iterator over :class:`Made`; a new one is begun for each turn.  Importable.
    """

    def __init__(self, make: Callable[..., Iterator[Made]]) -> None:
        self._make = make
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # no inherited threads, no inherited memory
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._make))
        self._process.start()
        theirs.close()

    def turn(self, *arguments: object, warmup_clips: int, seconds: float) -> Speed | str:
        """Measure for a while.

        Args:
            arguments: of ``make``.
            warmup_clips: made before the clock starts.
            seconds: at least so long, up to the end of a batch.

        Returns:
            The speed, or the error that prevented it.
        """
        try:
            self._connection.send((arguments, warmup_clips, seconds))
            answer: Speed | str = self._connection.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            answer = f"its process died (exit status {self._process.exitcode})"
            self._start()
        return answer

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._connection.send(None)
        self._process.join(5)
        self._process.terminate()
        self._process.join()


def in_rounds(entrants: Sequence[Entrant], rounds: int, budget_s: float) -> Iterator[Entrant]:
    """Whose turn it is, with progress shown: everybody once a round, in another order each.

    Args:
        entrants: a kind of file and who reads it.
        rounds: at most.
        budget_s: no round is begun that would not end within so many seconds; the first one is always taken.
    """
    order, start = random.Random(0), time.perf_counter()
    with Progress() as progress:
        task = progress.add_task("", total=rounds * len(entrants))
        for done in range(rounds):
            if done and (time.perf_counter() - start) * (done + 1) / done > budget_s:
                break
            for entrant in order.sample(entrants, len(entrants)):
                kind, name = entrant
                progress.update(task, description=f"{name} on {kind}")
                yield entrant
                progress.advance(task)


def _serve(connection: Connection, make: Callable[..., Iterator[Made]]) -> None:
    with suppress(EOFError):  # whoever asked is gone
        while (turn := connection.recv()) is not None:
            arguments, warmup_clips, seconds = turn
            try:
                connection.send(_measure(make(*arguments), warmup_clips, seconds))
            except Exception as error:  # one candidate's failure is a line in the table
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = "" if isinstance(error, InputError) else f" ({Path(where.filename).name}:{where.lineno})"
                connection.send(f"{type(error).__name__}: {error}{place}")


def _measure(clips: Iterator[Made], warmup_clips: int, seconds: float) -> Speed:
    """The clock starts and stops where a batch arrives, so that what is made ahead at either end evens out."""
    try:
        made = 0
        while made < warmup_clips:
            made += next(clips).clips
        made, waited, cpu, wall = 0, 0.0, cpu_s(), time.perf_counter()
        while not made or time.perf_counter() - wall < seconds:
            clips_made, waited_s = next(clips)
            made, waited = made + clips_made, waited + waited_s
        wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    finally:
        close = getattr(clips, "close", None)
        if close:
            close()
    return Speed(made / wall, 1000 * cpu / made, 1000 * waited / made)


def cpu_s() -> float:
    """CPU seconds so far of this process and its living descendants, such as a DataLoader's workers."""
    return read_tree().cpu_s


class Tree(NamedTuple):
    """What a process and its living descendants take.

    Attributes:
        cpu_s: CPU seconds so far.
        memory_gib: resident; what they share counts for each.
    """

    cpu_s: float
    memory_gib: float


def read_tree() -> Tree:
    """Read it of this process."""
    used: dict[int, tuple[int, int]] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(stat.parent.name)
        used[pid] = int(fields[11]) + int(fields[12]), int(fields[21])
        children.setdefault(int(fields[1]), []).append(pid)
    ticks, pages, todo = 0, 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        own_ticks, own_pages = used.get(pid, (0, 0))
        ticks, pages = ticks + own_ticks, pages + own_pages
        todo += children.get(pid, [])
    return Tree(ticks / _TICKS_PER_S, pages * os.sysconf("SC_PAGE_SIZE") / 2**30)
