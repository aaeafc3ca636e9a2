"""Does the training step compute on the device, in every form that only a GPU takes, what it computes eagerly?"""

from collections.abc import Iterator

import torch

from benchmarks.gpu_checks.bench import FAIL, PASS, SKIP, Bench, Finding
from benchmarks.isolation import first_line
from benchmarks.step import SAME, Candidate, Form, StepBenchmark, difference, synthetic_batch
from pipeline.batch import ClipBatch
from train.methods import METHODS

BACKEND = "inductor"
_EAGER = Form(channels_last=True, compiled=False)
_COMPILED = ("temporal_gradient", "fixmatch", "supervised")
_WIDTH = 16  # of the networks: this is about what is computed, not how fast


def check_steps(bench: Bench) -> Iterator[Finding]:
    """Losses before and after a step are eager float32's, for every method; and a step never waits for the device.

    Compiling takes most of the time, and is tried on the paper's own methods.
    """
    forms = {
        "bf16": _EAGER._replace(precision="bf16"),
        "fp16": _EAGER._replace(precision="fp16"),
        "compiled": _EAGER._replace(compiled=True, backend=BACKEND),
        "compiled, bf16, CUDA graphs": Form(True, True, "bf16", cuda_graphs=True, backend=BACKEND),
    }
    for method in reversed(METHODS):  # the one with everything in it first
        size, clip_len = min(bench.spec.size, 112), bench.spec.clip_len
        benchmark = StepBenchmark(method=method, size=size, clip_len=clip_len, width=_WIDTH, device=bench.device)
        batch = synthetic_batch(benchmark)
        eager = Candidate(_EAGER, benchmark, batch)
        expected = eager.losses()
        yield _waiting(method, eager, bench)
        for name, form in forms.items():
            if form.compiled and method not in _COMPILED:
                continue
            yield _compared(f"{method}: {name}", form, benchmark, batch, expected)


def _compared(
    subject: str, form: Form, benchmark: StepBenchmark, batch: ClipBatch, expected: tuple[float, float]
) -> Finding:
    if form.cuda_graphs and torch.device(benchmark.device).type != "cuda":
        return Finding(subject, SKIP, "there are none on a CPU")
    try:
        losses = Candidate(form, benchmark, batch).losses()
    except RuntimeError as error:
        return Finding(subject, FAIL, first_line(error))
    apart = difference(losses, expected)
    note = f"losses {losses[0]:.4f}, {losses[1]:.4f}: {apart:.1e} from eager float32"
    return Finding(subject, PASS if apart < SAME[form.precision] else FAIL, note)


def _waiting(method: str, candidate: Candidate, bench: Bench) -> Finding:
    """PyTorch's own alarm for calls that make the host wait."""
    subject = f"{method}: waiting"
    if bench.device_type != "cuda":
        return Finding(subject, SKIP, "a CPU has nothing to wait for")
    torch.cuda.set_sync_debug_mode("error")
    try:
        candidate.step()
    except RuntimeError as error:
        return Finding(subject, FAIL, first_line(error))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Finding(subject, PASS, "the host waits nowhere in a step")
