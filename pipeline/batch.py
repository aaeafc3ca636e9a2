"""What the pipeline hands over, and what a method may ask of it.

This module promises the types every other part of the program agrees on.  It holds no behaviour but
:func:`temporal_gradient`; making batches is left to :mod:`pipeline.loader`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

Frames = TypeVar("Frames", np.ndarray, Tensor)
Modality = Literal["rgb", "tg"]


@dataclass(frozen=True)
class Needs:
    """What a method needs of every batch.  The pipeline makes nothing else.

    Attributes:
        tg: temporal gradients beside RGB, in every view asked for.
        unlabeled: unlabeled clips in their weak view.
        strong: the strong view of the unlabeled clips too.
    """

    tg: bool = False
    unlabeled: bool = False
    strong: bool = False

    def __post_init__(self) -> None:
        if self.strong and not self.unlabeled:
            raise ValueError("strong views are made of unlabeled clips only: set unlabeled=True with strong=True")


class Views(NamedTuple):
    """One view of a batch of clips in its modalities, cropped and flipped alike.

    Attributes:
        rgb: (B, T, H, W, C) uint8.
        tg: (B, T, H, W, C) uint8 temporal gradient, 127 where nothing moves; None where not asked for.
    """

    rgb: Tensor
    tg: Tensor | None

    def of(self, modality: Modality) -> Tensor:
        """The clips in one modality, which must have been asked for."""
        if modality == "rgb":
            return self.rgb
        assert self.tg is not None, "the batch has no temporal gradients: ask for them in Needs(tg=True)"
        return self.tg


class ClipBatch(NamedTuple):
    """What one training step consumes on one rank.

    Attributes:
        labeled: weak view of the labeled clips, (B_l, T, H, W, C).
        labels: (B_l,) int64 classes of the labeled clips.
        weak: weak view of the unlabeled clips, (B_u, T, H, W, C); None where not needed.
        strong: strong view of the same clips; None where not needed.
        labeled_ids: (B_l,) int64 rows of the index, on the host.
        unlabeled_ids: (B_u,) int64 rows of the index, on the host; None without unlabeled clips.
        unlabeled_labels: (B_u,) int64 true classes where the data set knows them, else -1.  For measuring how
            good pseudo-labels are; no loss may read them.
    """

    labeled: Views
    labels: Tensor
    weak: Views | None
    strong: Views | None
    labeled_ids: Tensor
    unlabeled_ids: Tensor | None
    unlabeled_labels: Tensor | None


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
