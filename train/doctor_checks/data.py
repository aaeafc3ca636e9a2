"""A folder of videos: is it there, whose rules does it follow, and is its index up to date?

Quick: names are listed, those in tars too, and sizes compared; no video is opened.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.datasets import DataOptions, find_annotations
from pipeline.errors import InputError
from pipeline.folders import roster_of_folders
from pipeline.index import FILE_NAME, VideoIndex
from pipeline.sources import find_sources
from train.doctor_checks.finding import Finding

_KINDS = {"ucf101": "UCF-101", "hmdb51": "HMDB-51", "kinetics": "Kinetics"}


class _Listed(NamedTuple):
    """What :func:`pipeline.folders.roster_of_folders` asks for, of files that nobody has scanned."""

    root: Path
    paths: list[str]
    refused: Mapping[str, str]


def look_at_data(root: Path) -> Finding:
    """The videos and their classes."""
    if not root.is_dir():
        return Finding("fail", f"{root} is not a folder", "give the folder that holds the videos, or mount it")
    try:
        kind, folder = find_annotations(root, DataOptions())
        sources = find_sources(root)
        refused = {path: refusal.reason for path, refusal in sources.refused.items()}
        paths = sorted(sources.videos.keys() - refused.keys())
        if kind != "folder" or not paths:
            return judge_data(root, len(paths), f"{_KINDS.get(kind, kind)}, annotations in {folder}")
        classes = roster_of_folders(_Listed(root, paths, refused)).class_names
    except InputError as error:
        return Finding("fail", str(error), "correct it, or give runs --data.train-list or --data.annotations")
    return judge_data(root, len(paths), f"{len(classes)} class folders")


def judge_data(root: Path, num_videos: int, layout: str) -> Finding:
    """Judge a folder by its number of files with a video's suffix, and how their classes are known."""
    if not num_videos:
        return Finding("fail", f"{root}: no videos; {layout}", "files are recognised by suffix: see README")
    return Finding("ok", f"{root}: {num_videos:,} videos; {layout}")


class IndexState(NamedTuple):
    """What is known of a folder's index.

    Attributes:
        num_videos: usable ones.
        refused: reasons by path for the others.
        changes: "new", "gone" or "changed" by path, for the files that differ by now.
    """

    num_videos: int
    refused: Mapping[str, str]
    changes: Mapping[str, str]


def look_at_index(root: Path) -> Finding:
    """The index that a folder holds."""
    path = root / FILE_NAME
    if not root.is_dir():
        return Finding("warn", "no folder, no index")
    if not path.exists():
        return judge_index(path, None)
    try:
        index = VideoIndex.load(path)
    except InputError as error:
        return Finding("warn", f"runs will not use it: {error}", _make(path))
    return judge_index(path, IndexState(len(index), index.refused, index.changed()))


def judge_index(path: Path, state: IndexState | None) -> Finding:
    """Judge an index; None where there is none."""
    if state is None:
        return Finding("warn", f"no {path}: the first run scans all videos", f"or ahead of it: {_make(path)}")
    text = f"{state.num_videos:,} videos"
    if state.changes:
        counts = Counter(state.changes.values())
        differing = ", ".join(f"{count:,} {change}" for change, count in sorted(counts.items()))
        return Finding("warn", f"{text}, out of date: {differing}, {next(iter(state.changes))} first", _make(path))
    if state.refused:
        name, reason = next(iter(state.refused.items()))
        found = f"{text}, up to date; {len(state.refused):,} files refused, the first, {name}: {reason}"
        return Finding("warn", found, "they are left out: replace or remove them")
    return Finding("ok", f"{text}, up to date")


def _make(path: Path) -> str:
    return f"python -m pipeline.index {path.parent}"
