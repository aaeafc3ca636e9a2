"""One clip, station by station: ``python -m train.trace FILE [RECIPE] [--out PNG] [OPTIONS]``.

A video goes the way of a training clip, through the code that trains, and every station leaves a line: shape, number
type, range, bytes where they matter, and ms.  The clip is the first that a run's seed plans; it serves as the labeled
clip, whose class is taken to be the first, and as the unlabeled one.  The networks have their first weights, and all
losses are on, as in the last epoch.  A picture shows the frames with the crop, and the views made of them.

Recipe and options are those of ``python -m train`` (which lists them); the recipe is ``folder`` where none is given.
Promises the same lines for the same options, but for ms, which are those of a first call; what stations cost when warm
is told by ``python -m benchmarks stages``.

Exit status: 0 when all is done, 1 where the system refused something, 2 for a mistake in the input.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.train

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from model import R3D18
from pipeline.batch import ClipBatch, Views
from pipeline.errors import InputError
from pipeline.graph import ClipGraph, GraphSpec
from pipeline.index import VideoIndex
from pipeline.loader import choose_decoder
from pipeline.plan import ClipPlan, plan_clip
from pipeline.program import report_errors
from pipeline.record import VideoRecord
from pipeline.scanning import scan
from pipeline.show import describe_box, describe_video, draw_clip
from pipeline.slicing import slice_clip
from pipeline.text import printable
from pipeline.video_scores import NUM_SCORES
from train.cli import parse
from train.config import Config, resolve
from train.fit import new_method
from train.methods import Method
from train.precision import autocast
from train.validation import clip_spec

PROGRAM = "python -m train.trace"
_RECIPE = "folder"
_NUM_CLASSES = 2  # where neither recipe nor options say
_MIN_WIDTH = 100  # the table is not for folding, in a log file either

Result = TypeVar("Result")


class Row(NamedTuple):
    """What a station leaves.

    Attributes:
        station: its name.
        shape: of the array it makes, or how many things.
        dtype: type of the numbers.
        range: least and largest value.
        num_bytes: where they matter.
        ms: it took; None for what was made together with the row before.
    """

    station: str
    shape: str
    dtype: str
    range: str
    num_bytes: int | None = None
    ms: float | None = None


def trace(path: Path, config: Config, picture: Path) -> tuple[str, list[Row]]:
    """Take one clip of a video through every station.

    Args:
        path: the video.
        config: as the command line gives it.
        picture: PNG to write.

    Returns:
        What the clip is, in one line, and a row for each station.

    Raises:
        InputError: the video cannot be used, or the options make no clip of it.
    """
    optim = replace(config.optim, batch_labeled=1, batch_unlabeled=1)
    config = resolve(replace(config, optim=optim, run=replace(config.run, compile="off", cuda_graphs=False)))
    method = new_method(config, config.model.num_classes or _num_classes(config), num_videos=1)
    clock = _Clock(torch.device(config.run.device))

    record, ms = clock.time(lambda: scan(str(path.absolute())))
    rows = [array_row("scan: where packets lie", record.offsets, ms, num_bytes=record.file_size)]
    spec = clip_spec(config)
    spec = spec if method.needs.partners else replace(spec, tg_stride=0)
    plan, ms = clock.time(lambda: plan_clip(record, spec, config.run.seed, epoch=0, position=0))
    rows.append(array_row("plan: frames", plan.frames, ms))
    if method.needs.partners:
        rows.append(array_row("plan: their partners", plan.later))

    weak, strong, made = _views(record, plan, config, method, clock)
    rows += made
    draw_clip(str(path), record, plan, weak, strong, picture)
    batch, ms = clock.time(lambda: _batch(weak, strong, method))
    views = [
        tensor for view in (batch.labeled, batch.weak, batch.strong) for tensor in view or () if tensor is not None
    ]
    shared = {tensor.data_ptr(): tensor.nbytes for tensor in views}  # labeled and unlabeled clip are the same memory
    rows.append(
        Row(
            "batch for torch",
            f"{len(shared)} views",
            str(views[0].dtype).removeprefix("torch."),
            "",
            sum(shared.values()),
            ms,
        )
    )
    rows += _network_rows(method, batch, config, clock)
    return f"{path} ({describe_video(record)}); {describe_box(plan)}", rows


def _num_classes(config: Config) -> int:
    return len(config.data.generate.motions) if config.data.generate else _NUM_CLASSES


class _Clock:
    """Wall-clock times in ms, of what a device does too."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> float:
        """Seconds, once the device has done all it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def time(self, function: Callable[[], Result]) -> tuple[Result, float]:
        """What a function returns, and how long it took."""
        began = self.now()
        result = function()
        return result, 1000 * (self.now() - began)


def _views(
    record: VideoRecord, plan: ClipPlan, config: Config, method: Method, clock: _Clock
) -> tuple[Views, Views | None, list[Row]]:
    """The clip's views, and the stations that make them."""
    needs, data = method.needs, config.data
    decoder = _decoder(record, config)
    graph_spec = GraphSpec(data.clip_len, needs.tg, needs.strong, decoder, data.tg_form, flow=needs.flow)
    graph = ClipGraph(graph_spec, data.size, 1, config.run.device, data.num_threads or 1)
    numbers = np.concatenate([plan.frames, plan.later]) if needs.partners else plan.frames
    rows = []
    if record.sliceable:
        clip, ms = clock.time(lambda: slice_clip(record, numbers, closed=decoder == "dali"))
        rows.append(Row("slice: packets", f"{len(clip.packets)} packets", "bytes", "", sum(map(len, clip.packets)), ms))
    sample, ms = clock.time(lambda: graph.read(record, plan))
    took: float | None = ms  # stands in the first of the rows that were made together
    named = {
        "frames": "decode, crop, scale",
        "partners": "the same: partners",
        "flow": "optical flow",
        "stream": "stream for DALI",
    }
    for name, station in named.items():
        if name in sample:
            rows.append(array_row(station, sample[name], took, num_bytes=sample[name].nbytes))
            took = None
    (weak, strong), took = clock.time(lambda: graph([sample]))
    for view_name, view in (("weak", weak), ("strong", strong)):
        for modality, pixels in () if view is None else view._asdict().items():
            if pixels is not None:
                rows.append(array_row(f"{view_name} {modality.upper()}", pixels, took, num_bytes=pixels.nbytes))
                took = None
    return weak, strong, rows


