"""The views of a clip show the same pixels of the same frames, whichever decoder made them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batch import temporal_gradient
from pipeline.decode import decode_clip
from pipeline.errors import BadVideo
from pipeline.graph import ClipGraph, GraphSpec, dali_refusal
from pipeline.index import VideoIndex
from pipeline.plan import ClipSpec, plan_clip
from pipeline.scanning import scan
from pipeline.sources import find_sources
from tests.pipeline.test_tars import write_tar

SPEC = ClipSpec(clip_len=4, frame_stride=3, size=48, eval_size=56)


def make_graph(decoder: str = "ffmpeg", *, strong: bool = True, batch_size: int = 8, num_threads: int = 1) -> ClipGraph:
    return ClipGraph(GraphSpec(SPEC.clip_len, True, strong, decoder), SPEC.size, batch_size, "cpu", num_threads)


@pytest.mark.parametrize("codec", ["mjpeg", "vp9", "h264", "mpeg4"])
def test_weak_rgb_and_tg_are_the_source_frames_under_the_planned_crop(codec: str, video: Callable[..., Path]) -> None:
    record = scan(video(codec))
    graph = make_graph()
    plans = [plan_clip(record, SPEC, 5, 0, position) for position in range(8)]
    weak, _ = graph([graph.read(record, plan) for plan in plans])
    assert weak.tg is not None
    assert {plan.flip for plan in plans} == {False, True}
    for plan, rgb, tg in zip(plans, weak.rgb.numpy(), weak.tg.numpy(), strict=True):
        crop = (plan.box, plan.flip, plan.size)
        earlier, later = decode_clip(record, plan.frames, *crop), decode_clip(record, plan.later, *crop)
        np.testing.assert_array_equal(rgb, earlier)
        np.testing.assert_array_equal(tg, np.floor((earlier.astype(float) - later + 255) / 2))


@pytest.mark.parametrize("codec", ["mjpeg", "vp8", "vp9"])
def test_dali_decoder_agrees_with_ffmpeg_within_rounding(codec: str, video: Callable[..., Path]) -> None:
    record = scan(video(codec, width=160, height=120))
    views = []
    for decoder in ("ffmpeg", "dali"):
        graph = make_graph(decoder, strong=False)
        samples = [graph.read(record, plan_clip(record, SPEC, 5, 0, position)) for position in range(8)]
        views.append(graph(samples)[0])
    for modality in ("rgb", "tg"):
        one, other = (getattr(view, modality) for view in views)
        inside = np.s_[:, :, 1:-1, 1:-1]  # DALI's region takes its neighbours into the resize at the border
        difference = one.numpy()[inside].astype(int) - other.numpy()[inside]
        # FFmpeg interpolates chroma, DALI repeats it: colours of fine texture differ, brightness must not.
        assert np.abs(difference).mean() < 3.0
        luma = np.abs(difference @ np.array([0.299, 0.587, 0.114]))
        assert luma.mean() < 1.0
        assert np.percentile(luma, 99) < 3.0


@pytest.mark.parametrize("codec", ["mjpeg", "vp8", "vp9"])
def test_dali_decodes_a_slice_to_the_bits_of_the_whole_file(codec: str, video: Callable[..., Path]) -> None:
    record = scan(video(codec))
    graph = make_graph("dali", strong=False)
    plans = [plan_clip(record, SPEC, 1, 0, position) for position in range(8)]
    sliced, _ = graph([graph.read(record, plan) for plan in plans])
    whole_file = np.fromfile(record.path, np.uint8)
    samples = [graph.read(record, plan) for plan in plans]
    for sample, plan in zip(samples, plans, strict=True):
        assert len(sample["stream"]) < len(whole_file)
        sample["stream"] = whole_file
        sample["numbers"] = np.concatenate([plan.frames, plan.later]).astype(np.int32)
    whole, _ = graph(samples)
    assert sliced.tg is not None
    assert whole.tg is not None
    assert torch.equal(sliced.rgb, whole.rgb)
    assert torch.equal(sliced.tg, whole.tg)


def test_dali_never_pads_a_missing_frame(video: Callable[..., Path]) -> None:
    record = scan(video("vp8"))
    graph = make_graph("dali", strong=False)
    sample = graph.read(record, plan_clip(record, SPEC, 1, 0, 0))
    sample["numbers"] = sample["numbers"] + 1000
    with pytest.raises(RuntimeError, match="out-of-bounds"):
        graph([sample])


def test_a_clip_has_the_same_bits_in_any_batch_and_with_any_threads(small_index: VideoIndex) -> None:
    records = [small_index[row] for row in range(len(small_index))]
    plans = [plan_clip(record, SPEC, 3, 0, row) for row, record in enumerate(records)]

    def run(batch_size: int, num_threads: int) -> list[torch.Tensor]:
        graph = make_graph(batch_size=batch_size, num_threads=num_threads)
        outputs = []
        for at in range(0, len(records), batch_size):
            part = zip(records[at : at + batch_size], plans[at : at + batch_size], strict=True)
            weak, strong = graph([graph.read(record, plan) for record, plan in part])
            assert strong is not None
            outputs.append([view.clone() for views in (weak, strong) for view in views if view is not None])
        return [torch.cat(parts) for parts in zip(*outputs, strict=True)]

    reference = run(12, 1)
    for batch_size, num_threads in [(12, 2), (12, 4), (1, 1), (5, 2)]:
        for expected, got in zip(reference, run(batch_size, num_threads), strict=True):
            assert torch.equal(expected, got)


def test_outputs_are_shared_not_copied_and_survive_later_batches(small_index: VideoIndex) -> None:
    graph = make_graph()
    record = small_index[0]
    first, _ = graph([graph.read(record, plan_clip(record, SPEC, 3, 0, 0))])
    before = first.rgb.clone()
    for position in range(1, 6):
        graph([graph.read(record, plan_clip(record, SPEC, 3, 0, position))])
    assert torch.equal(first.rgb, before)
    assert first.rgb.dtype == torch.uint8
    assert first.rgb.shape == (1, 4, 48, 48, 3)
    # what a channels-last 3-D network wants, without a copy
    assert first.rgb.permute(0, 4, 1, 2, 3).is_contiguous(memory_format=torch.channels_last_3d)


def test_temporal_gradient_is_exact_for_every_pair_of_values() -> None:
    earlier, later = (values.astype(np.uint8) for values in np.mgrid[:256, :256])
    expected = np.floor((earlier.astype(np.float32) - later + 255) / 2).astype(np.uint8)
    np.testing.assert_array_equal(temporal_gradient(earlier, later), expected)
    tensors = temporal_gradient(torch.from_numpy(earlier), torch.from_numpy(later))
    assert torch.equal(tensors, torch.from_numpy(expected))
    assert temporal_gradient(np.zeros(1, np.uint8), np.zeros(1, np.uint8))[0] == 127


def test_what_dali_cannot_decode_is_named(small_index: VideoIndex) -> None:
    reasons = {record.codec: dali_refusal(record, "cpu") for record in map(small_index.__getitem__, range(12))}
    assert reasons["vp8"] is None
    assert reasons["mjpeg"] is None
    assert reasons["h264"] == "codec h264"
    assert dali_refusal(small_index[0], "cuda") is None


def test_a_whole_file_replaced_after_indexing_is_not_shown(video: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "replaced.webm"
    path.write_bytes(video("vp8").read_bytes())
    record = replace(scan(path), sliceable=False)
    plan = plan_clip(record, SPEC, 0, 0, 0)
    graph = make_graph("dali", strong=False)
    graph.read(record, plan)
    path.write_bytes(video("vp8", seed=1).read_bytes())
    with pytest.raises(BadVideo, match="has changed"):
        graph.read(record, plan)


def test_a_whole_video_comes_from_its_tar_without_its_neighbours(video: Callable[..., Path], tmp_path: Path) -> None:
    path = video("vp8")
    members = {"before.webm": b"x" * 3000, "a.webm": path.read_bytes(), "c.webm": b"x" * 3000}
    write_tar(tmp_path / "0.tar", members)
    source = find_sources(tmp_path).videos["a.webm"]
    record = scan(tmp_path / "a.webm", source._replace(tar=str(tmp_path / "0.tar")))
    plan = plan_clip(record, SPEC, 0, 0, 0)
    graph = make_graph("dali", strong=False)
    packed, loose = (graph.read(replace(one, sliceable=False), plan) for one in (record, scan(path)))
    assert all(np.array_equal(packed[name], loose[name]) for name in loose)
    assert bytes(packed["stream"]) == path.read_bytes()


def test_a_file_gone_after_indexing_is_named(video: Callable[..., Path], tmp_path: Path) -> None:
    for codec in ("vp8", "mpeg4"):
        path = tmp_path / f"gone{video(codec).suffix}"
        path.write_bytes(video(codec).read_bytes())
        record = scan(path)
        path.unlink()
        graph = make_graph(strong=False)
        with pytest.raises(BadVideo, match="gone"):
            graph.read(record, plan_clip(record, SPEC, 0, 0, 0))
