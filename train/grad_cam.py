"""Grad-CAM: where in a clip a network saw what made it guess the class it did.

Promises pure functions of (network, clip).  Which clips are worth looking at is left to :mod:`train.report_clips`.
"""

from typing import NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MIN_CELLS = 4  # across; fewer say nothing of where
_STRENGTH = 0.75  # of the heat on top of a frame
_COLORS = matplotlib.colormaps["inferno"]


class GradCam(NamedTuple):
    """Heat over clips, for the class guessed.

    Attributes:
        heat: (B, T, H, W) float32, 0 to 1, its maximum in each clip 1 unless nothing speaks for the class.
        guesses: (B,) int64 classes.
        probabilities: (B,) float32 that the network gives them.
        cells: (T, H, W) of the features that the heat is interpolated from.
    """

    heat: Tensor
    guesses: Tensor
    probabilities: Tensor
    cells: tuple[int, int, int]


def grad_cam(network: nn.Module, clip: Tensor) -> GradCam:
    """Weigh late features by what the guessed class gains from them: Selvaraju et al. 2017, Eq. (1) and (2).

    The stage is the last one of at least 4 x 4 cells: for the usual 112 and 224 pixels the last of all.

    Args:
        network: normalised clips in, (logits (B, K), features of its stages (B, C', T', H', W')) out.
        clip: (B, 3, T, H, W) float, normalised, on the network's device.

    Returns:
        On the host.  The network is left as it was, in its mode and without gradients.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.enable_grad():
            logits, features = network(clip.detach().requires_grad_())
            fine = [stage for stage in features if min(stage.shape[-2:]) >= _MIN_CELLS]
            stage = fine[-1] if fine else features[0]
            best = logits.max(dim=1)
            (gradient,) = torch.autograd.grad(best.values.sum(), stage)
    finally:
        network.train(was_training)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    heat = (weights * stage).sum(dim=1, keepdim=True).relu().detach().float()
    heat = F.interpolate(heat, clip.shape[2:], mode="trilinear", align_corners=False)[:, 0]
    heat = heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
    probabilities = logits.detach().float().softmax(dim=1).amax(dim=1)
    return GradCam(heat.cpu(), best.indices.cpu(), probabilities.cpu(), tuple(stage.shape[2:]))


def overlay(frames: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay heat over frames, which turn grey so that all colour is heat.

    Args:
        frames: (T, H, W, 3) uint8.
        heat: (T, H, W) float, 0 to 1.

    Returns:
        (T, H, W, 3) uint8.
    """
    opacity = _STRENGTH * heat[..., None]
    grey = frames.mean(axis=-1, keepdims=True)
    mixed: np.ndarray = (1 - opacity) * grey + opacity * 255 * _COLORS(heat)[..., :3]
    return mixed.round().astype(np.uint8)
