"""Endless streams of planned clips: which video stands at a position, and what of it is shown.

A step maps to positions, a position to (epoch, place in the epoch's order), and that to a video and a plan.  So a
batch is a function of its step and of the videos left out by then; resuming is setting the step.

Ranks have contiguous shares of every step: its first ``batch_size`` positions are rank 0's, the next rank 1's.  Their
batches put together in the order of the ranks are the batch of a single rank that is as large as all of them.
"""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError, TooManyBadVideos
from pipeline.index import VideoIndex
from pipeline.plan import ONLY_DRAW, ClipPlan, ClipSpec, Draw, epoch_order, plan_clips, plan_tempos, plan_turns
from pipeline.quarantine import Quarantine


class PlannedClip(NamedTuple):
    """One clip of a stream: which video of the index, and what of it."""

    row: int
    plan: ClipPlan


class ClipStream:
    """An endless stream of planned clips over some videos of an index.

    Args:
        index: the videos.
        rows: (N,) rows of the index that the stream runs over, in a new order each epoch.
        spec: what a clip is.
        seed: of the run.
        name: of the stream; streams of one run draw different numbers.
        batch_size: clips in a step of one rank.
        rank: whose share of each step this is.
        world_size: ranks.
        quarantine: videos to leave out; none where None.
        draw: which of the independent draws of this name; all have the same videos at the same positions.
        turns: plan rotated views.
        tempos: plan strong views with actors.
    """

    def __init__(
        self,
        index: VideoIndex,
        rows: np.ndarray,
        spec: ClipSpec,
        *,
        seed: int,
        name: str,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        quarantine: Quarantine | None = None,
        draw: Draw = ONLY_DRAW,
        turns: bool = False,
        tempos: bool = False,
    ) -> None:
        if not len(rows):
            raise InputError(f"there are no {name} videos to train on")
        check_rank(rank, world_size)
        self.index = index
        self.rows = rows
        self.spec = spec
        self.seed = int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")
        self.batch_size = batch_size
        self._draw = draw
        self._turns = turns
        self._tempos = tempos
        self._rank = rank
        self._world_size = world_size
        self._quarantine = quarantine
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> list[PlannedClip]:
        """The clips of a step.

        A video that is left out is replaced by the next in the epoch's order that is not, planned as of the position
        it stands in for.

        Raises:
            TooManyBadVideos: all videos are left out.
        """
        position = (step * self._world_size + self._rank) * self.batch_size
        stop = position + self.batch_size
        clips: list[PlannedClip] = []
        while position < stop:
            epoch, place = divmod(position, len(self.rows))
            rows = self._sound_rows(epoch, place, min(stop - position, len(self.rows) - place), step)
            clips += self._clips(rows, epoch, place)
            position += len(rows)
        return clips

    def _clips(self, rows: np.ndarray, epoch: int, place: int) -> Iterator[PlannedClip]:
        """Consecutive clips of an epoch."""
        plans = self._plans(rows, epoch, place)
        if self._turns:
            turns = plan_turns(self.seed, epoch, place, len(rows)).tolist()
            plans = [replace(plan, turn=turn) for plan, turn in zip(plans, turns, strict=True)]
        if self._tempos:
            tempos = plan_tempos(self.spec.clip_len, self.seed, epoch, place, len(rows))
            plans = [replace(plan, tempo=tempo) for plan, tempo in zip(plans, tempos, strict=True)]
        return map(PlannedClip, rows.tolist(), plans)

    def _plans(self, rows: np.ndarray, epoch: int, place: int) -> list[ClipPlan]:
        """Plans of consecutive clips of an epoch."""
        num_frames, sizes = self.index.num_frames[rows], self.index.display_sizes[rows]
        return plan_clips(num_frames, sizes, self.spec, self.seed, epoch, place, self._draw)

    def _sound_rows(self, epoch: int, place: int, num: int, step: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.seed, epoch, len(self.rows)))
        order = self._order[1]
        rows: np.ndarray = self.rows[order[place : place + num]]
        for i, row in enumerate(rows.tolist()):
            if self._quarantine and self._quarantine.holds(row, step):
                rows[i] = self._substitute(order, place + i, step, self._quarantine)
        return rows

    def _substitute(self, order: np.ndarray, place: int, step: int, quarantine: Quarantine) -> int:
        for distance in range(1, len(order)):
            row = int(self.rows[order[(place + distance) % len(order)]])
            if not quarantine.holds(row, step):
                return row
        bad = {path: fault.reason for path, fault in quarantine.before(step + 1).items()}
        raise TooManyBadVideos(bad, len(order), "none is left to show: restore them")


def check_rank(rank: int, world_size: int) -> None:
    """Raise InputError where there is no such rank."""
    if not 0 <= rank < world_size:
        raise InputError(f"rank is {rank} of {world_size}: it must be at least 0 and below the number of ranks")
