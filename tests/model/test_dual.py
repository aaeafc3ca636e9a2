"""The pair of networks: size, independence, contrast heads, one batch per modality."""

import pytest
import torch
from torch import nn

from model import ContrastHead, DualR3D, normalize


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pixels(batch: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 4, 16, 16, 3), dtype=torch.uint8)


def test_parameter_counts_are_the_references() -> None:
    with torch.device("meta"):
        networks = DualR3D(num_classes=101)
    assert num_parameters(networks) == 68_013_130
    assert num_parameters(networks.rgb_contrast) == num_parameters(networks.tg_contrast) == 788_480
    assert num_parameters(networks.rgb) == 33_218_085


def test_contrast_head_ends_in_standardised_dimensions() -> None:
    torch.manual_seed(0)
    head = ContrastHead(32)
    norms = [layer for layer in head.layers if isinstance(layer, nn.BatchNorm1d)]
    assert [norm.affine for norm in norms] == [True, True, False]
    assert {norm.eps for norm in norms} == {1e-5}
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)  # the initial 0.01 leaves variances near BatchNorm's epsilon
    embedding = head(torch.randn(64, 32, 1, 2, 2))
    assert embedding.shape == (64, 32)
    torch.testing.assert_close(embedding.mean(0), torch.zeros(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding.std(0, correction=0), torch.ones(32), atol=1e-3, rtol=0)


def test_contrast_head_pools_over_time_and_space() -> None:
    head = ContrastHead(8).eval()
    feature = torch.randn(2, 8, 2, 3, 3)
    pooled = feature.mean(dim=(2, 3, 4), keepdim=True)
    torch.testing.assert_close(head(feature), head(pooled))


def test_contrast_head_is_initialised_small() -> None:
    torch.manual_seed(0)
    for layer in ContrastHead(256).layers:
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
            assert layer.bias is None


def test_each_modality_goes_through_its_own_network_alone() -> None:
    networks = DualR3D(num_classes=3, width=4).eval()
    rgb, tg = pixels(2), pixels(2)
    rgb_output, tg_output = networks(rgb, tg)
    for output, network, head, clip in [
        (rgb_output, networks.rgb, networks.rgb_contrast, rgb),
        (tg_output, networks.tg, networks.tg_contrast, tg),
    ]:
        logits, features = network(normalize(clip))
        assert torch.equal(output.logits, logits)
        assert all(torch.equal(a, b) for a, b in zip(output.features, features, strict=True))
        assert torch.equal(output.embedding, head(features[-1]))
    assert {id(p) for p in networks.rgb.parameters()}.isdisjoint({id(p) for p in networks.tg.parameters()})


def test_all_rows_share_one_batch_norm_batch() -> None:
    """A row's output in training depends on the other rows, and BatchNorm counts one batch per forward."""
    torch.manual_seed(0)
    networks = DualR3D(num_classes=3, width=4, dropout=0.0)
    rgb, tg = pixels(6), pixels(6)
    other = rgb.clone()
    other[5] = pixels(1)[0]
    first, _ = networks(rgb, tg)
    second, _ = networks(other, tg)
    assert not torch.equal(first.logits[0], second.logits[0])
    counts = [m.num_batches_tracked for m in networks.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm3d)]
    assert len(counts) == 46
    assert all(count is not None and count.item() == 2 for count in counts)
