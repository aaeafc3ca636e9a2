"""Optical flow: what moves how far, as a picture; and the node that makes it on a GPU is wired so that it can run."""

import threading

import cv2
import numpy as np
import pytest

from pipeline.flow import RANGE, flow_picture, optical_flow
from pipeline.graph import GraphSpec
from tests.conftest import moving_frames
from tests.pipeline.test_gpu_graph import faults, gpu_operators

SIDE = 96


def shifted(dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
    """Three frames of a texture, and the same moved by whole pixels."""
    noise = np.random.default_rng(0).random((SIDE + 40, SIDE + 40))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    grey = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    texture = np.repeat(np.broadcast_to(grey, (3, *grey.shape))[..., None], 3, axis=3)
    frames = texture[:, 20 : 20 + SIDE, 20 : 20 + SIDE]
    return frames, texture[:, 20 - dy : 20 - dy + SIDE, 20 - dx : 20 - dx + SIDE]


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (-3, 0), (0, 4), (0, -4), (2, -3)])
def test_flow_tells_direction_and_length(dx: int, dy: int) -> None:
    flow = optical_flow(*shifted(dx, dy))
    assert flow.shape == (3, SIDE, SIDE, 3)
    assert flow.dtype == np.uint8
    inner = flow[:, 16:-16, 16:-16].astype(float)
    longest = RANGE * SIDE
    expected = (128 + dx * 127 / longest, 128 + dy * 127 / longest, np.hypot(dx, dy) * 255 / longest)
    for channel, value in enumerate(expected):
        assert np.median(inner[..., channel]) == pytest.approx(value, abs=4)


def test_what_rests_is_grey() -> None:
    frames = moving_frames(2, SIDE, SIDE)
    assert (optical_flow(frames, frames) == (128, 128, 0)).mean() > 0.99


def test_displacements_beyond_the_range_are_cut_off() -> None:
    far = np.array([[[[1000.0, -1000.0]]]])
    assert flow_picture(far, SIDE).tolist() == [[[[255, 0, 255]]]]


def test_flow_has_the_same_bits_in_any_thread() -> None:
    clip = shifted(2, 1)
    expected = optical_flow(*clip)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(optical_flow(*clip))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((flow == expected).all() for flow in found)


@pytest.mark.parametrize(
    "spec",
    [
        GraphSpec(8, True, True, "dali", flow=True),
        GraphSpec(8, False, True, "dali", flow=True, only="flow"),
        GraphSpec(8, True, True, "ffmpeg", flow=True),
    ],
)
def test_the_gpu_graph_with_flow_can_run(spec: GraphSpec) -> None:
    gpu = gpu_operators(spec)
    assert not faults(gpu)
    assert ("OpticalFlow" in {operator.name for operator in gpu}) == (spec.decoder == "dali")
