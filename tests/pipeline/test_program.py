"""Programs say in one line what stopped them."""

import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pytest
from rich.console import Console

from pipeline.errors import InputError
from pipeline.program import run_program


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "argv", ["program"])
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("no such folder"), 2, "error: no such folder\n"),
        (BrokenProcessPool("a process terminated"), 1, "error: worker processes end as soon as .*; all is kept\n"),
        (OSError(28, "No space left"), 1, "error: .* No space left; all is kept\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, "error: .* Broken pipe; all is kept\n"),  # of a worker process
        (InputError("no \x1b[2Jfolder"), 2, r"error: no \\x1b\[2Jfolder\n"),
        (OSError(2, "No file", "a\x9b31m"), 1, r"error: .* No file: 'a\\x9b31m'; all is kept\n"),
        (KeyboardInterrupt(), 130, "interrupted; all is kept\n"),
    ],
)
def test_what_stops_a_program_is_one_line(
    error: BaseException, status: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_program(raising(error), "program", "; all is kept") == status
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1
    assert re.fullmatch(message, printed)


@pytest.mark.parametrize("show", [print, partial(print, flush=True), lambda text: Console().print(text)])
def test_a_program_that_nobody_listens_to_ends_in_silence(
    show: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert run_program(lambda: show("a line"), "program", "; all is kept") == 141
    assert capfd.readouterr().err == ""


def test_warnings_are_logged_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logging.lastResort is not None
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    assert run_program(lambda: None, "program") == 0
    record = logging.LogRecord("pipeline", logging.WARNING, "", 0, "%s is left out:\n%s", ("a\x1b[31m", "\r"), None)
    assert logging.lastResort.format(record) == "a\\x1b[31m is left out:\n\\r"


def test_sigterm_ends_a_program_with_its_status() -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: os.kill(os.getpid(), signal.SIGTERM), "program")
    assert ended.value.code == 143


def test_the_function_decides_the_status_and_prints_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", out)

    def function() -> int:
        print(os.fsdecode(b"caf\xe9"))
        return 1

    assert run_program(function, "program") == 1
    out.flush()
    assert out.buffer.getvalue() == b"caf\\udce9\n"
