"""From the paths in a list to rows of an index: lists are older than the copies of the data they describe.

A copy may lie a folder deeper, have other suffixes after conversion, or spell a folder in another way.  Promises: the
most literal reading that finds a usable video wins; two videos that fit equally well are an error that names both;
what is not found comes back with the reason; a path that leads out of the root is refused.  Nothing is guessed from a
similar name.
"""

import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import InputError
from pipeline.files import VIDEO_SUFFIXES, stays_inside
from pipeline.lists import Entry, where
from pipeline.text import printable

Key = Callable[[str], str | None]


class Videos(Protocol):
    """What of a :class:`pipeline.index.VideoIndex` is needed to tell who is who."""

    @property
    def root(self) -> Path:
        """The folder that was indexed."""

    @property
    def paths(self) -> Sequence[str]:
        """Usable videos: posix paths relative to the root; the row number is the video's id."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Unusable videos: relative path -> reason."""


_CLIP_TIMES = re.compile(r"_[0-9]{6}_[0-9]{6}$")


def strip_suffix(path: str) -> str:
    """The path without its suffix, if that is one of a video."""
    stem, dot, suffix = path.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in VIDEO_SUFFIXES else path


class Lookup:
    """Finds listed videos in an index.

    The ways to read a listed path, in this order: as it is; with ``\\`` turned, and ``./`` and the root removed;
    without the suffix; without the suffix, one folder below the root.

    Args:
        index: the videos.
        fold: makes equal what means the same in two spellings.
        by_name: for data sets in which a file's name alone tells the video, as Kinetics: find it in any folder, with
            or without the times in its name.  Of several, the one whose folders agree most with the listed ones.
    """

    def __init__(self, index: Videos, *, fold: Callable[[str], str] = str, by_name: bool = False) -> None:
        self._root = index.root
        self._refused = index.refused
        self._fold = fold
        self._by_name = by_name
        self._sets: tuple[Sequence[str], ...] = (index.paths, list(index.refused))
        self._tables: tuple[dict[Key, dict[str, list[int]]], ...] = ({}, {})
        # How a video is called in the index, and what of a listed path has to equal that.
        self._ways: list[tuple[Key, Callable[[str], str]]]
        if by_name:
            self._ways = [(_name, _name), (_name, _video_id)]
        else:
            self._ways = [(_literal, _literal), (self._stem, self._stem), (self._stem_below, self._stem)]

    def find(self, entry: Entry) -> int | str:
        """The row of a listed video, or why there is none.

        Raises:
            InputError: two videos fit, or the listed path leads out of the root.
        """
        row = self._find(0, entry)
        if row is not None:
            return row
        refused = self._find(1, entry)
        if refused is None:
            return (
                f"nowhere below {self._root}" if self._by_name else f"neither in {self._root} nor one folder below it"
            )
        path = self._sets[1][refused]
        return f"{path}: {self._refused[path]}"

    def _find(self, which: int, entry: Entry) -> int | None:
        """Place of a listed video among the usable (0) or the refused ones (1)."""
        paths = self._sets[which]
        if not self._by_name and (exact := self._table(which, _literal).get(entry.path)):
            return exact[0]
        listed = self._tidy(entry)
        for key_of, key_of_listed in self._ways:
            candidates = self._table(which, key_of).get(key_of_listed(listed), [])
            if candidates:
                return candidates[0] if len(candidates) == 1 else self._choose(paths, candidates, entry)
        return None

    def _table(self, which: int, key_of: Key) -> dict[str, list[int]]:
        """Places by key; made when first asked for, as most copies are found in the first way."""
        table = self._tables[which].get(key_of)
        if table is None:
            table = self._tables[which][key_of] = {}
            for place, path in enumerate(self._sets[which]):
                key = key_of(path)
                if key is not None:
                    table.setdefault(key, []).append(place)
        return table

    def _choose(self, paths: Sequence[str], candidates: list[int], entry: Entry) -> int:
        listed = self._tidy(entry)
        folders = _folders(listed) if self._by_name else set()
        suffix = posixpath.splitext(listed)[1].lower()

        def agreement(place: int) -> tuple[int, bool]:
            path = paths[place]
            return len(folders & _folders(path)), posixpath.splitext(path)[1].lower() == suffix

        candidates = sorted(candidates, key=agreement, reverse=True)
        if len(candidates) > 1 and agreement(candidates[0]) == agreement(candidates[1]):
            first, second = sorted(printable(paths[place]) for place in candidates[:2])
            raise InputError(
                f"{where(entry)}: {printable(entry.path)} may be {first} or {second} below {self._root}: "
                "remove one of them, or list it with folder and suffix"
            )
        return candidates[0]

    def _tidy(self, entry: Entry) -> str:
        path = posixpath.normpath(entry.path.replace("\\", "/").removeprefix(f"{self._root}/"))
        if not stays_inside(path):
            raise InputError(
                f"{where(entry)}: {printable(entry.path)} is not below {self._root}: list it by its path from there, "
                "or give the folder that holds all listed videos"
            )
        return path

    def _stem(self, path: str) -> str:
        return unicodedata.normalize("NFC", self._fold(strip_suffix(path)))  # macOS takes names apart, ü to u and ¨

    def _stem_below(self, path: str) -> str | None:
        below = path.partition("/")[2]
        return self._stem(below) if below else None


def _literal(path: str) -> str:
    return path


def _name(path: str) -> str:
    return strip_suffix(path.rpartition("/")[2])


def _video_id(path: str) -> str:
    """A Kinetics clip's name without its times: some copies leave them out."""
    return _CLIP_TIMES.sub("", _name(path))


def _folders(path: str) -> set[str]:
    """Names of the folders above a file, however spaces are written."""
    return {folder.replace("_", " ").casefold() for folder in path.split("/")[:-1]}
