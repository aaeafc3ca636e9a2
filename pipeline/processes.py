"""Run a function over many items in processes, where a crash costs one item and nothing else.

Every process has one piece of work at a time, so that when one dies (FFmpeg crashes, the kernel kills it for its
memory) it is known over what.  Nothing outlives the caller: processes are ended when the iteration is left early, and
end by themselves when the calling process is killed.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 8  # items a process gets at a time: handing over takes about 0.5 ms
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def num_cores() -> int:
    """CPU cores that this process may use: those it is bound to, or fewer where a container is given less time."""
    cores = os.sched_getaffinity(0)
    return share_of_cores(cores, [cores], cpu_quota())


def share_of_cores(cores: Collection[int], allowed: Collection[Collection[int]], quota: float | None = None) -> int:
    """How many cores one of several processes has to itself, at least one.

    Args:
        cores: numbers of those it may use.
        allowed: the same of all processes, this one too.
        quota: cores' worth of time that all of them together are given; a part of a core counts as one.
    """
    processes = Counter(core for theirs in allowed for core in theirs)
    share = math.floor(sum(Fraction(1, processes[core]) for core in cores))
    if quota is not None:
        share = min(share, math.ceil(quota) // len(allowed))
    return max(1, share)


def cpu_quota(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> float | None:
    """Cores' worth of time that the control groups of this process allow; None without a limit that can be read.

    Args:
        groups: where control groups are mounted, version 2 or 1.
        own: the kernel's list of those of a process.
    """
    quotas = []
    try:
        for folder in control_groups("cpu", groups, own):
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            elif (folder / "cpu.cfs_quota_us").exists():
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
            else:
                continue
            if quota not in ("max", "-1"):
                quotas.append(int(quota) / int(period))
    except OSError:  # a kernel without control groups, or one that hides them: no reason not to work
        return None
    return min(quotas, default=None)


def control_groups(controller: str, groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> Iterator[Path]:
    """Folders of the control groups that a process is in, from its own up to the outermost.

    Args:
        controller: "cpu" or "memory".
        groups: where control groups are mounted, version 2 or 1.
        own: the kernel's list of those of a process.
    """
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = groups / controllers if controllers else groups
        folder = top / path.lstrip("/")
        while folder != top.parent:
            yield folder
            folder = folder.parent


def num_processes(num_workers: int | None) -> int:
    """How many processes a user asks for: one per core where None.

    Raises:
        InputError: fewer than one.
    """
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--num-workers {num_workers} does no work: take 1 or more, or None for one per core")
    return num_workers or num_cores()


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int, *, crashed: Result, chunk: int = _CHUNK
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the function's result, as they come.

    Args:
        function: importable by name, as is whatever it takes and returns.
        items: worked on in this order.
        num_workers: processes at most.
        crashed: the result of an item over which the process died.
        chunk: items a process gets at a time.

    Raises:
        BrokenProcessPool: processes cannot be started.
        Exception: what the function raised, if it raises.
    """
    assert num_workers >= 1, num_workers
    todo = deque(items[at : at + chunk] for at in range(0, len(items), chunk))
    others = set(multiprocessing.active_children())
    idle = [_start() for _ in range(min(num_workers, len(todo)))]
    busy: dict[Future[list[Result]], tuple[ProcessPoolExecutor, Sequence[Item]]] = {}
    try:
        while todo or busy:
            while todo and idle:
                worker, part = idle.pop(), todo.popleft()
                busy[worker.submit(_run, function, part)] = worker, part
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                worker, part = busy.pop(future)
                idle.append(worker)
                try:
                    results = future.result()
                except BrokenProcessPool:
                    worker.shutdown()
                    idle[-1] = _start()
                    idle[-1].submit(os.getpid).result()  # breaks where no process can be started at all
                    if len(part) == 1:
                        yield part[0], crashed
                    else:
                        todo.extendleft([item] for item in reversed(part))  # one by one, to find the culprit
                    continue
                yield from zip(part, results, strict=True)
    finally:
        if busy:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.shutdown()


def _start() -> ProcessPoolExecutor:
    # spawn: torch, DALI and progress threads do not survive a fork
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Leave Ctrl-C to the parent, which a terminal sends it to as well, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
