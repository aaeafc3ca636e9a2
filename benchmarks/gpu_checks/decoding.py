"""Does the device's decoder deliver the frames that were asked for?"""

import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from benchmarks.gpu_checks.bench import FAIL, INFO, PASS, SKIP, Bench, Finding, decode, difference, whole_frame_plan
from benchmarks.isolation import first_line
from pipeline.decode import decode_clip
from pipeline.graph import ClipGraph, GraphSpec, dali_refusal
from pipeline.plan import plan_clip
from pipeline.record import VideoRecord

# Decoders agree to the bit; what converts to RGB rounds differently, and some spread colour more smoothly.
_ROUNDING = 4.0  # mean, in grey levels


def check_build(bench: Bench) -> Iterator[Finding]:
    """The graphs of training are built for the device and make views of the right shape there."""
    spec = bench.spec
    record = next(record for _, record in bench.decodable())
    plan = plan_clip(record, spec, seed=0, epoch=0, position=0)
    for decoder in ("ffmpeg", "dali"):
        start = time.perf_counter()
        graph_spec = GraphSpec(spec.clip_len, tg=True, strong=True, decoder=decoder)
        graph = ClipGraph(graph_spec, spec.size, batch_size=2, device=bench.device, num_threads=2)
        built = time.perf_counter() - start
        weak, strong = graph([graph.read(record, plan)] * 2)
        assert weak.tg is not None and strong is not None and strong.tg is not None
        tensors = (weak.rgb, weak.tg, strong.rgb, strong.tg)
        shape = (2, spec.clip_len, spec.size, spec.size, 3)
        good = all(t.shape == shape and t.dtype == torch.uint8 and t.device.type == bench.device_type for t in tensors)
        found = "" if good else f", but {[(tuple(t.shape), t.dtype, t.device) for t in tensors]}"
        yield Finding(f"graph with {decoder}", PASS if good else FAIL, f"built in {built:.1f} s{found}")


def check_slices(bench: Bench) -> Iterator[Finding]:
    """A clip's packets alone give the same bits as the whole file, and the frames are the right ones."""
    for variant, record in bench.records():
        if refusal := bench.refusal(record):
            yield Finding(variant, SKIP, f"not decoded by DALI here: {refusal}")
            continue
        yield _whole_and_slice(variant, record, bench.device)


def _whole_and_slice(variant: str, record: VideoRecord, device: str) -> Finding:
    numbers = np.unique(np.linspace(1, record.num_frames - 2, 12).astype(int))
    try:
        whole = decode(replace(record, sliceable=False), numbers, device)
    except RuntimeError as error:
        return Finding(variant, FAIL, f"the whole file does not decode: {first_line(error)}")
    if wrong := _wrong_frames(record, numbers, whole):
        return Finding(variant, FAIL, f"the whole file: {wrong}")
    if not record.sliceable:
        return Finding(variant, SKIP, "cannot be cut; decodes whole, the right frames")
    try:
        sliced = decode(record, numbers, device)
    except RuntimeError as error:
        return Finding(variant, FAIL, f"the slice does not decode: {first_line(error)}")
    if not torch.equal(sliced, whole):
        return Finding(variant, FAIL, f"slice and whole file differ by up to {difference(sliced, whole)[0]} levels")
    return Finding(variant, PASS, "slice = whole file, to the bit; the right frames")


def _wrong_frames(record: VideoRecord, numbers: np.ndarray, frames: torch.Tensor) -> str | None:
    """Which frames are more like a neighbour of the one that was asked for, as FFmpeg decodes them."""
    around = np.stack([numbers - 1, numbers, numbers + 1])
    plan = whole_frame_plan(record, around.ravel())
    expected = torch.from_numpy(decode_clip(record, plan.frames, plan.box, plan.flip, plan.size))
    apart = (expected.reshape(3, *frames.shape).short() - frames.short()).abs().float().mean(dim=(2, 3, 4))
    wrong = numbers[apart.argmin(dim=0).numpy() != 1]
    return f"frames {wrong.tolist()} are not those asked for" if len(wrong) else None


def check_pixels(bench: Bench) -> Iterator[Finding]:
    """The device's decoder and DALI's on the CPU differ by no more than rounding, where both have the codec."""
    numbers = np.array([0, 5, 9])
    for variant, record in bench.decodable():
        if dali_refusal(record, "cpu"):
            continue
        largest, mean = difference(decode(record, numbers, bench.device), decode(record, numbers, "cpu"))
        note = f"max {largest}, mean {mean:.3f} levels from the CPU's"
        yield Finding(variant, PASS if mean <= _ROUNDING else FAIL, note)


def check_seeking(bench: Bench) -> Iterator[Finding]:
    """Whether the decoder jumps to a late frame of a whole file, or decodes all before it."""
    late = bench.num_frames - 10
    for variant, record in bench.decodable():
        first, last = (_time_whole(record, number, bench.device) for number in (0, late))
        habit = "decodes all before it" if last > 3 * first else "seeks"
        yield Finding(variant, INFO, f"frame 0: {first:.1f} ms, frame {late}: {last:.1f} ms: {habit}")


def _time_whole(record: VideoRecord, number: int, device: str) -> float:
    """Wall milliseconds to decode one frame of the whole file."""
    graph = ClipGraph(GraphSpec(1, tg=False, strong=False, decoder="dali"), record.width, 1, device, 1)
    sample = graph.read(replace(record, sliceable=False), whole_frame_plan(record, np.array([number])))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        graph([sample])
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return median(times[1:])
