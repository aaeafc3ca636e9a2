"""Where the time of a step goes, and what to do about it: recorded spans in, a table and a verdict out.

Promises pure functions of what was measured.  Recording is left to :mod:`train.profiler`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from pipeline.background import READER
from pipeline.ranges import AWAIT_CLIPS, DECODE, DECODE_AND_VIEWS, HAND_OVER, READ, VIEWS, Span

STEP = "step"  # from one wait for data to the next
WAIT = "wait for data"
LOG = "log"
CHECKPOINT = "checkpoint"
_IDLE = (WAIT, AWAIT_CLIPS, HAND_OVER)

_STEPPING, _READING, _BATCHING = "step", "read", "batch"  # the kinds of threads
_REST = "all else"  # of a step: what lies between its ranges
_NUM_ROWS = 10

_WAITS = 0.1  # share of step time spent waiting for data from which on nothing is worth more than a faster loader
_GPU_IDLES = 0.7  # a GPU that computes for a smaller share than this, without want of data, waits for the host
_HOST_WORKS = 0.25  # share of step time beside waiting and computing from which on it is worth a look

_PREPARE = "`python -m pipeline.prepare SRC DST --gop 8`"
# By the station that the loader is bound by: what that is called, and what helps.
_REMEDIES = {
    READ: ("read-bound", f"a local disk, or smaller files by {_PREPARE}"),
    DECODE: ("decode-bound", _PREPARE),
    DECODE_AND_VIEWS: ("decode-bound", _PREPARE),
    VIEWS: ("view-bound", "a smaller --data.size"),
}


class Station(NamedTuple):
    """One station in one kind of thread.

    Attributes:
        name: of its ranges.
        threads: the kind: "step", "read" or "batch".
        ms_per_step: time in its ranges, without that in ranges within them, all threads together.
        share: of the time of these threads, 0 to 1.
        cpu_ms_per_step: CPU time of these threads in it; None where threads of libraries do the work.
    """

    name: str
    threads: str
    ms_per_step: float
    share: float
    cpu_ms_per_step: float | None


@dataclass(frozen=True)
class Measured:
    """What a verdict depends on; shares are 0 to 1.

    Attributes:
        wait: share of step time spent waiting for data.
        host: share of step time spent neither waiting nor computing.
        busy: share of their threads' time in which the stations of the loader work, by name.
        num_threads: threads that read and decode.
        num_cores: cores that this process may use.
        gpu: share of step time in which the GPU computes; None where there is none, or it cannot be told.
    """

    wait: float
    host: float
    busy: dict[str, float]
    num_threads: int
    num_cores: int
    gpu: float | None = None


def stations(spans: Sequence[Span], num_threads: int) -> list[Station]:
    """Sum spans up.

    Args:
        spans: some are called :data:`STEP` and follow one another; what lies before and after these is cut off.
        num_threads: threads that read and decode.

    Returns:
        The stations of the thread that steps, then those of the loader's threads, longest first.
    """
    steps = [span for span in spans if span.name == STEP]
    start_ns, stop_ns = min(step.start_ns for step in steps), max(step.stop_ns for step in steps)
    num = {_STEPPING: 1, _READING: num_threads, _BATCHING: 1}
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for span, own_ns, own_cpu_ns in _own_times(spans, start_ns, stop_ns):
        reads = span.thread.startswith(READER)
        threads = _STEPPING if span.thread_id == steps[0].thread_id else _READING if reads else _BATCHING
        total = times[threads, span.name]
        total[0] += own_ns
        total[1] += own_cpu_ns
    found = [
        Station(
            _REST if name == STEP else name,
            threads,
            own_ns / len(steps) / 1e6,
            own_ns / (stop_ns - start_ns) / num[threads],
            own_cpu_ns / len(steps) / 1e6 if threads == _READING or name in _IDLE else None,
        )
        for (threads, name), (own_ns, own_cpu_ns) in times.items()
    ]
    return sorted(found, key=lambda station: (list(num).index(station.threads), -station.share))


def _own_times(spans: Sequence[Span], start_ns: int, stop_ns: int) -> Iterator[tuple[Span, float, float]]:
    """Spans with their time and CPU time in a stretch of time, without that of spans within them."""
    for span, inner in _nested(spans):
        own_ns, own_cpu_ns = _within(span, start_ns, stop_ns)
        if not own_ns:
            continue
        for part in inner:
            ns, cpu_ns = _within(part, start_ns, stop_ns)
            own_ns, own_cpu_ns = own_ns - ns, own_cpu_ns - cpu_ns
        yield span, own_ns, own_cpu_ns


def _within(span: Span, start_ns: int, stop_ns: int) -> tuple[float, float]:
    ns = max(0, min(span.stop_ns, stop_ns) - max(span.start_ns, start_ns))
    return ns, span.cpu_ns * ns / max(1, span.stop_ns - span.start_ns)


def _nested(spans: Sequence[Span]) -> list[tuple[Span, list[Span]]]:
    """Each span with those directly within it."""
    nested: list[tuple[Span, list[Span]]] = []
    around: defaultdict[int, list[tuple[Span, list[Span]]]] = defaultdict(list)  # by thread, from the outermost
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.stop_ns)):
        outer = around[span.thread_id]
        while outer and outer[-1][0].stop_ns <= span.start_ns:
            outer.pop()
        if outer:
            outer[-1][1].append(span)
        outer.append((span, []))
        nested.append(outer[-1])
    return nested


def measured(found: Sequence[Station], num_threads: int, num_cores: int, gpu: float | None) -> Measured:
    """Pick from the stations what a verdict depends on.

    Args:
        found: what :func:`stations` returned.
        num_threads: threads that read and decode.
        num_cores: cores that this process may use.
        gpu: share of step time in which the GPU computes, 0 to 1; None where it cannot be told.
    """
    steps = {station.name: station.share for station in found if station.threads == _STEPPING}
    loader = {station.name: station.share for station in found if station.threads != _STEPPING}
    return Measured(
        wait=steps.get(WAIT, 0.0),
        host=sum(steps.get(name, 0.0) for name in (_REST, LOG, CHECKPOINT)),
        busy={name: share for name, share in loader.items() if name in _REMEDIES},
        num_threads=num_threads,
        num_cores=num_cores,
        gpu=gpu,
    )


def verdict(m: Measured) -> str:
    """What bounds the speed, the numbers that tell, and a remedy, in one sentence."""
    if m.wait >= _WAITS:
        return _loader_verdict(m)
    if m.gpu is not None and m.gpu < _GPU_IDLES:
        return (
            f"host-bound: data wait {_percent(m.wait)}, and the GPU computes {_percent(m.gpu)} of the time, for the "
            "host is slow to tell it what; try --run.compile on, --run.cuda-graphs, or more clips in a step"
        )
    if m.gpu is None and m.host >= _HOST_WORKS:
        return (
            f"host-bound: data wait {_percent(m.wait)}, and {_percent(m.host)} of step time goes into log lines, "
            "checkpoints and what lies between stations; try a larger --run.log-every or --run.checkpoint-every"
        )
    computes, remedy = (
        (f"{_percent(1 - m.wait - m.host)} of step time is computing", "a GPU, or")
        if m.gpu is None
        else (f"the GPU computes {_percent(m.gpu)} of the time", "more GPUs, or")
    )
    return (
        f"compute-bound: data wait {_percent(m.wait)}, all that a faster data path could gain, and {computes}; "
        f"try {remedy} a smaller --data.size or --model.width"
    )


def _loader_verdict(m: Measured) -> str:
    station = max(m.busy, key=lambda name: m.busy[name], default=DECODE)
    bound, remedy = _REMEDIES[station]
    batching = station in (VIEWS, DECODE_AND_VIEWS)
    whose = "the thread that makes batches" if batching else f"the {m.num_threads} threads that read"
    more = f" or more --data.num-threads (now {m.num_threads}, of {m.num_cores} cores)"
    return (
        f"{bound}: {_percent(m.wait)} of step time waiting for data, {_percent(m.busy.get(station, 0.0))} of the time "
        f'of {whose} is "{station}"; try {remedy}{more if m.num_threads < m.num_cores else ""}'
    )


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def table(found: Sequence[Station], num_steps: int, num_threads: int) -> Table:
    """The stations with the largest shares, those of one kind of thread together.

    Args:
        found: what :func:`stations` returned.
        num_steps: steps they were found in.
        num_threads: threads that read and decode.
    """
    title = f"Where the time of {num_steps} steps goes; shares are of the time of these threads"
    table = Table("station", "thread", title=title, title_justify="left", min_width=len(title))
    labels = {_READING: f"{_READING} ({num_threads})"}
    for column in ("ms/step", "share", "CPU ms"):
        table.add_column(column, justify="right")
    largest = sorted(found, key=lambda station: -station.share)[:_NUM_ROWS]
    for station in found:
        if station in largest:
            cpu = "" if station.cpu_ms_per_step is None else f"{station.cpu_ms_per_step:.1f}"
            row = (
                station.name,
                labels.get(station.threads, station.threads),
                f"{station.ms_per_step:.1f}",
                _percent(station.share),
                cpu,
            )
            table.add_row(*map(Text, row), style="dim" if station.name in _IDLE else None)
    return table
