"""The DALI graph that turns decoded frames into views: one graph, on the CPU or on a GPU, behind two decoders.

    ffmpeg: FFmpeg on the CPU decodes, crops, resizes and flips (:mod:`pipeline.decode`); every codec.
    dali:   DALI decodes (NVDEC on a GPU; MJPEG, VP8, VP9 on a CPU), then crops, resizes and flips in one operator.

From the resized frames on, both are the same graph: RGB frames, temporal gradients of their partners, strong views.
Optical flow is the exception: where FFmpeg decodes it is computed beside it, on the CPU, and comes with the frames.
Promises: uint8 (B, T, H, W, C) out, shared with torch without a copy; no random number is drawn.  Left to others: what
to read and show (:mod:`pipeline.plan`), threads and prefetching (:mod:`pipeline.loader`).
"""

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import do_not_convert
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pipeline.batch import Modality, Needs, Views
from pipeline.decode import decode_clip
from pipeline.errors import BadVideo
from pipeline.flow import optical_flow, optical_flow_node
from pipeline.matroska import to_matroska
from pipeline.plan import TG_FORMS, ClipPlan
from pipeline.ranges import DECODE, DECODE_AND_VIEWS, FLOW, READ, VIEWS, named
from pipeline.record import VideoRecord
from pipeline.slicing import check_unchanged, slice_clip
from pipeline.strong import strong_inputs, strong_parameters, strong_view

DECODERS = ("ffmpeg", "dali")

# What DALI 2.4 decodes: FFmpeg's software decoders without the patented codecs, or NVDEC.
_DALI_CODECS = {"cpu": {"mjpeg", "vp8", "vp9"}, "cuda": {"h264", "hevc", "mjpeg", "vp8", "vp9", "av1", "mpeg4"}}
_DALI_PIXEL_FORMATS = {"yuv420p", "yuvj420p"}

Sample = dict[str, np.ndarray]
"""The graph's inputs for one clip, by name."""

Clips = dict[Modality, Tensor]
"""(B, T, H, W, C) uint8 of each modality."""


