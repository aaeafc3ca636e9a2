"""Nothing that comes in a file can run as code: no package has the calls that would let it.  Nothing is sent away."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "model", "train", "benchmarks")
LOADERS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Calls that load code unless they are told not to, and how they are."""
FORBIDDEN_MODULES = {"_pickle", "cloudpickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.hub.load"}
FORBIDDEN_CALLS |= {"pickle.Unpickler", "Unpickler", "subprocess.getoutput", "torch.jit.load", "torch.package"}
ALIASES = {"numpy": "np"}


def name_of(node: ast.expr) -> str:
    """ "torch.load" of the expression, empty for anything but names with dots."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ALIASES.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def ways_in(source: str) -> Iterator[str]:
    """What of a program could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            if module.split(".")[0] in FORBIDDEN_MODULES or names & (FORBIDDEN_CALLS | LOADERS.keys()):
                yield f"from {module}"
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            if name in LOADERS:
                option, safe = LOADERS[name]
                if given.get(option) is not safe:
                    yield f"{name} without {option}={safe}"
            if name in FORBIDDEN_CALLS or given.get("allow_pickle") or given.get("shell"):
                yield f"{name}({', '.join(str(argument) for argument in given)})"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_that_is_read_can_run(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    found = {f"{path.relative_to(ROOT)}: {way}" for path in files for way in ways_in(path.read_text())}
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "numpy.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.savez(path, allow_pickle=True)",
        "import yaml",
        "from pickle import loads",
        "pickle.load(file)",
        "eval(text)",
        "exec(text)",
        "os.system(line)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_each_way_in_would_be_found(source: str) -> None:
    assert list(ways_in(source))


@pytest.mark.parametrize(
    "source", ["torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "network.eval()"]
)
def test_safe_calls_pass(source: str) -> None:
    assert not list(ways_in(source))


def test_exporting_reports_to_nobody(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", "import train.formats"],
        env={**environment, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    left = {path.name for path in tmp_path.rglob("*")}
    assert not left & {"Microsoft", "deviceid"}
