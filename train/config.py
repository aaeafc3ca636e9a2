"""What a run is made of: nested frozen dataclasses, from which the command line is made too.

Promises that an existing :class:`Config` is consistent: every check is made on construction and raises
:class:`~pipeline.errors.InputError` with the value and the remedy.  Also promises that a configuration survives JSON.
Which values make a good run is left to :mod:`train.recipes`, the constants of a method to ``train/methods/``.
"""

import dataclasses
import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from model.r3d import num_last_positions
from pipeline.datasets import DataOptions
from pipeline.errors import InputError
from pipeline.processes import num_cores
from pipeline.synthetic import MOTIONS
from train.methods import METHODS
from train.precision import Precision, best_precision
from train.schedule import REFERENCE_BATCH, scaled_lr
from train.scoring import ViewAverage
from train.step import check_compiler

_METHOD_WAITS = ("warmup_epochs", "rampup_epochs", "pseudo_label_epoch")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where, how long and with which method."""

    dir: Path = Path("runs/run")
    """Folder of the run: checkpoints, metrics, report. A run is never written over."""
    method: str = "temporal_gradient"
    """Method to train, one of those in docs/methods.md. Its own options are --method.*"""
    baseline: str | None = None
    """Train this method too, on the same labels and for as many steps, and compare."""
    seed: int = 0
    """Decides which videos are labeled, what the clips look like, and the first weights."""
    max_steps: int | None = None
    """Stop here if the epochs are not over by then; the learning rate follows the epochs all the same."""
    resume: bool = False
    """Go on from the run's last checkpoint; start from scratch where there is none yet."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    world_size: int | None = None
    """GPUs whose clips make up a step, however many train; None takes those there are, or were when the run began."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the step before the first one, which takes minutes on a CPU; auto does so on a GPU only."""
    precision: Literal["auto", Precision] = "auto"
    """Number format of the networks: auto takes bf16 on a GPU, fp16 on one too old for it, fp32 on a CPU."""
    cuda_graphs: bool = False
    """Replay the compiled step as CUDA graphs, which spares the host launching it kernel by kernel."""
    profile: bool = False
    """Profile twenty steps: a trace to look at in the run's folder, a table of where time goes, and what to do."""
    log_every: int = 10
    """Steps between two lines of the log."""
    eval_every_epochs: int = 5
    """Epochs between two evaluations on one center clip per video, each followed by a checkpoint."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; None writes them at evaluations only. A killed run loses what follows the last."""

    def __post_init__(self) -> None:
        known = ", ".join(METHODS)
        _require(self.method in METHODS, f"--run.method {self.method} is unknown: choose one of {known}")
        _require(
            self.baseline is None or self.baseline in METHODS,
            f"--run.baseline {self.baseline} is unknown: choose one of {known}, or None",
        )
        _require(
            self.baseline != self.method,
            f"--run.baseline {self.baseline} is the method itself: choose another one, or None",
        )
        _require(0 <= self.seed < 2**32, f"--run.seed {self.seed} is out of range: take 0 to 4294967295")
        _require(
            self.max_steps is None or self.max_steps >= 1,
            f"--run.max-steps {self.max_steps} trains nothing: take 1 or more, or None for all epochs",
        )
        _require(
            self.world_size is None or self.world_size >= 1,
            f"--run.world-size {self.world_size}: take 1 or more, or None for as many as there are",
        )
        _require(
            not self.cuda_graphs or self.compile != "off",
            "--run.cuda-graphs and --run.compile off contradict each other: only a compiled step is replayed",
        )
        _require(self.log_every >= 1, f"--run.log-every {self.log_every}: take 1 or more")
        _require(self.eval_every_epochs >= 1, f"--run.eval-every-epochs {self.eval_every_epochs}: take 1 or more")
        _require(
            self.checkpoint_every is None or self.checkpoint_every >= 1,
            f"--run.checkpoint-every {self.checkpoint_every}: take 1 or more, or None for evaluations only",
        )

    @property
    def resolved_precision(self) -> Precision:
        """Number format of the networks, once the configuration is resolved."""
        assert self.precision != "auto", "the configuration is not resolved"
        return self.precision


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """The generated data set, written to --data.root if it is not there yet."""

    motions: tuple[str, ...] = tuple(MOTIONS)
    """The classes, two or more of the eight motions there are."""
    videos_per_class: int = 40
    """Training videos of each class."""
    val_videos_per_class: int = 15
    """Validation videos of each class."""
    size: int = 64
    """Width and height of the videos in pixels."""
    num_frames: int = 32
    """Frames of each video."""
    seed: int = 0
    """Another seed gives other videos."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(DataOptions):
    """Which videos, how many labels, and what a clip is."""

    root: Path = Path("data")
    """Folder of the videos: one sub-folder per class, perhaps under train/ and val/, or a known data set."""
    index: Path | None = None
    """File of what is known of the videos, brought up to date by each run, which keeps a copy. None: its own."""
    clip_len: int = 8
    """Frames of a clip."""
    frame_stride: int = 8
    """Distance between two frames of a clip, in frames of the video."""
    size: int = 224
    """Width and height of a training clip in pixels."""
    eval_size: int = 256
    """Length of the short side, in pixels, to which videos are resized for the final evaluation."""
    min_crop_area: float = 0.08
    """Smallest share of the frame's area that a training crop may show."""
    flip: bool = True
    """Mirror half of the training clips. Turn off where left and right are different classes."""
    tg_form: Literal["aligned", "reference_slow"] = "aligned"
    """Temporal gradients: differences at the frames of the clip, as in the paper, or the slow ones of its code."""
    tg_stride: int = 1
    """Distance between the two frames of a temporal gradient, in frames of the video; 7 is the paper's slow one."""
    strong_fixed_sign: bool = False
    """Shear, shift and turn strong views the same way all through the run, as the paper's code does by its making."""
    strong_shared_ops: bool = False
    """Give RGB and temporal gradients of a clip the same strong augmentation, not one each."""
    decoder: Literal["auto", "ffmpeg", "dali"] = "auto"
    """Video decoder; auto takes DALI on a GPU and FFmpeg on a CPU."""
    num_threads: int | None = None
    """Threads that decode; None takes one per core this process may use."""
    max_bad_fraction: float = 0.01
    """End the run when more than this fraction of the training videos has gone bad; one always may."""
    generate: GenerateConfig | None = None
    """The data set to generate, None to use what is there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.clip_len >= 2, f"--data.clip-len {self.clip_len}: the network halves it, take 2 or more")
        _require(self.frame_stride >= 1, f"--data.frame-stride {self.frame_stride}: take 1 or more")
        _require(self.tg_stride >= 1, f"--data.tg-stride {self.tg_stride}: take 1 or more")
        _require(
            self.tg_form == "aligned" or self.tg_stride == 1,
            f"--data.tg-stride {self.tg_stride} and --data.tg-form {self.tg_form} contradict each other: "
            "the stride of that form follows from the clip",
        )
        _require(self.size >= 32, f"--data.size {self.size}: the network divides it by 32, take 32 or more")
        _require(
            self.eval_size >= self.size,
            f"--data.eval-size {self.eval_size} is smaller than --data.size {self.size}: take at least that, "
            "8/7 of it is usual",
        )
        _require(
            0 < self.min_crop_area <= 1,
            f"--data.min-crop-area {self.min_crop_area}: take more than 0 and at most 1, 0.08 is the paper's",
        )
        _require(
            self.num_threads is None or self.num_threads >= 1,
            f"--data.num-threads {self.num_threads}: take 1 or more, or None for one per core",
        )
        _require(
            0 <= self.max_bad_fraction <= 1,
            f"--data.max-bad-fraction {self.max_bad_fraction}: take at least 0 and at most 1",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The networks."""

    width: int = 64
    """Channels of the stem; 64 is R3D-18, half of it costs a quarter."""
    dropout: float = 0.5
    """Dropout before the classifier."""
    num_classes: int | None = None
    """Outputs of the classifier, None for one a class; the paper's code has 101 on the 51 classes of HMDB-51."""

    def num_outputs(self, class_names: Sequence[str]) -> int:
        """Outputs of the classifier; those beyond the classes are never right.

        Args:
            class_names: of the data set.

        Raises:
            InputError: there are more classes than ``num_classes``.
        """
        num_classes = self.num_classes or len(class_names)
        _require(
            num_classes >= len(class_names),
            f"--model.num-classes {num_classes}: the videos are of {len(class_names)} classes, take as many or None",
        )
        return num_classes

    def output_names(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """What each output of the classifier stands for: the classes, and by number those beyond them."""
        beyond = range(len(class_names), self.num_outputs(class_names))
        return (*class_names, *(f"output {number}" for number in beyond))

    def __post_init__(self) -> None:
        _require(
            self.num_classes is None or self.num_classes >= 1,
            f"--model.num-classes {self.num_classes}: take 1 or more, or None for one a class",
        )
        _require(self.width >= 1, f"--model.width {self.width}: take 1 or more, 64 is the paper's")
        _require(0 <= self.dropout < 1, f"--model.dropout {self.dropout}: take at least 0 and less than 1")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """SGD and its schedule."""

    lr: float | None = None
    """Peak learning rate; None takes 0.2 for --optim.lr-batch labeled clips a step, and in proportion for others."""
    lr_batch: int = REFERENCE_BATCH
    """Labeled clips in a step for which the rule takes 0.2; the paper's are 40, and 64 for Kinetics."""
    momentum: float = 0.9
    """Momentum, not Nesterov's."""
    weight_decay: float = 1e-4
    """Weight decay of all parameters."""
    clip_norm: float = 40.0
    """Largest L2 norm of the gradient of all parameters together; longer ones are scaled down to it."""
    epochs: int = 180
    """Passes over the training videos, labeled or not; the learning rate falls to zero over them as a cosine."""
    warmup_epochs: int = 30
    """Epochs over which the learning rate rises; of a method in rounds, the sum over all of them."""
    batch_labeled: int = 5
    """Labeled clips in a step, on each GPU."""
    batch_unlabeled: int = 5
    """Unlabeled clips in a step, on each GPU. The length of an epoch follows from it for every method."""

    def __post_init__(self) -> None:
        _require(self.lr is None or self.lr > 0, f"--optim.lr {self.lr}: take more than 0, or None for the rule")
        _require(self.lr_batch >= 1, f"--optim.lr-batch {self.lr_batch}: take 1 or more, 40 is the paper's")
        _require(0 <= self.momentum < 1, f"--optim.momentum {self.momentum}: take at least 0 and less than 1")
        _require(self.weight_decay >= 0, f"--optim.weight-decay {self.weight_decay}: take 0 or more")
        _require(self.clip_norm > 0, f"--optim.clip-norm {self.clip_norm}: take more than 0")
        _require(self.epochs >= 1, f"--optim.epochs {self.epochs}: take 1 or more")
        _require(self.warmup_epochs >= 0, f"--optim.warmup-epochs {self.warmup_epochs}: take 0 or more")
        _require(self.batch_labeled >= 1, f"--optim.batch-labeled {self.batch_labeled}: take 1 or more")
        _require(self.batch_unlabeled >= 1, f"--optim.batch-unlabeled {self.batch_unlabeled}: take 1 or more")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How the recognizer is evaluated, during training and in the final test."""

    precise_bn_batches: int = 0
    """Batches of unlabeled videos on which BatchNorm statistics are computed anew (PreciseBN); 0 takes training's."""
    precise_bn_batch_size: int = 5
    """Clips in such a batch, on each GPU."""
    average: ViewAverage = "logits"
    """What the final test averages over the views of a video."""

    def __post_init__(self) -> None:
        _require(
            self.precise_bn_batches >= 0,
            f"--eval.precise-bn-batches {self.precise_bn_batches}: take 0 or more, 200 is the paper's",
        )
        _require(
            self.precise_bn_batch_size >= 1,
            f"--eval.precise-bn-batch-size {self.precise_bn_batch_size}: take 1 or more, 5 is the paper's",
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    method: object = field(default_factory=METHODS[RunConfig.method].config_type)

    def __post_init__(self) -> None:
        config_type = METHODS[self.run.method].config_type
        assert isinstance(self.method, config_type), f"{self.run.method} takes {config_type}, not {self.method}"
        self._check_warmups()
        self._check_rounds()
        self._check_batches()

    def _check_warmups(self) -> None:
        """What waits, or rises, for some epochs must be done before the last one."""
        waits = {
            "--optim.warmup-epochs": self.optim.warmup_epochs,
            **{f"--method.{name.replace('_', '-')}": getattr(self.method, name, None) for name in _METHOD_WAITS},
        }
        too_long = [f"{option} {epochs}" for option, epochs in waits.items() if (epochs or 0) >= self.optim.epochs]
        _require(
            not too_long,
            f"{' and '.join(too_long)} would outlast --optim.epochs {self.optim.epochs}: lower it "
            "(a sixth of the epochs is usual for a warm-up, a quarter for a ramp), or stop early with --run.max-steps",
        )

    def _check_rounds(self) -> None:
        rounds: int = getattr(self.method, "num_rounds", 1)
        _require(
            rounds <= self.optim.epochs,
            f"--method.num-rounds {rounds} of --run.method {self.run.method} cannot share --optim.epochs "
            f"{self.optim.epochs}: take at most as many rounds as epochs",
        )

    def _check_batches(self) -> None:
        """BatchNorm in training needs two values of each channel: clips times positions of the last stage."""
        positions = num_last_positions(self.data.clip_len, self.data.size)
        smallest = METHODS[self.run.method].smallest_batch(
            self.method, self.optim.batch_labeled, self.optim.batch_unlabeled
        )
        precise = self.eval.precise_bn_batch_size if self.eval.precise_bn_batches else 2
        for clips, remedy in (
            (smallest, "--optim.batch-labeled and --optim.batch-unlabeled of 2 or more"),
            (precise, "--eval.precise-bn-batch-size of 2 or more"),
        ):
            _require(
                clips * positions > 1,
                f"--run.method {self.run.method} would show the network one clip of {self.data.size} pixels at a time, "
                f"in which BatchNorm has nothing to compare: take {remedy}, or a larger --data.size",
            )


def with_method(config: Config, name: str) -> Config:
    """The same run with another method.

    What the configuration had changed from the defaults of its method is kept where the other one has it too.  Defaults
    of what waits or rises for some epochs are meant for as many as the trainer has by default, and come in proportion:
    what is in proportion already is no change.  A baseline that is now the method itself is dropped.

    Args:
        config: any.
        name: key of METHODS.
    """
    if name == config.run.method:
        return config
    config_type, own_type = METHODS[name].config_type, type(config.method)
    waits = _waits(config_type, config.optim.epochs)
    unchanged = own_type(), own_type(**_waits(own_type, config.optim.epochs))
    kept = {
        option.name: value
        for option in dataclasses.fields(config_type)
        if (value := getattr(config.method, option.name, None))
        not in [getattr(default, option.name, None) for default in unchanged]
    }
    baseline = config.run.baseline if config.run.baseline != name else None
    run = dataclasses.replace(config.run, method=name, baseline=baseline)
    return dataclasses.replace(config, run=run, method=config_type(**(waits | kept)))


def _waits(config_type: type[Any], epochs: int) -> dict[str, int]:
    """Defaults of what waits or rises for some epochs, in a training of so many."""
    defaults = {wait: getattr(config_type(), wait, None) for wait in _METHOD_WAITS}
    return {wait: round(own * epochs / OptimConfig.epochs) for wait, own in defaults.items() if own is not None}


def find_device(config: Config) -> Literal["cpu", "cuda"]:
    """The device that the configuration asks for.

    Raises:
        InputError: it is not there.
    """
    found: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if config.run.device == "auto" else config.run.device
    _require(device in ("cpu", found), f"--run.device {device}: torch finds no usable GPU here, take cpu or auto")
    return device


def resolve(config: Config, world_size: int = 1, cores: int | None = None) -> Config:
    """Settle what the configuration leaves to this machine and to rules: device, threads, learning rate.

    Args:
        config: any.
        world_size: GPUs whose clips make up a step, where the configuration does not say.
        cores: for this process alone; None takes all that it may use.

    Raises:
        InputError: the device asked for is not there.
    """
    world_size = config.run.world_size or world_size
    num_threads = config.data.num_threads or cores or num_cores()
    lr = config.optim.lr or scaled_lr(config.optim.batch_labeled * world_size, config.optim.lr_batch)
    return dataclasses.replace(
        config,
        run=_resolve_step(dataclasses.replace(config.run, device=find_device(config), world_size=world_size)),
        data=dataclasses.replace(config.data, num_threads=num_threads),
        optim=dataclasses.replace(config.optim, lr=lr),
    )


def _resolve_step(run: RunConfig) -> RunConfig:
    """Settle how a step is computed on the run's device."""
    _require(
        not run.cuda_graphs or run.device == "cuda",
        "--run.cuda-graphs needs a GPU, and this run is on a CPU: leave it out",
    )
    compile_ = run.compile
    if compile_ == "auto":
        compile_ = "on" if run.device == "cuda" else "off"
    if compile_ == "on":
        check_compiler()
    precision = best_precision(run.device) if run.precision == "auto" else run.precision
    return dataclasses.replace(run, compile=compile_, precision=precision)


def options(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All options as ("data.root", value), in the order of their definition; None for an absent group."""
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if dataclasses.is_dataclass(value):
            yield from options(value, f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, value


def to_json(config: Config) -> str:
    """Write a configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def from_json(text: str) -> Config:
    """Read a configuration that :func:`to_json` wrote; options it does not mention take their defaults.

    Raises:
        InputError: it mentions options that do not exist.
    """
    values = json.loads(text)
    method = values.get("run", {}).get("method", RunConfig.method)
    _require(method in METHODS, f"the saved configuration is of method {method}; known are {', '.join(METHODS)}")
    hints = {**get_type_hints(Config), "method": METHODS[method].config_type}
    config = _restore(Config, values, hints)
    assert isinstance(config, Config)
    return config


def _restore(hint: Any, value: Any, hints: dict[str, Any] | None = None) -> Any:
    """Turn plain JSON back into what the type hint says."""
    if get_origin(hint) in (Union, types.UnionType):
        return None if value is None else _restore(next(t for t in get_args(hint) if t is not type(None)), value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = hints or get_type_hints(hint)
        unknown = value.keys() - {option.name for option in dataclasses.fields(hint)}
        _require(not unknown, f"the saved configuration has unknown options: {', '.join(sorted(unknown))}")
        return hint(**{name: _restore(hints[name], part) for name, part in value.items()})
    if hint is Path:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