@dataclass(frozen=True)
class GraphSpec:
    """What the graph makes.

    Attributes:
        clip_len: frames T of a clip.
        tg: temporal gradients beside RGB.
        strong: strong views beside the weak ones; they are square.
        decoder: "ffmpeg" or "dali".
        tg_form: of :data:`pipeline.plan.TG_FORMS`.
        num_clips: clips that one sample holds one after another, num_clips * T frames.
        flow: optical flow beside RGB.
        only: the one modality to show, of those it makes; None shows all.
    """

    clip_len: int
    tg: bool
    strong: bool
    decoder: str
    tg_form: str = "aligned"
    num_clips: int = 1
    flow: bool = False
    only: Modality | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities, in the order of the outputs."""
        made = Needs(tg=self.tg, flow=self.flow).modalities
        return made if self.only is None else (self.only,)

    @property
    def partners(self) -> bool:
        """Whether anything is made of two frames."""
        return self.tg or self.flow


class ClipGraph:
    """The graph, built for a device.

    Args:
        spec: what it makes.
        size: height and width in pixels of strong views.
        batch_size: most clips in one call.
        device: "cpu", "cuda" or "cuda:N".
        num_threads: DALI's CPU threads.
    """

    def __init__(self, spec: GraphSpec, size: int, batch_size: int, device: str, num_threads: int) -> None:
        assert spec.decoder in DECODERS and spec.tg_form in TG_FORMS, spec
        self.spec = spec
        self.size = size
        self.device = torch.device(device)
        self._pipeline = clip_pipeline(
            spec,
            size,
            self.device.type,
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=None if self.device.type == "cpu" else self.device.index or 0,
            prefetch_queue_depth=1,  # the loader runs ahead in its own thread; DALI's own queue would hide its errors
        )
        self._pipeline.build()

    def read(self, record: VideoRecord, plan: ClipPlan) -> Sample:
        """Make one clip's inputs: the work on the host, to be done in many threads at once.

        Raises:
            BadVideo: the file cannot be read or decoded.
        """
        numbers = np.concatenate([plan.frames, plan.later]) if self.spec.partners else plan.frames
        if self.spec.decoder == "ffmpeg":
            with named(DECODE):
                frames = decode_clip(record, numbers, plan.box, plan.flip, plan.size)
            frames, partners = frames[: len(plan.frames)], frames[len(plan.frames) :]
            sample = {"frames": frames} if self.spec.only != "flow" else {}
            if self.spec.tg:
                sample["partners"] = partners
            if self.spec.flow:
                with named(FLOW):
                    sample["flow"] = optical_flow(frames, partners)
        else:
            with named(READ):
                sample = _dali_inputs(record, numbers, plan)
        if self.spec.strong:
            for modality in self.spec.modalities:
                strong_plan = plan.strong(modality)
                assert strong_plan is not None
                parameters = strong_parameters(strong_plan, self.size)
                sample |= {f"{modality}_{name}": value for name, value in parameters._asdict().items()}
        return sample

    def __call__(self, samples: list[Sample]) -> tuple[Views, Views | None]:
        """Run a graph that shows RGB on a batch.

        Args:
            samples: what :meth:`read` returned, one a clip; all of one size.

        Returns:
            The weak views, (B, T, H, W, C) uint8 on the graph's device, and the strong ones or None.
        """
        weak, strong = self.run(samples)
        return Views(**weak), Views(**strong) if strong else None

    def run(self, samples: list[Sample]) -> tuple[Clips, Clips | None]:
        """As calling it, by modality: for graphs that show one alone."""
        inputs = {name: [sample[name] for sample in samples] for name in samples[0]}
        with named(DECODE_AND_VIEWS if self.spec.decoder == "dali" else VIEWS):
            if self.device.type == "cuda":
                outputs = self._pipeline.run(torch.cuda.current_stream(self.device), **inputs)
            else:
                outputs = self._pipeline.run(**inputs)
        tensors = [from_dlpack(output.as_tensor()) for output in outputs]
        num = len(self.spec.modalities)
        views = [
            dict(zip(self.spec.modalities, tensors[at : at + num], strict=True)) for at in range(0, len(tensors), num)
        ]
        return views[0], views[1] if self.spec.strong else None


def dali_refusal(record: VideoRecord, device_type: str) -> str | None:
    """Why DALI's decoder cannot take a video on "cpu" or "cuda", or None if it can."""
    if record.codec not in _DALI_CODECS[device_type]:
        return f"codec {record.codec}"
    if record.pixel_format not in _DALI_PIXEL_FORMATS:
        return f"pixel format {record.pixel_format}"
    if record.rotation:
        return f"rotation by {record.rotation} degrees"
    if record.sliceable and not record.joinable:
        return "a clip's packets do not make a stream for it: some show no frame, or it starts in the midst of things"
    return None


def _dali_inputs(record: VideoRecord, numbers: np.ndarray, plan: ClipPlan) -> Sample:
    """Bytes to decode, frames to keep, and the crop as corners of a region; a region from right to left is a flip."""
    if record.sliceable:
        clip = slice_clip(record, numbers, closed=True)
        stream = to_matroska(record, clip)
        numbers = np.searchsorted(np.sort(clip.frames[clip.frames >= 0]), numbers)
    else:
        try:
            with open(record.file, "rb") as file:
                check_unchanged(record, os.fstat(file.fileno()))
                file.seek(record.start)
                stream = np.frombuffer(file.read(record.file_size), np.uint8)
        except OSError as error:
            raise BadVideo(record.path, f"cannot be read: {error.strerror}") from error
    x, y, width, height = plan.box
    left, right = (x + width, x) if plan.flip else (x, x + width)
    return {
        "stream": stream,
        "numbers": numbers.astype(np.int32),
        "roi_start": np.array([y, left], np.float32),
        "roi_end": np.array([y + height, right], np.float32),
        "size": np.array(plan.size[::-1], np.float32),
    }


