"""Work that may crash or hang, in a process of its own, with a limit in time."""

import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

Item = TypeVar("Item")


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
