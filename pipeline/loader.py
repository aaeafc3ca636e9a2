"""Endless streams of planned clips, decoded ahead of the trainer.

Each stream maps a step to positions, a position to (epoch, place in the epoch's order), and that to a video and a
plan; so a batch depends on its step alone, and resuming is setting the step.  Threads decode clips in parallel, one
thread of its own runs the DALI graphs, and a short queue keeps finished batches: data is made while the step runs.

Promises: the same bits for any number of threads; every step is delivered or an error says which file is to blame.
Left to others: the plan (:mod:`pipeline.plan`), decoding and views (:mod:`pipeline.graph`).
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from itertools import count
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch

from pipeline.background import Background, read_ahead
from pipeline.batch import ClipBatch, Needs
from pipeline.datasets import DataSplit
from pipeline.errors import InputError
from pipeline.graph import DECODERS, ClipGraph, GraphSpec, Sample, dali_refusal
from pipeline.index import VideoIndex
from pipeline.plan import ClipPlan, ClipSpec, epoch_order, plan_clip
from pipeline.verify import reason_against_slices

log = logging.getLogger(__name__)


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
        batch_size: clips in a step.
    """

    def __init__(
        self, index: VideoIndex, rows: np.ndarray, spec: ClipSpec, *, seed: int, name: str, batch_size: int
    ) -> None:
        if not len(rows):
            raise InputError(f"there are no {name} videos to train on")
        self.index = index
        self.rows = rows
        self.spec = spec
        self.seed = int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")
        self.batch_size = batch_size
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> list[PlannedClip]:
        """The clips of a step."""
        first = step * self.batch_size
        return [self._clip(position) for position in range(first, first + self.batch_size)]

    def _clip(self, position: int) -> PlannedClip:
        epoch, place = divmod(position, len(self.rows))
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.seed, epoch, len(self.rows)))
        row = int(self.rows[self._order[1][place]])
        return PlannedClip(row, plan_clip(self.index[row], self.spec, self.seed, epoch, place))


