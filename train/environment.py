"""Where a run took place: versions, machine, commit and command, for the record in its folder."""

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pipeline.processes import num_cores
from train.distributed import launch_id

ENVIRONMENT = "environment.json"
_PACKAGES = ("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "av", "numpy")


def describe_environment(command: str) -> dict[str, Any]:
    """Everything that may explain a number later, as JSON types; what cannot be found out is None.

    Args:
        command: the command line that started the run.
    """
    return {
        "command": command,
        "working_directory": str(Path.cwd()),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpu": cpu_name(),
        "num_cores": num_cores(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "executable": sys.executable,
        "launch": launch_id(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the code, with "-dirty" where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu_name() -> str | None:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or None


def launch_of(run_dir: Path) -> str | None:
    """The launch by torchrun that has last begun or gone on with a run; None where that is not known."""
    try:
        launch: str | None = json.loads((run_dir / ENVIRONMENT).read_bytes())["launch"]
    except (OSError, ValueError, KeyError):
        return None
    return launch
