"""The losses, as pure functions of network outputs.

Each promises to compute in float32 whatever it is given, also under autocast, with static shapes and without making
the host wait for the device.  Weights, warm-up and which rows take part are left to the methods.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_single

AlignmentKind = Literal["cosine", "l1", "l2"]
AlignmentReduce = Literal["sum", "mean"]
StopGradient = Literal["tg", "rgb"] | None
PseudoLabelSource = Literal["average", "rgb", "tg"]
PseudoLabelFuse = Literal["logits", "probabilities"]

# A vector no longer than this counts as zero: it has no direction to compare.
ZERO_NORM = 1e-8

# Less than this, the logarithm of a probability is that of this.
LEAST_PROBABILITY = 1e-7


def alignment_loss(
    rgb_features: Sequence[Tensor],
    tg_features: Sequence[Tensor],
    kind: AlignmentKind = "cosine",
    stop_gradient: StopGradient = "tg",
    reduce: AlignmentReduce = "sum",
) -> Tensor:
    """Distance between the features of the two modalities, summed over stages, Eq. (9).

    Differs from the paper as its code does: 1 - cos where Eq. (8) has -cos, means where it has norms.  A channel
    vector that is zero in either modality has cos 0, with a bounded gradient; the reference's grows to 1e17 there.

    Args:
        rgb_features: (B, C_i, T_i, H_i, W_i) of each stage.
        tg_features: the same stages of the other network, same shapes.
        kind: "cosine", 1 - the mean cosine of the channel vectors; "l1" or "l2", the mean absolute or squared
            difference.
        stop_gradient: the modality that is a fixed target; None lets both move.
        reduce: "sum" over stages, as the reference, or their "mean".

    Returns:
        0-dim float32.

    Raises:
        ValueError: no stages, not equally many, or an unknown kind, modality or reduction.
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f"alignment reduce {reduce!r} is not 'sum' or 'mean'")
    if stop_gradient not in ("tg", "rgb", None):
        raise ValueError(f"stop_gradient {stop_gradient!r} is not 'tg', 'rgb' or None")
    if not rgb_features or len(rgb_features) != len(tg_features):
        raise ValueError(
            f"alignment takes the same stages of both networks, got {len(rgb_features)} and {len(tg_features)}"
        )
    distances = [
        _distance(
            rgb.detach() if stop_gradient == "rgb" else rgb,
            tg.detach() if stop_gradient == "tg" else tg,
            kind,
        )
        for rgb, tg in zip(rgb_features, tg_features, strict=True)
    ]
    stages = torch.stack(distances)
    return stages.sum() if reduce == "sum" else stages.mean()


def _distance(rgb: Tensor, tg: Tensor, kind: AlignmentKind) -> Tensor:
    """Distance of one stage's features, Eq. (8)."""
    rgb, tg = rgb.float(), tg.float()
    match kind:
        case "cosine":
            cosine = (rgb * tg).sum(dim=1) / (_norm(rgb) * _norm(tg)).squeeze(1)
            return 1 - cosine.mean()
        case "l1":
            return F.l1_loss(rgb, tg)
        case "l2":
            return F.mse_loss(rgb, tg)
        case _:
            raise ValueError(f"alignment kind {kind!r} is not 'cosine', 'l1' or 'l2'")


