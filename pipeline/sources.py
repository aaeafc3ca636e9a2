"""Where the videos of a folder lie: in files of their own, or in tars below it.

A video in a tar is called as if the tar were unpacked where it lies: of ``train/000.tar`` the member ``jump/a.mp4`` is
``train/jump/a.mp4``.  So lists, class folders and what hangs on names are the same for a folder and its shards.

Promises: a name is of one video only.  Left to others: which files are meant (:mod:`pipeline.files`), and what is in a
tar (:mod:`pipeline.tars`).
"""

import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.files import VIDEO_SUFFIXES, find_files
from pipeline.tars import compressed, list_tar

TAR_SUFFIX = ".tar"
_COMPRESSED = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd", ".lz4": "unlz4"}
_COMPRESSED |= {".tgz": "gunzip", ".tbz2": "bunzip2", ".txz": "unxz", ".tzst": "unzstd"}
_NUM_LISTED_AT_ONCE = 16  # listing waits for the disk, or for a network, at every member


class Source(NamedTuple):
    """Where a video lies, and what tells whether it is still the same.

    Attributes:
        size: bytes of the video.
        mtime_ns: modification time of its file, or of the tar that holds it.
        tar: path of that tar, relative to where the video's own is relative to; "" for a file of its own.
        tar_size: bytes of the tar.
        start: where in the tar the video begins, in bytes.
    """

    size: int
    mtime_ns: int
    tar: str = ""
    tar_size: int = 0
    start: int = 0


class Refusal(NamedTuple):
    """Why a video, or a tar, cannot be used, and where it lay when that was found."""

    reason: str
    source: Source

    @classmethod
    def passing(cls, reason: str, source: Source) -> "Refusal":
        """One that does not stand: what the system refuses to read may be readable the next time."""
        return cls(reason, source._replace(mtime_ns=-1))


@dataclass
class Sources:
    """The videos below a folder.

    Attributes:
        videos: where they lie, by path relative to the folder; those that are refused, and refused tars, too.
        refused: what is known to be of no use before it is scanned.
        tars: size in bytes and modification time in ns of the tars that have been listed.
    """

    videos: dict[str, Source] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    tars: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, path: str, source: Source, refusal: Refusal | None = None) -> None:
        """Add a video, which may be refused already.

        Raises:
            InputError: there is another one of that path.
        """
        other = self.videos.setdefault(path, source)
        if other is not source:
            places = " and ".join(sorted(one.tar or "a file of its own" for one in (other, source)))
            raise InputError(f"{path} is in {places}: remove one of them, say a tar that has been unpacked")
        if refusal:
            self.refused[path] = refusal


def stat_source(path: int | str | os.PathLike[str]) -> Source:
    """A file of its own.

    Raises:
        OSError: there is none.
    """
    stat = os.stat(path)
    return Source(stat.st_size, stat.st_mtime_ns)


def find_tars(root: Path) -> list[str]:
    """Paths of all tars below a folder that are not compressed, relative to it, sorted."""
    return find_files(root, {TAR_SUFFIX})


def find_sources(root: Path, known: Sources | None = None) -> Sources:
    """Find all videos below a folder.

    Args:
        root: the folder.
        known: what was found there earlier: tars that are as they were are not listed again.

    Raises:
        InputError: there is no such folder, one in it cannot be listed, or two videos have one path.
    """
    known = known or Sources()
    found = Sources()
    to_list: list[tuple[str, Source]] = []
    for path in find_files(root, VIDEO_SUFFIXES | {TAR_SUFFIX} | _COMPRESSED.keys()):
        try:
            source = stat_source(root / path)
        except OSError:
            continue  # removed since the folder was read
        stem, suffix = posixpath.splitext(path.lower())
        if suffix in VIDEO_SUFFIXES:
            found.add(path, source)
        elif suffix != TAR_SUFFIX:
            if suffix.startswith(".t") or stem.endswith(TAR_SUFFIX):
                found.add(path, source, Refusal(compressed(_COMPRESSED[suffix]), source))
        elif known.tars.get(path) == (source.size, source.mtime_ns):
            found.tars[path] = known.tars[path]
        else:
            to_list.append((path, source))
    for path, source in known.videos.items() if found.tars else ():
        if source.tar in found.tars:
            found.add(path, source._replace(mtime_ns=found.tars[source.tar][1]))  # which passing refusals hide
    with ThreadPoolExecutor(_NUM_LISTED_AT_ONCE) as pool:
        for listed in pool.map(lambda tar: sources_in(root, *tar), to_list):
            for path, source in listed.videos.items():
                found.add(path, source, listed.refused.get(path))
            found.tars |= listed.tars
    return found


def sources_in(root: Path, tar: str, stat: Source) -> Sources:
    """The videos in one tar.

    Args:
        root: the folder.
        tar: path of the tar relative to it.
        stat: the tar's size and modification time.
    """
    whole = Source(0, stat.mtime_ns, tar, stat.size)
    found = Sources()
    try:
        listing = list_tar(root / tar)
    except OSError as error:
        found.add(tar, whole, Refusal.passing(f"cannot be read: {error.strerror}", whole))
        return found
    found.tars[tar] = stat.size, stat.mtime_ns
    folder = posixpath.dirname(tar)
    for path, (start, size) in listing.videos.items():
        found.add(posixpath.join(folder, path), whole._replace(size=size, start=start))
    for path, reason in listing.refused.items():
        found.add(posixpath.join(folder, path), whole, Refusal(reason, whole))
    if listing.damage:
        found.add(tar, whole, Refusal(listing.damage, whole))
    return found
