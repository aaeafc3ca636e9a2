"""How busy the machine is: the GPU, its video decoder and memory, and what this process takes of CPU and memory.

Promises a reading that costs some ten microseconds on a CPU and never raises: what this machine cannot tell, for want
of a GPU, a driver or a permission, is absent.  The GPU's numbers are those of the whole device, whoever uses it.

    monitor = HardwareMonitor("cuda"); ...; monitor.sample()
"""

import os
import re
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pynvml
import torch

_SHOWN = {
    "gpu_pct": ("GPU", "{:.0f}%"),
    "nvdec_pct": ("NVDEC", "{:.0f}%"),
    "gpu_memory_gib": ("GPU memory", "{:.1f} GiB"),
    "gpu_power_w": ("GPU power", "{:.0f} W"),
    "gpu_peak_memory_gib": ("GPU peak memory", "{:.1f} GiB"),
    "cpu_pct": ("CPU", "{:.0f}%"),
    "memory_gib": ("memory", "{:.1f} GiB"),
    "peak_memory_gib": ("peak memory", "{:.1f} GiB"),
}
NAMES = tuple(_SHOWN)
"""All that a sample may hold, in the order in which it is shown."""

_STATM = Path("/proc/self/statm")
_STATUS = Path("/proc/self/status")
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_GIB = 2**30


class HardwareMonitor:
    """Reads what one process on one device makes of the machine.

    Args:
        device: that computes; only a CUDA one has GPU numbers.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._gpu = _open_gpu(self._device)
        if self._gpu is not None:
            self._close = weakref.finalize(self, _quietly, pynvml.nvmlShutdown)
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch of time to average the CPU over."""
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def sample(self) -> dict[str, float]:
        """Read everything there is.

        Returns:
            Of these what can be told: "gpu_pct" and "nvdec_pct", the share of the driver's last sampling period (a
            second or less) in which they worked, 0 to 100; "gpu_memory_gib" in use; "gpu_power_w";
            "gpu_peak_memory_gib", the most that PyTorch's tensors of this process have taken so far; "cpu_pct", CPU
            time of this process since the last restart, 100 for each core; "memory_gib", resident, of this process, and
            "peak_memory_gib", the most of it so far.
        """
        found = dict(_read_gpu(self._gpu, self._device)) if self._gpu is not None else {}
        wall_s = time.perf_counter() - self._wall_s
        found["cpu_pct"] = 100 * (time.process_time() - self._cpu_s) / max(wall_s, 1e-9)
        pages = _quietly(lambda: int(_STATM.read_text().split()[1]))
        if pages is not None:
            found["memory_gib"] = pages * os.sysconf("SC_PAGE_SIZE") / _GIB
        peak = _PEAK.search(_quietly(_STATUS.read_text) or "")
        if peak is not None:
            found["peak_memory_gib"] = int(peak[1]) * 2**10 / _GIB
        return found

    def close(self) -> None:
        """Let go of the driver; also happens when the monitor is no longer used."""
        if self._gpu is not None:
            self._gpu = None
            self._close()


def describe_hardware(sample: Mapping[str, float]) -> list[tuple[str, str]]:
    """What people call each number of a sample, and its value with its unit; other numbers are passed over."""
    return [(label, form.format(sample[name])) for name, (label, form) in _SHOWN.items() if name in sample]


def _open_gpu(device: torch.device) -> Any:
    """NVML's handle of a CUDA device, None where there is none.  By UUID: CUDA_VISIBLE_DEVICES renumbers."""
    if device.type != "cuda" or _quietly(lambda: (pynvml.nvmlInit(), True)) is None:
        return None

    def find() -> Any:
        uuid = torch.cuda.get_device_properties(device).uuid
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

    gpu = _quietly(find)
    if gpu is None:
        _quietly(pynvml.nvmlShutdown)
    return gpu


def _read_gpu(gpu: Any, device: torch.device) -> Iterator[tuple[str, float]]:
    """Each number by itself, since drivers refuse some: a MIG slice has no utilisation, a laptop no power."""
    reads: dict[str, Callable[[], float]] = {
        "gpu_pct": lambda: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "nvdec_pct": lambda: pynvml.nvmlDeviceGetDecoderUtilization(gpu)[0],
        "gpu_memory_gib": lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu).used / _GIB,
        "gpu_power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        "gpu_peak_memory_gib": lambda: torch.cuda.max_memory_allocated(device) / _GIB,
    }
    for name, read in reads.items():
        value = _quietly(read)
        if value is not None:
            yield name, float(value)


def _quietly(read: Callable[[], Any]) -> Any:
    """What a call returns, None where the system cannot tell: a number that is only looked at must not end a run."""
    try:
        return read()
    except (pynvml.NVMLError, OSError, ValueError, RuntimeError, AttributeError):
        return None
