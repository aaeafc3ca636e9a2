"""What turns of differently computed steps come to: series of all, quartiles, a table."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.results import Series
from benchmarks.tables import with_quartiles

Turn = tuple[float, float]
"""Seconds of one step: of wall time, and of CPU time of the process."""

_COLUMNS: dict[str, str] = {"step_ms": ",.0f", "times_faster": ".2f", "cpu_ms": ",.0f", "times_less_cpu": ".2f"}


def series_of(turns: Mapping[str, Sequence[Turn]], num_clips: int) -> dict[str, Series]:
    """All turns, under names such as "eager, channels last/clips_per_s".

    Args:
        turns: by form of the step.
        num_clips: of a step, each once.
    """
    series = {}
    for name, its in turns.items():
        series[f"{name}/clips_per_s"] = Series("clips/s", "higher", tuple(num_clips / wall_s for wall_s, _ in its))
        series[f"{name}/step_ms"] = Series("ms", "lower", tuple(1000 * wall_s for wall_s, _ in its))
        series[f"{name}/cpu_ms"] = Series("cpu-ms/clip", "lower", tuple(1000 * cpu_s / num_clips for _, cpu_s in its))
    return series


def summarize(turns: Mapping[str, Sequence[Turn]], plain: str) -> dict[str, dict[str, float]]:
    """Quartiles by form.

    Args:
        turns: by form of the step.
        plain: the form that others are compared with.

    Returns:
        For each form "step_ms" and "cpu_ms", and how many "times_faster" it is than the plain one, by the median of the
        ratios of each turn; "times_less_cpu" likewise.
    """
    return {name: _quartiles(its, turns[plain]) for name, its in turns.items()}


def _quartiles(its: Sequence[Turn], plain: Sequence[Turn]) -> dict[str, float]:
    pairs = list(zip(its, plain, strict=True))
    columns = {
        "step_ms": [1000 * wall_s for wall_s, _ in its],
        "cpu_ms": [1000 * cpu_s for _, cpu_s in its],
        "times_faster": [theirs_s / ours_s for (ours_s, _), (theirs_s, _) in pairs],
        "times_less_cpu": [theirs_s / ours_s for (_, ours_s), (_, theirs_s) in pairs],
    }
    summary: dict[str, float] = {}
    for name, values in columns.items():
        one = Series("", "higher", tuple(values))
        low, high = one.quartiles
        summary |= {f"{name}_q1": low, name: one.median, f"{name}_q3": high}
    return summary


def table_of(forms: Mapping[str, Mapping[str, float]]) -> Table:
    """For people.

    Args:
        forms: what :func:`summarize` found, and "clips_per_s" and "first_steps_s".
    """
    table = Table("form of the step", "clips/s", "ms", "times faster", "cpu-ms", "times less cpu", "first two steps, s")
    for name, row in forms.items():
        cells = (cell(row, column) for column in _COLUMNS)
        table.add_row(name, f"{row['clips_per_s']:.2f}", *cells, f"{row['first_steps_s']:.0f}")
    return table


def cell(row: Mapping[str, float], column: str) -> str:
    """A median of :func:`summarize` with its quartiles.

    Args:
        row: of a form.
        column: "step_ms", "times_faster", "cpu_ms" or "times_less_cpu".
    """
    return with_quartiles(row[column], (row[f"{column}_q1"], row[f"{column}_q3"]), _COLUMNS[column])
