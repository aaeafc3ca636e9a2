"""PreciseBN: the statistics it computes, and that computing them leaves nothing behind."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from model import R3D18, apply_precise_bn, precise_bn_statistics, using_precise_bn


def batches(num: int, seed: int = 0, shape: tuple[int, ...] = (2, 3, 4, 32, 32)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * (1 + number) + number for number in range(num)]


def network(dropout: float = 0.5) -> R3D18:
    """A small network in training, with running averages of its own."""
    torch.manual_seed(0)
    net = R3D18(3, width=4, dropout=dropout).train()
    with torch.no_grad():
        net(batches(1, seed=9)[0])
    return net


class Synchronised(nn.Module):
    """Somebody else's BatchNorm: no subclass of PyTorch's, but it keeps the same statistics."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            values = x.transpose(0, 1).flatten(1)
            self.running_mean.lerp_(values.mean(dim=1), self.momentum)
            self.running_var.lerp_(values.var(dim=1), self.momentum)
        return x


@pytest.mark.parametrize("layer", [nn.BatchNorm3d(3), nn.BatchNorm3d(3, momentum=None), Synchronised()])
def test_statistics_are_means_over_batches_of_mean_and_unbiased_variance(layer: nn.Module) -> None:
    clips = batches(4)
    found = precise_bn_statistics(nn.Sequential(layer), iter(clips), num_batches=3)
    values = [clip.transpose(0, 1).flatten(1) for clip in clips[:3]]
    assert found.keys() == {"0.running_mean", "0.running_var"}
    torch.testing.assert_close(found["0.running_mean"], torch.stack([v.mean(dim=1) for v in values]).mean(dim=0))
    torch.testing.assert_close(found["0.running_var"], torch.stack([v.var(dim=1) for v in values]).mean(dim=0))


def test_inner_layers_see_what_they_see_in_training_but_no_dropout() -> None:
    clip = batches(1)[0]
    net = nn.Sequential(nn.BatchNorm3d(3), nn.Dropout(0.9), nn.BatchNorm3d(3)).eval()
    found = precise_bn_statistics(net, [clip], num_batches=1)
    inner = nn.BatchNorm3d(3)(clip).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found["2.running_mean"], inner.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["2.running_var"], inner.var(dim=1))


def assert_as_before(net: nn.Module, before: nn.Module) -> None:
    for (name, ours), (_, theirs) in zip(net.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(net.modules(), before.modules(), strict=True):
        assert ours.training == theirs.training
        assert getattr(ours, "momentum", None) == getattr(theirs, "momentum", None)


def test_nothing_is_left_behind_not_even_a_random_number() -> None:
    net = network()
    net.layer1.eval()  # a part that somebody has frozen
    before, generator = copy.deepcopy(net), torch.get_rng_state()
    found = precise_bn_statistics(net, batches(3), num_batches=3)
    assert torch.equal(torch.get_rng_state(), generator)
    assert_as_before(net, before)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(value.requires_grad for value in found.values())
    statistics = {name for name in net.state_dict() if name.endswith(("running_mean", "running_var"))}
    assert found.keys() == statistics
    assert len(found) == 2 * 20


def test_what_fails_midway_leaves_nothing_behind_either() -> None:
    net = network()
    before = copy.deepcopy(net)

    def stopped() -> Iterator[Tensor]:
        yield batches(1)[0]
        raise InterruptedError

    with pytest.raises(InterruptedError):
        precise_bn_statistics(net, stopped(), num_batches=2)
    assert_as_before(net, before)


def test_too_few_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 batches of clips, 3 were asked for"):
        precise_bn_statistics(network(), batches(2), num_batches=3)


def test_statistics_are_used_for_a_while_or_for_good() -> None:
    net, clip = network().eval(), batches(1, seed=5)[0]
    before, found = copy.deepcopy(net), precise_bn_statistics(net, batches(3), num_batches=3)
    with torch.no_grad():
        own, _ = net(clip)
        with using_precise_bn(net, found):
            precise, _ = net(clip)
        assert_as_before(net, before)
        assert torch.equal(net(clip)[0], own)
        assert not torch.allclose(precise, own)
        apply_precise_bn(net, {})
        assert torch.equal(net(clip)[0], own)
        apply_precise_bn(net, found)
        assert torch.equal(net(clip)[0], precise)
    with pytest.raises(KeyError):
        apply_precise_bn(net, {"conv9.running_mean": torch.zeros(3)})