@pipeline_def(enable_conditionals=True)
def clip_pipeline(spec: GraphSpec, size: int, device_type: str) -> Any:
    """The graph; its inputs are named as :meth:`ClipGraph.read` names them.

    Args:
        spec: what it makes.
        size: height and width in pixels of strong views.
        device_type: "cpu" or "cuda".
    """
    gpu = device_type == "cuda"
    inputs = _dali_frames(spec, size, gpu) if spec.decoder == "dali" else _ffmpeg_frames(spec, gpu)
    weak: dict[Modality, Any] = {"rgb": inputs.frames, "flow": inputs.flow}
    strong: dict[Modality, Any] = {}
    if spec.tg:
        weak["tg"] = _gradient(spec, inputs.frames, inputs.partners)
    if spec.strong:
        for modality in spec.modalities:
            if modality == "tg" and spec.tg_form == "reference_slow":
                partners = strong_view(inputs.partners, strong_inputs("tg_"), size)
                strong[modality] = _gradient(spec, inputs.frames, partners)
            else:
                strong[modality] = strong_view(weak[modality], strong_inputs(f"{modality}_"), size)
    return tuple(view[modality] for view in (weak, strong) if view for modality in spec.modalities)


class _Frames(NamedTuple):
    """What both decoders hand to the graph: data nodes, None for what is not made."""

    frames: Any
    partners: Any
    flow: Any


@do_not_convert
def _gradient(spec: GraphSpec, frames: Any, partners: Any) -> Any:
    """Temporal gradients of a clip, in the form asked for."""
    if spec.tg_form == "aligned":
        return temporal_gradient_node(frames, partners)
    order = [clip * (spec.clip_len + 1) + t for clip in range(spec.num_clips) for t in range(spec.clip_len)]
    earlier = fn.sequence_rearrange(partners, new_order=order)
    later = fn.sequence_rearrange(partners, new_order=[t + 1 for t in order])
    return temporal_gradient_node(later, earlier)  # this form subtracts the earlier frame


def temporal_gradient_node(earlier: Any, later: Any) -> Any:
    """:func:`pipeline.batch.temporal_gradient` in DALI, to the bit, without leaving uint8.

    a - b + 255 is a + ~b = 2 (a & ~b) + (a ^ ~b).  With z = a ^ b, half of it rounded down is therefore
    (a & z) + floor((255 - z) / 2), and the floor is a brightness of -1/2 whose shift, a quarter low, leaves no halves
    to round.  3 cpu-ms for 8 frames of 224 x 224, where 16-bit integers and their division cost 12.
    """
    changed = earlier ^ later
    return (earlier & changed) + fn.brightness_contrast(changed, brightness=-0.5, brightness_shift=127.25 / 255)


def _ffmpeg_frames(spec: GraphSpec, gpu: bool) -> _Frames:
    """Frames of the clip and of its partners, and the flow between them."""

    def source(name: str) -> Any:
        node = fn.external_source(name=name, dtype=types.UINT8, layout="FHWC", ndim=4)
        return node.gpu() if gpu else node

    return _Frames(source("frames"), source("partners") if spec.tg else None, source("flow") if spec.flow else None)


def _dali_frames(spec: GraphSpec, side: int, gpu: bool) -> _Frames:
    """As :func:`_ffmpeg_frames`."""
    stream = fn.external_source(name="stream", dtype=types.UINT8, ndim=1)
    numbers = fn.external_source(name="numbers", dtype=types.INT32, ndim=1)
    start = fn.external_source(name="roi_start", dtype=types.FLOAT, ndim=1)
    end = fn.external_source(name="roi_end", dtype=types.FLOAT, ndim=1)
    size = fn.external_source(name="size", dtype=types.FLOAT, ndim=1)
    # pad_mode "none": a frame that is not there is an error.  DALI's default would show a black one.
    decoded = fn.decoders.video(stream, frames=numbers, pad_mode="none", device="mixed" if gpu else "cpu")
    frames: Any = fn.resize(decoded, roi_start=start, roi_end=end, size=size, interp_type=types.INTERP_LINEAR)
    num_frames = spec.num_clips * spec.clip_len
    if not spec.partners:
        return _Frames(frames, None, None)
    frames, partners = frames[:num_frames], frames[num_frames:]
    return _Frames(frames, partners, optical_flow_node(frames, partners, num_frames, side) if spec.flow else None)
