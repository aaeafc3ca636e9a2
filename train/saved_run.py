"""A run folder opened for use: its networks with their weights, what a clip is, and the videos it validates on.

Promises networks in eval mode, with the BatchNorm statistics that the run's own evaluations used, and that whatever
is missing or damaged is said in one line.  Reads only: nothing in the folder or beside the videos is changed, but that
a long scan of moved videos is kept in the folder.  What is done with the networks is left to :mod:`train.evaluate`,
:mod:`train.predict` and :mod:`train.export`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from model import apply_precise_bn
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from train.checkpoint import BEST, LAST, load
from train.config import Config, find_device, from_json, resolve
from train.fit import new_method
from train.methods import Method
from train.split_record import check_same_split
from train.videos import INDEX, Videos, prepare_videos

Checkpoint = Literal["last", "best"]
Device = Literal["auto", "cpu", "cuda"]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
OutFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
DataRoot = Annotated[Path | None, tyro.conf.arg(name="data.root", metavar="DIR")]

_FILES: dict[Checkpoint, str] = {"last": LAST, "best": BEST}


@dataclass(frozen=True)
class SavedRun:
    """A run that has been trained, or is being trained.

    Attributes:
        folder: the run's.
        config: resolved for this machine; generates no videos.
        class_names: K names, in the order of the logits.
        step: optimizer steps done when the weights were saved.
        method: its networks, in eval mode, on the device.
        precise_bn: the recognizer has the statistics of PreciseBN instead of the running averages.
    """

    folder: Path
    config: Config
    class_names: tuple[str, ...]
    step: int
    method: Method
    precise_bn: bool

    def __str__(self) -> str:
        return f"{self.folder}: {self.config.run.method} after {self.step} steps, {len(self.class_names)} classes"


def open_run(folder: Path, checkpoint: Checkpoint = "last", device: Device = "auto") -> SavedRun:
    """Open a run with the weights of one of its checkpoints.

    Args:
        folder: of the run.
        checkpoint: "last", or "best" of the evaluations on center clips.
        device: "cpu", "cuda", or "auto": a GPU if there is one.

    Raises:
        InputError: there is no such run or checkpoint, it is damaged, or the device is not there.
    """
    path = folder / _FILES[checkpoint]
    if not path.is_file():
        raise InputError(_what_is_missing(folder, checkpoint))
    saved = load(path)
    try:
        config = _for_this_machine(from_json(saved["config"]), folder, device)
        class_names = config.model.output_names(saved["class_names"])
        method = new_method(config, len(class_names), num_videos=saved.get("num_videos", 0))
        method.load_state_dict(saved["method"])
        precise_bn = saved.get("precise_bn", {})
        apply_precise_bn(method.recognizer, precise_bn)
        step = int(saved["step"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]  # torch lists every tensor that does not fit
        raise InputError(f"{path} is damaged, its parts do not fit together: {reason}") from error
    return SavedRun(folder, config, class_names, step, method.eval(), bool(precise_bn))


def open_videos(run: SavedRun, root: Path | None = None) -> Videos:
    """The videos of a run, of which it validates on some.

    Args:
        run: as :func:`open_run` returns it.
        root: where they are by now; where they were when the run began, if None.

    Raises:
        InputError: they are not there, or are not the same.
    """
    root = root or VideoIndex.load(run.folder / INDEX).root
    if not root.is_dir():
        raise InputError(f"the videos of {run.folder} are not in {root}: give the folder they are in as --data.root")
    # An index given for the training is of the old root.
    data = replace(run.config.data, root=root, index=None)
    videos = prepare_videos(replace(run.config, data=data))
    check_same_split(run.folder, videos.split)
    return videos


def _what_is_missing(folder: Path, checkpoint: Checkpoint) -> str:
    if not folder.is_dir():
        return f"there is no run {folder}: give the folder that training wrote, its --run.dir"
    if checkpoint == "best" and (folder / LAST).is_file():
        return f"{folder} has no {BEST}: take --checkpoint last"
    if (folder / "config.json").is_file():
        return f"{folder} has no {_FILES[checkpoint]} yet: the training writes it at its first evaluation, or at Ctrl-C"
    return f"{folder} is not the folder of a run, there is no {_FILES[checkpoint]} in it: give the --run.dir of a run"


def _for_this_machine(config: Config, folder: Path, device: Device) -> Config:
    """The configuration where the run, the device and the cores are by now; nothing is compiled for some clips."""
    run = replace(config.run, dir=folder, device=device, compile="off", cuda_graphs=False)
    if find_device(replace(config, run=run)) != config.run.device:
        run = replace(run, precision="auto")
    return resolve(replace(config, run=run, data=replace(config.data, num_threads=None, generate=None)))
