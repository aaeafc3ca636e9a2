"""Tables of words for terminals and documents alike, and how means over seeds are written into them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from rich.table import Table


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
            table.add_column(column, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a document."""
        table = markdown_table(self.columns, self.rows)
        return f"{self.title}:\n\n{table}" if self.title else table


def mean_and_std(fractions: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation, in %; "std" is None where one number has none."""
    percent = [100 * fraction for fraction in fractions]
    return {"mean": round(fmean(percent), 2), "std": round(stdev(percent), 2) if len(percent) > 1 else None}


def plus_minus(spread: Mapping[str, float | None] | None, sign: str = "") -> str:
    """What :func:`mean_and_std` found, as "58.5 ± 19.4", "" for None; ``sign`` "+" writes that of the mean anyway."""
    if spread is None:
        return ""
    mean, std = spread["mean"], spread["std"]
    return f"{mean:{sign}.1f}" if std is None else f"{mean:{sign}.1f} ± {std:.1f}"
