"""What the machine did while something ran comes as series of the names a training's log uses."""

import os
import time

import pytest

from benchmarks import utilization
from benchmarks.utilization import sampled
from train.hardware import NAMES


def test_a_busy_block_is_seen_to_be_busy() -> None:
    with sampled(every_s=0.05) as found:
        begun, stop = time.monotonic(), time.process_time() + 0.3
        while time.process_time() < stop or time.monotonic() < begun + 0.3:
            pass
    assert max(found["cpu_pct"].values) > 1  # on a machine with much else to do
    assert found["memory_gib"].values[-1] > 0


def test_a_short_block_has_one_sample_though_it_fails() -> None:
    block = sampled(every_s=60)
    found = block.__enter__()
    with pytest.raises(RuntimeError, match="mine"):
        block.gen.throw(RuntimeError("mine"))
    assert {len(series.values) for series in found.values()} == {1}


def test_every_number_of_the_monitor_has_a_unit() -> None:
    assert set(utilization._UNITS) == set(NAMES)


def test_a_number_that_comes_and_goes_is_kept_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class Monitor:
        def __init__(self, device: object) -> None:
            self.samples = iter([{"gpu_pct": 50.0}, {}, {"gpu_pct": 70.0, "cpu_pct": 1.0}])

        def sample(self) -> dict[str, float]:
            return next(self.samples, {})

        def restart(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(utilization, "HardwareMonitor", Monitor)
    with sampled("cuda", every_s=0.01) as found:
        time.sleep(0.2)
    assert found["gpu_pct"].values == (50.0, 70.0)
    assert found["cpu_pct"].values == (1.0,)


def test_processes_below_count_where_asked_for() -> None:
    child = os.fork()
    if child == 0:
        while True:
            pass
    try:
        with sampled(every_s=0.2, children=True) as found:
            time.sleep(0.5)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert max(found["cpu_pct"].values) > 5  # this process sleeps
