"""What the programs of the data path share: how they report errors and signals, and their exit status."""

import signal
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import tyro

from pipeline.errors import InputError

NO_PROCESSES = "worker processes end as soon as they are started: is there memory left for them?"


def run_program(function: Callable[..., int | None], name: str, kept: str = "") -> int:
    """Run a function on the command line's options.

    Args:
        function: takes the options; returns the exit status, or None for 0.
        name: of the program.
        kept: said after what stopped it: "; " and what is kept.

    Returns:
        The exit status: 2 for a mistake in the input, 1 where the system refused something, 130 after Ctrl-C.

    Raises:
        SystemExit: with 143, after SIGTERM.
    """

    def terminate(signum: int, frame: object) -> None:
        print(f"terminated{kept}", file=sys.stderr)
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, terminate)
    print_odd_names()
    try:
        return tyro.cli(function, prog=name) or 0
    except InputError as error:
        print("error:", error, file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(f"error: {NO_PROCESSES}{kept}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}{kept}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def print_odd_names() -> None:
    """Have file names printed that are not UTF-8, spelled out."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
