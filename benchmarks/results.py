"""What every benchmark hands over: a line of JSON, kept in a file, that says on what it was measured."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "av", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


def environment() -> dict[str, Any]:
    """Machine and versions, without anything that names the machine."""
    return {"cores": os.cpu_count(), "cpu": _cpu_model(), "python": platform.python_version(), **versions(*_PACKAGES)}


def versions(*packages: str) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def finish(name: str, result: dict[str, Any], folder: Path) -> None:
    """Write ``folder/<name>.json`` and print the same as the last line."""
    result = {"benchmark": name, **result, **environment()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, separators=(",", ":")), flush=True)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
