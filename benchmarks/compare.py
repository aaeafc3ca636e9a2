"""What changed from one result to another, and is it more than noise?

Series of the same name and unit are compared: their medians, the factor between them, and an interval that holds the
true factor with 95 % confidence.  The interval is that of the rank test of Mann and Whitney: of the factors between
every repeat of one and every repeat of the other, as many are cut off at either end as chance accounts for.  It asks
nothing of how repeats are spread but that both are spread alike, is exact for few repeats, needs no draws, and shows
itself, as a bootstrap does not, when there are too few: three each are.  Where it holds 1, the change is called noise.
So are changes below 2 %, since runs of the same code differ by such for reasons that no repeat within a run shows:
clock rate, placement in memory, neighbours.

    python -m benchmarks compare benchmarks/results/peers.json mine/peers.json
    python -m benchmarks compare benchmarks/results mine

Exit status: 0 compared, whatever came of it; 2 wrong input.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.results import Record, Series
from pipeline.errors import InputError

CONFIDENCE = 0.95
WORTH = 0.02
"""Change of the median, as a fraction, below which it is never called more than noise."""
_EXACT = 2500  # pairs of repeats, 50 x 50: 20 ms; beyond, the normal distribution is as good

Verdict = Literal["better", "worse", "noise", "too few repeats to tell"]
_STYLES: dict[str, str] = {"better": "green", "worse": "red"}


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two results, or the results of the same names in two folders."""

    before: Annotated[Path, tyro.conf.Positional]
    """A result, or a folder of them."""
    after: Annotated[Path, tyro.conf.Positional]
    """Another."""


@dataclass(frozen=True)
class Change:
    """How far one series lies from another.

    Attributes:
        median: of the second over that of the first; the difference where a value is 0 or below.
        interval: what holds the true one; None with too few repeats.
        is_factor: or a difference.
        verdict: on it.
    """

    median: float
    interval: tuple[float, float] | None
    is_factor: bool
    verdict: Verdict


def change(before: Series, after: Series) -> Change:
    """Compare two series of the same unit."""
    old, new = np.array(before.values), np.array(after.values)
    is_factor = bool(min(old.min(), new.min()) > 0)
    same = 1.0 if is_factor else 0.0
    median = after.median / before.median if is_factor else after.median - before.median
    num_cut = cut_pairs(len(old), len(new))
    if num_cut is None:
        return Change(median, None, is_factor, "too few repeats to tell")
    pairs = np.sort((new[:, None] / old if is_factor else new[:, None] - old).ravel())
    interval = float(pairs[num_cut - 1]), float(pairs[-num_cut])
    verdict: Verdict = "noise"
    if not interval[0] <= same <= interval[1] and abs(after.median - before.median) >= WORTH * abs(before.median):
        verdict = "better" if (median > same) == (after.better == "higher") else "worse"
    return Change(median, interval, is_factor, verdict)


def cut_pairs(num_old: int, num_new: int) -> int | None:
    """Which pair from either end bounds the interval: 1 for the outermost.

    Returns:
        None if even the outermost do not give the confidence that is asked for.
    """
    tail = (1 - CONFIDENCE) / 2
    few, many = sorted((num_old, num_new))
    num_pairs = few * many
    if num_pairs > _EXACT:
        deviation = math.sqrt(num_pairs * (few + many + 1) / 12)
        return max(0, int(num_pairs / 2 + NormalDist().inv_cdf(tail) * deviation)) or None
    # ways[u] of the orders that all repeats can have put the one side's above the other's in u pairs: coefficients of
    # the product over i = 1..few of (1 - x^(many + i)) / (1 - x^i).
    ways = [1] + [0] * num_pairs
    for i in range(1, few + 1):
        for u in range(num_pairs, many + i - 1, -1):
            ways[u] -= ways[u - many - i]
        for u in range(i, num_pairs + 1):
            ways[u] += ways[u - i]
    shares = np.cumsum(np.array(ways, float)) / math.comb(few + many, few)
    return int(np.searchsorted(shares, tail, side="right")) or None


def run(compare: Compare) -> int:
    """Print what differs, and how much.

    Raises:
        InputError: a file is no record, or no record is in both.
    """
    console = Console(highlight=False)
    console.width = max(console.width, 120)  # tables are not for folding, in a log file either
    old, new = load(compare.before), load(compare.after)
    if not old.keys() & new.keys():
        raise InputError(
            f"no result is in both: {compare.before} has {', '.join(old) or 'none'}, "
            f"{compare.after} has {', '.join(new) or 'none'}"
        )
    for path, names in ((compare.before, old.keys() - new.keys()), (compare.after, new.keys() - old.keys())):
        if names:
            console.print(f"in {path} alone: {', '.join(sorted(names))}", markup=False)
    verdicts: Counter[str] = Counter()
    for name in sorted(old.keys() & new.keys()):
        verdicts.update(_compare(old[name], new[name], console))
    counted = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
    if counted:
        console.print(
            f"{counted}. Of series that have not changed about 1 in {1 / (1 - CONFIDENCE):.0f} seems to have."
        )
    return 0


def load(path: Path) -> dict[str, Record]:
    """A record, or those of a folder, by name of the benchmark.

    Raises:
        InputError: there is none, or a file is none.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return {record.benchmark: record for record in map(results.read, files)}


def differences(old: Record, new: Record) -> Iterator[tuple[str, str, Any, Any]]:
    """What differs in how they were made: group, name, and both values; None where one has none."""
    if old.commit != new.commit:
        yield "code", "commit", old.commit, new.commit
    for group in ("hardware", "versions", "settings"):
        one, other = getattr(old, group), getattr(new, group)
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                yield group, name, one.get(name), other.get(name)


_WARNINGS = {
    "hardware": "other hardware: this compares machines, not code",
    "settings": "other settings: perhaps not the same was measured",
}


def _compare(old: Record, new: Record, console: Console) -> list[Verdict]:
    """Print one record against another."""
    console.rule(old.benchmark, align="left")
    found = list(differences(old, new))
    for group, name, one, other in found:
        console.print(f"{group} {name}: {one} -> {other}", markup=False)
    for group, warning in _WARNINGS.items():
        if group in {first for first, *_ in found}:
            console.print(f"WARNING {warning}", style="yellow")
    both = [name for name in old.series if name in new.series and old.series[name].unit == new.series[name].unit]
    if left := sorted((old.series.keys() | new.series.keys()) - set(both)):
        console.print(f"not compared, in one alone or in other units: {', '.join(left)}", markup=False)
    if not both:
        console.print("no series is in both: measure again with the version that writes them", style="yellow")
        return []
    table = Table("series", "unit", "before", "after", "change", f"{CONFIDENCE:.0%} interval", "verdict")
    changes = {name: change(old.series[name], new.series[name]) for name in both}
    for name, one in changes.items():
        medians = (f"{series[name].median:.4g} (n={len(series[name].values)})" for series in (old.series, new.series))
        cells = (name, old.series[name].unit, *medians, *_cells(one), one.verdict)
        table.add_row(*cells, style=_STYLES.get(one.verdict))
    console.print(table)
    return [one.verdict for one in changes.values()]


def _cells(one: Change) -> tuple[str, str]:
    form = "{:.3f}x" if one.is_factor else "{:+.4g}"
    return form.format(one.median), " to ".join(map(form.format, one.interval or ()))


def main() -> None:
    """Command line: the fields of :class:`Compare`."""
    results.main(Compare, run)


if __name__ == "__main__":
    main()
