"""Endless batches of clips, decoded ahead of the trainer.

Threads decode clips in parallel, one thread of its own runs the DALI graphs, and a short queue keeps finished batches:
data is made while the step runs.

Promises: the same bits for any number of threads; every step is delivered, whatever becomes of the videos, until too
many have gone bad.  Left to others: what a step shows (:mod:`pipeline.stream`), who is left out
(:mod:`pipeline.quarantine`), decoding and views (:mod:`pipeline.graph`).
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.actors import ActorBoxes, actor_masks, boxes_in_clip, with_actors
from pipeline.background import Background, read_ahead
from pipeline.batch import ClipBatch, Needs, Views
from pipeline.datasets import DataSplit
from pipeline.errors import BadVideo, InputError
from pipeline.graph import DECODERS, ClipGraph, Clips, GraphSpec, Sample, dali_refusal
from pipeline.index import VideoIndex
from pipeline.plan import ClipSpec, Draw
from pipeline.quarantine import BadSamples, GuardedGraph, Quarantine
from pipeline.ranges import AWAIT_CLIPS, PLAN, named
from pipeline.stream import ClipStream, PlannedClip
from pipeline.verify import reason_against_slices
from pipeline.video_scores import VideoScores

log = logging.getLogger(__name__)

_VIEWS = ("weak", "second", "slow")  # in the order of their draws


class ClipLoader:
    """Iterator over an endless sequence of :class:`ClipBatch`.

    A video that can no longer be read or decoded costs no step: another takes its place, and it is left out from then
    on, named in the log and in the state.

    Ranks with the same global batch draw the same stream, however many they are, and a state saved with one number of
    ranks goes on with another.  Each rank finds out by itself which videos are bad.

    Args:
        index: the videos.
        split: which of them are labeled, unlabeled, and of which class.
        needs: what the batches hold; nothing else is made.
        spec: what a clip is.
        batch_labeled: labeled clips in a batch of one rank.
        batch_unlabeled: unlabeled ones; also fixes ``steps_per_epoch`` for methods without unlabeled clips.
        seed: of the run.
        device: "cpu", "cuda" or "cuda:N"; where the batches lie.
        decoder: "ffmpeg", "dali", or "auto": DALI on a GPU where it can decode every video, else FFmpeg.
        num_threads: threads that decode, and DALI's CPU threads.
        rank: which part of the global batch is made here: the rank-th of ``world_size`` contiguous ones.
        world_size: ranks.
        max_bad_fraction: how much of the videos drawn from may go bad before it is an error; one always may.

    Attributes:
        steps_per_epoch: steps in one pass of all ranks over the unlabeled videos.
        decoder: "ffmpeg" or "dali".

    Raises:
        InputError: nothing to train on, a decoder that cannot take the videos or make what is needed, or a file of
            boxes or scores that cannot be used.
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
        rank: int = 0,
        world_size: int = 1,
        max_bad_fraction: float = 0.01,
    ) -> None:
        spec = spec if needs.partners else replace(spec, tg_stride=0)
        if needs.slow and spec.clip_len < 4:
            raise InputError(f"clip_len is {spec.clip_len}: a slow clip has half as many frames, and networks need 2")
        self.steps_per_epoch = steps_per_epoch(len(split.unlabeled), batch_unlabeled, world_size)
        # Validation videos count too: what cannot be decoded is said before training, not after an epoch of it.
        rows = np.unique(np.concatenate([split.labeled, split.unlabeled, split.val]))
        decoder = self.decoder = choose_decoder(index, rows, decoder, device)
        if needs.flow and decoder == "dali" and torch.device(device).type == "cpu":
            raise InputError("DALI has optical flow on GPUs only: choose the decoder ffmpeg, which brings its own")
        drawn = {"labeled": split.labeled} | ({"unlabeled": split.unlabeled} if needs.unlabeled else {})
        num_videos = len(np.unique(np.concatenate(list(drawn.values()))))
        self._quarantine = Quarantine(index.paths, num_videos, max_bad_fraction)
        self._branches: list[Branch] = []
        self._batch_maker = _BatchMaker(index, split, needs, spec.size, torch.device(device))
        for name, batch_size in zip(drawn, (batch_labeled, batch_unlabeled), strict=False):
            for view, draw, clip, shown in _branches(needs, spec, name, decoder):
                stream = ClipStream(
                    index,
                    drawn[name],
                    clip,
                    seed=seed,
                    name=name,
                    batch_size=batch_size,
                    rank=rank,
                    world_size=world_size,
                    quarantine=self._quarantine,
                    draw=draw,
                    turns=needs.rotated and view == "weak",
                    tempos=needs.actors and view == "weak",
                )
                build = partial(ClipGraph, shown, spec.size, device=device, num_threads=num_threads)
                self._branches.append(Branch(stream, GuardedGraph(build, batch_size), name, view))
        self._num_threads = num_threads
        self._step = 0
        self._batches: Background[ClipBatch] | None = None

    @property
    def quarantined(self) -> dict[str, str]:
        """Why videos are left out, by path: those that failed in the batches handed out."""
        return {path: fault.reason for path, fault in self._quarantine.before(self._step).items()}

    def __iter__(self) -> "ClipLoader":
        return self

    def __next__(self) -> ClipBatch:
        """The next batch.

        Raises:
            TooManyBadVideos: more have gone bad than may; names them.
        """
        if self._batches is None:
            batches = sound_batches(self._branches, self._quarantine, self._num_threads, self._step)
            # The thread must not hold the loader: one that nobody holds any more is collected, and ends its thread.
            self._batches = Background(_clip_batches(batches, self._branches, self._batch_maker))
        batch = next(self._batches)
        self._step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the streams stand, as plain numbers and strings.

        Returns:
            "step": batches handed out.
            "quarantine": by path, for each video left out of them, the step it failed in and the reason.  Only what
                this rank has found: whoever saves one state for several ranks merges theirs, the lowest step of a
                video first.
        """
        faults = self._quarantine.before(self._step)
        return {"step": self._step, "quarantine": {path: list(fault) for path, fault in faults.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after ``state["step"]`` batches, leaving out what had failed by then.

        Raises:
            InputError: a video that was left out is not in the index.
        """
        self.close()
        self._quarantine.restore(state["quarantine"])
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


