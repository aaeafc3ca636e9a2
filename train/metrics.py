"""The numbers of a run: gathered on the device, written to ``metrics.jsonl`` and TensorBoard.

Promises that gathering never makes the host wait for the device, that a loss which is not finite is traced to its
step, term and videos, and that a resumed run continues its file without gaps or repetitions.
"""

import io
import json
import math
import os
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from matplotlib.image import imread
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.files import naming, write_whole
from train.distributed import ALONE, Ranks
from train.hardware import NAMES as HARDWARE
from train.hardware import HardwareMonitor

METRICS_FILE = "metrics.jsonl"
_BOARD = "tensorboard"
CLOCKED = frozenset({"clips_per_s", "step_ms", "data_wait_ms", *HARDWARE})
"""What a record has of the machine: it differs from run to run, where all else is the same to the bit."""

_NOT_LOSSES = CLOCKED | frozenset(
    {"kind", "step", "epoch", "lr", "mask_rate", "pseudo_label_accuracy", "rotation_accuracy"}
    | {"grad_norm", "loss_scale", "num_quarantined"}
)
_DERIVED = ("loss", "grad_norm")  # made of the other terms: not the origin where one of those is bad too
# NaN where no pseudo-label was kept; where a scaled loss made the gradients overflow, and the step was skipped.
_MAY_BE_NAN = frozenset({"pseudo_label_accuracy"})
_MAY_BE_NAN_SCALED = _MAY_BE_NAN | {"grad_norm"}

Record = dict[str, float | int | str | None]
"""A line of the metrics: "kind" is train, val or test, "step" the steps done, the rest are numbers; None for NaN.

Before the line of a test come those of kind skipped, one for each video that evaluations left out, "path" and "reason".
"""


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became infinite or NaN; the message names step, terms and videos."""


class Window:
    """The terms of the steps since the last multiple of ``log_every``, kept on the device.

    Part of the checkpoint, so that the averages logged after a resumption are those of an uninterrupted run.

    Args:
        log_every: steps.
        video_names: names the rows of the index in error messages.
        ranks: those whose terms are averaged; each keeps its own.
    """

    def __init__(self, log_every: int, video_names: Sequence[str], ranks: Ranks = ALONE) -> None:
        self._log_every = log_every
        self._video_names = video_names
        self._ranks = ranks
        self._names: list[str] = []
        self._restored = torch.zeros(0, 0)  # (num_steps, num_terms) from a checkpoint, on the host and finite
        self._rows: list[Tensor] = []  # (num_terms,) each, on the device
        self._batches: list[tuple[int, Tensor, Tensor | None]] = []  # step, labeled and unlabeled ids of each row

    def add(self, step: int, terms: Mapping[str, Tensor], batch: ClipBatch) -> None:
        """Keep the terms of one 0-based step, 0-dim tensors."""
        if step % self._log_every == 0:
            self._restored, self._rows, self._batches = torch.zeros(0, 0), [], []
        assert self._names in ([], list(terms)), f"terms changed from {self._names} to {list(terms)}"
        self._names = list(terms)
        self._rows.append(torch.stack([term.detach().float() for term in terms.values()]))
        self._batches.append((step, batch.labeled_ids, batch.unlabeled_ids))

    def means(self) -> dict[str, float]:
        """Average every term over the steps and ranks in which it is not NaN.  Waits for the device, and other ranks.

        Raises:
            NonFiniteLossError: a term that has to be finite is not.
        """
        return dict(zip(self._names, self._gather().nanmean(dim=0).tolist(), strict=True))

    def check(self) -> None:
        """Wait for the device, and raise as :meth:`means` does."""
        self._gather()

    def state_dict(self) -> dict[str, Any]:
        """Names of the terms, and their values as (num_steps, num_terms) float32.  As for :meth:`means`."""
        return {"names": self._names, "rows": self._gather()}

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Take up the terms of a checkpoint.

        Args:
            state: terms of the steps before it.
            step: steps done; those since the last multiple of ``log_every``, which may have changed, are kept.
        """
        rows = state["rows"]
        self._names = list(state["names"])
        self._restored = rows[max(0, len(rows) - step % self._log_every) :]
        self._rows, self._batches = [], []

    def _gather(self) -> Tensor:
        """All terms on the host, averaged over the ranks, none of them infinite or NaN that may not be."""
        with self._ranks.together():
            rows = self._own_rows()
        return self._ranks.mean(rows)

    def _own_rows(self) -> Tensor:
        if not self._rows:
            return self._restored
        rows = torch.stack(self._rows).cpu()
        may_be_nan = _MAY_BE_NAN_SCALED if "loss_scale" in self._names else _MAY_BE_NAN
        bad = ~rows.isfinite() & ~(rows.isnan() & torch.tensor([name in may_be_nan for name in self._names]))
        if bad.any():
            first = int(bad.any(dim=1).nonzero()[0])
            raise NonFiniteLossError(self._describe(first, rows[first], bad[first]))
        return torch.cat([self._restored, rows]) if len(self._restored) else rows

    def _describe(self, number: int, terms: Tensor, bad: Tensor) -> str:
        step, labeled, unlabeled = self._batches[number]
        values = {name: f"{name} = {terms[i]:g}" for i, name in enumerate(self._names) if bad[i]}
        origins = [value for name, value in values.items() if name not in _DERIVED]
        derived = [values[name] for name in _DERIVED if name in values]
        message = (
            f"step {step + 1} is not finite: {', '.join(origins + derived)}; labeled videos: {self._name(labeled)}"
        )
        return message if unlabeled is None else f"{message}; unlabeled videos: {self._name(unlabeled)}"

    def _name(self, ids: Tensor) -> str:
        return ", ".join(self._video_names[row] for row in ids.tolist())


