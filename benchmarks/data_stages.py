"""The loader's way of a clip, cut off after each of its stations.

Up to the hand-over every cut runs as the loader does: the same plans, read ahead by as many threads, and the graph in
the thread that puts batches together; what comes after the cut is left out.  So differences between cuts are what the
stations cost where they are at work.

    plan+slice    which video, frames, crop and strong operations; which packets of the file that takes
    read          these packets from the file, as a decoder takes them
    decode        all frames that are needed, at full size, and no more
    crop+resize   with FFmpeg one filter pass with the conversion to RGB, so it is told from decoding by the difference
    feed          the frames into the graph and out of it; DALI's decoder has them there already
    TG            temporal gradients
    strong views  of the unlabeled clips, in all modalities
    hand-over     the loader as it is: a thread of its own, its queue, a ClipBatch on the device

Of files that cannot be sliced reading is a part of decoding.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from benchmarks.checks import streams_of
from benchmarks.loader import clips_made
from benchmarks.training import Training
from pipeline.background import read_ahead
from pipeline.decode import decode_clip, wanted_frames
from pipeline.graph import ClipGraph, GraphSpec, Sample
from pipeline.plan import ClipPlan
from pipeline.record import VideoRecord
from pipeline.slicing import needed_packets, slice_clip
from pipeline.stream import ClipStream, PlannedClip

HAND_OVER = "hand-over"

Batches = Callable[[], Generator[int, None, None]]
"""Begins to make batches, from the first step on, and yields the number of clips in each."""


class Cut(NamedTuple):
    """How far a clip goes.

    Attributes:
        read: what a thread does with it.
        run: what is done with a batch of what that returned; None where nothing is.
    """

    read: Callable[[VideoRecord, ClipPlan], Any]
    run: Callable[[list[Any]], object] | None = None


def data_stages(training: Training) -> dict[str, Batches]:
    """All there are for what the method needs and the loader's decoder, in the order of the way."""
    config, needs, loader = training.state.config, training.state.method.needs, training.loader
    num_threads = config.data.num_threads
    assert num_threads is not None, "the configuration is resolved"
    streams = streams_of(needs, config, training.videos)
    build = partial(_graph, config.data.size, config.run.device, num_threads)
    spec = GraphSpec(config.data.clip_len, tg=needs.tg, strong=False, decoder=loader.decoder)
    cuts = _ffmpeg_cuts if loader.decoder == "ffmpeg" else partial(_dali_cuts, num_threads=num_threads)
    ways: dict[str, dict[str, Cut]] = {}
    for name, stream in streams.items():
        frames, views = (build(replace(spec, tg=tg), stream.batch_size) for tg in (False, needs.tg))
        ways[name] = cuts(frames, views, stream.batch_size)
        if needs.tg:
            ways[name]["TG"] = Cut(views.read, views)
        if needs.strong:
            strong = build(replace(spec, strong=name == "unlabeled"), stream.batch_size)
            ways[name]["strong views"] = Cut(strong.read, strong)
    found: dict[str, Batches] = {}
    for stage in next(iter(ways.values())):
        lanes = [(stream, ways[name][stage]) for name, stream in streams.items()]
        found[stage] = partial(_batches, lanes, num_threads)
    found[HAND_OVER] = partial(clips_made, loader)
    return found


def _batches(lanes: list[tuple[ClipStream, Cut]], num_threads: int) -> Generator[int, None, None]:
    """As :func:`pipeline.loader.sound_batches`, with each stream's clips going as far as its cut."""

    def plan(step: int) -> list[tuple[ClipStream, Cut, PlannedClip]]:
        return [(stream, cut, clip) for stream, cut in lanes for clip in stream.batch(step)]

    def read(item: tuple[ClipStream, Cut, PlannedClip]) -> Any:
        stream, cut, clip = item
        return cut.read(stream.index[clip.row], clip.plan)

    with closing(read_ahead(map(plan, count()), read, num_threads)) as ahead:
        for _, results in ahead:
            samples: Iterator[Any] = iter([result() for result in results])
            for stream, cut in lanes:
                share = [next(samples) for _ in range(stream.batch_size)]
                if cut.run is not None:
                    cut.run(share)
            yield len(results)


def _graph(size: int, device: str, num_threads: int, spec: GraphSpec, batch_size: int) -> ClipGraph:
    return ClipGraph(spec, size, batch_size, device, num_threads)


def _numbers(plan: ClipPlan, tg: bool) -> np.ndarray:
    """The frames a clip takes, as :meth:`ClipGraph.read` asks for them."""
    return np.concatenate([plan.frames, plan.later]) if tg else plan.frames


def _ffmpeg_cuts(frames: ClipGraph, views: ClipGraph, batch_size: int) -> dict[str, Cut]:
    """Up to the feed, where the frames of the partners go into the graph and out of it beside the clip's own."""
    tg = views.spec.tg

    def slice_(record: VideoRecord, plan: ClipPlan) -> None:
        if record.sliceable:
            needed_packets(record, _numbers(plan, tg))

    def read(record: VideoRecord, plan: ClipPlan) -> None:
        if record.sliceable:
            slice_clip(record, _numbers(plan, tg))

    def decode(record: VideoRecord, plan: ClipPlan) -> None:
        for _ in wanted_frames(record, np.unique(_numbers(plan, tg))):
            pass

    def scale(record: VideoRecord, plan: ClipPlan) -> Sample:
        return {"frames": decode_clip(record, _numbers(plan, tg), plan.box, plan.flip, plan.size)}

    return {
        "plan+slice": Cut(slice_),
        "read": Cut(read),
        "decode": Cut(decode),
        "crop+resize": Cut(scale),
        "feed": Cut(scale, frames),
    }


def _dali_cuts(frames: ClipGraph, views: ClipGraph, batch_size: int, num_threads: int) -> dict[str, Cut]:
    """Up to resized frames in the graph, where the partners are resized like the clip's own."""
    tg, device = views.spec.tg, frames.device
    decoder = _decoder(
        device.type,
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=None if device.type == "cpu" else device.index or 0,
        prefetch_queue_depth=1,
    )
    decoder.build()

    def slice_(record: VideoRecord, plan: ClipPlan) -> None:
        if record.sliceable:
            needed_packets(record, _numbers(plan, tg), closed=True)

    def decode(samples: list[Sample]) -> None:
        inputs = {name: [sample[name] for sample in samples] for name in ("stream", "numbers")}
        if device.type == "cuda":
            decoder.run(torch.cuda.current_stream(device), **inputs)
        else:
            decoder.run(**inputs)

    return {
        "plan+slice": Cut(slice_),
        "read": Cut(views.read),
        "decode": Cut(views.read, decode),
        "crop+resize": Cut(views.read, frames),
    }


@pipeline_def
def _decoder(device_type: str) -> Any:
    """The head of the loader's graph: frames as DALI decodes them, and nothing after that."""
    stream = fn.external_source(name="stream", dtype=types.UINT8, ndim=1)
    numbers = fn.external_source(name="numbers", dtype=types.INT32, ndim=1)
    device = "mixed" if device_type == "cuda" else "cpu"
    return fn.decoders.video(stream, frames=numbers, pad_mode="none", device=device)
