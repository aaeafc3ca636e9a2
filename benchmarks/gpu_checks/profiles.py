"""Does a profile tell what the device does, beside the ranges of the host?"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu_checks.bench import FAIL, PASS, SKIP, Bench, Finding
from benchmarks.step import Candidate, Form, StepBenchmark, synthetic_batch
from train.display import Display
from train.profiler import TRACE, Profile, gpu_share

_NUM_STEPS = 8  # half of them warm up
_RANGES = ("forward rgb", "forward tg", "losses", "backward", "clip gradients", "optimizer")
_WIDTH = 16


def check_profile(bench: Bench) -> Iterator[Finding]:
    """The trace of some steps has the ranges of each, and the GPU's work on the same clock; NVTX takes ranges."""
    size, clip_len = min(bench.spec.size, 112), bench.spec.clip_len
    benchmark = StepBenchmark(size=size, clip_len=clip_len, width=_WIDTH, device=bench.device)
    candidate = Candidate(Form(channels_last=True, compiled=False), benchmark, synthetic_batch(benchmark))
    with TemporaryDirectory() as folder:
        display = Display("", 0, _NUM_STEPS, quiet=True)
        with Profile(Path(folder), 0, _NUM_STEPS, torch.device(bench.device), 1, display) as profile:
            for step in range(_NUM_STEPS):
                profile.step(step)
                candidate.step()
        events = json.loads(gzip.decompress((Path(folder) / TRACE).read_bytes()))["traceEvents"]
    yield _ranges(events)
    if bench.device_type != "cuda":
        yield Finding("the GPU's work", SKIP, "there is no GPU")
        yield Finding("NVTX", SKIP, "needs a GPU")
        return
    share = gpu_share(events)
    found = (
        "nothing is in the trace: the driver may reserve that for administrators" if share is None else f"{share:.0%}"
    )
    yield Finding("the GPU's work", PASS if share else FAIL, found)
    depth = torch.cuda.nvtx.range_push("check")
    torch.cuda.nvtx.range_pop()
    yield Finding("NVTX", PASS if depth >= 0 else FAIL, "takes ranges" if depth >= 0 else "takes no ranges")


def _ranges(events: list[dict[str, Any]]) -> Finding:
    marked = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    missing = [name for name in _RANGES if marked.count(name) != _NUM_STEPS // 2]
    if missing:
        return Finding("ranges", FAIL, f"not once in each step: {', '.join(missing)}")
    return Finding("ranges", PASS, f"{len(_RANGES)} in each of {_NUM_STEPS // 2} steps")
