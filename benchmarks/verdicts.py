"""Whether one candidate is as many times faster than another as it should be.

Ratios are taken within turns, since what slows the machine for a while slows both; the median of them counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.results import Series

TARGET_WAIT_PCT = 2.0
"""Most that a step may wait for its batch, where the model is what limits."""


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
    ratios = Series("times", "higher", tuple(one / other for one, other in zip(ours, theirs, strict=True)))
    ratio, (low, high) = ratios.median, ratios.quartiles
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


def markdown_verdicts(verdicts: Mapping[str, Mapping[str, Any]]) -> str:
    """A list of them for a document."""
    return "\n".join(f"- {verdict['text']}" for verdict in verdicts.values())
