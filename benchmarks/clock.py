"""The clocks of benchmarks that time parts of one process, in turns.

    wall, CPU:  of the host, the latter of all threads of the process
    GPU:        between two CUDA events on the current stream, whether the device was busy or waited for data; nothing
                waits for an event before the numbers are asked for

Promises that candidates take turns, in another order each round, so that what slows the machine for a while slows all.
"""

import gc
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress


class Cost(NamedTuple):
    """What a clip costs, in milliseconds.

    Attributes:
        wall_ms: of the host's time.
        cpu_ms: of CPU time.
        gpu_ms: of the device's time, None without one.
    """

    wall_ms: float
    cpu_ms: float
    gpu_ms: float | None

    @property
    def ms(self) -> float:
        """Time that passes: the device's where there is one, for the host runs ahead of it."""
        return self.wall_ms if self.gpu_ms is None else self.gpu_ms

    def plus(self, other: "Cost") -> "Cost":
        """Both, one after the other."""
        gpu_ms = None if self.gpu_ms is None or other.gpu_ms is None else self.gpu_ms + other.gpu_ms
        return Cost(self.wall_ms + other.wall_ms, self.cpu_ms + other.cpu_ms, gpu_ms)

    def minus(self, other: "Cost") -> "Cost":
        """What this one costs more, less than nothing where noise says so."""
        gpu_ms = None if self.gpu_ms is None or other.gpu_ms is None else self.gpu_ms - other.gpu_ms
        return Cost(self.wall_ms - other.wall_ms, self.cpu_ms - other.cpu_ms, gpu_ms)


class Moment(NamedTuple):
    """A reading of the clocks: seconds, and on a GPU an event."""

    wall_s: float
    cpu_s: float
    event: torch.cuda.Event | None


def now(device: torch.device) -> Moment:
    """Read the clocks."""
    event = None
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
    return Moment(time.perf_counter(), time.process_time(), event)


def cost(start: Moment, end: Moment, num_clips: int) -> Cost:
    """What each of some clips cost between two readings.  Waits for the device."""
    gpu_ms = None
    if start.event is not None and end.event is not None:
        end.event.synchronize()
        gpu_ms = start.event.elapsed_time(end.event) / num_clips
    wall_s, cpu_s = end.wall_s - start.wall_s, end.cpu_s - start.cpu_s
    return Cost(1000 * wall_s / num_clips, 1000 * cpu_s / num_clips, gpu_ms)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_batches(
    batches: Generator[int, None, None], device: torch.device, *, num_warmup: int, num_batches: int
) -> Cost:
    """What a clip costs, of some that are made without end and ahead of time.

    The clocks start and stop where a batch arrives, so that what is made ahead at either end evens out.

    Args:
        batches: yields the number of clips of each batch it has made; closed in the end.
        device: where they are made.
        num_warmup: batches before the clocks start.
        num_batches: batches that are timed.
    """
    try:
        for _ in range(num_warmup):
            next(batches)
        synchronize(device)
        start = now(device)
        num_clips = sum(next(batches) for _ in range(num_batches))
        synchronize(device)
        return cost(start, now(device), num_clips)
    finally:
        batches.close()


def in_turns(candidates: Mapping[str, Callable[[], Any]], repeats: int, *, num_warmup: int = 1) -> dict[str, list[Any]]:
    """Have each candidate measure itself, so many times.

    Args:
        candidates: by name.
        repeats: rounds that count.
        num_warmup: rounds before those, which are thrown away.

    Returns:
        What each gave, one a round.
    """
    order = random.Random(0)
    found: dict[str, list[Any]] = {name: [] for name in candidates}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("timing", total=(num_warmup + repeats) * len(candidates))
        for number in range(num_warmup + repeats):
            gc.collect()  # takes a fifth of a second, which is not to fall into a turn
            for name in order.sample(list(candidates), len(candidates)):
                progress.update(task, description=f"timing {name}")
                measured = candidates[name]()
                if number >= num_warmup:
                    found[name].append(measured)
                progress.advance(task)
    return found


@contextmanager
def garbage_pauses() -> Iterator[list[float]]:
    """Context that notes how many seconds each garbage collection took, for the threads of Python all stand still."""
    pauses: list[float] = []
    started = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            pauses.append(time.perf_counter() - started)

    gc.callbacks.append(note)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(note)
