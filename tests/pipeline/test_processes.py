"""Work in processes: a crash costs its item alone, and no process is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.processes import cpu_quota, map_in_processes, num_cores, num_processes, share_of_cores


def square_or_die(number: int) -> int:
    if number == 13:
        os.abort()
    return number**2


def sleep_for_long(number: int) -> int:
    time.sleep(1000 * number)
    return number


ALL, NODES = set(range(16)), (set(range(8)), set(range(8, 16)))


@pytest.mark.parametrize(
    ("cores", "allowed", "share"),
    [
        (ALL, [ALL], 16),
        (ALL, [ALL] * 4, 4),
        (NODES[0], [*[NODES[0]] * 2, *[NODES[1]] * 2], 4),  # bound to the NUMA nodes of their GPUs
        ({0, 1}, [{2 * rank, 2 * rank + 1} for rank in range(8)], 2),  # each bound to its own
        ({0}, [{0}] * 3, 1),  # more processes than cores
        (ALL, [ALL] * 3, 5),
    ],
)
def test_processes_of_a_machine_share_its_cores_however_they_are_bound(
    cores: set[int], allowed: list[set[int]], share: int
) -> None:
    assert share_of_cores(cores, allowed) == share


@pytest.mark.parametrize(
    ("allowed", "quota", "share"),
    [
        ([ALL], 4.0, 4),
        ([ALL], 2.5, 3),
        ([ALL], 0.5, 1),
        ([ALL], 64.0, 16),
        ([ALL] * 4, 8.0, 2),  # of one container
        ([ALL] * 4, 2.0, 1),  # more processes than cores' worth of time
        (NODES, 64.0, 8),
    ],
)
def test_processes_count_no_more_cores_than_their_container_is_given_time_of(
    allowed: list[set[int]], quota: float, share: int
) -> None:
    assert share_of_cores(allowed[0], allowed, quota) == share


def write_quota(folder: Path, quota: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "cpu.max").write_text(f"{quota} 100000\n")


def test_the_tightest_quota_of_nested_control_groups_counts(tmp_path: Path) -> None:
    for folder, quota in ((".", "max"), ("box", "200000"), ("box/job", "350000")):
        write_quota(tmp_path / folder, quota)
    own = tmp_path / "own"
    for group, expected in (("/box/job", 2), ("/box", 2), ("/", None), ("/seen/from/outside", None)):
        own.write_text(f"0::{group}\n")
        assert cpu_quota(tmp_path, own) == expected


@pytest.mark.parametrize(("quota", "expected"), [("150000", 1.5), ("-1", None)])
def test_quotas_of_control_groups_of_version_1_count_too(quota: str, expected: float | None, tmp_path: Path) -> None:
    cpu = tmp_path / "cpu,cpuacct"
    cpu.mkdir()
    (cpu / "cpu.cfs_quota_us").write_text(quota + "\n")
    (cpu / "cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/docker/abc\n2:cpuset:/\n0::/\n")  # a folder that a container does not see
    assert cpu_quota(tmp_path, own) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 64), (4.0, 4), (1.2, 2), (0.1, 1), (100.0, 64)])
def test_a_containers_quota_limits_how_many_threads_are_started(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr("pipeline.processes.cpu_quota", lambda: quota)
    assert num_cores() == num_processes(None) == cores


def fail(number: int) -> int:
    raise OSError(28, "full")


def test_a_crash_costs_its_item_and_no_other() -> None:
    found = dict(map_in_processes(square_or_die, list(range(20)), 2, crashed=-1))
    assert found == {number: -1 if number == 13 else number**2 for number in range(20)}


def test_no_items_need_no_process() -> None:
    assert list(map_in_processes(square_or_die, [], 2, crashed=-1)) == []


def test_an_error_is_passed_on_and_processes_are_ended() -> None:
    with pytest.raises(OSError, match="full"):
        list(map_in_processes(fail, [1, 2, 3], 2, crashed=-1))
    assert not multiprocessing.active_children()


def test_leaving_early_ends_what_is_under_way() -> None:
    results = map_in_processes(sleep_for_long, [0, 1, 1], 2, crashed=-1, chunk=1)
    assert next(results) == (0, 0)
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_processes_end_when_their_parent_is_killed(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    work = f"list(map_in_processes(note_pid, [{str(tmp_path)!r}] * 2, 2, crashed=0, chunk=1))"
    program = f"from tests.pipeline.test_processes import *\n{work}"
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def note_pid(folder: str) -> int:
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)
    return 0


@pytest.mark.parametrize("num_workers", [0, -1])
def test_fewer_than_one_process_is_refused(num_workers: int) -> None:
    with pytest.raises(InputError, match=f"--num-workers {num_workers} does no work"):
        num_processes(num_workers)
