"""What every benchmark hands over: a line of JSON, kept in a file, that says on what it was measured."""

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import tyro

from pipeline.errors import InputError

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "av", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


Options = TypeVar("Options")


def main(options: type[Options], run: Callable[[Options], int]) -> None:
    """Command line of a benchmark: the fields of its options; its exit status is what ``run`` returns."""
    try:
        sys.exit(run(tyro.cli(options)))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


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


def settings(options: Any) -> dict[str, Any]:
    """The options of a benchmark, a dataclass, but for where its result goes."""
    values = {name: value for name, value in asdict(options).items() if name != "results"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


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
