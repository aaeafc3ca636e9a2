"""The numbers of a run: gathered on the device, written to ``metrics.jsonl`` and TensorBoard.

Promises that gathering never makes the host wait for the device, that a loss which is not finite is traced to its
step, term and videos, and that a resumed run continues its file without gaps or repetitions.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.batch import ClipBatch
from pipeline.files import write_whole

METRICS_FILE = "metrics.jsonl"
_NOT_LOSSES = frozenset(
    {"kind", "step", "epoch", "lr", "mask_rate", "pseudo_label_accuracy", "grad_norm", "loss_scale"}
    | {"clips_per_s", "step_ms", "data_wait_ms", "num_quarantined"}
)
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
    """

    def __init__(self, log_every: int, video_names: Sequence[str]) -> None:
        self._log_every = log_every
        self._video_names = video_names
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
        """Average every term over the steps in which it is not NaN.  Waits for the device.

        Raises:
            NonFiniteLossError: a term that has to be finite is not.
        """
        return dict(zip(self._names, self._gather().nanmean(dim=0).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Names of the terms, and their values as (num_steps, num_terms) float32.  As for :meth:`means`."""
        return {"names": self._names, "rows": self._gather()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the terms of a checkpoint."""
        self._names, self._restored = list(state["names"]), state["rows"]
        self._rows, self._batches = [], []

    def _gather(self) -> Tensor:
        """All terms on the host, none of them infinite or NaN that may not be."""
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
        values = [f"{name} = {terms[i]:g}" for i, name in enumerate(self._names) if bad[i]]
        message = f"step {step + 1} is not finite: {', '.join(values)}; labeled videos: {self._name(labeled)}"
        return message if unlabeled is None else f"{message}; unlabeled videos: {self._name(unlabeled)}"

    def _name(self, ids: Tensor) -> str:
        return ", ".join(self._video_names[row] for row in ids.tolist())


class Meter:
    """The host's clock around steps: throughput, and how long the step waited for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, so that what lies between two stretches of training is not counted."""
        self._started = time.perf_counter()
        self._waited = 0.0
        self._num_steps = self._num_clips = 0

    def step(self, waited_s: float, batch: ClipBatch) -> None:
        """Count a step that waited this long for its batch."""
        self._waited += waited_s
        self._num_steps += 1
        self._num_clips += len(batch.labeled_ids) + (0 if batch.unlabeled_ids is None else len(batch.unlabeled_ids))

    def read(self) -> dict[str, float]:
        """Averages since the last restart; the device must have caught up with the host."""
        elapsed = time.perf_counter() - self._started
        num_steps = max(1, self._num_steps)
        return {
            "clips_per_s": self._num_clips / elapsed,
            "step_ms": 1000 * elapsed / num_steps,
            "data_wait_ms": 1000 * self._waited / num_steps,
        }


class MetricsLog:
    """Append records to a run's ``metrics.jsonl`` and TensorBoard files.

    Args:
        run_dir: the run's folder; it exists.
        step: steps done so far; records beyond it stem from a run that was cut off after its last checkpoint, and
            are dropped.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._path = run_dir / METRICS_FILE
        kept = [record for record in read_metrics(run_dir) if int(record["step"] or 0) <= step]
        write_whole(self._path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        self._board.close()

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Write one record; it has a "kind" and a "step", and NaN becomes null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()
        for name, value in plain.items():
            if name not in ("kind", "step") and isinstance(value, int | float):
                self._board.add_scalar(f"{record['kind']}/{name}", value, int(record["step"]))


def read_metrics(run_dir: Path) -> list[Record]:
    """All whole records of a run; a last line that was cut off in writing is left out."""
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]  # what follows the last newline was cut off
    return [json.loads(line) for line in lines]


def loss_names(record: Iterable[str]) -> list[str]:
    """Names of the losses in a record of training: "loss" and its terms."""
    return [name for name in record if name not in _NOT_LOSSES]
