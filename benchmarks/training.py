"""The training that a benchmark is about: its options, its videos, and its loop, a few steps at a time.

Promises that what is timed is what ``python -m train`` would do with the same options: the same configuration, loader,
networks, step and loop, none of them written again here.  What is done with it is left to the benchmarks.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.clips import KINDS, describe, make_clips
from benchmarks.clock import garbage_pauses
from benchmarks.results import RESULTS
from pipeline.batch import ClipBatch, Views
from pipeline.datasets import DataSplit, split_videos
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from train.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, resolve
from train.display import Display
from train.fit import new_loader, new_method, new_state
from train.loop import train
from train.methods import METHODS
from train.metrics import MetricsLog, Window
from train.precision import Precision
from train.stop import StopSignal
from train.videos import Videos

SEED = 0
_ENDLESS = 10**9


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Which videos, and what is made of them: options of all benchmarks of a training or of its parts."""

    root: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of class folders; without one the benchmark clips are read."""
    kind: str = "mjpeg"
    """Which of the benchmark clips: h264 for those as downloaded, or a kind of prepared ones."""
    clips: Path = Path("data/benchmark-clips")
    """Where the benchmark clips are kept, made once."""
    source: Path | None = None
    """Folder of real videos that they are made from; without one they are drawn."""
    method: str = "temporal_gradient"
    """Method that the clips are for: decides which views and modalities are made."""
    clip_len: int = 8
    """Frames of a clip."""
    frame_stride: int = 8
    """Distance between two frames of a clip, in frames of the video."""
    size: int = 112
    """Height and width of the clips in pixels."""
    batch_labeled: int = 2
    """Labeled clips in a batch."""
    batch_unlabeled: int = 2
    """Unlabeled clips in a batch."""
    decoder: Literal["auto", "ffmpeg", "dali"] = "auto"
    """Who decodes; auto takes DALI on a GPU and FFmpeg on a CPU."""
    num_threads: int | None = None
    """Threads that decode; None takes one per core."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the clips are made and used; auto takes a GPU if there is one."""
    repeats: int = 5
    """Times everything is timed; medians and quartiles are of these."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats}: use 1 or more, 5 for numbers to be trusted")
        if self.kind not in KINDS:
            raise InputError(f"kind {self.kind} is unknown: choose one of {', '.join(KINDS)}")
        if self.method not in METHODS:
            raise InputError(f"method {self.method} is unknown: choose one of {', '.join(METHODS)}")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ClipOptions):
    """How the networks are computed, too."""

    width: int = 64
    """Channels of the networks' stems."""
    precision: Literal["auto", Precision] = "auto"
    """Number format of the networks; auto takes bf16 on a GPU and fp32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the step; auto does so on a GPU only."""


_NO_NETWORKS = TrainingOptions(width=1, compile="off")


def configure(options: ClipOptions) -> Config:
    """The configuration of the training, resolved for this machine.

    Where options are of clips alone, so that no network will ever be run, they are as small as can be.

    Raises:
        InputError: an option is not usable; named as the option of ``python -m train`` it stands for.
    """
    networks = options if isinstance(options, TrainingOptions) else _NO_NETWORKS
    return resolve(
        Config(
            run=RunConfig(
                method=options.method,
                seed=SEED,
                device=options.device,
                precision=networks.precision,
                compile=networks.compile,
            ),
            data=DataConfig(
                clip_len=options.clip_len,
                frame_stride=options.frame_stride,
                size=options.size,
                eval_size=max(options.size, 256),
                decoder=options.decoder,
                num_threads=options.num_threads,
            ),
            model=ModelConfig(width=networks.width),
            optim=OptimConfig(
                epochs=_ENDLESS, batch_labeled=options.batch_labeled, batch_unlabeled=options.batch_unlabeled
            ),
            method=METHODS[options.method].config_type(),
        )
    )


def find_videos(options: ClipOptions) -> tuple[Videos, dict[str, Any]]:
    """The videos, indexed, and what the record should say of them.

    Every benchmark clip is a class of its own, labeled, and unlabeled too, as training has it.

    Raises:
        InputError: the folder is not usable.
    """
    if options.root is not None:
        index = VideoIndex.build(options.root, progress=False)
        return Videos(index, split_videos(index, seed=SEED)), {"videos": len(index)}
    folders = make_clips(options.clips, options.source)
    index = VideoIndex.build(folders[options.kind], progress=False)
    rows = np.arange(len(index))
    split = DataSplit(class_names=tuple(index.paths), labels=rows, labeled=rows, unlabeled=rows, val=rows[:0])
    return Videos(index, split), describe(folders) | {"kind": options.kind, "videos": len(index)}


