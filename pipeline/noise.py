"""Batches of random pixels, for whoever needs a batch and no videos: benchmarks of the step, checks, tests.

Promises every view that a method needs and no other, in the shapes, types and places that the loader gives them.
"""

import torch
from torch import Tensor

from pipeline.batch import ClipBatch, Modality, Needs, Views


def noise_batch(
    needs: Needs,
    *,
    num_labeled: int,
    num_unlabeled: int,
    clip_len: int,
    size: int,
    num_classes: int,
    num_scores: int = 1000,
    device: str | torch.device = "cpu",
    generator: torch.Generator | None = None,
) -> ClipBatch:
    """A batch of noise, its labels included.

    Args:
        needs: what it holds.
        num_labeled: labeled clips.
        num_unlabeled: unlabeled ones.
        clip_len: frames of a clip.
        size: height and width in pixels.
        num_classes: K; a true class of unlabeled clips may be unknown.
        num_scores: columns of the scores, where needed.
        device: where the batch lies.
        generator: on the host, for the same noise again.
    """

    def integers(high: int, shape: tuple[int, ...], low: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=dtype, device="cpu").to(device)

    def views(num: int, frames: int = clip_len) -> Views:
        def clips(modality: Modality) -> Tensor | None:
            wanted = modality in needs.modalities
            return integers(256, (num, frames, size, size, 3), dtype=torch.uint8) if wanted else None

        rgb = clips("rgb")
        assert rgb is not None
        return Views(rgb, clips("tg"), clips("flow"))

    def scores(num: int) -> Tensor | None:
        return torch.rand(num, num_scores, generator=generator, device="cpu").to(device) if needs.scores else None

    ids = torch.arange(num_labeled + num_unlabeled, device="cpu")
    labeled_ids, unlabeled_ids = ids[:num_labeled], ids[num_labeled:]
    return ClipBatch(
        labeled=views(num_labeled),
        labels=integers(num_classes, (num_labeled,)),
        weak=views(num_unlabeled) if needs.unlabeled else None,
        strong=views(num_unlabeled) if needs.strong else None,
        labeled_ids=labeled_ids,
        unlabeled_ids=unlabeled_ids if needs.unlabeled else None,
        unlabeled_labels=integers(num_classes, (num_unlabeled,), low=-1) if needs.unlabeled else None,
        labeled_second=views(num_labeled) if needs.second else None,
        second=views(num_unlabeled) if needs.second else None,
        slow=views(num_unlabeled, clip_len // 2) if needs.slow else None,
        labeled_rotated=views(num_labeled) if needs.rotated else None,
        rotated=views(num_unlabeled) if needs.rotated else None,
        labeled_turns=integers(4, (num_labeled,)) if needs.rotated else None,
        turns=integers(4, (num_unlabeled,)) if needs.rotated else None,
        rows=unlabeled_ids.to(device) if needs.rows else None,
        labeled_scores=scores(num_labeled),
        scores=scores(num_unlabeled),
        actor_share=torch.rand(num_unlabeled, generator=generator, device="cpu").to(device) if needs.actors else None,
    )
