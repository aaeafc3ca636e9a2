"""The annotation files of UCF-101, HMDB-51 and Kinetics, as they are published, to entries of training and validation.

Promises: labels count from 0 as the field counts them; what the files contradict is refused by file and line.  Left to
others: which videos are really there (:mod:`pipeline.lookup`), other lists (:mod:`pipeline.lists`).
"""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.lists import Entry, read_class_names, read_lines

_NUMBER_AT_END = re.compile(r"(.*\S)\s+([0-9]{1,9})", re.DOTALL)
_HMDB_FILE = re.compile(r"(.+)_test_split([0-9])\.txt", re.DOTALL)
_KINETICS_COLUMNS = ("label", "youtube_id")
_SUBSETS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


class Annotations(NamedTuple):
    """What a data set's files say.

    Attributes:
        class_names: by label.
        train: the training list.
        val: the validation list; called test list in UCF-101 and HMDB-51.
    """

    class_names: tuple[str, ...]
    train: list[Entry]
    val: list[Entry]


def fold_ucf101(path: str) -> str:
    """One spelling for the class that UCF-101 spells in two ways: folder HandstandPushups, files v_HandStandPushups."""
    return path.replace("HandStand", "Handstand")


def has_ucf101(folder: Path) -> bool:
    """Whether the files of UCF-101's splits lie in a folder."""
    return (folder / "classInd.txt").is_file() and any(folder.glob("trainlist[0-9][0-9].txt"))


def has_hmdb51(folder: Path) -> bool:
    """Whether the files of HMDB-51's splits lie in a folder."""
    return any(folder.glob("*_test_split[0-9].txt"))


def has_kinetics(folder: Path) -> bool:
    """Whether CSV files of Kinetics lie in a folder."""
    return bool(_kinetics_files(folder))


def read_ucf101(folder: Path, split: int) -> Annotations:
    """Read classInd.txt, trainlistNN.txt and testlistNN.txt.

    Lines are ``Class/v_Class_gGG_cCC.avi``, in the training list with the number of the class, from 1.  The folder
    tells the class; a number that contradicts it is refused.

    Raises:
        InputError: a file is missing or wrong; names file and line.
    """
    class_file = folder / "classInd.txt"
    class_names = read_class_names(class_file)
    by_name = {fold_ucf101(name): label for label, name in enumerate(class_names)}
    lists = []
    for name in ("train", "test"):
        file = folder / f"{name}list{split:02}.txt"
        entries = []
        for number, line in read_lines(file):
            match = _NUMBER_AT_END.fullmatch(line)
            path = match[1] if match else line
            class_name = path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]
            label = by_name.get(fold_ucf101(class_name))
            if label is None:
                raise InputError(f"{file}, line {number}: {class_name!r} is no class of {class_file}: correct either")
            if match and int(match[2]) != label + 1:
                raise InputError(
                    f"{file}, line {number}: class {match[2]}, but {class_name} is {label + 1} in {class_file}: "
                    "correct either"
                )
            entries.append(Entry(path, label, file, number))
        lists.append(_filled(file, entries))
    return Annotations(class_names, *lists)


def read_hmdb51(folder: Path, split: int, *, unused: bool) -> Annotations:
    """Read the files ``CLASS_test_splitN.txt``, whose lines are ``name.avi 1`` (train), ``2`` (test) or ``0`` (unused).

    Labels are the places of the classes in alphabetical order.  The official training list of a split has 3570
    videos; that of VideoSSL, and so of the paper, has the unused ones too: 5236.

    Args:
        folder: where the files lie.
        split: 1 to 3.
        unused: train on the unused videos too.

    Raises:
        InputError: there are no files of this split, or one is wrong; names file and line.
    """
    matches = [match for file in sorted(folder.iterdir()) if (match := _HMDB_FILE.fullmatch(file.name))]
    files = {match[1]: folder / match[0] for match in matches if int(match[2]) == split}
    if not files:
        known = ", ".join(sorted({match[2] for match in matches}))
        raise InputError(f"{folder} has no files of split {split}: choose another one of {known}, or add the files")
    train, val = [], []
    for label, class_name in enumerate(sorted(files)):
        file = files[class_name]
        entries: dict[int, list[Entry]] = {0: [], 1: [], 2: []}
        for number, line in read_lines(file):
            match = _NUMBER_AT_END.fullmatch(line)
            if match is None or int(match[2]) not in entries:
                raise InputError(
                    f"{file}, line {number}: a line is `name.avi` with 1 for training, 2 for test, 0 for neither"
                )
            entries[int(match[2])].append(Entry(f"{class_name}/{match[1]}", label, file, number))
        train += entries[1] + (entries[0] if unused else [])
        val += entries[2]
    first = next(iter(files.values()))
    return Annotations(tuple(sorted(files)), _filled(first, train), _filled(first, val))


