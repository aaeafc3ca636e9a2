"""Do two GPUs train as one does with the clips of both?"""

import os
import socket
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.gpu_checks.bench import FAIL, PASS, SKIP, Bench, Finding
from model import synchronize_batch_norm
from pipeline.batch import ClipBatch
from pipeline.noise import noise_batch
from train.distributed import ALONE, Ranks, joined
from train.methods import METHODS, Method
from train.step import compile_method

_NUM_CLASSES = 3
# Of the largest gradient, or of the loss.  float32 on CPUs differs by 1e-6; on GPUs convolutions compute in TF32.
_TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}


def check_ranks(bench: Bench) -> Iterator[Finding]:
    """DDP, synchronised BatchNorm and gathered negatives: losses, gradients and running averages of two ranks."""
    if bench.device_type == "cuda" and torch.cuda.device_count() < 2:
        yield Finding("two ranks", SKIP, "NCCL wants a GPU for each, and there is one")
        return
    with TemporaryDirectory() as folder:
        spawn(_rank, (folder, free_port(), bench.device_type), nprocs=2)
        halves = [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    whole = losses_and_gradients("temporal_gradient", whole_batch(), ALONE, bench.device_type)
    tolerance = _TOLERANCE[bench.device_type]
    for part in ("terms", "gradients", "buffers"):
        error = max(relative_error(whole[part], half) for half in averaged([half[part] for half in halves], part))
        yield Finding(
            part, PASS if error < tolerance else FAIL, f"differ from one process by {error:.1e} of the largest"
        )


def averaged(halves: list[dict[str, Tensor]], part: str) -> list[dict[str, Tensor]]:
    """Terms are means over the ranks; the rest is the same on both already, or should be."""
    return halves if part != "terms" else [{name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}]


def relative_error(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Largest difference, NaN on both sides being none, by the largest value."""
    largest = max(value.abs().nan_to_num().max().item() for value in expected.values())
    errors = [(found[name] - value).abs() for name, value in expected.items() if not value.isnan().any()]
    return max(error.nan_to_num(torch.inf).max().item() for error in errors) / largest


def _rank(rank: int, folder: str, port: int, device: str) -> None:
    torch.set_num_threads(1)
    join_address(rank, port)
    with joined(Ranks(rank, 2, rank, 2), device) as ranks:
        half = losses_and_gradients("temporal_gradient", share(whole_batch(), rank), ranks, device)
    torch.save(half, Path(folder) / f"rank{rank}.pt")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("localhost", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def join_address(rank: int, port: int) -> None:
    """Tell this process where two ranks meet, as torchrun does."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}


def whole_batch(method_name: str = "temporal_gradient", **constants: Any) -> ClipBatch:
    """Four labeled and four unlabeled clips of random pixels, of three classes, as a method needs them.

    Args:
        method_name: key of METHODS.
        constants: of the method, as for :func:`losses_and_gradients`.
    """
    config_type = METHODS[method_name].config_type
    return noise_batch(
        METHODS[method_name](_NUM_CLASSES, config_type(**{**from_the_start(config_type), **constants}), 1).needs,
        num_labeled=4,
        num_unlabeled=4,
        clip_len=4,
        size=32,
        num_classes=_NUM_CLASSES,
        generator=torch.Generator().manual_seed(1),  # with which no ReLU stands so close to 0 that rounding tips it
    )


def from_the_start(config_type: type[Any]) -> dict[str, Any]:
    """Constants of a method that switch all of its losses on in the first step, whatever the networks say."""
    wanted = {"warmup_epochs": 0, "rampup_epochs": 0, "threshold": 0.0}
    return {field.name: wanted[field.name] for field in fields(config_type) if field.name in wanted}


def share(batch: Any, rank: int) -> Any:
    """One of two ranks' half of everything in a batch."""
    if isinstance(batch, Tensor):
        return batch.chunk(2)[rank]
    return None if batch is None else type(batch)(*(share(part, rank) for part in batch))


def losses_and_gradients(
    method_name: str, batch: ClipBatch, ranks: Ranks, device: str, *, backend: str | None = None, **constants: Any
) -> dict[str, dict[str, Tensor]]:
    """One step without dropout, up to the gradients.

    Args:
        method_name: key of METHODS.
        batch: this rank's clips.
        ranks: those that train.
        device: "cpu" or "cuda".
        backend: of torch.compile; None computes as it is.
        constants: of the method, where not the defaults; pseudo-labels count from the start, however unsure.

    Returns:
        "terms", "gradients" (NaN where a parameter has got none) and "buffers", on the host.
    """
    torch.manual_seed(0)
    config_type = METHODS[method_name].config_type
    method = METHODS[method_name](_NUM_CLASSES, config_type(**{**from_the_start(config_type), **constants}), 4, 0.0)
    method.keep_videos(8)
    if ranks.world_size > 1:
        synchronize_batch_norm(method)
    method.to(ranks.device(device)).to(memory_format=torch.channels_last_3d)
    batch = _moved(batch, ranks.device(device))
    if method.num_rounds > 1:
        _begin_round(method, batch, ranks)
    if backend:
        compile_method(method, backend=backend)
    module = ranks.data_parallel(method)  # held until the gradients are there: DDP that is gone averages none
    terms = module(batch, torch.zeros((), device=device))
    terms["loss"].backward()
    gradients = {
        name: parameter.grad if parameter.grad is not None else torch.full_like(parameter, torch.nan)
        for name, parameter in method.named_parameters()
        if parameter.requires_grad
    }
    parts = {"terms": terms, "gradients": gradients, "buffers": dict(method.named_buffers())}
    return {part: {name: value.detach().cpu() for name, value in values.items()} for part, values in parts.items()}


def _begin_round(method: Method, batch: ClipBatch, ranks: Ranks) -> None:
    """Have the second round of a method begin, in which all of its losses are on."""
    assert batch.weak is not None and batch.unlabeled_ids is not None
    with torch.no_grad():
        judged = ranks.gather((batch.unlabeled_ids.cpu(), method.eval().judge(batch.weak).cpu()))
    rows, judgments = (torch.cat(parts) for parts in zip(*judged, strict=True))
    method.train().begin_round(rows, judgments, seed=0)


def _moved(batch: Any, device: str) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    return None if batch is None else type(batch)(*(_moved(part, device) for part in batch))
