"""Named ranges of time: which station works when, and in which thread.

    with named(DECODE):
        ...

Promises that any thread may enter ranges, one within another too, and that a range keeps nothing and costs a quarter of
a microsecond while nobody records.  What is made of the recorded spans is left to whoever records.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import NamedTuple

PLAN = "plan"
READ = "read packets"
DECODE = "decode, crop, scale"
FLOW = "optical flow"
VIEWS = "views"
DECODE_AND_VIEWS = "decode and views"  # where DALI does both
AWAIT_CLIPS = "await clips"
HAND_OVER = "hand over"

Mark = Callable[[str], AbstractContextManager[object]]
"""Makes a context that shows a range of this name to another tool, too."""


class Span(NamedTuple):
    """One range, once it is over.

    Attributes:
        name: of the station.
        thread: name of the thread.
        thread_id: the system's number of it.
        start_ns: by ``time.perf_counter_ns``.
        stop_ns: likewise.
        cpu_ns: CPU time that this thread has taken meanwhile; threads of libraries that worked for it not included.
    """

    name: str
    thread: str
    thread_id: int
    start_ns: int
    stop_ns: int
    cpu_ns: int


def named(name: str) -> AbstractContextManager[object]:
    """Context that is one range, recorded if anybody records when it is entered."""
    recorder = _recorder
    return _NOTHING if recorder is None else _Range(name, recorder)


@contextmanager
def recording(mark: Mark) -> Iterator[list[Span]]:
    """Context in which ranges of all threads are recorded.

    Args:
        mark: called in the thread of each range, and entered with it.

    Yields:
        The spans, in the order in which they end; those that last beyond either end of the context are missing.
    """
    global _recorder
    assert _recorder is None, "somebody records already"
    recorder = _recorder = _Recorder(mark, [])
    try:
        yield recorder.spans
    finally:
        _recorder = None


class _Recorder(NamedTuple):
    mark: Mark
    spans: list[Span]


class _Range:
    def __init__(self, name: str, recorder: _Recorder) -> None:
        self._name, self._spans, self._mark = name, recorder.spans, recorder.mark(name)

    def __enter__(self) -> None:
        self._mark.__enter__()
        self._cpu_ns, self._start_ns = time.thread_time_ns(), time.perf_counter_ns()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        stop_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns() - self._cpu_ns
        self._mark.__exit__(kind, error, tb)
        thread = threading.current_thread().name
        self._spans.append(Span(self._name, thread, threading.get_native_id(), self._start_ns, stop_ns, cpu_ns))


_NOTHING: AbstractContextManager[object] = nullcontext()
_recorder: _Recorder | None = None
