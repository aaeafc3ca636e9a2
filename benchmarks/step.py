"""How much faster is the compiled, channels-last training step than the plain one?

Takes whole optimizer steps on generated batches that lie on the device already: losses, gradients, clipping, SGD.  The
forms of a step take turns, so that what slows the machine for a while slows all, and before the clock starts each must
have given the same losses from the same weights.  Compiling and warming up are timed apart.  With nothing to load, this
is the most that training can reach: the ceiling that ``end-to-end`` is held against.

    python -m benchmarks step --size 112 --batch-labeled 2
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks import results
from benchmarks.clock import synchronize
from benchmarks.results import RESULTS, finish
from benchmarks.step_summary import series_of, summarize, table_of
from benchmarks.utilization import sampled
from model import R3D18
from pipeline.batch import ClipBatch, Needs
from pipeline.errors import InputError
from pipeline.noise import noise_batch
from train.methods import METHODS
from train.precision import Precision
from train.step import check_compiler, compile_method, new_optimizer, new_scaler, train_step

NUM_CLASSES = 101
_LR = 1e-3
_MAX_SKIPPED = 20
SAME: dict[Precision, float] = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2}
"""Relative difference between losses that counts as the same, after one step."""


class Form(NamedTuple):
    """One way to compute a step.

    Attributes:
        channels_last: or contiguous, (B, C, T, H, W) in memory.
        compiled: or operator by operator.
        precision: of the networks.
        cuda_graphs: replayed.
        backend: who compiles.
    """

    channels_last: bool
    compiled: bool
    precision: Precision = "fp32"
    cuda_graphs: bool = False
    backend: str = "inductor"


PLAIN = "eager, contiguous"
FORMS = {
    PLAIN: Form(channels_last=False, compiled=False),
    "eager, channels last": Form(channels_last=True, compiled=False),
    "compiled, channels last": Form(channels_last=True, compiled=True),
}
GPU_FORMS = {
    "eager, channels last, bf16": Form(channels_last=True, compiled=False, precision="bf16"),
    "compiled, channels last, bf16": Form(channels_last=True, compiled=True, precision="bf16"),
    "compiled, channels last, fp16": Form(channels_last=True, compiled=True, precision="fp16"),
    "compiled, channels last, bf16, CUDA graphs": Form(
        channels_last=True, compiled=True, precision="bf16", cuda_graphs=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """Time the training step in its forms."""

    method: str = "temporal_gradient"
    """Method whose step is timed."""
    size: int = 112
    """Height and width of the clips in pixels."""
    clip_len: int = 8
    """Frames of a clip."""
    batch_labeled: int = 2
    """Labeled clips in a batch."""
    batch_unlabeled: int | None = None
    """Unlabeled clips in a batch, which go in in two views; None takes as many as labeled ones."""
    width: int = 64
    """Channels of the networks' stems."""
    repeats: int = 7
    """Steps that are timed of each form."""
    num_threads: int | None = None
    """Threads on a CPU; None takes PyTorch's own choice."""
    device: str = "cpu"
    """Where to compute: cpu, cuda or cuda:N."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method} is unknown: choose one of {', '.join(METHODS)}")
        for name in ("clip_len", "batch_labeled"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} is {getattr(self, name)}: use 2 or more")
        if self.repeats < 2:
            raise InputError(f"repeats is {self.repeats}: use 2 or more, 5 for numbers to be trusted")
        if self.batch_unlabeled is not None and self.batch_unlabeled < 1:
            raise InputError(f"batch_unlabeled is {self.batch_unlabeled}: use 1 or more")
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device {self.device}: torch finds no usable GPU here, take cpu")


class Timing(NamedTuple):
    """Seconds of one step: of wall time, and of this process on all cores."""

    wall_s: float
    cpu_s: float


class Candidate:
    """A method in one form, and the batch it is trained on over and over.

    Args:
        form: how to compute.
        benchmark: on what.
        batch: on the device.
    """

    def __init__(self, form: Form, benchmark: StepBenchmark, batch: ClipBatch) -> None:
        self._precision, self._batch = form.precision, batch
        self._progress = torch.zeros((), device=benchmark.device)
        self._method = _method(form, benchmark)
        self._optimizer = new_optimizer(self._method, lr=_LR, momentum=0.9, weight_decay=1e-4)
        self._scaler = new_scaler(self._progress.device, form.precision)

    def step(self) -> dict[str, Tensor]:
        """One optimizer step, begun but perhaps not finished."""
        return train_step(
            self._method,
            self._optimizer,
            self._scaler,
            self._batch,
            self._progress,
            lr=_LR,
            clip_norm=40.0,
            precision=self._precision,
        )

    def losses(self) -> tuple[float, float]:
        """Of the first weights, which compares forward passes, and of the next ones, which compares gradients too."""
        for _ in range(_MAX_SKIPPED):
            terms = self.step()
            if terms["grad_norm"].isfinite():  # else the scale of the loss was too large, and the step skipped
                break
        return terms["loss"].item(), self.step()["loss"].item()

    def timed(self) -> Timing:
        """How long one step takes; the clocks stop when the device is done."""
        synchronize(self._progress.device)
        wall, cpu = time.perf_counter(), time.process_time()
        self.step()
        synchronize(self._progress.device)
        return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def _method(form: Form, benchmark: StepBenchmark) -> nn.Module:
    """The same first weights in every form, and no dropout, so that losses can be compared."""
    torch.manual_seed(0)
    method_type = METHODS[benchmark.method]
    method = method_type(NUM_CLASSES, method_type.config_type(), benchmark.width, dropout=0.0)
    method.keep_videos(benchmark.batch_labeled + (benchmark.batch_unlabeled or benchmark.batch_labeled))
    method = method.to(benchmark.device)
    if form.channels_last:
        method = method.to(memory_format=torch.channels_last_3d)
    else:
        # Clips come with their channels last, and PyTorch keeps them so through layers of any layout.
        for network in (module for module in method.modules() if isinstance(module, R3D18)):
            network.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    if form.compiled:
        compile_method(method, cuda_graphs=form.cuda_graphs, backend=form.backend)
    return method


def synthetic_batch(benchmark: StepBenchmark) -> ClipBatch:
    """Random pixels in all views that the method takes."""
    return noise_batch(
        _needs(benchmark),
        num_labeled=benchmark.batch_labeled,
        num_unlabeled=benchmark.batch_unlabeled or benchmark.batch_labeled,
        clip_len=benchmark.clip_len,
        size=benchmark.size,
        num_classes=NUM_CLASSES,
        device=benchmark.device,
        generator=torch.Generator().manual_seed(0),
    )


def _needs(benchmark: StepBenchmark) -> Needs:
    method_type = METHODS[benchmark.method]
    return method_type(1, method_type.config_type(), width=1).needs


def num_clips(benchmark: StepBenchmark) -> int:
    """Clips that a step takes, each once; a method without unlabeled ones takes none of those."""
    unlabeled = benchmark.batch_unlabeled or benchmark.batch_labeled
    return benchmark.batch_labeled + (unlabeled if _needs(benchmark).unlabeled else 0)


def measure(benchmark: StepBenchmark) -> tuple[dict[str, list[Timing]], dict[str, float]]:
    """Run the benchmark.

    Returns:
        By form: the timing of each turn, and the seconds of the first two steps, in which is compiled what is.

    Raises:
        InputError: a form does not compute what the plain one does, or nothing can be compiled here.
    """
    check_compiler()
    if benchmark.num_threads:
        torch.set_num_threads(benchmark.num_threads)
    forms = FORMS | (GPU_FORMS if torch.device(benchmark.device).type == "cuda" else {})
    batch = synthetic_batch(benchmark)
    candidates: dict[str, Candidate] = {}
    first: dict[str, float] = {}
    losses: dict[str, tuple[float, float]] = {}
    for name, form in forms.items():
        candidates[name] = Candidate(form, benchmark, batch)
        start = time.perf_counter()
        losses[name] = candidates[name].losses()
        first[name] = time.perf_counter() - start
        if not difference(losses[name], losses[PLAIN]) < SAME[form.precision]:
            raise InputError(f"{name}: losses {losses[name]} are not those of the plain step, {losses[PLAIN]}")
    turns = [{name: candidate.timed() for name, candidate in candidates.items()} for _ in range(benchmark.repeats)]
    return {name: [turn[name] for turn in turns] for name in forms}, first


def difference(losses: tuple[float, float], plain: tuple[float, float]) -> float:
    """The largest relative difference."""
    return max(abs(ours / theirs - 1) for ours, theirs in zip(losses, plain, strict=True))


def run(benchmark: StepBenchmark) -> int:
    """Measure, print, keep the result."""
    with sampled(benchmark.device) as utilization:
        turns, first = measure(benchmark)
    series = series_of(turns, num_clips(benchmark))
    forms = {
        name: {"first_steps_s": first[name], "clips_per_s": series[f"{name}/clips_per_s"].median, **row}
        for name, row in summarize(turns, PLAIN).items()
    }
    console = Console()
    console.width = max(console.width, 120)
    console.print(table_of(forms))
    findings = {"forms": forms, "threads": torch.get_num_threads()}
    finish("step", benchmark, benchmark.results, series=series, findings=findings, utilization=utilization)
    return 0


def main() -> None:
    """Command line: the fields of :class:`StepBenchmark`."""
    results.main(StepBenchmark, run)


if __name__ == "__main__":
    main()
