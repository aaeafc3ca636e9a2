"""Grad-CAM on networks of which it is known what they look at."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model import R3D18
from train.grad_cam import grad_cam, overlay

SIZE, CELLS = 32, 8
CORNERS = {0: (slice(0, 4), slice(0, 4)), 1: (slice(0, 4), slice(4, 8)), 2: (slice(4, 8), slice(0, 4))}


class CornerReader(nn.Module):
    """Class k is how bright corner k is: feature k is the picture there, and dark elsewhere."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen = nn.functional.avg_pool3d(clip[:, :1], (1, SIZE // CELLS, SIZE // CELLS))
        mask = torch.zeros(1, len(CORNERS), 1, CELLS, CELLS)
        for number, (rows, columns) in CORNERS.items():
            mask[0, number, 0, rows, columns] = 1
        features = seen * mask
        return self.gain * features.mean(dim=(2, 3, 4)), [features]


def clips() -> Tensor:
    """Three clips of two frames, the n-th bright in the n-th corner, in its second frame most, dim in the others."""
    clip = torch.zeros(3, 3, 2, SIZE, SIZE)
    scale = SIZE // CELLS
    for corner, area in CORNERS.items():
        rows, columns = (slice(part.start * scale, part.stop * scale) for part in area)
        clip[:, :, :, rows, columns] = 0.5
        clip[corner, :, 0, rows, columns] = 1
        clip[corner, :, 1, rows, columns] = 2
    return clip


def test_heat_lies_where_the_network_looks() -> None:
    found = grad_cam(CornerReader(), clips())
    assert found.guesses.tolist() == [0, 1, 2]
    assert found.heat.shape == (3, 2, SIZE, SIZE)
    assert found.cells == (2, CELLS, CELLS)
    centers = {0: (8, 8), 1: (8, 24), 2: (24, 8)}
    for number, (y, x) in centers.items():
        heat = found.heat[number, 1]
        assert heat[y, x] == heat.max() == 1
        assert found.heat[number, 0, y, x] == pytest.approx(0.5)  # half as bright
        others = [heat[at] for other, at in centers.items() if other != number]
        assert max(others) == 0


def test_what_speaks_against_a_class_is_no_heat_and_no_nan() -> None:
    found = grad_cam(CornerReader(gain=-1.0), clips())
    assert found.heat.isfinite().all()
    guessed = torch.stack([found.heat[n, :, :, :] for n in range(3)])
    assert (guessed == 0).all()


def test_network_is_left_as_it_was() -> None:
    network = R3D18(5, width=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        found = grad_cam(network, torch.randn(2, 3, 4, 64, 64))
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert found.cells == (1, 4, 4)  # stage 3: the 2 x 2 cells of stage 4 would say nothing of where
    with torch.no_grad():
        logits = network.eval()(torch.zeros(1, 3, 4, 64, 64))[0]
    again = grad_cam(network, torch.zeros(1, 3, 4, 64, 64))
    assert again.guesses[0] == logits.argmax()
    assert again.probabilities[0] == pytest.approx(logits.softmax(dim=1).max().item())


def test_clips_do_not_influence_each_other() -> None:
    network = R3D18(5, width=4)
    clip = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    both, one = grad_cam(network, clip), grad_cam(network, clip[:1])
    assert torch.allclose(both.heat[:1], one.heat, atol=1e-5)


def test_all_colour_is_heat() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    heat = np.zeros((2, 8, 8), np.float32)
    heat[1, :4] = 1
    shown = overlay(frames, heat)
    assert shown.dtype == np.uint8
    assert (np.ptp(shown, axis=-1)[heat == 0] == 0).all()
    assert (np.ptp(shown, axis=-1)[heat == 1] > 0).all()
    assert (np.abs(shown[heat == 0].astype(int) - frames[heat == 0].mean(axis=-1, keepdims=True)) <= 1).all()