class Stretch(NamedTuple):
    """What a stretch of training came to.

    Attributes:
        clips_per_s: as the trainer's log has it.
        step_ms: a step with everything around it.
        data_wait_ms: what of it was spent waiting for the batch.
        cpu_ms_per_clip: CPU time of all threads of this process.
        gc_ms: what of a step was spent collecting garbage.
    """

    clips_per_s: float
    step_ms: float
    data_wait_ms: float
    cpu_ms_per_clip: float
    gc_ms: float


class Training:
    """A training that goes on for as many steps as it is asked for, from whatever batches it is given.

    Args:
        config: resolved.
        videos: what is trained on.

    Attributes:
        videos: what is trained on.
        loader: of the training; closed as long as nothing is asked of it.
        state: networks, optimizer and all else that changes.
    """

    def __init__(self, config: Config, videos: Videos) -> None:
        method = new_method(config, config.model.num_outputs(videos.split.class_names), num_videos=len(videos.index))
        self.loader = new_loader(config, videos, method)
        self.state, self._schedule = new_state(config, videos, method, self.loader)
        self.state.evaluated_step = sys.maxsize  # there is nothing to validate on, nor to keep
        self.state.round = sys.maxsize  # and all steps are of the first round
        self.videos = videos

    def run(self, num_steps: int, batches: "Repeated | None" = None) -> Stretch:
        """Train for some steps, in the trainer's own loop.

        Args:
            num_steps: to be taken and timed; the clock starts before the first batch is asked for.
            batches: where they come from; None takes the loader.

        Raises:
            NonFiniteLossError: a loss or the gradient is infinite or NaN.
        """
        state = self.state
        state.loader = batches or self.loader
        state.window = Window(_ENDLESS, self.videos.index.paths)
        run = replace(state.config.run, max_steps=state.step + num_steps, log_every=_ENDLESS)
        state.config = replace(state.config, run=run)
        log = _Log()
        display = Display(run.method, state.step, state.step + num_steps, quiet=True)
        with garbage_pauses() as pauses_s:
            cpu_s = time.process_time()
            train(state, self._schedule, run.dir, _never, log, display, StopSignal())
            cpu_s = time.process_time() - cpu_s
        record = log.record
        num_clips = record["clips_per_s"] * record["step_ms"] / 1000 * num_steps
        return Stretch(
            clips_per_s=record["clips_per_s"],
            step_ms=record["step_ms"],
            data_wait_ms=record["data_wait_ms"],
            cpu_ms_per_clip=1000 * cpu_s / num_clips,
            gc_ms=1000 * sum(pauses_s) / num_steps,
        )


class Repeated:
    """One batch, without end: a training's source of clips that costs nothing.

    Args:
        batch: handed out each time.
    """

    steps_per_epoch = _ENDLESS

    def __init__(self, batch: ClipBatch) -> None:
        self._batch = batch

    @property
    def quarantined(self) -> Mapping[str, str]:
        """No video is left out, for there is none."""
        return {}

    def __next__(self) -> ClipBatch:
        return self._batch

    def state_dict(self) -> dict[str, Any]:
        """There is no position."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is no position."""


def synthetic(batch: ClipBatch) -> ClipBatch:
    """Random pixels in place of those of a batch, on the same device; all else is as there."""

    def noise(pixels: Tensor) -> Tensor:
        return torch.randint(0, 256, pixels.shape, dtype=pixels.dtype, device=pixels.device)

    def view(views: Views) -> Views:
        return Views(
            noise(views.rgb),
            None if views.tg is None else noise(views.tg),
            None if views.flow is None else noise(views.flow),
        )

    parts: dict[str, Any] = {name: view(part) for name, part in batch._asdict().items() if isinstance(part, Views)}
    return batch._replace(**parts)


class _Log(MetricsLog):
    """Keeps the one record that a stretch of training writes."""

    record: Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__(None, 0, 0)

    def write(self, record: Mapping[str, float | int | str]) -> None:
        self.record = record


def _never() -> NoReturn:
    raise AssertionError("a benchmark has no validation videos")
