"""Checkpoints: all of a training's state in one file that is either old or new, never half.

Promises that a training restored from a checkpoint continues bit for bit as if it had not been interrupted, that
``torch.load(weights_only=True)`` reads it, and that a checkpoint of another run is refused by naming the difference.
When to save is left to :mod:`train.loop`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.files import open_whole
from train.config import Config, to_json
from train.distributed import ALONE, Ranks, merged_loader_state
from train.methods import Method
from train.metrics import Window

LAST = "last.pt"
BEST = "best.pt"
_FORMAT = 1

# What may differ between a run and its resumption: the rest decides what is computed.  On another device, or in another
# precision, the bits differ.
_FREE_OPTIONS = frozenset(
    {
        "run.dir",
        "run.baseline",
        "run.max_steps",
        "run.resume",
        "run.device",
        "run.compile",
        "run.precision",
        "run.cuda_graphs",
        "run.profile",
        "run.log_every",
        "run.eval_every_epochs",
        "run.checkpoint_every",
        "data.root",
        "data.index",
        "data.annotations",
        "data.train_list",
        "data.val_list",
        "data.class_names",
        "data.labeled_list",
        "data.num_threads",
        "data.max_bad_fraction",
        "method.boxes",
        "method.scores",
    }
)


class ClipSource(Protocol):
    """Endless batches whose position can be saved: a :class:`pipeline.loader.ClipLoader`."""

    steps_per_epoch: int

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Why videos are left out of the batches, by path."""

    def __next__(self) -> ClipBatch: ...

    def state_dict(self) -> dict[str, Any]:
        """Position, as plain numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position."""


@dataclass
class TrainState:
    """Everything that changes while training, and what identifies the training.

    Attributes:
        config: resolved configuration.
        class_names: K names, in the order of the classifier's outputs.
        method: networks and losses.
        optimizer: over all of the method's parameters that take a gradient.
        scaler: of the loss; does nothing except in float16.
        loader: source of batches.
        window: terms since the last log line.
        step: optimizer steps done.
        round: rounds of the method begun after the first.
        evaluated_step: step of the newest evaluation.
        best_top1: highest accuracy of an evaluation so far, -1 before the first.
        ranks: those that train together.
        num_videos: rows of the index.
        precise_bn: the recognizer's BatchNorm statistics in the newest evaluation, empty where PreciseBN is off.
    """

    config: Config
    class_names: tuple[str, ...]
    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: ClipSource
    window: Window
    step: int = 0
    round: int = 0
    evaluated_step: int = 0
    best_top1: float = -1.0
    ranks: Ranks = ALONE
    num_videos: int = 0
    precise_bn: dict[str, Tensor] = field(default_factory=dict)

    def checkpoint(self) -> dict[str, Any]:
        """All of it, on all ranks, as tensors, numbers and strings; all ranks must ask for it.

        "precise_bn" is empty where the weights have moved on since the evaluation; "method" has the running averages.

        Raises:
            NonFiniteLossError: a step since the last log line went wrong; such a state is not worth keeping.
        """
        window = self.window.state_dict()
        rng, *rng_of_others = self.ranks.gather(_rng_state())
        return {
            "format": _FORMAT,
            "config": to_json(self.config),
            "class_names": list(self.class_names),
            "num_videos": self.num_videos,
            "step": self.step,
            "round": self.round,
            "evaluated_step": self.evaluated_step,
            "best_top1": self.best_top1,
            "window": window,
            "method": self.method.state_dict(),
            "precise_bn": self.precise_bn if self.evaluated_step == self.step else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": merged_loader_state(self.ranks.gather(self.loader.state_dict())),
            "rng": rng,
            **({"rng_of_others": rng_of_others} if rng_of_others else {}),
        }

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Take up a checkpoint of the same training.

        Args:
            checkpoint: as :func:`load` returns it.
            path: where it is from, for messages.

        Raises:
            InputError: it belongs to another training; nothing has been changed.
        """
        check_same_training(checkpoint, self.config, self.class_names, path)
        self.loader.load_state_dict(checkpoint["loader"])  # first, as it may refuse
        self.method.load_state_dict(checkpoint["method"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.scaler.is_enabled() and checkpoint["scaler"]:  # one that does nothing has no state
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.window.load_state_dict(checkpoint["window"], checkpoint["step"])
        self.step, self.evaluated_step = checkpoint["step"], checkpoint["evaluated_step"]
        self.best_top1 = checkpoint["best_top1"]
        rng = [checkpoint["rng"], *checkpoint.get("rng_of_others", ())]
        if self.ranks.rank < len(rng):  # a rank that was not there before has its own already
            _set_rng_state(rng[self.ranks.rank])
        self.precise_bn = checkpoint.get("precise_bn", {})  # earlier versions had none
        self.round = checkpoint.get("round", 0)  # nor rounds


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that the path holds the old one or the new one, whole, whatever happens meanwhile.

    Raises:
        OSError: it cannot be written, say for a full disk.  The old one is untouched.
    """
    try:
        with open_whole(path) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise OSError(f"cannot write the checkpoint {path} ({error}); the one before it, if any, is whole") from error


