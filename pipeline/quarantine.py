"""What becomes of videos that go bad while a run is under way: deleted, overwritten, damaged where no scan looks.

:class:`Quarantine` is the list of them, :class:`GuardedGraph` finds out which of a failed batch is to blame.  A video
is left out from the step on in which it failed, so that what a step holds is a function of the step and of this list:
replaying with the saved list gives the same bits, whatever has become of the files.

Promises: nobody is listed without a reason and a line in the log; an error that no video is to blame for is raised as
it is.  Left to others: whom to show instead (:mod:`pipeline.stream`).
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from pipeline.batch import Views
from pipeline.errors import BadVideo, InputError, TooManyBadVideos
from pipeline.graph import ClipGraph, Clips, GraphSpec, Sample
from pipeline.index import VideoIndex
from pipeline.plan import ClipPlan
from pipeline.ranges import READ, named
from pipeline.record import VideoRecord

log = logging.getLogger(__name__)


def num_tolerated(num_videos: int, max_bad_fraction: float) -> int:
    """How many of so many videos may go bad: a fraction of them, but one at least, so that it ends no small run."""
    return max(1, int(max_bad_fraction * num_videos))


class Fault(NamedTuple):
    """Why a video is left out, and from which step on."""

    step: int
    reason: str


class Quarantine:
    """The videos that a run leaves out.

    Args:
        paths: of all videos, by row.
        num_videos: videos the run draws from.
        max_bad_fraction: how much of them may go bad before it is an error; one always may.
    """

    def __init__(self, paths: Sequence[str], num_videos: int, max_bad_fraction: float) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise InputError(f"max_bad_fraction is {max_bad_fraction}: it must be between 0 and 1")
        self._paths = paths
        self._num_videos = num_videos
        self._max_bad_fraction = max_bad_fraction
        self._faults: dict[int, Fault] = {}

    def holds(self, row: int, step: int) -> bool:
        """Whether a video is left out of a step."""
        fault = self._faults.get(row)
        return fault is not None and fault.step <= step

    def add(self, reasons: Mapping[int, str], step: int) -> None:
        """Leave videos out from a step on.

        Args:
            reasons: by row.
            step: the one in which they failed.

        Raises:
            TooManyBadVideos: that is more than may go bad; names all.
        """
        for row, reason in reasons.items():
            assert not self.holds(row, step), f"row {row} failed in step {step} but was left out: {reason}"
            if row not in self._faults:
                log.warning("%s is left out from step %d on: %s", self._paths[row], step, reason)
            self._faults[row] = Fault(step, reason)
        if len(self._faults) > num_tolerated(self._num_videos, self._max_bad_fraction):
            raise TooManyBadVideos(
                {self._paths[row]: fault.reason for row, fault in self._faults.items()},
                self._num_videos,
                f"restore them, or raise max_bad_fraction, now {self._max_bad_fraction:g}",
            )

    def before(self, step: int) -> dict[str, Fault]:
        """The videos that failed in an earlier step, by path.  May be called while another thread adds some."""
        known = list(self._faults.items())  # one call, so that no other thread comes between
        return {self._paths[row]: fault for row, fault in known if fault.step < step}

    def restore(self, faults: Mapping[str, Sequence[Any]]) -> None:
        """Take up what :meth:`before` returned, or what has become of it in a file, in place of what is here.

        Raises:
            InputError: it names a video that is not in the index.
        """
        rows = {path: row for row, path in enumerate(self._paths) if path in faults}
        unknown = sorted(faults.keys() - rows.keys())
        if unknown:
            raise InputError(f"the saved state leaves out {unknown[0]}, which is not in the index: use that of its run")
        self._faults = {rows[path]: Fault(*fault) for path, fault in faults.items()}


class BadSamples(Exception):
    """A graph could not decode some of the samples it was given.

    Args:
        reasons: by place in the batch.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class GuardedGraph:
    """A graph that outlives videos its decoder stumbles over.

    DALI's decoder fails for a whole batch, names nobody, and the pipeline cannot be relied on after that.

    Args:
        build: makes the graph for a batch size.
        batch_size: most clips in one call.
    """

    def __init__(self, build: Callable[[int], ClipGraph], batch_size: int) -> None:
        self._build = build
        self._batch_size = batch_size
        self._graph = build(batch_size)

    @property
    def spec(self) -> GraphSpec:
        """What it makes."""
        return self._graph.spec

    @property
    def device(self) -> torch.device:
        """Where the views lie."""
        return self._graph.device

    def read(self, index: VideoIndex, row: int, plan: Callable[[VideoRecord], ClipPlan]) -> Sample | BadVideo:
        """As :meth:`ClipGraph.read`, but a video whose file or record cannot be read is no error here."""
        try:
            with named(READ):
                record = index[row]
            return self._graph.read(record, plan(record))
        except BadVideo as error:
            return error

    def __call__(self, samples: list[Sample]) -> tuple[Views, Views | None]:
        """As :meth:`ClipGraph.__call__`, with the errors of :meth:`run`."""
        weak, strong = self.run(samples)
        return Views(**weak), Views(**strong) if strong else None

    def run(self, samples: list[Sample]) -> tuple[Clips, Clips | None]:
        """As :meth:`ClipGraph.run`.

        Raises:
            BadSamples: some cannot be decoded; the others may be given again.
            RuntimeError: DALI failed, and not for one of the samples.
        """
        try:
            return self._graph.run(samples)
        except RuntimeError:
            # Where FFmpeg has decoded, all that is left to DALI is arithmetic: no video can be to blame.
            reasons = self._blame(samples) if self._graph.spec.decoder == "dali" else {}
            if not reasons:
                raise
            self._graph = self._build(self._batch_size)
            raise BadSamples(reasons) from None

    def _blame(self, samples: list[Sample]) -> dict[int, str]:
        """Run each sample by itself; a failure makes the graph invalid, so the next gets a new one."""
        reasons = {}
        probe = self._build(1)
        for place, sample in enumerate(samples):
            try:
                probe.run([sample])
            except RuntimeError as error:
                reasons[place] = f"DALI cannot decode it: {_essence(error)}"
                probe = self._build(1)
        return reasons


def _essence(error: RuntimeError) -> str:
    """DALI's message without the traceback of the graph."""
    text = str(error)
    found = re.search(r"encountered:\s*(?:Assert on .* failed: )?(.+)", text)
    return found[1].strip() if found else " ".join(text.split())
