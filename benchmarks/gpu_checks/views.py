"""Does the device make the same views of the same frames as the CPU, and do they stay as they are?"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.gpu_checks.bench import FAIL, PASS, SKIP, Bench, Finding, difference
from pipeline.graph import ClipGraph, GraphSpec, Sample
from pipeline.plan import ClipPlan, ClipSpec, StrongPlan, plan_clip
from pipeline.record import VideoRecord
from pipeline.strong import OPS

_ROUNDING = 1  # grey levels
_ESTIMATES = 8  # grey levels, where two estimators look at one motion
_INTERPOLATED = {"shear_x", "shear_y", "rotate"}
_INTERPOLATION = 3  # grey levels: the devices' bilinear weights have different precision


def check_operations(bench: Bench) -> Iterator[Finding]:
    """Weak views and temporal gradients are the CPU's to the bit; strong operations differ by no more than rounding."""
    record = next(record for _, record in bench.records())
    plan = plan_clip(record, bench.spec, seed=0, epoch=0, position=0)
    graphs = {device: _graph(bench.spec, device) for device in ("cpu", bench.device)}
    for operation, name in enumerate(OPS):
        drawn = StrongPlan((operation, operation), (1, -1), (0.4, 0.6))
        views = {device: graph(_samples(graph, record, plan, drawn)) for device, graph in graphs.items()}
        (cpu_weak, cpu_strong), (weak, strong) = views["cpu"], views[bench.device]
        if operation == 0:
            for modality in ("rgb", "tg"):
                largest, _ = difference(getattr(weak, modality), getattr(cpu_weak, modality))
                note = "the CPU's bits" if not largest else f"up to {largest} levels from the CPU's"
                yield Finding(f"weak {modality}", FAIL if largest else PASS, note)
        assert strong is not None and cpu_strong is not None
        apart = [difference(getattr(strong, m), getattr(cpu_strong, m)) for m in ("rgb", "tg")]
        largest, mean = max(a[0] for a in apart), max(a[1] for a in apart)
        allowed = _INTERPOLATION if name in _INTERPOLATED else _ROUNDING
        note = "the CPU's bits" if not largest else f"max {largest}, mean {mean:.3f} from the CPU's"
        yield Finding(name, PASS if largest <= allowed else FAIL, note)


def check_flow(bench: Bench) -> Iterator[Finding]:
    """The optical flow of the GPU's engine says what OpenCV's says of the same frames: direction and length."""
    if bench.device_type == "cpu":
        yield Finding("optical flow", SKIP, "the engine for it is a GPU's; a CPU has OpenCV's")
        return
    record = next(record for _, record in bench.decodable())
    plan = plan_clip(record, bench.spec, seed=0, epoch=0, position=0)
    flows = []
    for decoder, device in (("ffmpeg", "cpu"), ("dali", bench.device)):
        spec = GraphSpec(bench.spec.clip_len, tg=False, strong=False, decoder=decoder, flow=True)
        graph = ClipGraph(spec, bench.spec.size, 1, device, 2)
        flows.append(graph([graph.read(record, plan)])[0].of("flow").cpu().float().flatten(0, 3))
    medians = [flow.median(dim=0).values for flow in flows]
    apart = float((medians[0] - medians[1]).abs().max())
    note = f"median {medians[1].tolist()}, OpenCV's {medians[0].tolist()}"
    yield Finding("optical flow", PASS if apart <= _ESTIMATES else FAIL, note)


def check_lifetime(bench: Bench) -> Iterator[Finding]:
    """Views that are kept are not written over by later batches, on a stream of their own too."""
    record = next(record for _, record in bench.records())
    graph = _graph(bench.spec, bench.device)
    samples = [graph.read(record, plan_clip(record, bench.spec, seed=0, epoch=0, position=n)) for n in range(12)]
    side_stream = torch.cuda.Stream(bench.device) if bench.device_type == "cuda" else None
    with torch.cuda.stream(side_stream):  # does nothing without one
        kept, copies = [], []
        for sample in samples:
            kept.append(graph([sample])[0].rgb)
            copies.append(kept[-1].clone())
        for sample in samples:
            graph([sample])
        same = all(torch.equal(*pair) for pair in zip(kept, copies, strict=True))
        again = all(torch.equal(graph([sample])[0].rgb, copy) for sample, copy in zip(samples, copies, strict=True))
    note = "unchanged by later batches" if same else "OVERWRITTEN by later batches"
    yield Finding("views that are kept", PASS if same else FAIL, note)
    yield Finding("the same clip again", PASS if again else FAIL, "the same bits" if again else "other bits")


def _graph(spec: ClipSpec, device: str) -> ClipGraph:
    return ClipGraph(GraphSpec(spec.clip_len, tg=True, strong=True, decoder="ffmpeg"), spec.size, 1, device, 2)


def _samples(graph: ClipGraph, record: VideoRecord, plan: ClipPlan, drawn: StrongPlan) -> list[Sample]:
    return [graph.read(record, replace(plan, strong_rgb=drawn, strong_tg=drawn))]
