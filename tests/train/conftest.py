"""Runs that tests share, trained once a session; what a test changes it copies first."""

import shutil
from pathlib import Path

import pytest

from tests.train.tiny_demo import demo
from train.train import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the data set and the finished run of the demo, which was profiled."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(demo(folder, "--run.profile")) == 0
    return folder


@pytest.fixture(scope="session")
def finished_tg(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on the same videos, whose recognizer sees temporal gradients."""
    run = tmp_path_factory.mktemp("tg") / "run"
    words = ["--run.method", "fixmatch", "--method.modality", "tg", "--run.max-steps", "1", "--run.baseline", "None"]
    words = [word for word in demo(finished, *words) if not word.startswith("--run.eval")]
    assert main([*words, "--run.dir", str(run)]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, which a test may change."""
    return shutil.copytree(finished / "run", tmp_path / "run")
