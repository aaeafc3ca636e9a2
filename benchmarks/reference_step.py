"""How much faster is our training step than the paper's code, from the same batch on?

The reference-like step does as the paper's code (mmaction2): plain 3-D convolutions, contiguous float32 clips that
come normalised, one forward pass of each network over labeled, weak and strong rows, the losses as they are written
there, gradients clipped, plain SGD, nothing compiled.  Ours is :mod:`benchmarks.step`'s, in its CPU forms.  Before the
clock starts, each must have given the same losses as the reference from the same weights, twice: the second time,
gradients are compared too.  Steps take turns.

    python -m benchmarks reference-step --size 112 --batch-labeled 2
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from benchmarks import results
from benchmarks.results import RESULTS, Record, Series, finish
from benchmarks.step import FORMS, NUM_CLASSES, SAME, Candidate, StepBenchmark, Timing, difference, synthetic_batch
from benchmarks.tables import spread
from benchmarks.utilization import sampled
from benchmarks.verdicts import judge, markdown_verdicts, print_verdicts
from model import normalize
from model.r3d import Conv3x3x3
from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from train.methods.temporal_gradient import Config, TemporalGradient
from train.step import check_compiler
from train.tables import Grid

REFERENCE = "reference"
TARGET = 1.4
LR = 1e-3
CLIP_NORM = 40.0
OURS = {name: form for name, form in FORMS.items() if form.channels_last}


@dataclass(frozen=True, kw_only=True)
class ReferenceStepBenchmark:
    """Compare our training step with the paper's, without a GPU."""

    size: int = 112
    """Height and width of the clips in pixels."""
    clip_len: int = 8
    """Frames of a clip."""
    batch_labeled: int = 2
    """Labeled clips in a batch, and as many unlabeled ones, which go in in two views."""
    width: int = 64
    """Channels of the networks' stems."""
    repeats: int = 5
    """Steps that are timed of each."""
    compiled: bool = True
    """Also our compiled step: compiling takes minutes, which are timed apart."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise InputError(f"repeats is {self.repeats}: use 2 or more, 5 for numbers to be trusted")
        self.step()  # refuses what it cannot take

    def step(self) -> StepBenchmark:
        """The same as the options of :mod:`benchmarks.step`."""
        return StepBenchmark(size=self.size, clip_len=self.clip_len, batch_labeled=self.batch_labeled, width=self.width)


class FloatBatch(NamedTuple):
    """A batch as the paper's workers deliver it.

    Attributes:
        labeled: RGB and TG of the labeled clips, (B, 3, T, H, W) float32 each, normalised.
        labels: (B,) int64.
        weak: of the unlabeled clips.
        strong: of the same.
    """

    labeled: tuple[Tensor, Tensor]
    labels: Tensor
    weak: tuple[Tensor, Tensor]
    strong: tuple[Tensor, Tensor]


def float_batch(batch: ClipBatch) -> FloatBatch:
    """The same clips, normalised and contiguous."""
    assert batch.weak is not None and batch.strong is not None
    labeled, weak, strong = (
        (normalize(view.of("rgb")).contiguous(), normalize(view.of("tg")).contiguous())
        for view in (batch.labeled, batch.weak, batch.strong)
    )
    return FloatBatch(labeled, batch.labels, weak, strong)


class ReferenceStep:
    """The paper's two networks and what its runner does with a batch.

    Args:
        width: channels of the stems.
        dropout: before each classifier.
    """

    def __init__(self, width: int, dropout: float = 0.5) -> None:
        self._config = Config()
        torch.manual_seed(0)
        # Made as ours is, for the same first weights.
        self.dual = TemporalGradient(NUM_CLASSES, self._config, width, dropout=dropout).dual
        plain_convolutions(self.dual)
        self._optimizer = torch.optim.SGD(self.dual.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4, foreach=False)

    def step(self, batch: FloatBatch) -> dict[str, float]:
        """One optimizer step; every loss is fetched, as the paper's code does for its log."""
        losses = self._losses(batch)
        self._optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.dual.parameters(), CLIP_NORM, foreach=False)
        self._optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}

    def _losses(self, batch: FloatBatch) -> dict[str, Tensor]:
        config = self._config
        rows = [len(batch.labels), len(batch.weak[0]), len(batch.strong[0])]
        outputs = []
        networks = ((self.dual.rgb, self.dual.rgb_contrast), (self.dual.tg, self.dual.tg_contrast))
        for modality, (network, head) in enumerate(networks):
            clips = torch.cat([batch.labeled[modality], batch.weak[modality], batch.strong[modality]])
            logits, features = network(clips)
            outputs.append((logits.split(rows), features, head(features[-1])))
        (rgb, rgb_features, rgb_embedding), (tg, tg_features, tg_embedding) = outputs
        with torch.no_grad():
            confidence, pseudo = F.softmax((rgb[1] + tg[1]) / 2, dim=1).max(dim=1)
            kept = (confidence >= config.threshold).float()
        num_paired = rows[0] + rows[1]
        losses = {
            "supervised": F.cross_entropy(rgb[0], batch.labels) + F.cross_entropy(tg[0], batch.labels),
            # The warm-up of the schedule, in which ours is timed too: computed, but it weighs nothing.
            "pseudo_label": 0.0
            * (_masked_cross_entropy(rgb[2], pseudo, kept) + _masked_cross_entropy(tg[2], pseudo, kept)),
            "alignment": torch.stack(
                [
                    _cosine_distance(ours[:num_paired], theirs[:num_paired].detach())
                    for ours, theirs in zip(rgb_features, tg_features, strict=True)
                ]
            ).sum(),
            "info_nce": _contrast(rgb_embedding[:num_paired], tg_embedding[:num_paired], config.temperature),
        }
        loss = 0.5 * (losses["supervised"] + losses["pseudo_label"]) + losses["alignment"] + losses["info_nce"]
        return {"loss": loss, **losses}


