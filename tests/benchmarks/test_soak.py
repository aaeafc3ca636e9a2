"""The soak damages what it says it does, and its verdicts can be no."""

from collections import Counter
from typing import Any

import pytest

from benchmarks.soak import Soak, Victim, _growth, choose_victims, verdicts
from pipeline.errors import InputError

SOAK = Soak(num_batches=1200)


def result(**changes: Any) -> dict[str, Any]:
    usage = {"median": 1000.0, "lowest": 980, "highest": 1020}
    good: dict[str, Any] = {
        "num_delivered": 1200,
        "replay_is_identical": True,
        "quarantine": {"a/1.avi": [5, "gone"]},
        "resident_bytes": usage,
        "open_files": {"median": 7.0, "lowest": 7, "highest": 9},
    }
    return good | changes


def test_three_percent_are_damaged_in_every_way_before_and_during_the_run() -> None:
    victims = choose_victims(SOAK, [f"{number}.avi" for number in range(600)])
    assert len({victim.path for victim in victims}) == 18
    before = Counter(victim.damage for victim in victims if victim.step == 0)
    during = Counter(victim.damage for victim in victims if victim.step > 0)
    assert before.keys() == during.keys()
    assert len(before) >= 8
    assert max(victim.step for victim in victims) == 720


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, None),
        ({"num_delivered": 1199}, "every step arrived"),
        ({"quarantine": {}}, "every bad video was found"),
        ({"quarantine": {"a/1.avi": [5, "gone"], "a/2.avi": [5, "gone"]}}, "no good video was left out"),
        ({"replay_is_identical": False}, "replay is identical to the bit"),
        ({"resident_bytes": {"median": 1000.0, "lowest": 1000, "highest": 1031}}, "memory is flat within 3%"),
        ({"open_files": {"median": 7.0, "lowest": 7, "highest": 10}}, "open files are flat but for one a reader"),
    ],
)
def test_each_verdict_is_no_where_it_has_to_be(changes: dict[str, Any], broken: str | None) -> None:
    checks = verdicts(SOAK, result(**changes), [Victim("a/1.avi", "deleted", 0)])
    assert [name for name, holds in checks.items() if not holds] == ([broken] if broken else [])


def test_few_usages_are_kept_but_all_count() -> None:
    usages = [{"threads": number} for number in range(200)]
    growth = _growth(usages)
    assert growth["usages"] == usages[::10]
    assert growth["threads"] == {"median": 119.5, "lowest": 40, "highest": 199}


def test_a_soak_too_short_to_meet_every_bad_video_is_refused() -> None:
    with pytest.raises(InputError, match="num_batches 100: too few"):
        Soak(num_batches=100)
    with pytest.raises(InputError, match="num_videos 200: too few"):
        Soak(num_videos=200)
