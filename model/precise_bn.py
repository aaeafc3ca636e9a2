"""PreciseBN: BatchNorm statistics computed anew over many batches, instead of the running averages of training.

Promises that computing them changes nothing: the running averages come back to the bit, no dropout is drawn, no weight
moves.  Takes every layer that keeps BatchNorm's running statistics, synchronised ones too.  Which clips are shown is
left to the caller.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var")


def precise_bn_statistics(network: nn.Module, clips: Iterable[Tensor], num_batches: int) -> dict[str, Tensor]:
    """Average the statistics of batches: those BatchNorm sees in training, while all else is in eval mode.

    Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021, as the paper's code does it: the arithmetic mean over batches
    of the mean and of the unbiased variance of each.

    Args:
        network: as it is on its device.
        clips: the network's input, a batch at a time.
        num_batches: how many of them to average.

    Returns:
        "running_mean" and "running_var" of each BatchNorm layer, by their names in ``network.state_dict()``.

    Raises:
        ValueError: there are fewer batches.
    """
    layers = {name: module for name, module in network.named_modules() if _keeps_statistics(module)}
    with torch.no_grad(), _batch_statistics(network, layers.values()):
        buffers = {f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() for kind in _STATISTICS}
        totals = {name: torch.zeros_like(buffer, dtype=torch.float64) for name, buffer in buffers.items()}
        num_seen = 0
        for batch in islice(clips, num_batches):
            network(batch)
            for name, buffer in buffers.items():
                totals[name] += buffer
            num_seen += 1
        if num_seen < num_batches:
            raise ValueError(f"PreciseBN got {num_seen} batches of clips, {num_batches} were asked for")
        return {name: (total / num_batches).to(buffers[name].dtype) for name, total in totals.items()}


def apply_precise_bn(network: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Overwrite a network's BatchNorm statistics.

    Args:
        network: the one they were computed for, or one of its shape.
        buffers: what :func:`precise_bn_statistics` returned; empty leaves the network as it is.

    Raises:
        KeyError: the network has no such statistics.
    """
    own = dict(network.named_buffers())
    with torch.no_grad():
        for name, value in buffers.items():
            own[name].copy_(value)


@contextmanager
def using_precise_bn(network: nn.Module, buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which the network has these statistics; its own come back at the end."""
    own = dict(network.named_buffers())
    before = {name: own[name].clone() for name in buffers}
    apply_precise_bn(network, buffers)
    try:
        yield
    finally:
        apply_precise_bn(network, before)


def _keeps_statistics(module: nn.Module) -> bool:
    """By what it has, not by its class: synchronised layers come in several."""
    return all(isinstance(getattr(module, kind, None), Tensor) for kind in _STATISTICS)


@contextmanager
def _batch_statistics(network: nn.Module, layers: Iterable[nn.Module]) -> Iterator[None]:
    """Make the layers keep the statistics of the last batch alone; at the end all is as it was."""
    layers = list(layers)
    modes = [(module, module.training) for module in network.modules()]
    momenta = [layer.momentum for layer in layers]
    saved = [{name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)} for layer in layers]
    network.eval()
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, momentum, buffers in zip(layers, momenta, saved, strict=True):
            layer.momentum = momentum
            apply_precise_bn(layer, buffers)
        for module, mode in modes:
            module.training = mode
