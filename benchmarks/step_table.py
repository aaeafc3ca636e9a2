"""The table of what forms of a training step were measured to take; measuring is left to :mod:`benchmarks.step`."""

from benchmarks.results import Record
from benchmarks.tables import markdown_table, with_quartiles


def markdown(record: Record) -> str:
    """The forms of a step, for a document."""
    done, forms = record.settings, record.findings["forms"]
    num_labeled = done["batch_labeled"]
    num_unlabeled = done.get("batch_unlabeled") or num_labeled
    caption = (
        f"A step of `{done['method']}` on {num_labeled} labelled and {num_unlabeled} unlabelled clips of "
        f"{done['clip_len']}×{done['size']}×{done['size']}, {record.findings['threads']} threads, medians of "
        f"{done['repeats']} rounds in turns, in brackets quartiles; ratios are of the same round."
    )
    rows = [
        (name, _cell(row, "step_ms", ",.0f"), _cell(row, "times_faster", ".2f"), f"{row['first_steps_s']:.0f}")
        for name, row in forms.items()
    ]
    return "\n\n".join([caption, markdown_table(("form", "ms", "times faster", "first two steps, s"), rows)])


def _cell(row: dict[str, float], column: str, form: str) -> str:
    return with_quartiles(row[column], (row[f"{column}_q1"], row[f"{column}_q3"]), form)