def _norm(x: Tensor) -> Tensor:
    """L2 norm over dim 1, kept.  A zero vector gets 1, so that dividing it by its norm has a gradient of that size."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(norm > ZERO_NORM, norm, 1.0)


def info_nce(rgb: Tensor, tg: Tensor, temperature: float) -> Tensor:
    """Cross-modal InfoNCE, Eq. (10), the mean of RGB -> TG and TG -> RGB.

    The other modality of the same clip is the positive, that of every other clip a negative; clips of the same
    modality are not compared.  Keys come from all ranks and carry gradient back to theirs, so that the mean of loss
    and gradients over ranks is that of one process with the whole batch.

    Args:
        rgb: (B, D) embeddings, of any length; the same B on every rank.
        tg: (B, D) of the same clips.
        temperature: divides the cosines.

    Returns:
        0-dim float32.
    """
    with torch.autocast(rgb.device.type, enabled=False):
        rgb, tg = rgb.float(), tg.float()
        rgb, tg = rgb / _norm(rgb), tg / _norm(tg)
        rgb_keys, tg_keys = _gather_rows(rgb), _gather_rows(tg)
        positives = torch.arange(len(rgb), device=rgb.device) + _rank() * len(rgb)
        rgb_to_tg = F.cross_entropy(rgb @ tg_keys.T / temperature, positives)
        tg_to_rgb = F.cross_entropy(tg @ rgb_keys.T / temperature, positives)
        return (rgb_to_tg + tg_to_rgb) / 2


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy, Eq. (1) of SimCLR, over two views of each clip.

    The other view of the same clip is the positive, both views of every other clip are negatives.  Each rank computes
    the loss of the clips of all ranks, and gets the gradient of its own as many times as there are ranks, so that the
    mean of loss and gradients over ranks is that of one process with the whole batch.

    Args:
        first: (B, D) embeddings, of any length; the same B on every rank.
        second: (B, D) of the other view of the same clips.
        temperature: divides the cosines.

    Returns:
        0-dim float32, the mean over both views of all clips; exactly 0 where there is only one clip.
    """
    first, second = _gather_rows(first.float()), _gather_rows(second.float())
    return _nt_xent(first, second, torch.ones(len(first), dtype=torch.bool, device=first.device), temperature)


def group_contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Group-contrastive loss of TCL: NT-Xent between mean probabilities of clips that are taken for the same class.

    Each view falls into groups by its own most probable classes; classes of which only one view has a group are left
    out.  Groups are made of the clips of all ranks, on each rank, as in :func:`nt_xent`.

    Args:
        first: (B, K) probabilities; the same B on every rank.
        second: (B, K) of the other view of the same clips.
        temperature: divides the cosines.

    Returns:
        0-dim float32, the mean over both views of all groups left; exactly 0 for fewer than two classes.
    """
    with torch.autocast(first.device.type, enabled=False):
        (first, in_first), (second, in_second) = (_groups(_gather_rows(view.float())) for view in (first, second))
        return _nt_xent(first, second, in_first & in_second, temperature)


def _groups(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> the sum of the rows whose most probable class is k as row k, (K, K), and whether there are any, (K,).

    The sum has the direction of the mean, which is all that a cosine sees.
    """
    classes = torch.arange(probabilities.shape[1], device=probabilities.device)
    members = probabilities.argmax(dim=1) == classes[:, None]
    return members.float() @ probabilities, members.any(dim=1)