def _branches(needs: Needs, spec: ClipSpec, name: str, decoder: str) -> Iterator[tuple[str, Draw, ClipSpec, GraphSpec]]:
    """What is to be made of the "labeled" or the "unlabeled" videos: view, draw, clip and graph of each branch."""
    unlabeled = name == "unlabeled"
    views = {"weak": spec}
    if needs.second:
        views["second"] = spec
    if needs.slow and unlabeled:
        views["slow"] = replace(spec, clip_len=spec.clip_len // 2, frame_stride=2 * spec.frame_stride)
    for view, clip in views.items():
        moment = _VIEWS.index(view)
        modalities = needs.modalities if needs.own_crops else (None,)
        for number, only in enumerate(modalities):
            shown = GraphSpec(
                clip.clip_len,
                tg=needs.tg if only is None else only == "tg",
                strong=needs.strong and unlabeled and view == "weak",
                decoder=decoder,
                tg_form=clip.tg_form,
                flow=needs.flow if only is None else only == "flow",
                only=only,
            )
            yield view, Draw(moment, moment + number * len(_VIEWS)), clip, shown


def _clip_batches(
    batches: Iterator[list["Part"]], branches: list["Branch"], maker: "_BatchMaker"
) -> Iterator[ClipBatch]:
    for parts in batches:
        of_videos: dict[str, dict[str, Part]] = {}
        for branch, part in zip(branches, parts, strict=True):
            of_view = of_videos.setdefault(branch.name, {})
            if branch.view in of_view:  # another modality, in a crop of its own
                of_view[branch.view].weak.update(part.weak)
                (of_view[branch.view].strong or {}).update(part.strong or {})
            else:
                of_view[branch.view] = part
        yield maker.batch(of_videos["labeled"], of_videos.get("unlabeled"))


class _BatchMaker:
    """Puts batches together, of what the graphs have made and of what is known of the videos."""

    def __init__(self, index: VideoIndex, split: DataSplit, needs: Needs, size: int, device: torch.device) -> None:
        self._index, self._labels, self._needs, self._size, self._device = index, split.labels, needs, size, device
        rows = np.unique(np.concatenate([split.labeled, split.unlabeled]))
        self._boxes = ActorBoxes(needs.boxes, index.paths, rows) if needs.boxes else None
        self._scores = VideoScores(needs.scores, index.paths, rows) if needs.scores else None

    def batch(self, labeled: Mapping[str, "Part"], unlabeled: Mapping[str, "Part"] | None) -> ClipBatch:
        """One batch, of the views of its videos by name."""
        batch = ClipBatch(
            labeled=Views(**labeled["weak"].weak),
            labels=self._classes(labeled["weak"]),
            weak=None,
            strong=None,
            labeled_ids=torch.from_numpy(labeled["weak"].rows),
            unlabeled_ids=None,
            unlabeled_labels=None,
            labeled_second=self._view(labeled, "second"),
            labeled_scores=self._scores_of(labeled["weak"]),
        )
        if self._needs.rotated:
            rotated, turns = self._rotated(labeled["weak"])
            batch = batch._replace(labeled_rotated=rotated, labeled_turns=turns)
        if unlabeled is None:
            return batch
        weak = unlabeled["weak"]
        ids = torch.from_numpy(weak.rows)
        batch = batch._replace(
            weak=Views(**weak.weak),
            strong=Views(**weak.strong) if weak.strong else None,
            unlabeled_ids=ids,
            unlabeled_labels=self._classes(weak),
            second=self._view(unlabeled, "second"),
            slow=self._view(unlabeled, "slow"),
            rows=ids.to(self._device) if self._needs.rows else None,
            scores=self._scores_of(weak),
        )
        if self._needs.rotated:
            rotated, turns = self._rotated(weak)
            batch = batch._replace(rotated=rotated, turns=turns)
        if self._needs.actors:
            strong, share = self._with_actors(weak)
            batch = batch._replace(strong=strong, actor_share=share)
        return batch

    def _classes(self, part: "Part") -> Tensor:
        return torch.from_numpy(self._labels[part.rows]).to(self._device)

    def _scores_of(self, part: "Part") -> Tensor | None:
        return None if self._scores is None else torch.from_numpy(self._scores.of(part.rows)).to(self._device)

    @staticmethod
    def _view(parts: Mapping[str, "Part"], view: str) -> Views | None:
        return Views(**parts[view].weak) if view in parts else None

    def _rotated(self, part: "Part") -> tuple[Views, Tensor]:
        turns = [clip.plan.turn for clip in part.clips]
        rotated = {
            modality: torch.stack([clip.rot90(turn, (1, 2)) for clip, turn in zip(clips, turns, strict=True)])
            for modality, clips in part.weak.items()
        }
        return Views(**rotated), torch.tensor(turns).to(self._device)

    def _with_actors(self, part: "Part") -> tuple[Views, Tensor]:
        assert part.strong is not None
        boxes = [self._boxes_in(clip) for clip in part.clips]
        tempos = [clip.plan.tempo for clip in part.clips if clip.plan.tempo is not None]
        masks = actor_masks(boxes, self._size, self._device)
        return with_actors(Views(**part.weak), Views(**part.strong), masks, tempos)

    def _boxes_in(self, clip: PlannedClip) -> list[np.ndarray]:
        if self._boxes is None:
            return [np.zeros((0, 4), np.float32)] * len(clip.plan.frames)
        width, height = self._index.display_sizes[clip.row].tolist()
        return boxes_in_clip(self._boxes.of(clip.row, clip.plan.frames), clip.plan, (width, height))


class Branch(NamedTuple):
    """A stream and the graph that makes views of its clips.

    Attributes:
        stream: of clips.
        graph: of views.
        name: of the videos, "labeled" or "unlabeled".
        view: "weak" (and strong), "second" or "slow".
    """

    stream: ClipStream
    graph: GuardedGraph
    name: str = ""
    view: str = "weak"

    def read(self, clip: PlannedClip) -> Sample | BadVideo:
        """What the graph takes of a clip, or why it cannot be had."""
        return self.graph.read(self.stream.index, clip.row, lambda record: clip.plan)


class Part(NamedTuple):
    """One branch's share of a batch.

    Attributes:
        rows: (B,) int64 rows of the index.
        clips: as planned.
        weak: weak views of the clips.
        strong: strong ones, where the graph makes them.
    """

    rows: np.ndarray
    clips: list[PlannedClip]
    weak: Clips
    strong: Clips | None


def sound_batches(
    branches: list[Branch], quarantine: Quarantine, num_threads: int, first_step: int
) -> Iterator[list[Part]]:
    """Batches from a step on, decoded ahead in threads, without the videos that turn out bad.

    Batches are put together in order, in one thread, and only there a video is found bad, even if a thread that reads
    ahead has met it before.  Once one is, the whole step is planned again, and clips of it that had been read are
    dropped.  So a batch does not depend on who read what first, nor on how many threads there are.

    Args:
        branches: those of one loader.
        quarantine: theirs; grows.
        num_threads: threads that decode.
        first_step: step of the first batch.

    Yields:
        One part a branch.

    Raises:
        TooManyBadVideos: the quarantine is full.
    """

    def plan(step: int) -> list[tuple[Branch, PlannedClip]]:
        with named(PLAN):
            return [(branch, clip) for branch in branches for clip in branch.stream.batch(step)]

    def read(item: tuple[Branch, PlannedClip]) -> Sample | BadVideo:
        branch, clip = item
        return branch.read(clip)

    # An error's traceback keeps this frame, and so the threads that read ahead, until it is forgotten.
    with closing(read_ahead(map(plan, count(first_step)), read, num_threads)) as ahead:
        for step, (clips, results) in enumerate(ahead, first_step):
            reasons: dict[int, str] | None = None
            while reasons is None or reasons:
                if any(quarantine.holds(clip.row, step) for _, clip in clips):
                    sound = plan(step)
                    results = [
                        result if old.row == new.row else partial(branch.read, new)
                        for result, (_, old), (branch, new) in zip(results, clips, sound, strict=True)
                    ]
                    clips = sound
                with named(AWAIT_CLIPS):
                    samples = [result() for result in results]
                parts, reasons = _assemble(branches, [clip for _, clip in clips], samples)
                quarantine.add(reasons, step)
            yield parts


def _assemble(
    branches: list[Branch], clips: list[PlannedClip], samples: list[Sample | BadVideo]
) -> tuple[list[Part], dict[int, str]]:
    """The parts of a batch; or, by row, why some of the videos cannot be shown."""
    rows = [clip.row for clip in clips]
    reasons = {row: sample.reason for row, sample in zip(rows, samples, strict=True) if isinstance(sample, BadVideo)}
    if reasons:
        return [], reasons
    good = [sample for sample in samples if not isinstance(sample, BadVideo)]
    parts: list[Part] = []
    start = 0
    for branch in branches:
        stop = start + branch.stream.batch_size
        try:
            weak, strong = branch.graph.run(good[start:stop])
        except BadSamples as error:
            return [], {rows[start + place]: reason for place, reason in error.reasons.items()}
        parts.append(Part(np.array(rows[start:stop]), clips[start:stop], weak, strong))
        start = stop
    return parts, {}


def steps_per_epoch(num_unlabeled: int, batch_unlabeled: int, world_size: int) -> int:
    """Steps in one pass of all ranks over the unlabeled videos; a last batch that is not full is left out."""
    return max(1, num_unlabeled // (batch_unlabeled * world_size))


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
    kinds, counts = index.kinds(rows)
    refusals = [dali_refusal(index[row], device_type) for row in kinds.tolist()]
    refused = [(row, num, why) for row, num, why in zip(kinds, counts, refusals, strict=True) if why]
    if not refused:
        reason = reason_against_slices(index, rows, device)
        if reason is None:
            return "dali"
        log.warning("%s", reason)
        return "ffmpeg"
    row, _, why = refused[0]
    num_refused = sum(num for _, num, _ in refused)
    message = f"DALI cannot decode {num_refused} of {len(rows)} videos here ({index.paths[row]}: {why})"
    if decoder == "dali":
        raise InputError(f"{message}: choose the decoder ffmpeg or convert them")
    log.warning("%s: all are decoded by FFmpeg on the CPU instead", message)
    return "ffmpeg"
