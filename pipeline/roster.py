"""Which videos train, which validate, and of which class they are, before labels are drawn.

Promises: every listed video is either a row of the index or named with the reason why not; no video both trains and
validates.  Left to others: reading lists (:mod:`pipeline.lists`, :mod:`pipeline.official`), plain folders
(:mod:`pipeline.folders`), whose labels are used (:mod:`pipeline.subsets`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.errors import InputError
from pipeline.lists import UNKNOWN, Entry, where
from pipeline.lookup import Lookup, strip_suffix
from pipeline.official import Annotations
from pipeline.text import printable


@dataclass
class Roster:
    """The videos of a data set that are there.

    Attributes:
        class_names: by label.
        train: label by row of the training list, :data:`~pipeline.lists.UNKNOWN` where the class is not known.
        val: label by row of the validation list.
        names: by row, what a video is called in whatever copy of the data set: draws hang on it.
        missing: reasons by listed path for the videos that are not there.
        remarks: what a user should know, one sentence each.
    """

    class_names: tuple[str, ...]
    train: dict[int, int]
    val: dict[int, int]
    names: dict[int, str]
    missing: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def roster_of_lists(annotations: Annotations, lookup: Lookup) -> Roster:
    """Find what a data set's lists name.

    Args:
        annotations: the lists; that of validation may be empty.
        lookup: finds videos in the index.

    Raises:
        InputError: not one video of a list is there, a video is of two classes, or a label of none.
    """
    check_labels(annotations.train, annotations.class_names)
    check_labels(annotations.val, annotations.class_names)
    roster = Roster(annotations.class_names, {}, {}, {})
    train = find_listed(annotations.train, lookup, roster, "training")
    val = find_listed(annotations.val, lookup, roster, "validation") if annotations.val else {}
    unknown = [entry for entry in val.values() if entry.label == UNKNOWN]
    if unknown:
        raise InputError(f"{where(unknown[0])}: label -1, but validation needs classes: add it or remove the line")
    both = [row for row in train if row in val]
    if both:
        first = train[both[0]]
        roster.remarks.append(
            f"{len(both)} videos are on the training and on the validation list and only validate, "
            f"the first: {printable(first.path)} ({where(first)})"
        )
    roster.train = {row: entry.label for row, entry in train.items() if row not in val}
    roster.val = {row: entry.label for row, entry in val.items()}
    roster.names = {row: strip_suffix(entry.path) for row, entry in [*train.items(), *val.items()]}
    return roster


def check_labels(entries: Iterable[Entry], class_names: tuple[str, ...]) -> None:
    """Refuse labels that are of no class.

    Raises:
        InputError: names file, line and label.
    """
    for entry in entries:
        if entry.label >= len(class_names):
            raise InputError(
                f"{where(entry)}: label {entry.label}, but there are {len(class_names)} classes, counted from 0 "
                f"({printable(class_names[0])}): correct the list or the class names"
            )


def find_listed(entries: list[Entry], lookup: Lookup, roster: Roster, subset: str) -> dict[int, Entry]:
    """The rows of the videos on a list; those that are not there are noted in the roster.

    Args:
        entries: the list.
        lookup: finds videos in the index.
        roster: takes the missing ones, and a remark about them.
        subset: what the list is of, for messages.

    Raises:
        InputError: not one of them is there, or a video is of two classes.
    """
    found: dict[int, Entry] = {}
    missing: dict[str, str] = {}
    for entry in entries:
        row = lookup.find(entry)
        if isinstance(row, str):
            missing[entry.path] = row
            continue
        first = found.setdefault(row, entry)
        if first.label != entry.label:
            raise InputError(
                f"{where(entry)}: {printable(entry.path)} has label {entry.label}, but {first.label} in "
                f"{where(first)}: remove one of the lines"
            )
    if missing:
        path, reason = next(iter(missing.items()))
        count = f"{len(missing)} of {len(entries)} {subset} videos on the lists cannot be used"
        if not found:
            raise InputError(
                f"{count}: none is left; the first, {printable(path)} ({where(entries[0])}): {printable(reason)}: "
                "is this the folder that the list is about?"
            )
        roster.remarks.append(f"{count}; the first, {printable(path)}: {printable(reason)}")
        roster.missing |= missing
    return found


def compare_labels(given: Mapping[int, Entry], known: Mapping[int, int], roster: Roster) -> None:
    """Note labels of a given list that are not those of the data set: the list's are used.

    The HMDB-51 lists of VideoSSL have some: clips of sword as sword_exercise, of kick as kick_ball.

    Args:
        given: entries of the list by row.
        known: labels by row as the data set's own files have them.
        roster: takes the remark.

    Raises:
        InputError: most of them differ, as where labels count from 1 or classes have another order.
    """
    both = [row for row in given if known.get(row, UNKNOWN) != UNKNOWN and given[row].label != UNKNOWN]
    different = [row for row in both if given[row].label != known[row]]
    if not different:
        return
    entry = given[different[0]]
    names = [printable(roster.class_names[label]) for label in (entry.label, known[different[0]])]
    text = (
        f"{len(different)} of {len(both)} videos in {entry.file} have another class there than in the data set's own "
        f"files; the first, {printable(entry.path)} (line {entry.line}): {names[0]}, not {names[1]}"
    )
    if 2 * len(different) > len(both):
        raise InputError(f"{text}: labels have to count from 0, in the order of the data set's classes")
    roster.remarks.append(f"{text}; the list's are used")
