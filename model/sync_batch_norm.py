"""BatchNorm over the batches of all ranks, of differentiable collectives.

Promises what one process would compute with the batches put together, forward and backward, on any device and backend:
torch's own SyncBatchNorm exists for GPUs only.  A step has one collective each way, and ``torch.compile`` traces it
whole.  Parameters and buffers have the names of ``nn.BatchNorm``, so that checkpoints fit both.  Whether there are
several ranks at all, and that each has equally many clips, is left to the trainer.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_gather_single
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """BatchNorm of any number of dimensions; while training, mean and variance are those of all ranks together.

    Every rank must take part in every step, with an input of the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) of any float type -> the same, computed in float32."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalize(x.float()).to(x.dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        mean, var = self._statistics(x)
        self._update_running(mean.detach(), var.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        scale = torch.rsqrt(var + self.eps)
        if self.affine:
            scale = scale * self.weight
        # Centered first: x * scale + shift would lose digits where the mean is large.
        normalized = (x - _along_channels(mean, x)) * _along_channels(scale, x)
        return normalized + _along_channels(self.bias, x) if self.affine else normalized

    @staticmethod
    def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel over all ranks, (C,) each.

        Put together of every rank's own mean and variance: sums of squares would cancel.
        """
        assert dist.group.WORLD is not None, "SyncBatchNorm is for several ranks"
        own_var, own_mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
        own = torch.stack([own_mean, own_var])
        means, variances = all_gather_single(own[None], gather_dim=0, group=dist.group.WORLD).unbind(dim=1)
        mean = means.mean(dim=0)
        return mean, variances.mean(dim=0) + (means - mean).square().mean(dim=0)

    def _update_running(self, mean: Tensor, var: Tensor, num_values: int) -> None:
        """Move the running averages as ``nn.BatchNorm`` does, with the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.mul_(1 - self.momentum).add_(mean, alpha=self.momentum)
        unbiased = var * (num_values / max(1, num_values - 1))
        self.running_var.mul_(1 - self.momentum).add_(unbiased, alpha=self.momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), to go with x."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Put a :class:`SyncBatchNorm` with the same parameters and buffers in the place of every BatchNorm.

    Args:
        module: changed in place, unless it is a BatchNorm itself.

    Returns:
        The module, or what takes its place.
    """
    if isinstance(module, _BatchNorm):
        synchronized = SyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine)
        synchronized.weight, synchronized.bias = module.weight, module.bias
        synchronized.running_mean, synchronized.running_var = module.running_mean, module.running_var
        synchronized.num_batches_tracked = module.num_batches_tracked
        return synchronized.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batch_norm(child))
    return module
