"""Does all that was written without a GPU work on one?

One command for whoever has a GPU: it builds the graphs, decodes every codec, compares with the CPU, breaks files, and
prints a table of verdicts.  Every check runs in a process of its own with a limit in time, so that a crash or a hang
of one leaves the others.  Without a GPU it says so and exits with status 3; ``--device cpu`` rehearses.

    python -m benchmarks gpu-check
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import results
from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_checks.bench import FAIL, INFO, PASS, SKIP, Bench, Check, Finding, make_bench
from benchmarks.isolation import IsolationError, isolated
from benchmarks.results import RESULTS, finish
from pipeline.errors import InputError

NO_GPU = 3
_COLORS = {PASS: "green", FAIL: "bold red", SKIP: "yellow", INFO: "cyan"}
_LEAST_S = 5.0  # less than that is no time to start a check in

SWITCHES = {
    "--run.device cuda": "training on the GPU; auto takes it where there is one",
    "torchrun --nproc-per-node=N": "a process on each GPU; NCCL in place of gloo, also under synchronised BatchNorm",
    "--run.compile on": "one compiled graph for a step; auto takes it on a GPU, a CPU can do it too",
    "--run.precision bf16|fp16": "autocast, with loss scaling in fp16; auto takes bf16 on a GPU that has it, else fp16",
    "--run.cuda-graphs": "the compiled step is replayed as CUDA graphs",
    "--run.profile": "the trace has the GPU's work, and ranges are NVTX's too; on a CPU without these",
    "--data.decoder dali": "NVDEC decodes; auto takes it where it can decode every video",
    "--method.flow": "with NVDEC, the GPU's engine for optical flow in place of OpenCV",
    "--data.num-threads N": "with NVDEC: sessions that decode at once; see the check of threads",
}
"""What of the project only acts on a GPU."""


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """Check everything that only a GPU can show, in less than five minutes."""

    device: str = "cuda"
    """cuda, cuda:N, or cpu to rehearse."""
    only: tuple[str, ...] = ()
    """Names of checks; all where none is given."""
    budget_s: float = 280.0
    """Seconds for everything; checks that no time is left for are passed over."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.only) - set(CHECKS))
        if unknown:
            raise InputError(f"there is no check {unknown[0]!r}: choose of {', '.join(CHECKS)}")
        if self.device != "cpu" and not self.device.startswith("cuda"):
            raise InputError(f"unknown device {self.device!r}: use cuda, cuda:N or cpu")


def run(options: GpuCheck) -> int:
    """Run the checks, print the verdicts, keep them.

    Returns:
        Exit status: 0 nothing failed, 1 something did, 3 there is no GPU.
    """
    if options.device != "cpu" and not torch.cuda.is_available():
        print("no GPU: nothing was checked (--device cpu rehearses the checks)")
        print(json.dumps({"benchmark": "gpu-check", "gpu": None, "findings": []}))
        return NO_GPU
    console = Console()
    console.width = max(console.width, 110)  # the table is not for folding, in a log file either
    start = time.perf_counter()
    verdicts: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        with console.status("writing videos of every codec"):
            bench = make_bench(options.device, Path(folder))
        for name, check in CHECKS.items():
            if options.only and name not in options.only:
                continue
            began = time.perf_counter()
            with console.status(f"checking {name}"):
                left = options.budget_s - (began - start)
                late = [Finding("", SKIP, "no time left")]
                findings = late if left < _LEAST_S else list(findings_of(check, bench, left))
            console.print(_table(name, findings, time.perf_counter() - began))
            verdicts += [{"check": name, **finding._asdict()} for finding in findings]
    counts = {verdict: sum(v["verdict"] == verdict for v in verdicts) for verdict in _COLORS}
    gpu = torch.cuda.get_device_name(options.device) if options.device != "cpu" else None
    console.print("These act on a GPU only:", *(f"  {switch}: {what}" for switch, what in SWITCHES.items()), sep="\n")
    totals = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    console.print(f"{gpu or 'CPU, a rehearsal'}: {totals}")
    result = {
        "device": options.device,
        "gpu": gpu,
        "seconds": round(time.perf_counter() - start, 1),
        "counts": counts,
        "findings": verdicts,
        "switches": SWITCHES,
    }
    finish("gpu-check" if gpu else "gpu-check-rehearsal", options, options.results, findings=result)
    return 1 if counts[FAIL] else 0


def findings_of(check: Check, bench: Bench, left_s: float) -> Iterator[Finding]:
    """Run a check in a process of its own.

    Yields:
        Its findings as they are made; one more FAIL where it raises, dies or takes longer than it may.
    """
    try:
        yield from isolated(check.run, bench, limit_s=min(check.limit_s, left_s))
    except IsolationError as error:
        yield Finding("", FAIL, str(error))


def _table(name: str, findings: list[Finding], seconds: float) -> Table:
    table = Table("what", "verdict", "finding", title=f"{name} ({seconds:.0f} s)", title_justify="left", min_width=80)
    for finding in findings:
        color = _COLORS[finding.verdict]
        table.add_row(finding.subject, Text(finding.verdict, color), Text(finding.note))
    return table


def main() -> None:
    """Command line: the fields of :class:`GpuCheck`."""
    results.main(GpuCheck, run)


if __name__ == "__main__":
    main()
