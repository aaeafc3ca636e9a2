"""How results are shown: lists, medians with quartiles, ratios turn by turn.  Tables: :mod:`train.tables`."""

from collections.abc import Mapping

from benchmarks.results import Series


def markdown_checks(checks: Mapping[str, bool]) -> str:
    """A list of what was checked, and whether it holds."""
    return "\n".join(f"- {name}: {'yes' if holds else '**NO**'}" for name, holds in checks.items())


def spread(series: Series, form: str = ".1f") -> str:
    """The median, behind it the quartiles where there are repeats to have some: "26.4 (25.9–26.6)"."""
    return (
        with_quartiles(series.median, series.quartiles, form) if len(series.values) > 1 else f"{series.median:{form}}"
    )


def with_quartiles(median: float, quartiles: tuple[float, float], form: str) -> str:
    """As :func:`spread`, of numbers that are known already."""
    low, high = quartiles
    return f"{median:{form}} ({low:{form}}–{high:{form}})"


def times(ours: Series, theirs: Series) -> Series:
    """By what factor ours is above theirs, turn by turn: what slows the machine for a turn slows both.

    Raises:
        ValueError: they have not taken the same turns.
    """
    return Series("times", "higher", tuple(a / b for a, b in zip(ours.values, theirs.values, strict=True)))