def _masked_cross_entropy(logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    return (F.cross_entropy(logits, labels, reduction="none") * kept).mean()


def _cosine_distance(rgb: Tensor, tg: Tensor) -> Tensor:
    """The paper's code normalises before a cosine that does so again."""
    return 1 - F.cosine_similarity(F.normalize(rgb, dim=1), F.normalize(tg, dim=1), dim=1).mean()


def _contrast(rgb: Tensor, tg: Tensor, temperature: float) -> Tensor:
    rgb, tg = F.normalize(rgb, dim=1), F.normalize(tg, dim=1)
    positives = torch.arange(len(rgb))
    rgb_to_tg = F.cross_entropy(rgb @ tg.T / temperature, positives)
    tg_to_rgb = F.cross_entropy(tg @ rgb.T / temperature, positives)
    return 0.5 * (rgb_to_tg + tg_to_rgb)


def plain_convolutions(module: nn.Module) -> None:
    """Put PyTorch's own convolutions in the place of ours, with the same weights."""
    for name, child in module.named_children():
        if isinstance(child, Conv3x3x3):
            plain = nn.Conv3d(child.in_channels, child.out_channels, 3, padding=1, bias=False)
            plain.stride = child.stride
            plain.weight = child.weight
            setattr(module, name, plain)
        else:
            plain_convolutions(child)


class Candidates(NamedTuple):
    """Steps that have been seen to compute the same.

    Attributes:
        steps: each takes a step of its own batch and says how long it took.
        first_s: seconds of the first two of each, compilation included.
    """

    steps: dict[str, Callable[[], Timing]]
    first_s: dict[str, float]


def verified(benchmark: ReferenceStepBenchmark) -> Candidates:
    """Make the candidates and compare their losses.

    Raises:
        InputError: ours does not compute what the reference does, or nothing can be compiled here.
    """
    step = benchmark.step()
    forms = {name: form for name, form in OURS.items() if benchmark.compiled or not form.compiled}
    if any(form.compiled for form in forms.values()):
        check_compiler()
    batch = synthetic_batch(step)
    floats = float_batch(batch)
    start = time.perf_counter()
    reference = ReferenceStep(benchmark.width, dropout=0.0)
    expected = (reference.step(floats)["loss"], reference.step(floats)["loss"])
    steps: dict[str, Callable[[], Timing]] = {REFERENCE: partial(_timed, reference, floats)}
    first_s = {REFERENCE: time.perf_counter() - start}
    for name, form in forms.items():
        start = time.perf_counter()
        candidate = Candidate(form, step, batch)
        losses = candidate.losses()
        steps[name], first_s[name] = candidate.timed, time.perf_counter() - start
        if not difference(losses, expected) < SAME["fp32"]:
            raise InputError(f"{name}: losses {losses} are not those of the reference, {expected}")
    return Candidates(steps, first_s)


def _timed(reference: ReferenceStep, batch: FloatBatch) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    reference.step(batch)
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def _grid(series: Mapping[str, Series], first_s: Mapping[str, float]) -> Grid:
    rows = tuple(
        (name, spread(series[name], ",.0f"), f"{series[f'{name}, cpu'].median:,.0f}", f"{first:.0f}")
        for name, first in first_s.items()
    )
    return Grid("", ("step", "ms (quartiles)", "cpu-ms", "first two steps, s"), rows)


def markdown(record: Record) -> str:
    """The paper's step and ours, and how many times faster ours is."""
    done = record.settings
    caption = (
        f"The paper's step beside ours: {done['batch_labeled']} + {done['batch_labeled']} clips of "
        f"{done['size']}×{done['size']}, {record.findings['threads']} threads, {done['repeats']} turns."
    )
    verdicts = markdown_verdicts(record.findings["verdicts"])
    table = _grid(record.series, record.findings["first_steps_s"]).markdown()
    return "\n\n".join([caption, table, verdicts])


def run(benchmark: ReferenceStepBenchmark) -> int:
    """Measure, print, keep the result."""
    with sampled() as utilization:
        steps, first_s = verified(benchmark)
        rounds = [{name: step() for name, step in steps.items()} for _ in range(benchmark.repeats)]
    turns = {name: [turn[name] for turn in rounds] for name in steps}
    series: dict[str, Series] = {}
    for name, timings in turns.items():
        series[name] = Series("ms", "lower", tuple(1000 * timing.wall_s for timing in timings))
        series[f"{name}, cpu"] = Series("cpu-ms", "lower", tuple(1000 * timing.cpu_s for timing in timings))
    best = min((name for name in turns if name != REFERENCE), key=lambda name: series[name].median)
    ours, theirs = ([1 / timing.wall_s for timing in turns[name]] for name in (best, REFERENCE))
    verdicts = {"step": judge(f"step: ours ({best}) over {REFERENCE}", ours, theirs, TARGET)}
    console = Console()
    console.print(_grid(series, first_s).table())
    met = print_verdicts(console, verdicts)
    finish(
        "reference_step",
        benchmark,
        benchmark.results,
        series=series,
        utilization=utilization,
        findings={"first_steps_s": first_s, "threads": torch.get_num_threads(), "verdicts": verdicts},
    )
    return 0 if met else 1


def main() -> None:
    """Command line: the fields of :class:`ReferenceStepBenchmark`."""
    results.main(ReferenceStepBenchmark, run)


if __name__ == "__main__":
    main()
