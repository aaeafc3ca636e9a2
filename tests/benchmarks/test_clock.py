"""Clocks read what lies between two readings, and candidates take turns."""

import gc
import time
from collections.abc import Generator
from functools import partial

import pytest
import torch

from benchmarks.clock import Cost, cost, garbage_pauses, in_turns, now, time_batches

CPU = torch.device("cpu")


def test_a_cost_is_of_each_clip_between_two_readings() -> None:
    start = now(CPU)
    stop = time.process_time() + 0.04
    while time.process_time() < stop:
        pass
    time.sleep(0.02)
    spent = cost(start, now(CPU), num_clips=4)
    assert spent.cpu_ms >= 10
    assert spent.wall_ms >= 15
    assert spent.gpu_ms is None
    assert spent.ms == spent.wall_ms
    assert Cost(3, 2, 1).ms == 1


def test_costs_add_up_and_what_is_not_known_stays_so() -> None:
    assert Cost(1, 2, 3).plus(Cost(10, 20, 30)) == Cost(11, 22, 33)
    assert Cost(1, 2, 3).minus(Cost(2, 2, 2)) == Cost(-1, 0, 1)
    assert Cost(1, 2, None).plus(Cost(1, 1, 1)).gpu_ms is None


def test_batches_before_the_clock_starts_do_not_count() -> None:
    ended = []

    def batches() -> Generator[int, None, None]:
        try:
            time.sleep(0.3)
            yield 7
            while True:
                time.sleep(0.02)
                yield 2
        finally:
            ended.append(True)

    assert 10 <= time_batches(batches(), CPU, num_warmup=1, num_batches=3).wall_ms < 100
    assert ended


def test_candidates_take_turns_and_the_first_round_warms_up() -> None:
    seen: list[str] = []

    def measure(name: str) -> int:
        seen.append(name)
        return len(seen)

    found = in_turns({name: partial(measure, name) for name in "abc"}, 2)
    assert [sorted(seen[at : at + 3]) for at in range(0, 9, 3)] == [["a", "b", "c"]] * 3
    assert {len(values) for values in found.values()} == {2}
    assert min(min(values) for values in found.values()) == 4


def test_pauses_of_garbage_collection_are_noted() -> None:
    with garbage_pauses() as pauses:
        gc.collect()
    gc.collect()
    assert len(pauses) == 1
    assert pauses[0] == pytest.approx(sum(pauses)) and pauses[0] > 0
