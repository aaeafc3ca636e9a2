"""BatchNorm over two processes is that of one with both batches: values, gradients, running averages, layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model import ContrastHead, SyncBatchNorm, synchronize_batch_norm
from tests.forks import run_ranks

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "clips": lambda: nn.BatchNorm3d(5, eps=1e-3),
    "embeddings": lambda: nn.BatchNorm1d(5),
    "without weights": lambda: nn.BatchNorm1d(5, affine=False),
    "other momentum": lambda: nn.BatchNorm1d(5, momentum=1.0),
    "one clip a rank": lambda: nn.BatchNorm1d(5),
}
BATCH = 6
TOLERANCE = 1e-4  # float32, and up to a hundred standard deviations from zero


def make_layer(name: str) -> nn.Module:
    layer = LAYERS[name]()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return layer


def make_input(name: str) -> tuple[Tensor, Tensor]:
    """The whole batch, its channels far from zero and of different spread, and a gradient of the result."""
    batch = 2 if name == "one clip a rank" else BATCH
    shape = (batch, 5, 2, 3, 4) if name == "clips" else (batch, 5)
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 3.0, 1.0, 1.0]).view(1, 5, *[1] * (len(shape) - 2))
    x = torch.randn(shape, generator=generator) * spread + 10 * spread.flip(1)
    x = x.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else x
    return x, torch.randn(shape, generator=generator)


def run_layer(layer: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Any]:
    x = x.detach().requires_grad_()
    y = layer(x)
    (y * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, "gradients": gradients, "buffers": dict(layer.named_buffers())}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes got for its half of the rows, by layer."""
    folder = tmp_path_factory.mktemp("sync")
    run_ranks(two_process_worker, (str(folder),))
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def two_process_worker(rank: int, folder: str) -> None:
    """Run every layer, eager and compiled, on this rank's half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results: dict[str, Any] = {}
    for name in LAYERS:
        x, weight = (whole.chunk(2)[rank] for whole in make_input(name))
        layer = synchronize_batch_norm(make_layer(name))
        results[name] = run_layer(layer, x, weight)
        results[name]["eval"] = layer.eval()(x)
    x, weight = (whole.chunk(2)[rank] for whole in make_input("clips"))
    compiled = torch.compile(synchronize_batch_norm(make_layer("clips")), backend="aot_eager", fullgraph=True)
    assert isinstance(compiled, nn.Module)
    results["compiled"] = run_layer(compiled, x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results["bfloat16"] = synchronize_batch_norm(make_layer("clips"))(x.bfloat16()).detach()
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", LAYERS)
def test_two_processes_are_one(name: str, ranks: list[dict[str, Any]]) -> None:
    layer = make_layer(name)
    whole = run_layer(layer, *make_input(name))
    ours = [rank[name] for rank in ranks]
    torch.testing.assert_close(torch.cat([rank["y"] for rank in ours]), whole["y"], rtol=1e-4, atol=TOLERANCE)
    torch.testing.assert_close(torch.cat([rank["x"] for rank in ours]), whole["x"], rtol=1e-4, atol=TOLERANCE)
    for parameter, gradient in whole["gradients"].items():
        torch.testing.assert_close(
            sum(rank["gradients"][parameter] for rank in ours), gradient, rtol=1e-4, atol=TOLERANCE
        )
    for rank in ours:
        torch.testing.assert_close(rank["buffers"], whole["buffers"], rtol=1e-4, atol=0)
    expected = layer.eval()(make_input(name)[0])
    torch.testing.assert_close(torch.cat([rank["eval"] for rank in ours]), expected, rtol=1e-4, atol=TOLERANCE)


def test_ranks_keep_the_same_running_averages_to_the_bit(ranks: list[dict[str, Any]]) -> None:
    for name in LAYERS:
        for buffer, value in ranks[0][name]["buffers"].items():
            assert torch.equal(value, ranks[1][name]["buffers"][buffer]), (name, buffer)


def test_compiled_whole_it_does_the_same_and_keeps_the_layout(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        eager, compiled = rank["clips"], rank["compiled"]
        torch.testing.assert_close(compiled["y"], eager["y"])
        torch.testing.assert_close(compiled["x"], eager["x"])
        for result in (eager, compiled):
            assert result["y"].is_contiguous(memory_format=torch.channels_last_3d)
            assert result["x"].is_contiguous(memory_format=torch.channels_last_3d)


def test_under_autocast_statistics_are_those_of_float32(ranks: list[dict[str, Any]]) -> None:
    x, _ = make_input("clips")
    expected = make_layer("clips")(x.bfloat16().float())
    got = torch.cat([rank["bfloat16"] for rank in ranks])
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=1e-2, atol=1e-2)


def test_weights_fit_both_kinds_and_every_layer_is_replaced() -> None:
    plain, synchronized = ContrastHead(4), synchronize_batch_norm(ContrastHead(4))
    assert [type(layer) for layer in synchronized.modules()].count(SyncBatchNorm) == 3
    assert list(plain.state_dict()) == list(synchronized.state_dict())
    synchronized.load_state_dict(plain.state_dict())
    plain.load_state_dict(synchronized.state_dict())


def test_in_place_of_a_layer_stand_the_same_tensors() -> None:
    layer = nn.BatchNorm3d(4, eps=1e-3).eval()
    synchronized = synchronize_batch_norm(layer)
    assert isinstance(synchronized, SyncBatchNorm)
    assert (synchronized.eps, synchronized.training) == (1e-3, False)
    assert synchronized.weight is layer.weight
    assert synchronized.running_var is layer.running_var
