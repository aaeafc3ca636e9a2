"""From an index of video files to who is who: classes, labelled, unlabelled and validation videos.

Layouts understood by :func:`split_folder`, ``unlabeled/`` being optional everywhere:

    root/<class>/...                    validation videos are drawn by seed
    root/train/<class>/...              the same, of the classes inside train/
    root/train/<class>/..., root/val/<class>/...
    root/unlabeled/..., root/train/unlabeled/...      videos of unknown class: for training without labels only

A class is a folder; folders inside it belong to it; hidden folders (``.name``) are passed over.  The promise: a draw
depends on the seed and the names of the class's videos alone.  It is the same for any order of the index, it does not
change with other classes, and fewer labels are a subset of more.  Reading videos is left to :mod:`pipeline.index`.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

UNLABELED = "unlabeled"


class Videos(Protocol):
    """What of a :class:`pipeline.index.VideoIndex` is needed here."""

    @property
    def root(self) -> Path:
        """The folder that was indexed."""

    @property
    def paths(self) -> Sequence[str]:
        """Usable videos: posix paths relative to the root; the row number is the video's id."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Unusable videos: relative path -> reason."""


@dataclass(frozen=True)
class DataSplit:
    """Which rows of the index serve for what.

    Attributes:
        class_names: names of the K classes, sorted.
        labels: (num_videos,) int64 class of every row, -1 where unknown.
        labeled: int64 rows whose label training may use.
        unlabeled: int64 rows of the whole training list, labelled videos included, as the reference trains.
        val: int64 rows that training never sees.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    labeled: NDArray[np.int64]
    unlabeled: NDArray[np.int64]
    val: NDArray[np.int64]


def split_folder(
    index: Videos,
    *,
    labels_per_class: int | None = None,
    labeled_fraction: float | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> DataSplit:
    """Split a folder of class folders into training, labelled and validation videos.

    Args:
        index: the indexed folder.
        labels_per_class: keep the labels of exactly this many training videos of each class.
        labeled_fraction: keep the labels of this share of the training videos of each class, at least one each.
            With neither, every label is kept.
        val_fraction: share of each class that validates, at least one video; not used where there is a val/ folder.
        seed: another seed draws others.

    Raises:
        InputError: the folder or a number does not allow this; the message names the class and the remedy.
    """
    _check_numbers(labels_per_class, labeled_fraction, val_fraction)
    train, val, unknown = _find_classes(index)
    if val is None:
        train, val = _draw_val(index, train, val_fraction, seed)
    labeled = _draw_labeled(index, train, labels_per_class, labeled_fraction, seed)
    class_names = tuple(sorted(train))
    labels = np.full(len(index.paths), -1, dtype=np.int64)
    for label, name in enumerate(class_names):
        labels[train[name] + val[name]] = label
    return DataSplit(
        class_names=class_names,
        labels=labels,
        labeled=_sorted_rows(labeled.values()),
        unlabeled=_sorted_rows([*train.values(), unknown]),
        val=_sorted_rows(val.values()),
    )


def _sorted_rows(groups: Iterable[list[int]]) -> NDArray[np.int64]:
    return np.array(sorted(row for group in groups for row in group), dtype=np.int64)


def _check_numbers(labels_per_class: int | None, labeled_fraction: float | None, val_fraction: float) -> None:
    if labels_per_class is not None and labeled_fraction is not None:
        raise InputError(
            f"labels_per_class={labels_per_class} and labeled_fraction={labeled_fraction} exclude each other: give one"
        )
    if labels_per_class is not None and labels_per_class < 1:
        raise InputError(f"labels_per_class is {labels_per_class}: use 1 or more, or leave it out to use every label")
    if labeled_fraction is not None and not 0 < labeled_fraction <= 1:
        raise InputError(f"labeled_fraction is {labeled_fraction}: use a share above 0, at most 1")
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction is {val_fraction}: use a share between 0 and 1, such as 0.2")


def _find_classes(index: Videos) -> tuple[dict[str, list[int]], dict[str, list[int]] | None, list[int]]:
    """Rows of each class in training and in val/ (None where there is no val/), and rows of unknown class."""
    root = index.root
    if not root.is_dir():
        raise InputError(f"{root} is no folder: give the folder that holds the class folders")
    folders = set(_subfolders(root))
    if "val" in folders and "train" not in folders:
        raise InputError(f"{root} has val/ but no train/: put the training classes into {root / 'train'}")
    # train/ among class folders, without val/, is a class: of trains, for instance.
    by_subset = "train" in folders and ("val" in folders or folders <= {"train", UNLABELED})
    if by_subset and (extra := folders - {"train", "val", UNLABELED}):
        raise InputError(f"{root} has {min(extra)}/ beside train/ and val/: move it elsewhere")

    top = _rows_by_folder(index, "")
    train = _rows_by_folder(index, "train/") if by_subset else top
    val = _rows_by_folder(index, "val/") if by_subset and "val" in folders else None
    unknown = [row for group in (top, train) for row in group.pop(UNLABELED, [])]
    _check_classes(index, "train/" if by_subset else "", train)
    if val is not None:
        if UNLABELED in val:
            raise InputError(f"{root / 'val' / UNLABELED}: validation needs classes: move it to {root / UNLABELED}")
        _check_classes(index, "val/", val)
        if val.keys() != train.keys():
            name = min(val.keys() ^ train.keys())
            here, there = ("val", "train") if name in val else ("train", "val")
            raise InputError(f"{root}: {name}/ is in {here}/ but not in {there}/: every class needs videos in both")
    return train, val, unknown


def _subfolders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _rows_by_folder(index: Videos, prefix: str) -> dict[str, list[int]]:
    """Rows below each folder of ``prefix``; folders without usable videos are left out."""
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(index.paths):
        if not path.startswith(prefix):
            continue
        folder, separator, _ = path[len(prefix) :].partition("/")
        if not separator:
            raise InputError(
                f"{index.root / path} lies in no class folder: move it into one, or into {prefix}{UNLABELED}/"
            )
        if not folder.startswith("."):
            rows.setdefault(folder, []).append(row)
    return rows


def _check_classes(index: Videos, prefix: str, rows: dict[str, list[int]]) -> None:
    """Refuse fewer than two classes, and class folders without usable videos, with the reason."""
    folders = [name for name in _subfolders(index.root / prefix) if name != UNLABELED]
    for name in folders:
        if name not in rows:
            folder = index.root / prefix / name
            refused = sorted(path for path in index.refused if path.startswith(f"{prefix}{name}/"))
            if not refused:
                raise InputError(f"class {name!r} has no video: put some into {folder} or remove the folder")
            raise InputError(
                f"class {name!r} has no usable video, {len(refused)} refused: replace them or remove {folder}; "
                f"the first, {refused[0]}: {index.refused[refused[0]]}"
            )
    if len(rows) < 2:
        found = f"only one class folder, {min(rows)}/" if rows else "no class folder"
        raise InputError(f"{index.root / prefix} has {found}: give a folder with one folder of videos for each class")


def _drawing_order(index: Videos, rows: list[int], purpose: str, seed: int) -> list[int]:
    """Rows in an order that looks random but hangs on nothing but the seed and each video's own path."""

    def key(row: int) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed} {purpose} {index.paths[row]}")).digest()

    return sorted(rows, key=key)


