"""From one folder of videos to another: what `prepare` and `pack` do alike.

Both take a folder whose videos are files of their own, leave it as it is, and write into another one, which they know
again by a hidden mark in it.  Lists and annotations go over as they are.
"""

import shutil
from pathlib import Path

from pipeline.errors import InputError
from pipeline.files import find_files
from pipeline.sources import find_tars

REPORT = "prepare_report"
"""Name of what `prepare` tells about a folder, as JSON and as text: no annotations."""

_LIST_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json"})


def check_folders(src: Path, dst: Path, mark: str) -> None:
    """Refuse folders that make no sense.

    Args:
        src: where the videos are.
        dst: where the results go: empty, or of an earlier run.
        mark: what an earlier run has left in ``dst``.

    Raises:
        InputError: names what, and the remedy.
    """
    inner, outer = src.resolve(), dst.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise InputError(f"{src} and {dst} lie in each other: choose a folder for the results outside of the videos'")
    if dst.exists() and not dst.is_dir():
        raise InputError(f"{dst} is a file: choose a folder for the results")
    if dst.is_dir() and any(dst.iterdir()) and not (dst / mark).exists():
        raise InputError(f"{dst} holds other files: choose an empty folder, or one of an earlier run")
    tars = find_tars(src)
    if tars:
        raise InputError(f"{src / tars[0]} is a tar, and only files are taken: unpack it, or move it elsewhere")


def copy_lists(src: Path, dst: Path, temporary: Path) -> None:
    """Copy the files that may be lists or annotations, each whole or not at all, unless they are there already.

    Args:
        src: the folder they are in, or in folders below.
        dst: where they go, under the same paths.
        temporary: a path on the disk of ``dst`` that is free to be used.
    """
    for path in find_files(src, _LIST_SUFFIXES):
        source, copy = src / path, dst / path
        if path in (f"{REPORT}.json", f"{REPORT}.txt") or (copy.exists() and _same_stat(source, copy)):
            continue
        shutil.copy2(source, temporary)
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(copy)


def _same_stat(a: Path, b: Path) -> bool:
    first, second = a.stat(), b.stat()
    return (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)
