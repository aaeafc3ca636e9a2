"""Whether one candidate is as many times faster than another as it should be.

Ratios are taken within turns, since what slows the machine for a while slows both; the median of them counts.
"""

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from rich.console import Console


def judge(what: str, ours: Sequence[float], theirs: Sequence[float], target: float) -> dict[str, Any]:
    """Compare two candidates that took turns.

    Args:
        what: is compared, "mjpeg: ours over spdl".
        ours: speed in each turn, higher is better.
        theirs: speed in the same turns.
        target: least ratio asked for.

    Returns:
        JSON types: "ratio", the median, "quartiles" of the turns' ratios, "target", "met", and "text" that says so.
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    ratio = median(ratios)
    low, high = ratio, ratio
    if len(ratios) > 1:
        low, _, high = quantiles(ratios, n=4, method="inclusive")
    met = ratio >= target
    text = (
        f"{what}: {ratio:.2f} times ({low:.2f}-{high:.2f}), {'at least' if met else 'below'} the {target:g} asked for"
    )
    return {"ratio": ratio, "quartiles": [low, high], "target": target, "met": met, "text": text}


def print_verdicts(console: Console, verdicts: dict[str, dict[str, Any]]) -> bool:
    """Print them, one a line, and say whether all are met."""
    for verdict in verdicts.values():
        console.print(verdict["text"], style="green" if verdict["met"] else "red")
    return all(verdict["met"] for verdict in verdicts.values())
