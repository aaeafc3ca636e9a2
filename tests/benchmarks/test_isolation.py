"""Work in another process is contained, whatever it does.

No import here may be heavy: the processes import this file.
"""

import os
import time
from collections.abc import Iterator

import pytest

from benchmarks.isolation import IsolationError, isolated


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
