"""Does the machine tell how busy it is?"""

import time
from collections.abc import Iterator

import torch

from benchmarks.gpu_checks.bench import FAIL, PASS, SKIP, Bench, Finding
from train.hardware import NAMES, HardwareMonitor, describe_hardware

_BUSY_S = 2.0  # the driver's sampling period is a second at most
_SIZE = 2048


def check_hardware(bench: Bench) -> Iterator[Finding]:
    """Every number of a sample is there while the device multiplies matrices, and the GPU is seen to work."""
    monitor = HardwareMonitor(bench.device)
    matrix = torch.ones(_SIZE, _SIZE, device=bench.device)
    until = time.perf_counter() + _BUSY_S
    while time.perf_counter() < until:
        matrix = (matrix @ matrix).clamp(max=1)
        matrix.sum().item()  # or the queue would outlast the clock
    sample = monitor.sample()
    for name in NAMES:
        if name in sample:
            idle = name == "gpu_pct" and sample[name] == 0
            value = describe_hardware({name: sample[name]})[0][1]
            yield Finding(name, FAIL if idle else PASS, f"{value}, though it works" if idle else value)
        elif bench.device_type == "cpu" and name.startswith(("gpu", "nvdec")):
            yield Finding(name, SKIP, "no GPU")
        else:
            yield Finding(name, FAIL, "is not told: the driver refuses it, as on a slice of a GPU, or is not found")
