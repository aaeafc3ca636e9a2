"""What takes turns is measured in full, children and all, and a failure is an answer.

No import here may be heavy: the processes import this file.
"""

import os
import time
from collections.abc import Iterator

import pytest

from benchmarks.turns import Candidate, Made, Speed, cpu_s


def burning_clips(busy_s: float, begun: str) -> Iterator[Made]:
    """Four clips a batch, each of which costs the same CPU time; leaves marks when it begins and when it ends."""
    with open(begun, "a") as marks:
        marks.write("begin ")
    try:
        while True:
            stop = time.process_time() + 4 * busy_s
            while time.process_time() < stop:
                pass
            yield Made(4, waited_s=0.02)
    finally:
        with open(begun, "a") as marks:
            marks.write("end ")


def test_turns_measure_the_cpu_time_of_a_clip_and_begin_anew(tmp_path_factory: pytest.TempPathFactory) -> None:
    marks = tmp_path_factory.mktemp("turns") / "marks"
    candidate = Candidate(burning_clips)
    # One batch is 20 ticks of the clock that is read, however few of them a busy machine lets pass.
    speeds = [candidate.turn(0.05, str(marks), warmup_clips=4, seconds=0.4) for _ in range(2)]
    candidate.close()
    for speed in speeds:
        assert isinstance(speed, Speed)
        assert 45 < speed.cpu_ms_per_clip < 65
        assert 0 < speed.clips_per_s < 20.2
        assert speed.data_wait_ms_per_clip == pytest.approx(5)
    assert marks.read_text().split() == ["begin", "end"] * 2


def failing_clips(how: str) -> Iterator[Made]:
    yield Made(1)
    if how == "raise":
        raise RuntimeError("it does not work")
    if how == "die":
        os._exit(3)
    while True:
        yield Made(1)


def test_a_turn_that_fails_is_an_answer_and_the_next_is_not_lost() -> None:
    candidate = Candidate(failing_clips)
    try:
        for _ in range(2):
            answer = candidate.turn("raise", warmup_clips=100, seconds=1.0)
            assert isinstance(answer, str)
            assert answer.startswith("RuntimeError: it does not work (test_turns.py")
        assert isinstance(candidate.turn("go on", warmup_clips=1, seconds=0.01), Speed)
        assert "exit status 3" in str(candidate.turn("die", warmup_clips=100, seconds=1.0))
        assert isinstance(candidate.turn("go on", warmup_clips=1, seconds=0.01), Speed)
    finally:
        candidate.close()


def test_cpu_time_counts_children() -> None:
    before = cpu_s()
    child = os.fork()
    if child == 0:
        stop = time.process_time() + 0.3
        while time.process_time() < stop:
            pass
        time.sleep(60)  # alive while it is counted
        os._exit(0)
    deadline = time.monotonic() + 20
    while cpu_s() - before < 0.28 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert time.monotonic() < deadline
