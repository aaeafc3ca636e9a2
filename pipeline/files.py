"""Which files of a folder are meant, found by suffix, always in the same order; and files written whole.

What is in a folder may be a symbolic link to somewhere else, and is taken for what it links to: whoever may put files
into a folder says what is in it.  Texts that name files of a folder may not: they name what is below it, or nothing
(:func:`stays_inside`).
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import InputError

VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".divx", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)

_LOST_AND_FOUND = "lost+found"
"""Of a disk's root; only the system's administrator may list it."""


def find_videos(root: Path) -> list[str]:
    """:func:`find_files` of all suffixes that videos have."""
    return find_files(root, VIDEO_SUFFIXES)


def find_files(root: Path, suffixes: Collection[str]) -> list[str]:
    """Paths of all files below a folder that have one of some suffixes, relative, with "/", sorted.

    Hidden files and folders, and lost+found, are passed over; linked folders are followed, each once.

    Args:
        root: the folder.
        suffixes: in lower case, as ".mp4"; files may have them in any case.

    Raises:
        InputError: there is no such folder, or one in it cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds the videos")
    seen: set[tuple[int, int]] = set()
    found = []
    for folder, subfolders, files in os.walk(root, onerror=_refuse, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != _LOST_AND_FOUND)
        relative = os.path.relpath(folder, root)
        for name in files:
            is_wanted = not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
            if is_wanted and os.path.isfile(os.path.join(folder, name)):  # no dangling links, no pipes
                found.append(Path(relative, name).as_posix())
    return sorted(found)


def _refuse(error: OSError) -> None:
    """A folder left out silently would be a class left out; one removed meanwhile holds nothing."""
    if isinstance(error, FileNotFoundError):
        return
    remedy = "make it readable, or move it away"
    raise InputError(f"{error.filename} cannot be listed: {error.strerror}: {remedy}") from error


def stays_inside(path: str) -> bool:
    """Whether a path, relative to a folder and with "/", names something below it, symbolic links aside."""
    return not (path.startswith("/") or "\0" in path or (".." in path and ".." in path.split("/")))


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file as :func:`open_whole` does."""
    with open_whole(path) as file:
        file.write(content)


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing so that its path holds the old content or the new one, whole, whatever happens meanwhile.

    The new one appears when the block ends without an error, and then outlasts a crash of the machine too.

    Raises:
        OSError: it cannot be written, say for a full disk; names the file.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # or a crash of the machine could leave the new name on an empty file
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the system's errors name a file: a write that fails tells why, but not where."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Keep a new name through a crash of the machine."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; there is nothing else to ask of them
            os.fsync(fd)
    finally:
        os.close(fd)
