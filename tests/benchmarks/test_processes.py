"""Work in other processes: measured in full, and contained whatever it does.

No import here may be heavy: the processes import this file.
"""

import os
import time
from collections.abc import Iterator

import pytest

from benchmarks.processes import Candidate, IsolationError, Speed, cpu_s, isolated


def two_then(end: str) -> Iterator[int]:
    yield 1
    yield 2
    if end == "raise":
        raise RuntimeError("Critical error in pipeline:\nno decoder\nCurrent pipeline object is no longer valid.")
    if end == "die":
        os._exit(3)
    if end == "hang":
        time.sleep(60)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("raise", "^RuntimeError: no decoder$"),
        ("die", "died, exit status 3"),
        ("hang", "no answer within 5 s"),
    ],
)
def test_a_failure_is_contained_and_what_came_before_it_is_kept(end: str, message: str) -> None:
    items = isolated(two_then, end, limit_s=5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(IsolationError, match=message):
        next(items)


def test_work_that_ends_is_whole() -> None:
    assert list(isolated(two_then, "return", limit_s=30)) == [1, 2]


def burning_clips(busy_s: float, begun: str) -> Iterator[int]:
    """Four clips a batch, each of which costs the same CPU time; leaves marks when it begins and when it ends."""
    with open(begun, "a") as marks:
        marks.write("begin ")
    try:
        while True:
            stop = time.process_time() + 4 * busy_s
            while time.process_time() < stop:
                pass
            yield 4
    finally:
        with open(begun, "a") as marks:
            marks.write("end ")


def test_turns_measure_the_cpu_time_of_a_clip_and_begin_anew(tmp_path_factory: pytest.TempPathFactory) -> None:
    marks = tmp_path_factory.mktemp("turns") / "marks"
    candidate = Candidate(burning_clips, 0.01, str(marks))
    speeds = [candidate.turn(4, 0.4) for _ in range(2)]
    candidate.close()
    for speed in speeds:
        assert isinstance(speed, Speed)
        assert 9 < speed.cpu_ms_per_clip < 13
        assert 0 < speed.clips_per_s < 101
    assert marks.read_text().split() == ["begin", "end"] * 2


def test_a_turn_that_fails_is_an_answer_and_the_next_is_not_lost() -> None:
    candidate = Candidate(two_then, "raise")
    try:
        for _ in range(2):
            answer = candidate.turn(100, 1.0)
            assert isinstance(answer, str)
            assert answer.startswith("RuntimeError: Critical error")
    finally:
        candidate.close()
    died = Candidate(two_then, "die")
    assert "exit status 3" in str(died.turn(100, 1.0))
    died.close()


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
