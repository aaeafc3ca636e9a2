"""What is counted is what arithmetic on shapes and frame numbers says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.ceilings import PUBLISHED_STEP_S
from benchmarks.counting import _Bytes, count_frames, count_method, count_published
from pipeline.plan import ClipSpec, plan_clip
from pipeline.scanning import scan

CLIP_LEN, SIZE, WIDTH, BATCH = 4, 32, 4, 2


def test_a_step_counts_all_views_of_both_networks_forward_and_backward() -> None:
    counted = count_method(
        "temporal_gradient", clip_len=CLIP_LEN, size=SIZE, width=WIDTH, batch=BATCH, precision="fp32"
    )
    passes = 2 * 3 * BATCH  # networks; labeled, weak and strong rows
    values = passes * WIDTH * CLIP_LEN * (SIZE // 2) ** 2
    # Two floating-point operations for each of the stem's weights that a value sees.
    assert counted.layers["conv1"].flops == 2 * values * 3 * 3 * 7 * 7
    assert counted.layers["conv1"].activation_bytes == 4 * values
    # Backward twice as much as forward, but for the stem, whose input has no gradient; a little
    # for classifiers and heads.
    convolutions = 3 * sum(layer.flops for layer in counted.layers.values()) - counted.layers["conv1"].flops
    assert convolutions < counted.cost.flops < 1.05 * convolutions
    assert counted.cost.clips == 2 * BATCH
    assert counted.parameter_bytes == counted.cost.gradient_bytes
    # The optimizer alone reads weights, gradients and momentum.
    assert counted.cost.other_bytes > 3 * counted.parameter_bytes


def test_operations_move_what_they_read_and_write_and_looking_at_a_tensor_moves_nothing() -> None:
    with FakeTensorMode(), _Bytes() as moved:
        a, b = torch.empty(10, 6), torch.empty(10, 6)
        c = (a + b).view(6, 10)
        assert c.device == a.device
        assert (moved.of_products, moved.of_others) == (0, 3 * 60 * 4)
        a @ c
    assert (moved.of_products, moved.of_others) == (4 * (60 + 60 + 100), 3 * 60 * 4)


def test_short_numbers_move_fewer_bytes_and_compute_as_much() -> None:
    single, short = (
        count_method("fixmatch", clip_len=2, size=32, width=4, batch=2, precision=precision).cost
        for precision in ("fp32", "bf16")
    )
    assert short.flops == single.flops
    assert 0.45 * single.product_bytes < short.product_bytes < 0.6 * single.product_bytes


def test_the_published_step_is_that_of_torchvisions_r3d_18() -> None:
    cost = count_published().cost
    # 40.7 thousand million multiplications forward, by torchvision's documentation of its weights.
    assert cost.flops / cost.clips == pytest.approx(3 * 2 * 40.7e9, rel=0.03)
    assert cost.flops / PUBLISHED_STEP_S < 989e12


@pytest.mark.parametrize(("codec", "gop"), [("mjpeg", 1), ("vp8", 8)])
def test_frames_of_a_clip_are_those_since_the_keyframes(codec: str, gop: int, video: Callable[..., Path]) -> None:
    record, spec = scan(video(codec, num_frames=40)), ClipSpec(clip_len=3, frame_stride=5)
    expected, size = [], []
    for position in range(20):
        plan = plan_clip(record, spec, 0, 0, position)
        frames = {n for k in np.append(plan.frames, plan.later).tolist() for n in range(k - k % gop, k + 1)}
        expected.append(len(frames))
        size.append(record.sizes[sorted(frames)].sum())
    taken = count_frames([record, replace(record, path="/another")], spec, 20)
    assert taken.frames == taken.frames_closed == pytest.approx(np.mean(expected))
    assert taken.packet_bytes == pytest.approx(np.mean(size))
    assert min(expected) <= taken.spread[0] <= taken.frames <= taken.spread[1] <= max(expected)