class Meter:
    """The host's clock around steps: throughput, how long the step waited for data, and how busy the machine was.

    Args:
        ranks: those that make a step together.
        device: that trains.
    """

    def __init__(self, ranks: Ranks = ALONE, device: torch.device | str = "cpu") -> None:
        self._ranks = ranks
        self._hardware = HardwareMonitor(device)
        self.restart()

    def restart(self) -> None:
        """Begin anew, so that what lies between two stretches of training is not counted."""
        self._hardware.restart()
        self._started = time.perf_counter()
        self._waited = 0.0
        self._num_steps = self._num_clips = 0

    def step(self, waited_s: float, batch: ClipBatch) -> None:
        """Count a step that waited this long for its batch."""
        self._waited += waited_s
        self._num_steps += 1
        self._num_clips += len(batch.labeled_ids) + (0 if batch.unlabeled_ids is None else len(batch.unlabeled_ids))

    def read(self) -> dict[str, float]:
        """Averages since the last restart over all ranks, and this rank's hardware now.

        The device must have caught up with the host.
        """
        waited = self._ranks.mean(torch.tensor(self._waited, dtype=torch.float64)).item()
        elapsed = time.perf_counter() - self._started
        num_steps = max(1, self._num_steps)
        return {
            "clips_per_s": self._ranks.world_size * self._num_clips / elapsed,
            "step_ms": 1000 * elapsed / num_steps,
            "data_wait_ms": 1000 * waited / num_steps,
            **self._hardware.sample(),
        }


class MetricsLog:
    """Append records to a run's ``metrics.jsonl`` and TensorBoard files.

    Args:
        run_dir: the run's folder; it exists.  None writes nothing, for ranks other than the first.
        step: steps done so far; records beyond it stem from a run that was cut off after its last checkpoint, and
            are dropped, as are those of an evaluation or a test that was cut off.
        evaluated_step: step of the newest evaluation that is done.
    """

    def __init__(self, run_dir: Path | None, step: int, evaluated_step: int) -> None:
        self._file: TextIO | None = None
        if run_dir is None:
            return
        self._path, self._board_dir = run_dir / METRICS_FILE, run_dir / _BOARD
        kept = _records_of_whole_steps(read_metrics(run_dir), step, evaluated_step)
        write_whole(self._path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(self._board_dir), purge_step=step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is None:
            return
        # What could not be written fails a second time when it is closed; the first time tells what to do.
        for path, file in ((self._path, self._file), (self._board_dir, self._board)):
            with suppress(OSError) if isinstance(error, OSError) else naming(path):
                file.close()

    def describe(self, step: int, texts: Mapping[str, str]) -> None:
        """Show texts in TensorBoard as they are, each under its name."""
        if self._file is None:
            return
        for name, text in texts.items():
            self._board.add_text(name, textwrap.indent(text, "    "), step)

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Write one record; it has a "kind" and a "step", and NaN becomes null.

        Raises:
            OSError: it cannot be written, say for a full disk.
        """
        if self._file is None:
            return
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with naming(self._path):
            self._file.write(json.dumps(plain) + "\n")
            self._file.flush()
        with naming(self._board_dir):
            for name, value in plain.items():
                if name not in ("kind", "step") and isinstance(value, int | float):
                    self._board.add_scalar(f"{record['kind']}/{name}", value, int(record["step"]))

    def sync(self) -> None:
        """Have all records outlast a kill and a crash of the machine.

        Raises:
            OSError: as for :meth:`write`.
        """
        if self._file is None:
            return
        with naming(self._path):
            os.fsync(self._file.fileno())
        with naming(self._board_dir):
            self._board.flush()


def _records_of_whole_steps(records: list[Record], step: int, evaluated_step: int) -> list[Record]:
    """Those up to a checkpoint: it was evaluated or not, and a test is whole if its own line, the last, is there."""
    tested = {record["step"] for record in records if record["kind"] == "test"}
    newest = {"val": evaluated_step}
    return [
        record
        for record in records
        if int(record["step"] or 0) <= newest.get(str(record["kind"]), step)
        and (record["kind"] != "skipped" or record["step"] in tested)
    ]


def write_pictures(run_dir: Path, pictures: Mapping[str, bytes | None]) -> None:
    """Show pictures in TensorBoard one step after the last record, in place of earlier ones.

    That they have a step of their own is what makes TensorBoard drop earlier ones and keep all curves.

    Args:
        run_dir: the run's folder.
        pictures: PNGs by name; None has nothing to show.
    """
    step = 1 + max((int(record["step"] or 0) for record in read_metrics(run_dir)), default=0)
    with closing(SummaryWriter(str(run_dir / _BOARD), purge_step=step)) as board:
        for name, png in pictures.items():
            if png is not None:
                board.add_image(f"report/{name}", imread(io.BytesIO(png))[..., :3], step, dataformats="HWC")


def read_metrics(run_dir: Path) -> list[Record]:
    """All whole records of a run; a last line that was cut off in writing is left out.

    Raises:
        InputError: a line is damaged.
    """
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]  # what follows the last newline was cut off
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"line {number} of {path} is damaged: delete it, the run needs none of them") from error
    return records


def loss_names(record: Iterable[str]) -> list[str]:
    """Names of the losses in a record of training: "loss" and its terms."""
    return [name for name in record if name not in _NOT_LOSSES]