def load(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the host.

    Args:
        path: the file.
        mmap: leaves the tensors in the file, for those who do not look at them.

    Raises:
        InputError: the file is not a checkpoint of this program, or damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        found = checkpoint["format"]
    except Exception as error:  # torch.load raises many kinds, depending on the bytes it meets
        reason = type(error).__name__
        if isinstance(error, UnpicklingError) and "GLOBAL" in str(error):
            reason = "it holds more than tensors, numbers and strings, which may be code; nothing of it was run"
        raise InputError(f"{path} is not a checkpoint of this program, or damaged: {reason}") from error
    if found != _FORMAT:
        raise InputError(f"{path} is a checkpoint of format {found}, this program reads {_FORMAT}: use its own version")
    return checkpoint


def saved_world_size(path: Path) -> int | None:
    """How many GPUs' clips make up a step of the run that a checkpoint is of; None where there is none yet.

    Raises:
        InputError: as for :func:`load`.
    """
    if not path.exists():
        return None
    run: dict[str, Any] = json.loads(load(path, mmap=True)["config"])["run"]
    return run.get("world_size") or 1


def check_same_training(checkpoint: dict[str, Any], config: Config, class_names: tuple[str, ...], path: Path) -> None:
    """Refuse a checkpoint that this configuration cannot continue.

    Raises:
        InputError: names what differs, first the checkpoint's value, then the one asked for.
    """
    saved = _flatten(json.loads(checkpoint["config"]))
    asked = _flatten(json.loads(to_json(config)))
    differing = [
        f"{name} {saved[name]} is now {asked[name]}"
        for name in asked
        if name in saved and saved[name] != asked[name] and not _may_differ(name, saved[name], asked[name])
    ]
    if list(class_names) != checkpoint["class_names"]:
        differing.append(f"classes {_names(checkpoint['class_names'])} are now {_names(class_names)}")
    if differing:
        raise InputError(
            f"{path} is of another training: {'; '.join(differing)}. "
            "Resume with the options it began with, or choose another --run.dir"
        )


def _may_differ(name: str, saved: Any, asked: Any) -> bool:
    """Whether an option is free; a file that a method takes may be elsewhere by now, but not come or go."""
    return name in _FREE_OPTIONS and not (name.startswith("method.") and None in (saved, asked))


def _flatten(groups: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"run": {"seed": 0}} -> {"run.seed": 0}."""
    flat: dict[str, Any] = {}
    for name, value in groups.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _names(class_names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(class_names[:5])
    return f"[{shown}, ... {len(class_names)} in all]" if len(class_names) > 5 else f"[{shown}]"


def _rng_state() -> dict[str, Tensor]:
    """State of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_rng_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
