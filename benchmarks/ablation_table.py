"""The rows of the ablation: what makes them, and how a table is made of what their runs gave.

Promises numbers that follow from the outcomes alone; training them is left to :mod:`benchmarks.ablation`.
"""

from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.results import Record
from train.tables import markdown_table, mean_and_std, plus_minus


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: what is trained.
        switch: the options that make it.
        paper: top-1 in % on UCF-101 with 20 % of the labels, None where the paper has no such row.
    """

    title: str
    switch: tuple[str, ...]
    paper: float | None


_WHOLE = ("--run.method", "temporal_gradient")
ROWS = {
    "supervised": Row("supervised", ("--run.method", "supervised"), None),
    "fixmatch": Row("FixMatch on RGB", ("--run.method", "fixmatch"), 54.1),
    "alignment": Row("+ alignment", (*_WHOLE, "--method.info-nce-weight", "0"), 74.6),
    "contrast": Row("+ contrast", (*_WHOLE, "--method.alignment-weight", "0"), 68.6),
    "both": Row("+ both", _WHOLE, 76.1),
    "fixmatch_tg": Row("FixMatch on TG", ("--run.method", "fixmatch", "--method.modality", "tg"), 68.3),
}
"""Rows 2 to 5 are the paper's Table 1, the last is in its Table 3a, there without PreciseBN."""


def summarize(outcomes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and sample standard deviation over the seeds of each row, in %; None where one seed has no deviation.

    "over_fixmatch" is of the differences to FixMatch on RGB from the same seed, as far as both have ended.
    """
    by_row: dict[str, dict[int, dict[str, Any]]] = {}
    for one in outcomes:
        by_row.setdefault(one["row"], {})[one["seed"]] = one
    base = by_row.get("fixmatch", {})
    summary = {}
    for row in ROWS:
        if row not in by_row:
            continue
        seeds = by_row[row]
        gains = [one["top1"] - base[seed]["top1"] for seed, one in seeds.items() if seed in base]
        summary[row] = {
            "num_seeds": len(seeds),
            "top1": mean_and_std([one["top1"] for one in seeds.values()]),
            "mean_class": mean_and_std([one["mean_class"] for one in seeds.values()]),
            "over_fixmatch": mean_and_std(gains) if gains else None,
            "clips_per_s": median(one["clips_per_s"] for one in seeds.values()),
            "steps": sorted({one["steps"] for one in seeds.values()}),
        }
    return summary


HEADER = ("row", "top-1 %", "over FixMatch", "mean of classes %", "each seed", "clips/s", "paper, UCF-101 20 %")


def cells(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's lines below its HEADER, as text."""
    lines: list[tuple[str, ...]] = []
    for row, summary in result["rows"].items():
        seeds = sorted((one["seed"], one["top1"]) for one in result["runs"] if one["row"] == row)
        lines.append(
            (
                ROWS[row].title,
                plus_minus(summary["top1"]),
                "" if row == "fixmatch" else plus_minus(summary["over_fixmatch"], "+"),
                plus_minus(summary["mean_class"]),
                ", ".join(f"{100 * top1:.1f}" for _, top1 in seeds),
                f"{summary['clips_per_s']:.0f}",
                "" if ROWS[row].paper is None else f"{ROWS[row].paper}",
            )
        )
    return lines


def markdown(record: Record) -> str:
    """The table for a document."""
    return markdown_table(HEADER, cells(record.findings))


def rich_table(result: dict[str, Any]) -> Table:
    """The table for a terminal."""
    table = Table(*HEADER)
    for line in cells(result):
        table.add_row(*line)
    return table
