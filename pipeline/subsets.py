"""Which labels training may use, and which videos validate where no list says it: draws by seed.

The promise: a draw depends on the seed and the names of the videos alone.  It is the same for any order of the index,
for every copy of a data set (other suffixes, a folder deeper), and for whatever other classes there are; fewer labels
are a subset of more.
"""

import hashlib
import math
import os
from collections.abc import Collection, Iterable

from pipeline.errors import InputError
from pipeline.lists import UNKNOWN, Entry, where
from pipeline.lookup import Lookup, strip_suffix
from pipeline.roster import Roster, check_labels, compare_labels, find_listed
from pipeline.text import printable


def drawing_order(roster: Roster, rows: Iterable[int], purpose: str, seed: int) -> list[int]:
    """Rows in an order that looks random but hangs on nothing but the seed and each video's own name."""

    def key(row: int) -> tuple[bytes, int]:
        return hashlib.sha256(os.fsencode(f"{seed} {purpose} {roster.names[row]}")).digest(), row

    return sorted(rows, key=key)


def draw_val(roster: Roster, fraction: float, seed: int, keep: Collection[int | str] = ()) -> None:
    """Move a share of each class from training to validation, at least one video, and leave at least one.

    Args:
        roster: changed.
        fraction: the share.
        seed: of the draw.
        keep: rows that stay where they are, those on a labeled list; strings stand for videos that are not there.

    Raises:
        InputError: a class has one video only, or none but those to keep.
    """
    for label, rows in rows_by_class(roster).items():
        if len(rows) < 2:
            raise InputError(
                f"class {printable(roster.class_names[label])!r} has one usable video: add another, as one has to "
                "train and one to validate, or name the validation videos (folders train/ and val/, or --data.val-list)"
            )
        num_val = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        free = [row for row in rows if row not in keep]
        if not free:
            raise InputError(
                f"all videos of class {printable(roster.class_names[label])!r} are on the labeled list and none is "
                "left to validate: shorten the list, or name the validation videos (folders train/ and val/, or "
                "--data.val-list)"
            )
        for row in drawing_order(roster, free, "val", seed)[:num_val]:
            roster.val[row] = roster.train.pop(row)


def rows_by_class(roster: Roster) -> dict[int, list[int]]:
    """Training videos of each class that has any."""
    rows: dict[int, list[int]] = {}
    for row, label in roster.train.items():
        if label != UNKNOWN:
            rows.setdefault(label, []).append(row)
    return dict(sorted(rows.items()))


def draw_per_class(roster: Roster, seed: int, *, count: int | None = None, fraction: float | None = None) -> list[int]:
    """So many training videos of each class, or a share of each, at least one.

    Raises:
        InputError: a class has fewer; names it.
    """
    classes = rows_by_class(roster)
    drawn: list[int] = []
    for label, rows in classes.items():
        wanted = count if count is not None else max(1, round((fraction or 1.0) * len(rows)))
        if wanted > len(rows):
            smallest = min(len(others) for others in classes.values())
            raise InputError(
                f"class {printable(roster.class_names[label])!r} has {len(rows)} training videos, fewer than "
                f"--data.labels-per-class {wanted}: use {smallest} or less, or add videos"
            )
        drawn += drawing_order(roster, rows, "label", seed)[:wanted]
    return drawn


def draw_uniform(roster: Roster, seed: int, fraction: float) -> list[int]:
    """A share of all training videos whatever their class, rounded down as in the lists of VideoSSL, at least one."""
    rows = [row for row, label in roster.train.items() if label != UNKNOWN]
    # A hair more than the product, or 0.29 of 100 would be 28.
    return drawing_order(roster, rows, "label", seed)[: max(1, math.floor(fraction * len(rows) + 1e-6))]


def take_listed(roster: Roster, entries: list[Entry], lookup: Lookup) -> list[int]:
    """The videos of a list, with its labels; those that are on no other list are trained on too.

    Raises:
        InputError: a video of the list validates, has no label or one that cannot be, or none of them is there.
    """
    check_labels(entries, roster.class_names)
    found = find_listed(entries, lookup, roster, "labeled")
    for row, entry in found.items():
        if row in roster.val:
            raise InputError(
                f"{where(entry)}: {printable(entry.path)} is a validation video: give a labeled list of the training "
                "videos of this split"
            )
        if entry.label == UNKNOWN:
            raise InputError(f"{where(entry)}: label -1 on the labeled list: add the class or remove the line")
    compare_labels(found, roster.train, roster)
    added = [row for row in found if row not in roster.train]
    if added:
        first = found[added[0]]
        roster.remarks.append(
            f"{len(added)} labeled videos are not on the training list and are added to it, the first: "
            f"{printable(first.path)} ({where(first)})"
        )
    for row, entry in found.items():
        roster.train[row] = entry.label
        roster.names.setdefault(row, strip_suffix(entry.path))
    return list(found)


def digest(videos: Iterable[tuple[str, str]]) -> str:
    """Eight hexadecimal digits that tell one set of (name, class) from another."""
    lines = sorted(f"{name}\t{class_name}\n" for name, class_name in videos)
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()[:8]
