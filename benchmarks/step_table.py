"""The table of what forms of a training step were measured to take; measuring is left to :mod:`benchmarks.step`."""

from benchmarks.results import Record
from benchmarks.step_summary import cell
from train.tables import markdown_table


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
        (name, cell(row, "step_ms"), cell(row, "times_faster"), f"{row['first_steps_s']:.0f}")
        for name, row in forms.items()
    ]
    return "\n\n".join([caption, markdown_table(("form", "ms", "times faster", "first two steps, s"), rows)])
