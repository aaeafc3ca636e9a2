"""The demo made tiny: a data set of 24 small videos, and a training of seconds."""

from pathlib import Path

from tests.conftest import TINY_CLIPS

TINY = {
    "data.generate.videos-per-class": 4,
    "data.generate.val-videos-per-class": 2,
    "data.generate.size": 32,
    "data.generate.num-frames": 12,
    "data.labels-per-class": 1,
    **TINY_CLIPS,
    "optim.warmup-epochs": 0,
    "method.warmup-epochs": 0,
    "optim.epochs": 2,
    "run.eval-every-epochs": 1,
    "run.log-every": 2,
}
NUM_STEPS = 16  # 2 epochs of 16 videos, 2 a step


def demo(folder: Path, *words: str) -> list[str]:
    tiny = [f"--{name}={value}" for name, value in TINY.items()]
    return ["demo", *tiny, "--data.root", str(folder / "data"), "--run.dir", str(folder / "run"), *words]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
