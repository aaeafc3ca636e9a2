"""What a run needs of the machine, or of the container: shared memory, open files, cores, memory and disk."""

import os
import resource
import shutil
import tempfile
from pathlib import Path

from pipeline.processes import control_groups, cpu_quota
from train.doctor_checks.finding import Finding
from train.doctor_checks.gpu import num_gpus

_MIB, _GIB = 2**20, 2**30
_SHARED = Path("/dev/shm")
_NCCL_SHARED = _GIB  # what NCCL's user guide has containers started with, "Troubleshooting", "Shared memory"
_LEAST_FILES, _MANY_FILES = 128, 1024  # a run on two cores has 27 open; CUDA and other ranks add theirs
_CORES_PER_GPU = 4  # our estimate: one launches the step, one runs the graph, two plan and read packets ahead
_LEAST_MEMORY, _MEMORY_PER_RANK = 3 * _GIB // 2, 4 * _GIB
_LEAST_DISK, _MUCH_DISK = 100 * _MIB, 2 * _GIB  # three checkpoints of the demo's networks; of those of the paper
_UNLIMITED = 2**60  # bytes; version 1 of cgroups has a number of this size where there is no limit


def look_at_shared_memory() -> Finding:
    """Room in /dev/shm, where processes meet."""
    try:
        with tempfile.TemporaryFile(dir=_SHARED):
            pass
        free, total = shutil.disk_usage(_SHARED).free, shutil.disk_usage(_SHARED).total
    except OSError as error:
        return judge_shared_memory(0, 0, num_gpus(), error.strerror or str(error))
    return judge_shared_memory(free, total, num_gpus())


def judge_shared_memory(free: int, total: int, num_gpus: int, error: str = "") -> Finding:
    """Judge it.

    Args:
        free: bytes.
        total: bytes.
        num_gpus: GPUs that would train together.
        error: why nothing can be put there.
    """
    remedy = "in a container: docker run --shm-size=1g, or --ipc=host; in Kubernetes an emptyDir in memory"
    if error:
        return Finding("fail", f"{_SHARED} cannot be used ({error}), without which no process is started", remedy)
    text = f"{_size(total)}, {_size(free)} free"
    if free < _MIB:
        return Finding("fail", f"{text}: no process can be started", remedy)
    if num_gpus > 1 and free < _NCCL_SHARED:
        return Finding("fail", f"{text}: too little for NCCL between {num_gpus} GPUs", remedy)
    return Finding("ok", text)


def look_at_open_files() -> Finding:
    """How many files a process may have open."""
    return judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def judge_open_files(soft: int, hard: int) -> Finding:
    """Judge the limits."""
    if soft == resource.RLIM_INFINITY or soft >= _MANY_FILES:
        return Finding("ok", "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}")
    fits = hard == resource.RLIM_INFINITY or hard >= _MANY_FILES
    remedy = f"ulimit -n {4 * _MANY_FILES if fits else hard}" if fits else "raise the hard limit, as administrator"
    remedy += f"; in a container: docker run --ulimit nofile={4 * _MANY_FILES}"
    return Finding("fail" if soft < _LEAST_FILES else "warn", f"{soft} a process", remedy)


def look_at_cores() -> Finding:
    """Cores that this process may run on, and how much of them it is given."""
    return judge_cores(len(os.sched_getaffinity(0)), cpu_quota(), num_gpus())


def judge_cores(num_cores: int, quota: float | None, num_gpus: int) -> Finding:
    """Judge the cores.

    Args:
        num_cores: that a process may run on; PyTorch starts as many threads.
        quota: cores' worth of time that the container is given, which is what a run counts; None without a limit.
        num_gpus: GPUs to be fed.
    """
    text = f"{num_cores} usable" + (f", a quota of {quota:g}" if quota is not None else "")
    granted = num_cores if quota is None else min(num_cores, quota)
    if num_gpus and granted < _CORES_PER_GPU * num_gpus:
        remedy = f"give each GPU {_CORES_PER_GPU} or more, or its clips come late"
        return Finding("warn", f"{text}, for {num_gpus} GPU{'s' * (num_gpus > 1)}", remedy)
    if quota is not None and quota < num_cores:
        threads = max(1, int(quota) // max(1, num_gpus))
        remedy = f"PyTorch's threads would be stopped by turns: give runs OMP_NUM_THREADS={threads}"
        return Finding("warn", text, remedy)
    if num_cores < 2:
        return Finding("warn", text, "decoding and training take turns on one core: two or more are faster")
    return Finding("ok", text)


def look_at_memory() -> Finding:
    """Memory of the machine, or of the container."""
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(info[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return judge_memory(total, free, memory_limit(), num_gpus())


def judge_memory(total: int, free: int, limit: tuple[int, int] | None, num_gpus: int) -> Finding:
    """Judge it.

    Args:
        total: bytes of the machine.
        free: bytes of it.
        limit: bytes that the container may use, and that it does use; None without a limit.
        num_gpus: GPUs that would train together.
    """
    text = f"{_size(total)}, {_size(free)} free"
    if limit is not None and limit[0] < total:
        free = min(free, max(0, limit[0] - limit[1]))
        text = f"limit of {_size(limit[0])}, {_size(free)} free"
    if free < _LEAST_MEMORY:
        return Finding("fail", text, f"even the demo takes {_size(_LEAST_MEMORY)}: free some, or raise the limit")
    if free < _MEMORY_PER_RANK * max(1, num_gpus):
        what = "a GPU" if num_gpus else "networks of full width"
        return Finding("warn", text, f"{what} may want {_size(_MEMORY_PER_RANK)}: lower --optim.batch-* if it runs out")
    return Finding("ok", text)


def look_at_run_folder(run_dir: Path) -> Finding:
    """Room where runs are written."""
    folder = run_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    can_write = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return judge_run_folder(run_dir, shutil.disk_usage(folder).free, can_write)


def judge_run_folder(run_dir: Path, free: int, can_write: bool) -> Finding:
    """Judge the disk of a folder of runs by its free bytes."""
    text = f"{run_dir}: {_size(free)} free"
    if not can_write:
        return Finding("fail", f"{run_dir} cannot be written", "choose another --run.dir, or mount it writable")
    if free < _LEAST_DISK:
        return Finding("fail", text, "three checkpoints have to fit: free some, or choose another --run.dir")
    if free < _MUCH_DISK:
        return Finding("warn", text, "a run of full width has checkpoints of 0.5 GiB and keeps three for a moment")
    return Finding("ok", text)


def memory_limit(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> tuple[int, int] | None:
    """Bytes that the tightest control group of this process may use, and that it uses beyond cached files."""
    found = []
    for folder in control_groups("memory", groups, own):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            if (folder / limit).exists() and (text := (folder / limit).read_text().strip()) != "max":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
                found.append((int(text), max(0, int((folder / used).read_text()) - cached)))
    return min((pair for pair in found if pair[0] < _UNLIMITED), default=None)


def _size(num_bytes: int) -> str:
    if num_bytes < _GIB:
        return f"{num_bytes / _MIB:.0f} MiB"
    return f"{num_bytes / _GIB:.1f} GiB" if num_bytes < 100 * _GIB else f"{num_bytes / _GIB:,.0f} GiB"
