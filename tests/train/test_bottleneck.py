"""Made-up spans become the numbers one works out by hand, and made-up numbers the right verdict."""

import pytest
from rich.console import Console

from pipeline.ranges import AWAIT_CLIPS, DECODE, DECODE_AND_VIEWS, HAND_OVER, PLAN, READ, VIEWS, Span
from train.bottleneck import CHECKPOINT, LOG, STEP, WAIT, Measured, measured, stations, table, verdict

MS = 1_000_000
STEPPING, READ_0, READ_1, PRODUCE = ("MainThread", 1), ("read_0", 2), ("read_1", 3), ("produce", 4)


def span(thread: tuple[str, int], name: str, start_ms: float, stop_ms: float, cpu_ms: float = 0.0) -> Span:
    return Span(name, *thread, round(start_ms * MS), round(stop_ms * MS), round(cpu_ms * MS))


# Two steps of 100 ms, from 1000 to 1200 ms.
SPANS = [
    span(STEPPING, WAIT, 1000, 1040, cpu_ms=1),
    span(STEPPING, "forward rgb", 1050, 1060),
    span(STEPPING, "losses", 1060, 1070),
    span(STEPPING, "forward and losses", 1045, 1070),
    span(STEPPING, "backward", 1070, 1100),
    span(STEPPING, STEP, 1000, 1100),
    span(STEPPING, WAIT, 1100, 1160, cpu_ms=1),
    span(STEPPING, "backward", 1160, 1180),
    span(STEPPING, LOG, 1180, 1190),
    span(STEPPING, STEP, 1100, 1200),
    span(READ_0, READ, 955, 965, cpu_ms=5),  # before the steps
    span(READ_0, DECODE, 950, 1050, cpu_ms=80),  # half of it in the steps
    span(READ_0, READ, 1060, 1070, cpu_ms=2),
    span(READ_0, DECODE, 1060, 1160, cpu_ms=92),
    span(READ_1, DECODE, 1000, 1150, cpu_ms=150),
    span(PRODUCE, PLAN, 1000, 1001),
    span(PRODUCE, AWAIT_CLIPS, 1001, 1151, cpu_ms=0.5),
    span(PRODUCE, VIEWS, 1151, 1191),
    span(PRODUCE, HAND_OVER, 1191, 1300),  # nine of it in the steps
]


def test_spans_are_summed_up_without_those_within_them_and_cut_off_at_the_steps() -> None:
    found = {(station.threads, station.name): station[2:] for station in stations(SPANS, num_threads=2)}
    expected = {
        ("step", WAIT): (50, 0.5, 1),
        ("step", "backward"): (25, 0.25, None),
        ("step", "all else"): (7.5, 0.075, None),
        ("step", "forward rgb"): (5, 0.05, None),
        ("step", "losses"): (5, 0.05, None),
        ("step", LOG): (5, 0.05, None),
        ("step", "forward and losses"): (2.5, 0.025, None),
        ("read", DECODE): (145, 0.725, 140),
        ("read", READ): (5, 0.025, 1),
        ("batch", AWAIT_CLIPS): (75, 0.75, 0.25),
        ("batch", VIEWS): (20, 0.2, None),
        ("batch", HAND_OVER): (4.5, 0.045, 0),
        ("batch", PLAN): (0.5, 0.005, None),
    }
    assert list(found) == list(expected)
    for station, numbers in expected.items():
        assert found[station] == pytest.approx(numbers), station


def test_a_verdict_is_told_how_long_was_waited_and_who_was_busy() -> None:
    found = stations(SPANS, num_threads=2)
    assert measured(found, 2, 8, None) == Measured(
        wait=0.5,
        host=pytest.approx(0.125),  # type: ignore[arg-type]
        busy=pytest.approx({DECODE: 0.725, READ: 0.025, VIEWS: 0.2}),  # type: ignore[arg-type]
        num_threads=2,
        num_cores=8,
        gpu=None,
    )


def test_the_table_has_the_ten_largest_shares() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(stations(SPANS, num_threads=2), num_steps=2, num_threads=2))
    lines = capture.get().splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert "2 steps" in lines[0]
    assert [row[0] for row in rows if row[1] == "step"] == [WAIT, "backward", "all else", "forward rgb", "losses", LOG]
    assert rows[6] == [DECODE, "read (2)", "145.0", "72 %", "140.0"]
    assert [row[0] for row in rows[7:]] == [AWAIT_CLIPS, VIEWS, HAND_OVER]


def numbers(wait: float, **others: object) -> Measured:
    default = {"host": 0.02, "busy": {READ: 0.1, DECODE: 0.2, VIEWS: 0.3}, "num_threads": 2, "num_cores": 2}
    return Measured(wait=wait, **{**default, **others})  # type: ignore[arg-type]


PREPARE = "try `python -m pipeline.prepare SRC DST --gop 8`"


@pytest.mark.parametrize(
    ("found", "bound", "says"),
    [
        (numbers(0.71, busy={READ: 0.02, DECODE: 0.95, VIEWS: 0.4}), "decode", ("71 %", "95 %", PREPARE)),
        (
            numbers(0.71, busy={READ: 0.02, DECODE: 0.95, VIEWS: 0.4}, num_cores=16),
            "decode",
            (PREPARE, "or more --data.num-threads (now 2, of 16 cores)"),
        ),
        (numbers(0.5, busy={READ: 0.1, DECODE_AND_VIEWS: 0.9}, gpu=0.3), "decode", ("50 %", "90 %", PREPARE)),
        (numbers(0.3, busy={READ: 0.8, DECODE: 0.2, VIEWS: 0.1}), "read", ("30 %", "80 %", "local disk")),
        (numbers(0.4, busy={READ: 0.02, DECODE: 0.4, VIEWS: 0.97}), "view", ("40 %", "97 %", "--data.size")),
        (numbers(0.2, busy={}), "decode", ("20 %", PREPARE)),
        (numbers(0.004, gpu=0.96), "compute", ("data wait 0.4 %", "the GPU computes 96 %", "more GPUs")),
        (numbers(0.004), "compute", ("data wait 0.4 %", "98 % of step time is computing", "a GPU")),
        (numbers(0.004, gpu=0.41), "host", ("data wait 0.4 %", "the GPU computes 41 %", "--run.compile on")),
        (numbers(0.01, host=0.4), "host", ("data wait 1.0 %", "40 % of step time", "--run.log-every")),
        # On a GPU, a log line takes long since it waits for what is queued.
        (numbers(0.01, host=0.4, gpu=0.9), "compute", ("the GPU computes 90 %",)),
    ],
)
def test_each_bottleneck_has_its_verdict_numbers_and_remedy(found: Measured, bound: str, says: tuple[str, ...]) -> None:
    sentence = verdict(found)
    assert sentence.startswith(f"{bound}-bound: ")
    for words in says:
        assert words in sentence
    assert ("--data.num-threads" in sentence) == (found.num_cores > found.num_threads)


def test_checkpoints_count_as_the_hosts() -> None:
    spans = [span(STEPPING, STEP, 0, 100), span(STEPPING, CHECKPOINT, 10, 60), span(STEPPING, "backward", 60, 95)]
    assert measured(stations(spans, 1), 1, 1, None).host == pytest.approx(0.65)
