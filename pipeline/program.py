"""What the programs of the data path share: how they report errors and signals, and their exit status."""

import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import tyro

from pipeline.errors import InputError
from pipeline.text import lines_spelled_out

UNREAD = 128 + signal.SIGPIPE  # what shells say of programs that a broken pipe ends
NO_PROCESSES = "worker processes end as soon as they are started: is there memory left for them?"


def run_program(function: Callable[..., int | None], name: str, kept: str = "") -> int:
    """Run a function on the command line's options.

    Args:
        function: takes the options; returns the exit status, or None for 0.
        name: of the program.
        kept: said after what stopped it: "; " and what is kept.

    Returns:
        The exit status: 2 for a mistake in the input, 1 where the system refused something, 130 after Ctrl-C, 141
        where nobody reads what is printed any more, of which nothing is said.

    Raises:
        SystemExit: with 143, after SIGTERM.
    """
    return report_errors(lambda: tyro.cli(function, prog=name), kept)


def report_errors(run: Callable[[], int | None], kept: str = "") -> int:
    """Run a program that reads its command line itself; otherwise as :func:`run_program`."""

    def terminate(signum: int, frame: object) -> None:
        print(f"terminated{kept}", file=sys.stderr)
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, terminate)
    print_odd_names()
    try:
        status = run() or 0
        sys.stdout.flush()  # at the interpreter's exit its errors would be nobody's
        return status
    except InputError as error:
        print("error:", lines_spelled_out(str(error)), file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(f"error: {NO_PROCESSES}{kept}", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return UNREAD
        print(f"error: {lines_spelled_out(str(error))}{kept}", file=sys.stderr)
        return 1
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich has met it, and ends the program with 1
            return UNREAD
        raise
    except KeyboardInterrupt:
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more; nothing more is written to it then."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # errors alone
    is_unread = bool(poll.poll(0))
    if is_unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_unread


class _SpelledOut(logging.Formatter):
    """Log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return lines_spelled_out(super().format(record))


def print_odd_names() -> None:
    """Have file names printed and logged that are not UTF-8, or hold control characters, spelled out."""
    if logging.lastResort is not None:  # what prints warnings where nobody has set up logging
        logging.lastResort.setFormatter(_SpelledOut())
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