def _draw_val(
    index: Videos, classes: dict[str, list[int]], fraction: float, seed: int
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Training and validation rows of each class, at least one each."""
    train, val = {}, {}
    for name, rows in classes.items():
        if len(rows) < 2:
            raise InputError(
                f"class {name!r} has one usable video: add another, as one has to train and one to validate, "
                "or sort the videos into train/ and val/"
            )
        num_val = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        order = _drawing_order(index, rows, "val", seed)
        val[name], train[name] = order[:num_val], order[num_val:]
    return train, val


def _draw_labeled(
    index: Videos,
    train: dict[str, list[int]],
    labels_per_class: int | None,
    labeled_fraction: float | None,
    seed: int,
) -> dict[str, list[int]]:
    """Rows of each class whose label training may use."""
    labeled = {}
    for name in sorted(train):
        rows = train[name]
        count = len(rows)
        if labels_per_class is not None:
            count = labels_per_class
        elif labeled_fraction is not None:
            count = max(1, round(labeled_fraction * len(rows)))
        if count > len(rows):
            smallest = min(len(others) for others in train.values())
            raise InputError(
                f"class {name!r} has {len(rows)} training videos, fewer than labels_per_class={count}: "
                f"use {smallest} or less, or add videos"
            )
        labeled[name] = _drawing_order(index, rows, "label", seed)[:count]
    return labeled
