"""What every benchmark hands over: one record, kept as JSON, of what was measured, on what, and how.

Promises that a record which exists is whole: the same keys in every file, each repeat of each measurement, and nothing
that names the machine or its folders.  Files are checked when they are read.  What the numbers mean is left to the
benchmarks, whether two records differ to :mod:`benchmarks.compare`, tables and charts to :mod:`benchmarks.report`.
"""

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal, TypeVar, get_args

import torch
import tyro

from pipeline.errors import InputError
from pipeline.files import write_whole
from pipeline.processes import num_cores
from train.environment import cpu_name, git_commit

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1
"""Version of the format of records."""

Better = Literal["higher", "lower"]
_PACKAGES = ("torch", "torchvision", "av", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120")
_GIB = 2**30

Options = TypeVar("Options")


@dataclass(frozen=True)
class Series:
    """All repeats of one measurement.

    Attributes:
        unit: of the values, "clips/s" or "cpu-ms/clip".
        better: whether "higher" or "lower" values are.
        values: one a repeat, in the order they were measured; where candidates take turns, those of one turn have the
            same place.
    """

    unit: str
    better: Better
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the repeats."""
        return median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third; both the value itself where there is only one."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = quantiles(self.values, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Record:
    """One result of one benchmark.

    Attributes:
        benchmark: its name, also of its file.
        command: what made it, with folders outside the current one by their last name only.
        commit: of the code, "-dirty" where files differed from it; None where that is not known.
        hardware: "cpu", "cores" usable, "memory_gib", "gpus" by name.
        versions: of packages, and of Python.
        settings: options of the benchmark, defaults too.
        series: all that was measured more than once, by name.
        findings: what the benchmark makes of it, and what was counted: JSON types.
        utilization: of the machine while measuring, by what :data:`train.hardware.NAMES` calls it.
        schema: version of this format.
    """

    benchmark: str
    command: str
    commit: str | None
    hardware: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    series: dict[str, Series]
    findings: dict[str, Any]
    utilization: dict[str, Series] = field(default_factory=dict)
    schema: int = SCHEMA


def main(options: type[Options], run: Callable[[Options], int]) -> None:
    """Command line of a benchmark: the fields of its options; its exit status is what ``run`` returns."""
    try:
        sys.exit(run(tyro.cli(options)))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def finish(
    name: str,
    options: Any,
    folder: Path,
    *,
    series: Mapping[str, Series] | None = None,
    findings: Mapping[str, Any] | None = None,
    utilization: Mapping[str, Series] | None = None,
    packages: Iterable[str] = (),
) -> Record:
    """Write ``folder/<name>.json`` and print the same as the last line.

    Args:
        name: of the benchmark.
        options: its options, a dataclass.
        folder: where the file goes.
        series: see :class:`Record`, as are the next two.
        findings: JSON types.
        utilization: of the machine.
        packages: whose versions matter beside torch, DALI, PyAV and numpy.

    Returns:
        The record.
    """
    record = Record(
        benchmark=name,
        command=command_line(),
        commit=git_commit(),
        hardware=hardware(),
        versions={"python": platform.python_version(), **versions(*_PACKAGES, *packages)},
        settings=settings(options),
        series=dict(series or {}),
        findings=dict(findings or {}),
        utilization=dict(utilization or {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    values = to_json(record)
    write_whole(folder / f"{name}.json", (json.dumps(values, indent=1) + "\n").encode())
    print(json.dumps(values, separators=(",", ":")), flush=True)
    return record


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        InputError: the file is missing, no JSON, or no record of this version.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    try:
        return from_json(values)
    except InputError as error:
        raise InputError(f"{path}: {error}: measure again") from error


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON types."""
    return json.loads(json.dumps({"schema": record.schema, **asdict(record)}))  # type: ignore[no-any-return]


def from_json(values: Any) -> Record:
    """The record that :func:`to_json` took apart.

    Raises:
        InputError: it is none of this version; names the key.
    """
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else None
        raise InputError(f"schema is {found!r}, {SCHEMA} is read here")
    kinds: dict[str, type | tuple[type, ...]] = {
        "benchmark": str,
        "command": str,
        "commit": (str, type(None)),
        **dict.fromkeys(("hardware", "versions", "settings", "series", "findings", "utilization"), dict),
    }
    for name, kind in kinds.items():
        if not isinstance(values.get(name, ...), kind):
            raise InputError(f"{name} is missing or of another type")
    if unknown := values.keys() - kinds.keys() - {"schema"}:
        raise InputError(f"{', '.join(sorted(unknown))} is not part of a record")
    measured = {
        group: {name: _series(f"{group} {name}", one) for name, one in values[group].items()}
        for group in ("series", "utilization")
    }
    return Record(**{**values, **measured})


def _series(name: str, values: Any) -> Series:
    if not isinstance(values, dict) or values.keys() != {"unit", "better", "values"}:
        raise InputError(f"{name} is no object of unit, better and values")
    if not isinstance(values["unit"], str) or values["better"] not in get_args(Better):
        raise InputError(f"{name} has unit {values['unit']!r} and better {values['better']!r}")
    numbers = values["values"]
    if not isinstance(numbers, list) or not numbers:
        raise InputError(f"{name} has no values")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise InputError(f"{name} has values that are no numbers")
    return Series(values["unit"], values["better"], tuple(map(float, numbers)))


def command_line() -> str:
    """What was typed; folders outside the current one by their last name, since where they lie concerns nobody."""
    program, *words = sys.argv
    return " ".join([program, shlex.join(map(_without_place, words))]).strip()


def hardware() -> dict[str, Any]:
    """What the machine has, without anything that names it."""
    return {
        "cpu": cpu_name(),
        "cores": num_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


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
    return {
        name: _without_place(str(value)) if isinstance(value, Path | str) else value for name, value in values.items()
    }


def _without_place(word: str) -> str:
    """A path that leads out of the current folder as its last name, all else as it is; ``--option=path`` too."""
    option, equals, value = word.rpartition("=")
    path = Path(value)
    leads_out = path.is_absolute() or ".." in path.parts
    return f"{option}{equals}{path.name}" if leads_out else word
