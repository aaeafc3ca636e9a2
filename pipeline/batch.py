"""What the pipeline hands over, and what a method may ask of it.

This module promises the types every other part of the program agrees on.  It holds no behaviour but
:func:`temporal_gradient`; making batches is left to :mod:`pipeline.loader`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

Frames = TypeVar("Frames", np.ndarray, Tensor)
Modality = Literal["rgb", "tg", "flow"]


@dataclass(frozen=True)
class Needs:
    """What a method needs of every batch.  The pipeline makes nothing else.

    Attributes:
        tg: temporal gradients beside RGB, in every view asked for.
        flow: optical flow beside RGB, in every view asked for.
        unlabeled: unlabeled clips in their weak view.
        strong: the strong view of the unlabeled clips too.
        second: a second weak view of every video, labeled or not: another clip, crop and flip, drawn independently.
        slow: a weak view of the unlabeled videos drawn independently too, of half as many frames twice as far apart.
        rotated: the weak view of every clip, labeled or not, turned by a quarter, half, three quarters or not at all.
        own_crops: crop and flip each modality of a clip by itself, not all of them alike.
        rows: the rows of the index on the device too, for methods that keep something of each video.
        scores: file of what another network says of each video, :mod:`pipeline.video_scores`.
        actors: the strong view shows the actors of a clip before the scene of another one, in a varied tempo:
            :mod:`pipeline.actors`.
        boxes: file of where people are in each video; None finds none.
    """

    tg: bool = False
    flow: bool = False
    unlabeled: bool = False
    strong: bool = False
    second: bool = False
    slow: bool = False
    rotated: bool = False
    own_crops: bool = False
    rows: bool = False
    scores: Path | None = None
    actors: bool = False
    boxes: Path | None = None

    def __post_init__(self) -> None:
        for name in ("strong", "second", "slow", "rotated", "rows", "actors"):
            if getattr(self, name) and not self.unlabeled:
                raise ValueError(f"{name} is made of unlabeled clips: set unlabeled=True with {name}=True")
        if self.actors and (not self.strong or self.tg or self.flow):
            raise ValueError("actors are shown in the strong view of RGB: set strong=True alone with actors=True")

    @property
    def partners(self) -> bool:
        """Whether anything is made of two frames, x_t and x_{t+n}."""
        return self.tg or self.flow

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What clips are made of."""
        return ("rgb", *(("tg",) if self.tg else ()), *(("flow",) if self.flow else ()))


class Views(NamedTuple):
    """One view of a batch of clips in its modalities, cropped and flipped alike unless a method has it otherwise.

    Attributes:
        rgb: (B, T, H, W, C) uint8.
        tg: (B, T, H, W, C) uint8 temporal gradient, 127 where nothing moves; None where not asked for.
        flow: (B, T, H, W, C) uint8 optical flow, :mod:`pipeline.flow`; None where not asked for.
    """

    rgb: Tensor
    tg: Tensor | None = None
    flow: Tensor | None = None

    def of(self, modality: Modality) -> Tensor:
        """The clips in one modality, which must have been asked for."""
        clips: Tensor | None = getattr(self, modality)
        assert clips is not None, f"the batch has no {modality}: ask for it in Needs({modality}=True)"
        return clips


class ClipBatch(NamedTuple):
    """What one training step consumes on one rank.  What is not needed is None.

    Attributes:
        labeled: weak view of the labeled clips, (B_l, T, H, W, C).
        labels: (B_l,) int64 classes of the labeled clips.
        weak: weak view of the unlabeled clips, (B_u, T, H, W, C).
        strong: strong view of the same clips.
        labeled_ids: (B_l,) int64 rows of the index, on the host.
        unlabeled_ids: (B_u,) int64 rows of the index, on the host; None without unlabeled clips.
        unlabeled_labels: (B_u,) int64 true classes where the data set knows them, else -1.  For measuring how
            good pseudo-labels are; no loss may read them.
        labeled_second: weak view of another clip of the labeled videos.
        second: weak view of another clip of the unlabeled videos.
        slow: weak view of another clip of the unlabeled videos, (B_u, T / 2, H, W, C) over the same time.
        labeled_rotated: weak view of the labeled clips, turned.
        rotated: weak view of the unlabeled clips, turned.
        labeled_turns: (B_l,) int64 quarter turns counter-clockwise of ``labeled_rotated``, 0 to 3.
        turns: (B_u,) int64 the same of ``rotated``.
        rows: (B_u,) int64 rows of the index, on the device of the clips.
        labeled_scores: (B_l, S) float32 of the labeled videos, from a file.
        scores: (B_u, S) float32 of the unlabeled videos.
        actor_share: (B_u,) float32 share of the strong view's pixels that its own clip's actors cover, 0 to 1; the
            others are of the clip that stands as far from the end of the batch as it from the start.
    """

    labeled: Views
    labels: Tensor
    weak: Views | None
    strong: Views | None
    labeled_ids: Tensor
    unlabeled_ids: Tensor | None
    unlabeled_labels: Tensor | None
    labeled_second: Views | None = None
    second: Views | None = None
    slow: Views | None = None
    labeled_rotated: Views | None = None
    rotated: Views | None = None
    labeled_turns: Tensor | None = None
    turns: Tensor | None = None
    rows: Tensor | None = None
    labeled_scores: Tensor | None = None
    scores: Tensor | None = None
    actor_share: Tensor | None = None


def temporal_gradient(earlier: Frames, later: Frames) -> Frames:
    """Temporal gradient x_t - x_{t+n}, mapped to image range: floor((earlier - later + 255) / 2).

    Exact in integers, so that CPU and GPU agree to the bit.  Differs from the reference only in that it computes
    in float32 and truncates, which gives the same number.

    Args:
        earlier: uint8 frames x_t, any shape.
        later: uint8 frames x_{t+n}, same shape and kind.

    Returns:
        uint8, same shape: 127 where nothing changes, 0 for -255, 255 for +255.
    """
    if isinstance(earlier, np.ndarray):
        gradient: np.ndarray = ((earlier.astype(np.int16) - later + 255) // 2).astype(np.uint8)
        return gradient
    return ((earlier.short() - later + 255) // 2).byte()
