"""How results are shown: tables for terminals and documents, lists, medians with quartiles, ratios turn by turn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from benchmarks.results import Series


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Grid:
    """A table of words that is shown in a terminal and written into documents alike.

    Attributes:
        title: what it shows; "" where that is said around it.
        columns: heads; the first names rows and is set to the left.
        rows: as many words each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title or None)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a document."""
        table = markdown_table(self.columns, self.rows)
        return f"{self.title}:\n\n{table}" if self.title else table


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
