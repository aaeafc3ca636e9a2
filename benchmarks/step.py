"""How much faster is the compiled, channels-last training step than the plain one?

Takes whole optimizer steps on generated batches that lie on the device already: losses, gradients, clipping, SGD.  The
forms of a step take turns, so that what slows the machine for a while slows all, and before the clock starts each must
have given the same losses from the same weights.  Compiling and warming up are timed apart.

    python -m benchmarks step --size 112 --batch-labeled 2
"""

import os

# As in train/train.py: threads that spin while they wait slow a busy machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import results
from benchmarks.results import RESULTS, finish
from model import R3D18
from pipeline.batch import ClipBatch, Views
from pipeline.errors import InputError
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
    """Labeled clips in a batch, and as many unlabeled ones, which go in in two views."""
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
        self._optimizer = new_optimizer(self._method, form.precision, lr=_LR, momentum=0.9, weight_decay=1e-4)
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


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _method(form: Form, benchmark: StepBenchmark) -> nn.Module:
    """The same first weights in every form, and no dropout, so that losses can be compared."""
    torch.manual_seed(0)
    method_type = METHODS[benchmark.method]
    method = method_type(NUM_CLASSES, method_type.config_type(), benchmark.width, dropout=0.0).to(benchmark.device)
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
    """Random pixels in all views, whatever the method takes of them."""
    generator = torch.Generator().manual_seed(0)
    shape = (benchmark.batch_labeled, benchmark.clip_len, benchmark.size, benchmark.size, 3)

    def views() -> Views:
        rgb, tg = (torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(2))
        return Views(rgb.to(benchmark.device), tg.to(benchmark.device))

    rows = torch.arange(benchmark.batch_labeled)
    labels = torch.randint(0, NUM_CLASSES, rows.shape, generator=generator).to(benchmark.device)
    return ClipBatch(views(), labels, views(), views(), rows, rows, labels)


def measure(benchmark: StepBenchmark) -> dict[str, dict[str, float]]:
    """Run the benchmark.

    Returns:
        For each form: the first step's seconds, quartiles of "step_ms" and "cpu_ms", and how many "times_faster" it is
        than the plain form, by the median of the ratios of each turn; "times_less_cpu" likewise.

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
    return {name: {"first_steps_s": first[name], **_summary([turn[name] for turn in turns], turns)} for name in forms}


def difference(losses: tuple[float, float], plain: tuple[float, float]) -> float:
    """The largest relative difference."""
    return max(abs(ours / theirs - 1) for ours, theirs in zip(losses, plain, strict=True))


def _summary(timings: list[Timing], turns: list[dict[str, Timing]]) -> dict[str, float]:
    plain = [turn[PLAIN] for turn in turns]
    columns: dict[str, Iterator[float]] = {
        "step_ms": (1000 * timing.wall_s for timing in timings),
        "cpu_ms": (1000 * timing.cpu_s for timing in timings),
        "times_faster": (theirs.wall_s / ours.wall_s for ours, theirs in zip(timings, plain, strict=True)),
        "times_less_cpu": (theirs.cpu_s / ours.cpu_s for ours, theirs in zip(timings, plain, strict=True)),
    }
    summary: dict[str, float] = {}
    for name, values in columns.items():
        low, median, high = quantiles(values, n=4, method="inclusive")
        summary |= {f"{name}_q1": low, name: median, f"{name}_q3": high}
    return summary


def run(benchmark: StepBenchmark) -> int:
    """Measure, print, keep the result."""
    forms = measure(benchmark)
    table = Table("form of the step", "ms", "times faster", "cpu-ms", "times less cpu", "first two steps, s")
    for name, row in forms.items():
        table.add_row(name, *(_cell(row, column) for column in _COLUMNS), f"{row['first_steps_s']:.0f}")
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    finish("step", benchmark, benchmark.results, findings={"forms": forms, "threads": torch.get_num_threads()})
    return 0


_COLUMNS: dict[str, str] = {"step_ms": ".0f", "times_faster": ".2f", "cpu_ms": ".0f", "times_less_cpu": ".2f"}


def _cell(row: dict[str, float], column: str) -> str:
    low, median, high = (format(row[name], _COLUMNS[column]) for name in (f"{column}_q1", column, f"{column}_q3"))
    return f"{median} ({low}-{high})"


def main() -> None:
    """Command line: the fields of :class:`StepBenchmark`."""
    results.main(StepBenchmark, run)


if __name__ == "__main__":
    main()