def _decoder(record: VideoRecord, config: Config) -> str:
    """The decoder that a run would take for this video alone."""
    wanted, device = config.data.decoder, config.run.device
    if wanted == "ffmpeg" or (wanted == "auto" and device == "cpu"):
        return "ffmpeg"
    index = VideoIndex.of_files([Path(record.path)], num_workers=1)
    return choose_decoder(index, np.arange(1), wanted, device)


def _batch(weak: Views, strong: Views | None, method: Method) -> ClipBatch:
    """One clip as a batch of one labeled and, where the method takes such, one unlabeled clip of unknown class.

    It also stands in for views of other clips of the video, and for itself turned.  There are no people, and scores
    tell nothing.
    """
    needs, row = method.needs, torch.zeros(1, dtype=torch.int64)
    zeros = row.to(weak.rgb.device)
    scores = torch.zeros(1, NUM_SCORES, device=weak.rgb.device) if needs.scores else None
    slow = Views(*(None if pixels is None else pixels[:, ::2] for pixels in weak))  # type: ignore[arg-type]
    return ClipBatch(
        labeled=weak,
        labels=zeros,
        weak=weak if needs.unlabeled else None,
        strong=strong,
        labeled_ids=row,
        unlabeled_ids=row if needs.unlabeled else None,
        unlabeled_labels=zeros - 1 if needs.unlabeled else None,
        labeled_second=weak if needs.second else None,
        second=weak if needs.second else None,
        slow=slow if needs.slow else None,
        labeled_rotated=weak if needs.rotated else None,
        rotated=weak if needs.rotated else None,
        labeled_turns=zeros if needs.rotated else None,
        turns=zeros if needs.rotated else None,
        rows=zeros if needs.rows else None,
        labeled_scores=scores,
        scores=scores,
        actor_share=torch.ones(1, device=weak.rgb.device) if needs.actors else None,
    )


