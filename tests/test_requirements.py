"""The pins stand in two places, for `make` and for `pip install`: they are the same."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins(name: str) -> set[str]:
    lines = (line.strip() for line in (ROOT / name).read_text().splitlines())
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_requirement_files_and_pyproject_pin_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert pins("requirements.txt") == {*project["dependencies"], *extras["cuda13"]}
    assert pins("requirements-dev.txt") == set(extras["dev"])
    assert [pin.replace("130", "120") for pin in extras["cuda13"]] == extras["cuda12"]
    assert all("==" in pin for pin in pins("requirements.txt") | pins("requirements-dev.txt"))