def _nt_xent(first: Tensor, second: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """NT-Xent of the pairs, (N, D) each, that are kept, (N,) bool, as if there were no others."""
    with torch.autocast(first.device.type, enabled=False):
        rows = torch.cat([first / _norm(first), second / _norm(second)])
        kept = torch.cat([kept, kept])
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        positive = itself.roll(len(first), dims=1)
        # Pairs that are not kept have their positive to compare with, so that what is then left out is finite.
        compared = (kept & ~itself) | positive
        cosines = (rows @ rows.T / temperature).masked_fill(~compared, -torch.inf)
        partners = torch.arange(len(rows), device=rows.device).roll(len(first))
        losses = F.cross_entropy(cosines, partners, reduction="none")
        return (losses * kept).sum() / kept.sum().clamp(min=1)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in order of rank, (world_size * B, D); each rank gets the sum of the gradients of its rows."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    assert dist.group.WORLD is not None
    # The functional collective, because torch.compile traces it without a break and it has a backward of its own.
    return all_gather_single(rows.contiguous(), gather_dim=0, group=dist.group.WORLD)


@torch.no_grad()
def pseudo_labels(
    rgb_logits: Tensor,
    tg_logits: Tensor | None,
    source: PseudoLabelSource = "average",
    fuse: PseudoLabelFuse = "logits",
    threshold: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """Most probable classes of the weak views, and which of them are sure enough to learn from, Eq. (2) and (5).

    Differs from the paper as its code does: ``fuse="logits"`` averages logits, where Eq. (5) averages probabilities.

    Args:
        rgb_logits: (B, K); no gradient flows back.
        tg_logits: (B, K) of the same clips; None where there is no TG network, which takes source "rgb".
        source: which network's opinion counts, or the average of both.
        fuse: what is averaged with source "average".
        threshold: least probability that is kept, itself included.

    Returns:
        Labels (B,) int64, and a mask (B,) bool, True where the label is kept.

    Raises:
        ValueError: an unknown source or fuse, or a source that needs the TG logits that are not there.
    """
    confidence, labels = _probabilities(rgb_logits, tg_logits, source, fuse).max(dim=1)
    return labels, confidence >= threshold


def _probabilities(
    rgb_logits: Tensor, tg_logits: Tensor | None, source: PseudoLabelSource, fuse: PseudoLabelFuse
) -> Tensor:
    if source == "rgb":
        return rgb_logits.float().softmax(dim=1)
    if tg_logits is None:
        raise ValueError(f"pseudo-label source {source!r} needs TG logits: use 'rgb' without them")
    match source, fuse:
        case "tg", _:
            return tg_logits.float().softmax(dim=1)
        case "average", "logits":
            return ((rgb_logits.float() + tg_logits.float()) / 2).softmax(dim=1)
        case "average", "probabilities":
            return (rgb_logits.float().softmax(dim=1) + tg_logits.float().softmax(dim=1)) / 2
        case _:
            raise ValueError(
                f"pseudo-label source {source!r} with fuse {fuse!r}: source is 'average', 'rgb' or 'tg', "
                "fuse is 'logits' or 'probabilities'"
            )


def masked_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the kept rows, divided by the number of all rows, Eq. (3).

    Args:
        logits: (B, K).
        labels: (B,) int64 in 0..K-1, or (B, K) float32 of probabilities; also where not kept.
        mask: (B,) bool.

    Returns:
        0-dim float32; exactly 0 where nothing is kept.
    """
    return (F.cross_entropy(logits.float(), labels, reduction="none") * mask).mean()


def kept_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the kept rows with soft targets, divided by the number of kept rows.

    Args:
        logits: (B, K).
        targets: (B, K) float32 probabilities, also where not kept.
        mask: (B,) bool.

    Returns:
        0-dim float32; exactly 0 where nothing is kept.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def softmax_mse(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Squared difference of two predictions' probabilities, the mean over classes and rows.

    Args:
        logits: (B, K).
        target_logits: (B, K) of the same clips; no gradient flows back.

    Returns:
        0-dim float32.
    """
    return F.mse_loss(logits.float().softmax(dim=1), target_logits.detach().float().softmax(dim=1))


def negative_cross_entropy(logits: Tensor, negatives: Tensor) -> Tensor:
    """How sure a network is of classes that clips do not show: -log(1 - p), the mean over each clip's negatives.

    Args:
        logits: (B, K).
        negatives: (B, K) bool, True for the classes that a clip does not show.

    Returns:
        (B,) float32; exactly 0 of a clip without negatives.
    """
    absent = (1 - logits.float().softmax(dim=1)).clamp(min=LEAST_PROBABILITY).log()
    return -(absent * negatives).sum(dim=1) / negatives.sum(dim=1).clamp(min=1)


def mean_over_ranks(values: Tensor) -> Tensor:
    """(N,) float32 without gradient -> (N,), their means over all ranks, the same on each."""
    return _gather_rows(values[None]).mean(dim=0)
