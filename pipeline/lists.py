"""List files: text that people and tools write about videos, to paths and labels and back.

Promises: a file is read whole and right, or refused with :class:`~pipeline.errors.InputError` naming file and line,
whatever bytes are in it; what :func:`write_list` writes, :func:`read_list` reads back.  Byte order marks, UTF-16, line
ends of any system and file names that are no UTF-8 are understood.  Left to others: the files of the known data sets
(:mod:`pipeline.official`), finding the videos (:mod:`pipeline.lookup`).
"""

import codecs
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.files import write_whole
from pipeline.text import printable

UNKNOWN = -1  # the label of a video whose class is not known
_MAX_CLASSES = 100_000  # a label above is a mistake, not a class
_LINE_END = re.compile(r"\r\n|\n|\r")
# Spaces, tabs or a comma part path and numbers; only ASCII digits count, as int() takes those of every script.
_ENTRY = re.compile(r"(.*[^\s,])[\s,]+(-?[0-9]{1,9})", re.DOTALL)
_NUMBERED = re.compile(r"([0-9]{1,9})[\s,]+(.*\S)", re.DOTALL)


class Entry(NamedTuple):
    """A video that a list names.

    Attributes:
        path: as it is listed.
        label: its class, counted from 0; :data:`UNKNOWN` where the list does not say.
        file: the list.
        line: where in it, counted from 1.
    """

    path: str
    label: int
    file: Path
    line: int


def where(entry: Entry) -> str:
    """The place of an entry, for messages."""
    return f"{entry.file}, line {entry.line}"


def read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, with their numbers from 1.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): give a text file that is there") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")  # as os.fsdecode names files
    return [(number, line.strip()) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]


def read_list(file: Path) -> list[Entry]:
    """Read lines of ``path label`` or ``path frames label``; the number of frames is not used.

    A file is of the second kind if every line ends in two numbers.  Paths may hold spaces.  Lines whose ``#`` is
    followed by a space, or which have no label and begin with ``#``, are comments.

    Raises:
        InputError: it cannot be read, a line has no label, or it lists nothing; names file and line.
    """
    entries = []
    for number, line in read_lines(file):
        if line == "#" or line.startswith(("# ", "#\t")):
            continue
        match = _ENTRY.fullmatch(line)
        if match is None:
            if line.startswith("#"):
                continue
            raise InputError(
                f"{file}, line {number}: no label at the end of {_shorten(line)}: a line is `path label` or "
                "`path frames label`, labels are numbers from 0"
            )
        label = int(match[2])
        if not UNKNOWN <= label < _MAX_CLASSES:
            raise InputError(
                f"{file}, line {number}: {label} is no label: count classes from 0, or write -1 where it is unknown"
            )
        entries.append(Entry(match[1], label, file, number))
    if not entries:
        raise InputError(f"{file} lists no videos: write a line `path label` for each")
    without_frames = [match[1] for entry in entries if (match := _ENTRY.fullmatch(entry.path))]
    if len(without_frames) == len(entries):
        return [entry._replace(path=path) for entry, path in zip(entries, without_frames, strict=True)]
    return entries


def _shorten(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:77] + "...")


def check_listable(path: str) -> None:
    """Refuse a path that a line of a list cannot hold.

    Raises:
        InputError: it has a line break in it.
    """
    if _LINE_END.search(path):
        raise InputError(f"{path!r} cannot be listed: rename the file so that its name has no line break")


def write_list(file: Path, videos: Iterable[tuple[str, int]]) -> None:
    """Write videos as lines of ``path label``.

    Args:
        file: overwritten.
        videos: paths with the suffix of a video, and labels.

    Raises:
        InputError: a path has a line break in it.
    """
    lines = []
    for path, label in videos:
        check_listable(path)
        # "./" keeps what reading would take for a comment or strip.
        lines.append(f"{'./' if path[0] == '#' or path[0].isspace() else ''}{path} {label}\n")
    write_whole(file, os.fsencode("".join(lines)))


def read_class_names(file: Path) -> tuple[str, ...]:
    """Read one class name a line, numbered or in the order of the labels.

    Numbers, as in UCF-101's classInd.txt, may count from 0 or from 1 and come in any order.

    Raises:
        InputError: it cannot be read, is empty, or a name comes twice.
    """
    lines = read_lines(file)
    if not lines:
        raise InputError(f"{file} holds no class names: write one a line, in the order of the labels")
    names = [line for _, line in lines]
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    by_number = {int(match[1]): match[2] for match in numbered if match is not None}
    if len(by_number) == len(names) and sorted(by_number) in (
        list(range(len(names))),
        list(range(1, len(names) + 1)),
    ):
        names = [by_number[number] for number in sorted(by_number)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{file} names class {printable(name)!r} twice: remove one")
        seen.add(name)
    return tuple(names)
