"""How busy the machine was while something was measured: GPU, NVDEC, its memory and power, CPU and memory.

    with sampled("cuda") as utilization: ...
    finish(..., utilization=utilization)

Promises the same names and units with and without a GPU; what the machine cannot tell is absent.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.results import Better, Series
from benchmarks.turns import read_tree
from train.hardware import HardwareMonitor

_UNITS: dict[str, tuple[str, Better]] = {
    "gpu_pct": ("%", "higher"),
    "nvdec_pct": ("%", "higher"),
    "gpu_memory_gib": ("GiB", "lower"),
    "gpu_power_w": ("W", "lower"),
    "gpu_peak_memory_gib": ("GiB", "lower"),
    "cpu_pct": ("% of a core", "lower"),
    "memory_gib": ("GiB", "lower"),
    "peak_memory_gib": ("GiB", "lower"),
}


@contextmanager
def sampled(
    device: torch.device | str = "cpu", every_s: float = 0.5, *, children: bool = False
) -> Iterator[dict[str, Series]]:
    """Sample in a thread of its own while the block runs.

    Args:
        device: that computes.
        every_s: seconds between two samples; a block that is shorter is sampled once, at its end.
        children: CPU and memory of the processes below this one too; those that end meanwhile take no CPU.

    Yields:
        A dictionary that is filled when the block ends: a series for each number of
        :meth:`train.hardware.HardwareMonitor.sample`, of this process and the whole GPU.
    """
    monitor = HardwareMonitor(device)
    samples: list[dict[str, float]] = []
    over = threading.Event()

    def sample() -> None:
        ended = False
        tree, then = read_tree(), time.perf_counter()
        while not ended:
            ended = over.wait(every_s)
            found = monitor.sample()
            monitor.restart()  # the CPU's share is of the time since the last sample
            if children:
                before, tree, began, then = tree, read_tree(), then, time.perf_counter()
                cpu_pct = 100 * max(0.0, tree.cpu_s - before.cpu_s) / (then - began)
                found |= {"cpu_pct": cpu_pct, "memory_gib": tree.memory_gib}
            samples.append(found)

    thread = threading.Thread(target=sample, name="utilization", daemon=True)
    utilization: dict[str, Series] = {}
    thread.start()
    try:
        yield utilization
    finally:
        over.set()
        thread.join()
        monitor.close()
        for name, (unit, better) in _UNITS.items():
            values = tuple(round(one[name], 3) for one in samples if name in one)
            if values:
                utilization[name] = Series(unit, better, values)
