"""R3D-18 is the reference's network: size, shapes, constants, initialisation, layout, and what it refuses."""

import math

import pytest
import torch
from torch import Tensor, nn

from model import R3D18, normalize
from model.r3d import PIXEL_MEAN, PIXEL_STD, Conv3x3x3


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def full_size() -> R3D18:
    with torch.device("meta"):
        return R3D18(num_classes=101)


@pytest.mark.parametrize(("num_classes", "head"), [(101, 51_813), (51, 26_163), (400, 205_200)])
def test_parameter_counts_are_the_references(num_classes: int, head: int) -> None:
    with torch.device("meta"):
        network = R3D18(num_classes)
    assert num_parameters(network.classifier) == head
    assert num_parameters(network) - head == 33_166_272


def test_feature_shapes_are_the_references(full_size: R3D18) -> None:
    logits, features = full_size(torch.empty(2, 3, 8, 224, 224, device="meta"))
    assert logits.shape == (2, 101)
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (64, 4, 56, 56),
        (128, 2, 28, 28),
        (256, 1, 14, 14),
        (512, 1, 7, 7),
    ]


def test_convolutions_cost_what_the_references_cost(full_size: R3D18) -> None:
    multiplications = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal multiplications
        assert isinstance(module, nn.Conv3d)
        multiplications += output[0].numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in full_size.modules() if isinstance(m, nn.Conv3d)]
    full_size(torch.empty(1, 3, 8, 224, 224, device="meta"))
    for handle in handles:
        handle.remove()
    assert multiplications / 1e9 == pytest.approx(18.81, abs=0.005)


def test_width_scales_every_stage() -> None:
    network = R3D18(num_classes=5, width=8)
    logits, features = network.eval()(torch.zeros(1, 3, 8, 48, 48))
    assert logits.shape == (1, 5)
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (8, 4, 12, 12),
        (16, 2, 6, 6),
        (32, 1, 3, 3),
        (64, 1, 2, 2),
    ]
    assert network.feature_dim == 64


@pytest.mark.parametrize("num_frames", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_small_clips_shrink_to_one_and_not_to_nothing(num_frames: int, size: int) -> None:
    _, features = R3D18(num_classes=2, width=1).eval()(torch.zeros(1, 3, num_frames, size, size))
    time = num_frames // 2
    for stage, feature in enumerate(features):
        assert feature.shape[2] == math.ceil(time / 2**stage)
        assert feature.shape[3] == feature.shape[4] == math.ceil(size / 2 ** (2 + stage))


def test_an_odd_clip_loses_its_last_feature_frame_in_pool2() -> None:
    network = R3D18(num_classes=2, width=2).eval()
    before: list[Tensor] = []
    network.layer1.register_forward_hook(lambda _, __, output: before.append(output))
    _, features = network(torch.randn(1, 3, 5, 16, 16))
    expected = torch.stack([before[0][:, :, 0:2].amax(2), before[0][:, :, 2:4].amax(2)], dim=2)
    assert torch.equal(features[0], expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 2])
def test_a_convolution_of_one_frame_is_that_of_the_whole_kernel(num_frames: int, stride: int) -> None:
    torch.manual_seed(0)
    ours = Conv3x3x3(4, 6, stride).to(memory_format=torch.channels_last_3d)
    whole = nn.Conv3d(4, 6, 3, stride, padding=1, bias=False)
    whole.load_state_dict(ours.state_dict())
    volumes = [
        torch.linspace(-1, 1, 2 * 4 * num_frames * 25).reshape(2, 4, num_frames, 5, 5).requires_grad_() for _ in "ab"
    ]
    outputs = [conv(volume) for conv, volume in zip((ours, whole), volumes, strict=True)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output**2).sum().backward()
    assert ours.weight.grad is not None and whole.weight.grad is not None
    torch.testing.assert_close(ours.weight.grad, whole.weight.grad)
    torch.testing.assert_close(volumes[0].grad, volumes[1].grad)
    assert ours.weight.grad.stride() == ours.weight.stride()


def test_batch_norm_and_convolution_constants_are_the_references(full_size: R3D18) -> None:
    norms = [module for module in full_size.modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) == 20
    assert {(norm.eps, norm.momentum, norm.affine) for norm in norms} == {(1e-3, 0.1, True)}
    assert all(module.bias is None for module in full_size.modules() if isinstance(module, nn.Conv3d))
    assert full_size.dropout.p == 0.5


def test_initialisation_is_kaiming_over_fan_out() -> None:
    torch.manual_seed(0)
    network = R3D18(num_classes=101, width=32)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06), name
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not network.classifier.bias.any()


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network = R3D18(num_classes=3, width=4)
    clip = torch.randn(2, 3, 4, 16, 16)
    assert not torch.equal(network(clip)[0], network(clip)[0])
    network.eval()
    assert torch.equal(network(clip)[0], network(clip)[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 1, 16, 16), "need 2 frames, got T=1"),
        ((1, 4, 16, 16, 3), "use normalize"),
        ((3, 4, 16, 16), "use normalize"),
    ],
)
def test_clips_it_cannot_take_are_refused_with_the_remedy(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        R3D18(num_classes=2, width=1)(torch.zeros(shape))


def test_normalize_is_mean_and_std_per_channel() -> None:
    clip = torch.tensor([[0, 127, 255], [255, 0, 127]], dtype=torch.uint8).reshape(1, 1, 1, 2, 3)
    out = normalize(clip)
    assert out.dtype == torch.float32
    assert out.shape == (1, 3, 1, 1, 2)
    for pixel in range(2):
        for channel in range(3):
            value = (clip[0, 0, 0, pixel, channel].item() - PIXEL_MEAN[channel]) / PIXEL_STD[channel]
            assert out[0, channel, 0, 0, pixel].item() == pytest.approx(value, rel=1e-6)
    still = normalize(torch.full((1, 1, 1, 1, 3), 127, dtype=torch.uint8)).flatten()
    assert still.tolist() == pytest.approx([0.0569, 0.1877, 0.4091], abs=1e-4)


def test_normalize_keeps_the_layout_of_the_pixels() -> None:
    clip = torch.randint(0, 256, (2, 4, 6, 5, 3), dtype=torch.uint8)
    assert normalize(clip).stride() == clip.permute(0, 4, 1, 2, 3).stride()
    assert normalize(clip).is_contiguous(memory_format=torch.channels_last_3d)


def test_channels_last_survives_every_layer_and_the_backward_pass() -> None:
    network = R3D18(num_classes=4, width=4).to(memory_format=torch.channels_last_3d)
    volumes: dict[str, bool] = {}

    def watch(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 5:
            volumes[name] = output.is_contiguous(memory_format=torch.channels_last_3d)

    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
    logits, _ = network(normalize(torch.randint(0, 256, (2, 8, 64, 64, 3), dtype=torch.uint8)))
    logits.sum().backward()

    assert len(volumes) > 50
    assert all(volumes.values()), [name for name, kept in volumes.items() if not kept]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name