class ClipLoader:
    """Iterator over an endless sequence of :class:`ClipBatch`.

    Args:
        index: the videos.
        split: which of them are labeled, unlabeled, and of which class.
        needs: what the batches hold; nothing else is made.
        spec: what a clip is.
        batch_labeled: labeled clips in a batch.
        batch_unlabeled: unlabeled clips in a batch; also fixes ``steps_per_epoch`` for methods without unlabeled clips.
        seed: of the run.
        device: "cpu", "cuda" or "cuda:N"; where the batches lie.
        decoder: "ffmpeg", "dali", or "auto": DALI on a GPU where it can decode every video, else FFmpeg.
        num_threads: threads that decode, and DALI's CPU threads.

    Attributes:
        steps_per_epoch: steps in one pass over the unlabeled videos.

    Raises:
        InputError: nothing to train on, or a decoder that cannot take the videos.
    """

    def __init__(
        self,
        index: VideoIndex,
        split: DataSplit,
        needs: Needs,
        spec: ClipSpec,
        *,
        batch_labeled: int,
        batch_unlabeled: int,
        seed: int,
        device: str = "cpu",
        decoder: str = "auto",
        num_threads: int = 2,
    ) -> None:
        spec = spec if needs.tg else replace(spec, tg_stride=0)
        self.steps_per_epoch = max(1, len(split.unlabeled) // batch_unlabeled)
        # Validation videos count too: what cannot be decoded is said before training, not after an epoch of it.
        rows = np.unique(np.concatenate([split.labeled, split.unlabeled, split.val]))
        decoder = choose_decoder(index, rows, decoder, device)
        weak = GraphSpec(spec.clip_len, needs.tg, strong=False, decoder=decoder)
        self._graphs = [ClipGraph(weak, spec.size, batch_labeled, device, num_threads)]
        self._streams = [ClipStream(index, split.labeled, spec, seed=seed, name="labeled", batch_size=batch_labeled)]
        if needs.unlabeled:
            unlabeled = replace(weak, strong=needs.strong)
            self._graphs.append(ClipGraph(unlabeled, spec.size, batch_unlabeled, device, num_threads))
            self._streams.append(
                ClipStream(index, split.unlabeled, spec, seed=seed, name="unlabeled", batch_size=batch_unlabeled)
            )
        self._labels = split.labels
        self._num_threads = num_threads
        self._step = 0
        self._batches: Background[ClipBatch] | None = None

    def __iter__(self) -> "ClipLoader":
        return self

    def __next__(self) -> ClipBatch:
        """The next batch.

        Raises:
            BadVideo: a video can no longer be read or decoded; names it.
        """
        if self._batches is None:
            self._batches = Background(
                make_batches(self._streams, self._graphs, self._labels, self._num_threads, self._step)
            )
        batch = next(self._batches)
        self._step += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the streams stand: the number of batches handed out."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after ``state["step"]`` batches."""
        self.close()
        self._step = state["step"]

    def close(self) -> None:
        """Stop the threads.  Asking for another batch starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def make_batches(
    streams: list[ClipStream], graphs: list[ClipGraph], labels: np.ndarray, num_threads: int, first_step: int
) -> Iterator[ClipBatch]:
    """Batches from a step on, decoded ahead in threads.

    Args:
        streams: the labeled one, then the unlabeled one if there is any.
        graphs: one for each stream.
        labels: (num_videos,) int64 class of every row of the index.
        num_threads: threads that decode.
        first_step: step of the first batch.
    """

    def read(clip: tuple[ClipStream, ClipGraph, PlannedClip]) -> Sample:
        stream, graph, (row, plan) = clip
        return graph.read(stream.index[row], plan)

    plans = (
        [(stream, graph, clip) for stream, graph in zip(streams, graphs, strict=True) for clip in stream.batch(step)]
        for step in count(first_step)
    )
    for clips, samples in read_ahead(plans, read, num_threads):
        views, ids, start = [], [], 0
        for stream, graph in zip(streams, graphs, strict=True):
            stop = start + stream.batch_size
            views.append(graph(samples[start:stop]))
            ids.append(np.array([clip.row for _, _, clip in clips[start:stop]]))
            start = stop
        device = graphs[0].device
        classes = [torch.from_numpy(labels[rows]).to(device) for rows in ids]
        yield ClipBatch(
            labeled=views[0][0],
            labels=classes[0],
            weak=views[1][0] if len(views) > 1 else None,
            strong=views[1][1] if len(views) > 1 else None,
            labeled_ids=torch.from_numpy(ids[0]),
            unlabeled_ids=torch.from_numpy(ids[1]) if len(ids) > 1 else None,
            unlabeled_labels=classes[1] if len(classes) > 1 else None,
        )


def choose_decoder(index: VideoIndex, rows: np.ndarray, decoder: str, device: str) -> str:
    """Settle "auto", and refuse a decoder that cannot take the videos; one that fails its check is warned of.

    Args:
        index: the videos.
        rows: those that will be decoded.
        decoder: "ffmpeg", "dali", or "auto": DALI on a GPU where it can decode every video, else FFmpeg.
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        "ffmpeg" or "dali".

    Raises:
        InputError: "dali" asked for and a video it cannot decode, or an unknown decoder.
    """
    device_type = torch.device(device).type
    if decoder not in (*DECODERS, "auto"):
        raise InputError(f"unknown decoder {decoder!r}: choose auto, ffmpeg or dali")
    if decoder == "ffmpeg" or (decoder == "auto" and device_type == "cpu"):
        return "ffmpeg"
    refused = [(row, why) for row in rows if (why := dali_refusal(index[int(row)], device_type))]
    if not refused:
        reason = reason_against_slices(index, rows, device)
        if reason is None:
            return "dali"
        log.warning("%s", reason)
        return "ffmpeg"
    row, why = refused[0]
    message = f"DALI cannot decode {len(refused)} of {len(rows)} videos here ({index.paths[int(row)]}: {why})"
    if decoder == "dali":
        raise InputError(f"{message}: choose the decoder ffmpeg or convert them")
    log.warning("%s: all are decoded by FFmpeg on the CPU instead", message)
    return "ffmpeg"
