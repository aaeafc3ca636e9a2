"""One optimizer step: losses, gradients, clipping, SGD; and what makes it fast: compilation and fused updates.

Promises not to make the host wait for the device.  What a loss is, is left to the method, in which format networks
compute to :mod:`train.precision`.
"""

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.batch import ClipBatch
from pipeline.errors import InputError
from pipeline.ranges import named
from train.precision import Precision, autocast


def train_step(
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: ClipBatch,
    progress: Tensor,
    *,
    lr: float,
    clip_norm: float,
    precision: Precision,
) -> dict[str, Tensor]:
    """One optimizer step.

    Args:
        method: a :class:`~train.methods.Method`, or what is wrapped around it.
        optimizer: over its parameters.
        scaler: of the loss; as :func:`new_scaler` makes it for the precision.
        batch: on the method's device.
        progress: 0-dim float32, epochs begun before this one.
        lr: learning rate of this step.
        clip_norm: gradients longer than this, over all parameters, are scaled down to it.
        precision: of the networks.

    Returns:
        What the method returned, detached, and "grad_norm", the gradient's length before clipping.  With loss scaling
        also "loss_scale", the factor of this step; where it was too large and the gradients overflowed, the weights
        stay as they are and "grad_norm" is NaN.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)  # before the forward pass, which can use the memory
    with named("forward and losses"), autocast(progress.device, precision):
        terms = method(batch, progress)
    with named("backward"):
        scaler.scale(terms["loss"]).backward()
    with named("clip gradients"):
        scaler.unscale_(optimizer)
        grad_norm = nn.utils.clip_grad_norm_(method.parameters(), clip_norm, foreach=True)
    terms = {**terms, "grad_norm": grad_norm}
    if scaler.is_enabled():
        terms |= _scaling_terms(scaler, grad_norm)
    with named("optimizer"):
        scaler.step(optimizer)
        scaler.update()
    # Copied, because CUDA graphs write the next step's terms into the same memory.
    return dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).unbind(), strict=True))


def _scaling_terms(scaler: torch.amp.GradScaler, grad_norm: Tensor) -> dict[str, Tensor]:
    """Tell gradients that overflowed by a scale too large from gradients that are not finite at any scale."""
    # The public way to read the scale, get_scale(), makes the host wait.
    scale = scaler.scale(torch.ones_like(grad_norm))
    skipped = torch.where(scale > 1, torch.nan, torch.inf)
    return {"grad_norm": torch.where(grad_norm.isfinite(), grad_norm, skipped), "loss_scale": scale}


def new_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Loss scaling where gradients would underflow, which is in float16 alone; else it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def new_optimizer(method: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD over all parameters that take a gradient, as one kernel.

    On a CPU too it takes half the time of PyTorch's other form, which goes through memory once for each operation: 130
    cpu-ms against 250 for two R3D-18.  And with loss scaling only this one decides on the device whether a step is
    skipped.
    """
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if momentum:
        # If not there yet they are made by the first step, and filled by it unless that step is skipped: the second one
        # would then read memory that nobody has written.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def reset_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Forget what earlier gradients were, in place."""
    for state in optimizer.state.values():
        for buffer in state.values():
            buffer.zero_()


def compile_method(
    method: nn.Module, *, cuda_graphs: bool = False, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Have a method compute its losses, and their gradients, as one compiled graph each from now on.

    In place, which is what PyTorch recommends with DistributedDataParallel: wrap that around afterwards.  The gradients
    are then reduced when the compiled backward pass is over, and not while it runs.  By itself PyTorch would cut the
    graph at every 25 MB of weights to overlap the two; here the compiler may fuse and order the whole pass.

    Args:
        method: a :class:`~train.methods.Method`; its first call compiles.
        cuda_graphs: replay the kernels as CUDA graphs.
        backend: of torch.compile; others than the default look at the graph in a fraction of the time.
    """
    torch._dynamo.config.optimize_ddp = False
    method.compile(fullgraph=True, dynamic=False, backend=backend, mode="reduce-overhead" if cuda_graphs else None)


def check_compiler() -> None:
    """Refuse early what would otherwise fail in the first step.

    Raises:
        InputError: there is no C++ compiler, or Python's headers are missing.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    remedy = "install it, or train without compilation by --run.compile off"
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise InputError(f"torch.compile needs a C++ compiler, such as g++: {remedy}") from error
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise InputError(f"torch.compile needs {header}, in Debian of the package python3-dev: {remedy}")