def _network_rows(method: Method, batch: ClipBatch, config: Config, clock: _Clock) -> list[Row]:
    """One forward pass in training mode, watched: the method's networks, then its terms."""
    rows: list[Row] = []
    device = batch.labels.device
    progress = torch.full((), float(config.optim.epochs - 1), device=device)
    method.train()
    last = clock.now()

    def note(station: str, tensor: Tensor) -> None:
        nonlocal last
        rows.append(array_row(station, tensor.detach(), 1000 * (clock.now() - last)))
        last = clock.now()

    with ExitStack() as stack, autocast(device, config.run.resolved_precision):
        for modality, network in method.networks.items():
            for handle in _watch(network, modality.upper(), note):
                stack.callback(handle.remove)
        terms = method(batch, progress)
    ms: float | None = 1000 * (clock.now() - last)
    for name, term in terms.items():
        rows.append(array_row(name, term.detach(), ms))
        ms = None
    return rows


def _watch(
    network: R3D18, modality: str, note: Callable[[str, Tensor], None]
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Note what comes into a network and what its parts make of it, the first time each is called."""
    seen: set[str] = set()

    def once(station: str, tensor: Tensor) -> None:
        if station not in seen:
            seen.add(station)
            note(station, tensor)

    def comes_in(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        once(f"{modality}: normalised", inputs[0])

    def comes_out(station: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        once(station, output)

    yield network.register_forward_pre_hook(comes_in)
    stages = {"stem": network.pool1, "stage 1": network.pool2, "logits": network.classifier}
    stages |= {"stage 2": network.layer2, "stage 3": network.layer3, "stage 4": network.layer4}
    for name, module in stages.items():
        yield module.register_forward_hook(partial(comes_out, f"{modality}: {name}"))


def array_row(station: str, array: np.ndarray | Tensor, ms: float | None = None, num_bytes: int | None = None) -> Row:
    """A row about an array or tensor."""
    low, high = array.min().item(), array.max().item()
    form = "{:.3g}" if isinstance(low, float) else "{}"
    numbers = [form.format(number) for number in (low, high)]
    shape = "×".join(map(str, array.shape)) or "a number"
    values = numbers[0] if not array.shape else " … ".join(numbers)
    return Row(station, shape, str(array.dtype).removeprefix("torch."), values, num_bytes, ms)


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    found = Table("station", "shape", "type", "range")
    for name in ("bytes", "ms"):
        found.add_column(name, justify="right")
    for row in rows:
        num_bytes = "" if row.num_bytes is None else f"{row.num_bytes:,}"
        found.add_row(*row[:4], num_bytes, "" if row.ms is None else f"{row.ms:.1f}")
    return found


def run(argv: Sequence[str]) -> int:
    """Read the command line, trace, print; returns the exit status."""
    usage = f"{PROGRAM} FILE [RECIPE] [--out PNG] [OPTIONS]"
    parser = argparse.ArgumentParser(PROGRAM, usage, (__doc__ or "").split("\n", 2)[2], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("trace.png"), help="the picture, trace.png by default")
    known, words = parser.parse_known_args(argv)
    if not words or words[0].startswith("-"):
        raise InputError(f"no video to trace: {usage}")
    path, *rest = words
    config = parse(rest if rest and not rest[0].startswith("-") else [_RECIPE, *rest])
    title, rows = trace(Path(path), config, known.out)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.width = max(console.width, _MIN_WIDTH)
    console.print(printable(title))
    console.print(table(rows))
    console.print(f"picture: {printable(str(known.out))}")
    return 0


def main() -> int:
    """Run the program; returns its exit status."""
    return report_errors(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
