"""One optimizer step: losses, gradients, clipping, SGD.

Promises not to make the host wait for the device.  What a loss is, is left to the method.
"""

import torch
from torch import Tensor, nn

from pipeline.batch import ClipBatch


def train_step(
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: ClipBatch,
    progress: Tensor,
    *,
    lr: float,
    clip_norm: float,
) -> dict[str, Tensor]:
    """One optimizer step.

    Args:
        method: a :class:`~train.methods.Method`.
        optimizer: over its parameters.
        batch: on the method's device.
        progress: 0-dim float32, epochs begun before this one.
        lr: learning rate of this step.
        clip_norm: gradients longer than this, over all parameters, are scaled down to it.

    Returns:
        What the method returned, detached, and "grad_norm", the gradient's length before clipping.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    # bfloat16 needs no loss scaling; on CPUs it is slower than float32.
    with torch.autocast(progress.device.type, dtype=torch.bfloat16, enabled=progress.device.type == "cuda"):
        terms = method(batch, progress)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    grad_norm = nn.utils.clip_grad_norm_(method.parameters(), clip_norm, foreach=True)
    optimizer.step()
    return {**{name: term.detach() for name, term in terms.items()}, "grad_norm": grad_norm}
