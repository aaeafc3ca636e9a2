"""What videos a tar holds, and where in it: nothing is unpacked, they are read where they lie.

Videos are found by suffix.  One of the name ``key.mp4`` is of the class that ``key.cls``, or ``label`` or ``cls`` in
``key.json``, say beside it, as WebDataset writes them: it is called as if it lay in a folder of that name.

Promises: every video is listed, or refused by name; damage is told, and costs only what lies behind it.  Left to
others: what is in the videos (:mod:`pipeline.scanning`), and which tars there are (:mod:`pipeline.sources`).
"""

import json
import os
import posixpath
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.files import VIDEO_SUFFIXES, stays_inside
from pipeline.folders import UNLABELED
from pipeline.lists import UNKNOWN

_LABEL_SUFFIXES = (".cls", ".json")
_JSON_KEYS = ("label", "cls")
_MAX_LABEL_BYTES = 1 << 20  # of a .cls or .json
_CLASS_NAME = re.compile(r"[^./\0\r\n][^/\0\r\n]{0,80}")  # what a folder may be called, on any file system
_UNPACKERS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
_MAX_PADDING = 1 << 20  # zeros behind the end of a tar, which is filled up to whole records

Members = Mapping[str, list[tarfile.TarInfo]]


class Listing(NamedTuple):
    r"""What a tar holds.

    Attributes:
        videos: where each video begins and how long it is, in bytes, by its path in the tar.
        refused: why other videos cannot be used, by path; one whose path leads out of the tar's folder is called
            ``000.tar:..\a.mp4``, which is no path.
        damage: what is wrong with the tar itself; "" where nothing is.
    """

    videos: dict[str, tuple[int, int]]
    refused: dict[str, str]
    damage: str


class _Unusable(Exception):
    """A video cannot be used; says why."""


def list_tar(file: Path) -> Listing:
    """List the videos of a tar.

    Raises:
        OSError: it cannot be read.
    """
    videos: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        members, damage = _read_members(stream, size)
        for name, found in members.items():
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() not in VIDEO_SUFFIXES:
                continue
            path = _tidy(name)
            try:
                place = _place(found, size)
                path = posixpath.join(_class_of(stream, size, stem, members), path)
            except _Unusable as error:
                refused[path if stays_inside(name) else _nowhere(file, name)] = str(error)
                continue
            if path in videos:
                refused[path] = f"twice in {file.name}: rename one"
            videos[path] = place
    return Listing({path: place for path, place in videos.items() if path not in refused}, refused, damage)


def compressed(unpacker: str) -> str:
    """Why a compressed tar is refused, given the program that undoes it."""
    return f"compressed, so nothing in it can be read by itself: run {unpacker} on it, it will hardly be larger"


def _read_members(stream: IO[bytes], size: int) -> tuple[Members, str]:
    """The videos and labels of a tar by name, in their order, and what is wrong with it."""
    members: dict[str, list[tarfile.TarInfo]] = {}
    end, last = 0, ""
    try:
        with tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape") as tar:
            while member := tar.next():
                end, last = tar.offset, member.name
                if end < member.offset_data:  # a size below 0 would lead round in circles
                    return members, f"damaged: {last} has no size"
                if not member.isdir() and _is_wanted(last):
                    members.setdefault(last, []).append(member)
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:  # whatever garbage makes of a header
        if end <= size:
            return members, _damage_at(stream, end) or f"damaged behind {last or 'its start'}: {error}"
    if end > size:
        return members, f"cut off in the midst of {last}: copy it again"
    return members, _damage_at(stream, end)


def _damage_at(stream: IO[bytes], end: int) -> str:
    """What is wrong where a tar ends; two blocks of zeros are to be there."""
    stream.seek(end)
    rest = stream.read(_MAX_PADDING)
    if not rest.strip(b"\0"):
        return "" if len(rest) >= 2 * tarfile.BLOCKSIZE else f"cut off at byte {end}, it has no end: copy it again"
    if not end:
        unpackers = [program for magic, program in _UNPACKERS.items() if rest.startswith(magic)]
        return compressed(unpackers[0]) if unpackers else "not a tar, or damaged from its start"
    if not rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        return f"something follows its end at byte {end}, which is not looked at: tars are not joined by cat"
    return f"damaged at byte {end}: what follows is not found"


def _is_wanted(name: str) -> bool:
    """Whether it is called like a video or a label, and is not hidden."""
    suffix = posixpath.splitext(name)[1].lower()
    is_hidden = any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
    return (suffix in VIDEO_SUFFIXES or suffix in _LABEL_SUFFIXES) and not is_hidden


def _nowhere(file: Path, name: str) -> str:
    return f"{file.name}:{name}".replace("/", "\\")


def _tidy(name: str) -> str:
    """Tars made of a folder's "." have "./" before each name."""
    return posixpath.normpath(name)


def _place(found: list[tarfile.TarInfo], size: int) -> tuple[int, int]:
    """Where the one member of a name lies, in a tar of that size; raises _Unusable."""
    member = found[0]
    if not stays_inside(member.name):
        raise _Unusable("its path leads out of the folder of the tar: pack it anew")
    if len(found) > 1:
        raise _Unusable(f"{len(found)} times in the tar: pack it anew with the one that is meant")
    if member.issym() or member.islnk():
        raise _Unusable(f"a link to {member.linkname}: pack the file itself")
    if not member.isreg() or member.issparse():
        raise _Unusable(f"a {'sparse' if member.issparse() else 'special'} file: pack it as a plain one")
    if member.offset_data + member.size > size:
        raise _Unusable("cut off, the tar ends in the midst of it: copy the tar again")
    return member.offset_data, member.size


def _class_of(stream: IO[bytes], size: int, stem: str, members: Members) -> str:
    """The class that the files beside a video name, "" where none does; raises _Unusable."""
    for suffix in _LABEL_SUFFIXES:
        found = members.get(stem + suffix)
        if found is None:
            continue
        try:
            start, length = _place(found, size)
            if length > _MAX_LABEL_BYTES:
                raise _Unusable(f"larger than {_MAX_LABEL_BYTES} bytes")
            stream.seek(start)
            label = _label_in(stream.read(length).decode(), is_json=suffix == ".json")
            if label is not None:
                return _class_name(label)
        except (_Unusable, ValueError, RecursionError) as error:
            raise _Unusable(f"its {suffix} tells no class: {error}") from error
    return ""


def _label_in(text: str, *, is_json: bool) -> Any:
    """The label that a file gives, None where a JSON file is about other things."""
    if not is_json:
        return text
    content = json.loads(text)
    labels = [content.get(key) for key in _JSON_KEYS] if isinstance(content, dict) else []
    return next((label for label in labels if label is not None), None)


def _class_name(label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise _Unusable(f"{str(label)[:80]!r} is neither a name nor a whole number")
    name = str(label).strip()
    if not _CLASS_NAME.fullmatch(name):
        raise _Unusable(f"{name[:80]!r} cannot be the name of a class")
    name.encode()  # lone surrogates, which JSON can spell, are no text
    return UNLABELED if name == str(UNKNOWN) else name
