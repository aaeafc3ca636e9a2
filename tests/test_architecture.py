"""Who may import whom: pipeline and model know nothing of each other, or of the trainer."""

import ast
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "pipeline": {"pipeline"},
    "model": {"model"},
    "train": {"pipeline", "model", "train"},
    "benchmarks": {"pipeline", "model", "train", "benchmarks"},
}


def imported_packages(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) if not node.level]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_it_may_know(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        forbidden = imported_packages(path) & (set(ALLOWED) | {"tests"}) - ALLOWED[package]
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


def test_dali_ends_inside_the_pipeline() -> None:
    for package in ("model", "train"):
        for path in (ROOT / package).rglob("*.py"):
            assert "nvidia" not in imported_packages(path), path


def test_public_names_are_what_they_say() -> None:
    import pipeline

    for name in pipeline.__all__:
        assert not inspect.ismodule(getattr(pipeline, name)), f"a module hides pipeline.{name}"
