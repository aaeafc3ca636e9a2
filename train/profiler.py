"""A profile of some steps of a run: a trace to look at, a table of where time goes, and a verdict.

Promises that a run computes the same bits with it and without, and that it ends with whatever ends the run.  The trace
is PyTorch's own of the thread that steps, and of the GPU, with the ranges of the loader's threads
(:mod:`pipeline.ranges`) beside it on the same clock.  What the numbers mean is left to :mod:`train.bottleneck`.
"""

import gzip
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from pipeline.files import open_whole
from pipeline.processes import num_cores
from pipeline.ranges import Span, named, recording
from train.bottleneck import STEP, measured, stations, table, verdict
from train.display import Display

# Or it would tell standard error when it starts and stops, and that it has found no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

TRACE = "profile.json.gz"
_SKIPPED = 5  # steps in which the network is compiled, memory is found, and queues fill
_NUM_STEPS = 20
_ON_GPU = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})  # categories of a trace's events
_LOADER_ROWS = 1000  # where they are sorted to among the rows of a trace: below all others

Event = dict[str, Any]
"""Of a trace in Chrome's format; its times are microseconds."""


class Profile:
    """Profiles a window of steps; a context manager.

    Args:
        run_dir: the trace goes there; None profiles nothing.
        step: steps done before.
        last_step: step at which training ends, if nothing comes between.
        device: that computes.
        num_threads: threads that read and decode.
        display: takes table and verdict.
    """

    def __init__(
        self,
        run_dir: Path | None,
        step: int,
        last_step: int,
        device: torch.device,
        num_threads: int,
        display: Display,
    ) -> None:
        self._run_dir, self._device, self._num_threads, self._display = run_dir, device, num_threads, display
        self._first = step + min(_SKIPPED, (last_step - step) // 2)
        self._window: _Window | None = None

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # What ends the run is to be told, not that the trace could not be written then.
        with suppress(OSError, RuntimeError) if error is not None else nullcontext():
            self.end()

    def step(self, step: int) -> bool:
        """Call before each step.

        Args:
            step: steps done.

        Returns:
            Whether the window has just ended, and time gone into writing.

        Raises:
            OSError: the trace cannot be written.
        """
        if self._run_dir is not None and step == self._first:
            self._window = _Window(self._device)
        if self._window is None:
            return False
        if step < self._first + _NUM_STEPS:
            self._window.step()
            return False
        self.end()
        return True

    def end(self) -> None:
        """End the window, if it has begun, and show what is in it.

        Raises:
            OSError: the trace cannot be written.
        """
        if self._window is None:
            return
        assert self._run_dir is not None, "or there would be no window"
        window, self._window = self._window, None
        spans = window.end()
        path = self._run_dir / TRACE
        events = _write(window.profiler, spans, path)
        found = stations(spans, self._num_threads)
        gpu = gpu_share(events) if self._device.type == "cuda" else None
        num_steps = sum(span.name == STEP for span in spans)
        self._display.show(table(found, num_steps, self._num_threads))
        self._display.note(verdict(measured(found, self._num_threads, num_cores(), gpu)))
        if gpu is None and self._device.type == "cuda":
            self._display.note("the trace tells nothing of the GPU: its driver may reserve that for administrators")
        self._display.note(f"trace, for https://ui.perfetto.dev: {path}")


class _Window:
    """The steps that are profiled, from here to :meth:`end`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])
        self._synchronize()
        self.profiler.start()
        self._stack = ExitStack()
        self._spans = self._stack.enter_context(recording(_mark_on_gpu if on_gpu else record_function))
        self._step = ExitStack()

    def step(self) -> None:
        """A step begins, and the one before ends."""
        self._step.close()
        self._step.enter_context(named(STEP))

    def end(self) -> list[Span]:
        """Stop, and return the spans."""
        with self._stack:
            self._synchronize()
            self._step.close()
        self.profiler.stop()
        return list(self._spans)

    def _synchronize(self) -> None:
        """Else a GPU would do after the window what it was told in it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextmanager
def _mark_on_gpu(name: str) -> Iterator[None]:
    """A range of PyTorch's trace and of NVTX, which Nsight Systems shows."""
    with torch.cuda.nvtx.range(name), record_function(name):
        yield


def _write(profiler: profile, spans: Sequence[Span], path: Path) -> list[Event]:
    """Write PyTorch's trace, with the spans of other threads added, and return its events."""
    plain = path.with_name("profile.json.tmp")
    try:
        profiler.export_chrome_trace(str(plain))
        trace = json.loads(plain.read_text())
    except ValueError as error:  # it says nothing where it cannot write
        raise OSError(f"cannot write the trace {path}: PyTorch wrote a part of it only, is the disk full?") from error
    finally:
        plain.unlink(missing_ok=True)
    events: list[Event] = trace["traceEvents"]
    # The trace's clock is the time of day, counted from a day of its own choice.
    offset_ns = time.time_ns() - time.perf_counter_ns() - int(trace.get("baseTimeNanoseconds", 0))
    events += _loader_events(spans, offset_ns)
    with open_whole(path) as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=5) as packed:
        packed.write(json.dumps(trace).encode())
    return events


def _loader_events(spans: Sequence[Span], offset_ns: int) -> Iterator[Event]:
    """A row for each of the loader's threads; PyTorch sees only the one that steps, whose ranges it has."""
    loader = [span for span in spans if span.thread_id != threading.get_native_id()]
    names = {span.thread_id: span.thread for span in loader}
    pid = os.getpid()
    for place, (thread_id, name) in enumerate(sorted(names.items(), key=lambda item: item[1])):
        row = {"ph": "M", "pid": pid, "tid": thread_id}
        yield {**row, "name": "thread_name", "args": {"name": f"loader: {name}"}}
        yield {**row, "name": "thread_sort_index", "args": {"sort_index": _LOADER_ROWS + place}}
    for span in loader:
        times = {"ts": (span.start_ns + offset_ns) / 1e3, "dur": (span.stop_ns - span.start_ns) / 1e3}
        row = {"ph": "X", "cat": "loader", "pid": pid, "tid": span.thread_id}
        yield {**row, "name": span.name, **times, "args": {"cpu_ms": span.cpu_ns / 1e6}}


def gpu_share(events: Iterable[Mapping[str, Any]]) -> float | None:
    """Share of step time in which something runs on the GPU, None where a trace tells nothing of it.

    Args:
        events: of the trace.
    """
    steps = [event for event in events if event.get("name") == STEP and event.get("cat") == "user_annotation"]
    work = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("cat") in _ON_GPU)
    if not work:
        return None
    start: float = min(step["ts"] for step in steps)
    stop: float = max(step["ts"] + step["dur"] for step in steps)
    busy, until = 0.0, start
    for begins, ends in work:
        busy += max(0.0, min(ends, stop) - max(begins, until))
        until = max(until, ends)
    return busy / (stop - start)