def read_kinetics(folder: Path) -> Annotations:
    """Read CSV files with the columns label, youtube_id, time_start, time_end and split.

    A video is the file ``{youtube_id}_{time_start:06d}_{time_end:06d}``; its entry's path has the subset and the class
    in front.  Rows of the test set are passed over, most often they have no labels.  Labels are the places of the class
    names in alphabetical order.

    Raises:
        InputError: a row cannot be understood, or there are no rows of training or of validation.
    """
    rows: dict[str, dict[str, Entry]] = {"train": {}, "val": {}}
    names: dict[str, str] = {}
    files = _kinetics_files(folder)
    for file in files:
        for number, row in _csv_rows(file):
            subset = _kinetics_subset(row, file, number)
            if subset == "test":
                continue
            class_name = (row.get("label") or "").strip()
            if not class_name:
                raise InputError(f"{file}, line {number}: no label in a row of {subset}: add it or remove the row")
            path = f"{subset}/{class_name.replace('/', '_')}/{_kinetics_name(row, file, number)}"
            names[path] = class_name
            rows[subset].setdefault(path, Entry(path, 0, file, number))  # two files may hold the same rows
    class_names = tuple(sorted(set(names.values())))
    by_name = {name: label for label, name in enumerate(class_names)}
    train, val = (
        [entry._replace(label=by_name[names[path]]) for path, entry in rows[subset].items()] for subset in rows
    )
    for subset, entries in (("train", train), ("val", val)):
        if not entries:
            raise InputError(
                f"{', '.join(str(file) for file in files)}: no row of the subset {subset}: add its CSV file to {folder}"
            )
    return Annotations(class_names, train, val)


def _filled(file: Path, entries: list[Entry]) -> list[Entry]:
    if not entries:
        raise InputError(f"{file} lists no videos: replace it by the published file")
    return entries


def _kinetics_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.csv")) if set(_KINETICS_COLUMNS) <= set(_csv_header(file))]


def _csv_header(file: Path) -> list[str]:
    """The names of a CSV file's columns; none where it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            return [name.strip() for name in next(csv.reader([lines.readline(10_000)]), [])]
    except (OSError, csv.Error):
        return []


def _csv_rows(file: Path) -> Iterable[tuple[int, dict[str, str]]]:
    header = _csv_header(file)
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(lines)
            next(reader, None)
            for row in reader:
                if any(row):
                    yield reader.line_num, dict(zip(header, row, strict=False))
    except (OSError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as CSV ({error}): replace it by the published file") from error


def _kinetics_subset(row: dict[str, str], file: Path, number: int) -> str:
    """The column ``split``, or what the file's name says where there is none."""
    subset = (row.get("split") or "").strip().lower()
    if not subset:
        subset = next((word for word in re.split(r"[^a-z]+", file.stem.lower()) if word in _SUBSETS), "")
    if subset not in _SUBSETS:
        raise InputError(f"{file}, line {number}: split {subset!r} is none of {', '.join(_SUBSETS)}: correct it")
    return _SUBSETS[subset]


def _kinetics_name(row: dict[str, str], file: Path, number: int) -> str:
    youtube_id = row["youtube_id"].strip() if "youtube_id" in row else ""
    times = [(row.get(column) or "").strip() for column in ("time_start", "time_end")]
    try:
        if not youtube_id or "/" in youtube_id:
            raise ValueError
        return youtube_id if not any(times) else f"{youtube_id}_{_seconds(times[0]):06}_{_seconds(times[1]):06}"
    except (ValueError, OverflowError):
        raise InputError(
            f"{file}, line {number}: {youtube_id!r} from {times[0]!r} to {times[1]!r} is no video: a row needs a "
            "youtube_id, and time_start and time_end in seconds"
        ) from None


def _seconds(text: str) -> int:
    seconds = int(float(text))
    if not 0 <= seconds < 10**6:
        raise ValueError
    return seconds
