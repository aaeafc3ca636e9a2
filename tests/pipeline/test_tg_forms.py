"""Each form of temporal gradient is made of the frames it says, weak and strong, in training and in evaluation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types

from pipeline.batch import Needs, temporal_gradient
from pipeline.datasets import DataSplit
from pipeline.decode import decode_clip
from pipeline.errors import InputError
from pipeline.evaluation import center_views, multi_views
from pipeline.graph import ClipGraph, GraphSpec, temporal_gradient_node
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import TG_FORMS, ClipPlan, ClipSpec, StrongPlan, plan_center, plan_clip, plan_clips, plan_test
from pipeline.record import VideoRecord
from pipeline.scanning import scan
from pipeline.strong import OPS

FAST = ClipSpec(clip_len=4, frame_stride=3, size=48, eval_size=56)
STRIDE_5 = replace(FAST, tg_stride=5)
SLOW = replace(FAST, tg_form="reference_slow")
FORMS = pytest.mark.parametrize("spec", [FAST, STRIDE_5, SLOW], ids=["fast", "stride 5", "reference slow"])
INVERT = StrongPlan((OPS.index("invert"), OPS.index("cutout")), (1, 1), (-9.0, -9.0))  # cutout outside the frame


def gradients(spec: ClipSpec, frames: np.ndarray, later: np.ndarray) -> np.ndarray:
    """What the form says, in floating point."""
    if spec.tg_form == "reference_slow":
        frames, later = later[1:], later[:-1]
    expected: np.ndarray = np.floor((frames.astype(float) - later + 255) / 2)
    return expected


def decoded(record: VideoRecord, plan: ClipPlan) -> tuple[np.ndarray, np.ndarray]:
    crop = (plan.box, plan.flip, plan.size)
    return decode_clip(record, plan.frames, *crop), decode_clip(record, plan.later, *crop)


def test_gradient_in_the_graph_is_exact_for_every_pair_of_values() -> None:
    earlier, later = (values.astype(np.uint8)[None, :, :, None] for values in np.mgrid[:256, :256])

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def gradient() -> Any:
        return temporal_gradient_node(
            *(fn.external_source(name=name, dtype=types.UINT8, layout="FHWC", ndim=4) for name in ("earlier", "later"))
        )

    pipeline = gradient()
    pipeline.build()
    (output,) = pipeline.run(earlier=[earlier], later=[later])
    np.testing.assert_array_equal(np.array(output.at(0)), temporal_gradient(earlier, later))


@FORMS
@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_weak_and_strong_gradients_are_those_of_the_planned_frames(
    spec: ClipSpec, codec: str, video: Callable[..., Path]
) -> None:
    record = scan(video(codec))
    graph = ClipGraph(GraphSpec(4, True, True, "ffmpeg", spec.tg_form), spec.size, 4, "cpu", num_threads=1)
    plans = [replace(plan_clip(record, spec, 5, 0, i), strong_rgb=INVERT, strong_tg=INVERT) for i in range(4)]
    weak, strong = graph([graph.read(record, plan) for plan in plans])
    assert weak.tg is not None
    assert strong is not None
    assert strong.tg is not None
    for i, plan in enumerate(plans):
        frames, later = decoded(record, plan)
        gradient = gradients(spec, frames, later)
        np.testing.assert_array_equal(weak.rgb[i], frames)
        np.testing.assert_array_equal(weak.tg[i], gradient)
        np.testing.assert_array_equal(strong.rgb[i], 255 - frames)
        # The slow form subtracts inverted frames, the others invert the gradient.
        slow = gradients(spec, frames, 255 - later)
        np.testing.assert_array_equal(strong.tg[i], slow if spec.tg_form == "reference_slow" else 255 - gradient)


@pytest.mark.parametrize("spec", [STRIDE_5, SLOW], ids=["stride 5", "reference slow"])
def test_dali_decoder_makes_the_gradients_of_the_same_frames(spec: ClipSpec, video: Callable[..., Path]) -> None:
    record = scan(video("vp8"))
    plan = plan_clip(record, spec, 5, 0, 1)
    with_tg = ClipGraph(GraphSpec(4, True, False, "dali", spec.tg_form), spec.size, 1, "cpu", num_threads=1)
    weak, _ = with_tg([with_tg.read(record, plan)])
    only_rgb = ClipGraph(GraphSpec(4, False, False, "dali"), spec.size, 1, "cpu", num_threads=1)
    frames, later = (
        only_rgb([only_rgb.read(record, replace(plan, frames=numbers))])[0].rgb[0].numpy()
        for numbers in (plan.frames, plan.later)
    )
    assert weak.tg is not None
    np.testing.assert_array_equal(weak.tg[0], gradients(spec, frames, later))


@FORMS
def test_evaluation_makes_them_too(spec: ClipSpec, small_index: VideoIndex) -> None:
    rows = np.array([0, 8])  # 40 frames, and 9: shorter than a clip
    ids, centers = next(center_views(small_index, rows, spec, batch_size=2, tg=True))
    assert centers.tg is not None
    for row, center in zip(ids.tolist(), centers.tg, strict=True):
        record = small_index[row]
        expected = gradients(spec, *decoded(record, plan_center(record, spec)))
        np.testing.assert_array_equal(center, expected)
    for row, views in multi_views(small_index, rows, spec, tg=True):
        assert views.tg is not None
        assert views.tg.shape == views.rgb.shape == (30, 4, 56, 56, 3)
        record = small_index[row]
        plan, corners = plan_test(record, spec)
        frames, later = (part.reshape(10, -1, *part.shape[1:]) for part in decoded(record, plan))
        y, x = corners[2]
        for clip in (0, 9):
            expected = gradients(spec, frames[clip], later[clip])[:, y : y + 56, x : x + 56]
            np.testing.assert_array_equal(views.tg[3 * clip + 2], expected)


@FORMS
def test_training_makes_them_too(spec: ClipSpec, small_index: VideoIndex) -> None:
    rows = np.arange(12)
    split = DataSplit(("a",), np.zeros(12, np.int64), rows, rows, rows)
    needs = Needs(tg=True, unlabeled=True, strong=True)
    with ClipLoader(small_index, split, needs, spec, batch_labeled=2, batch_unlabeled=3, seed=0) as loader:
        batch = next(loader)
    assert batch.strong is not None
    assert batch.strong.tg is not None
    assert batch.strong.tg.shape == (3, 4, 48, 48, 3)
    with ClipLoader(small_index, split, Needs(), spec, batch_labeled=2, batch_unlabeled=3, seed=0) as loader:
        rgb = next(loader).labeled
    assert rgb.tg is None
    if spec.tg_form == "reference_slow":  # which takes no frame off the end, so that RGB is what it is without TG
        assert torch.equal(rgb.rgb, batch.labeled.rgb)


@pytest.mark.parametrize(("num_frames", "later"), [(300, range(0, 57, 7)), (18, [0, 0, 0, 1, 1, 1, 2, 2, 2])])
def test_slow_frames_are_those_of_the_reference(num_frames: int, later: list[int]) -> None:
    spec = ClipSpec(tg_form="reference_slow")
    (plan,) = plan_clips(np.array([num_frames]), np.array([[340, 256]]), spec, 0, 0, 0)
    assert (plan.later - plan.frames[0]).tolist() == list(later)


def test_slow_clips_may_end_with_the_last_frame() -> None:
    plans = plan_clips(np.full(400, 66), np.full((400, 2), 256), ClipSpec(tg_form="reference_slow"), 0, 0, 0)
    assert {int(plan.frames[0]) for plan in plans} == {0, 1, 2}


def test_contradictions_are_refused() -> None:
    assert set(TG_FORMS) == {"aligned", "reference_slow"}
    with pytest.raises(InputError, match="tg_form is 'fast'"):
        ClipSpec(tg_form="fast")
    with pytest.raises(InputError, match="tg_stride is 7"):
        ClipSpec(tg_form="reference_slow", tg_stride=7)
