"""Plain folders: one folder of videos for each class.

Layouts understood, ``unlabeled/`` being optional everywhere:

    root/<class>/...                    validation videos are drawn by seed
    root/train/<class>/...              the same, of the classes inside train/
    root/train/<class>/..., root/val/<class>/...
    root/unlabeled/..., root/train/unlabeled/...      videos of unknown class: for training without labels only

A class is a folder, on disk or in tars; folders inside it belong to it; hidden folders (``.name``) are passed over.
"""

from pipeline.errors import InputError
from pipeline.lists import UNKNOWN
from pipeline.lookup import Videos, strip_suffix
from pipeline.roster import Roster

UNLABELED = "unlabeled"


def roster_of_folders(index: Videos) -> Roster:
    """Read who is who from the folders; without a folder val/, nothing validates yet.

    Raises:
        InputError: the folder does not allow this; the message names the class and the remedy.
    """
    train, val, unknown = _find_classes(index)
    class_names = tuple(sorted(train))
    roster = Roster(
        class_names,
        train=dict.fromkeys(unknown, UNKNOWN),
        val={},
        names={row: strip_suffix(path) for row, path in enumerate(index.paths)},
    )
    for label, name in enumerate(class_names):
        roster.train |= dict.fromkeys(train[name], label)
        roster.val |= dict.fromkeys(val[name] if val else [], label)
    return roster


def _find_classes(index: Videos) -> tuple[dict[str, list[int]], dict[str, list[int]] | None, list[int]]:
    """Rows of each class in training and in val/ (None where there is no val/), and rows of unknown class."""
    root = index.root
    if not root.is_dir():
        raise InputError(f"{root} is no folder: give the folder that holds the class folders")
    folders = _subfolders(index, "")
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


def _subfolders(index: Videos, prefix: str) -> set[str]:
    """Names of the folders below ``prefix``: those on disk, empty ones too, and those in tars."""
    folder = index.root / prefix
    on_disk = {child.name for child in folder.iterdir() if child.is_dir()} if folder.is_dir() else set()
    below = (path[len(prefix) :].partition("/") for path in (*index.paths, *index.refused) if path.startswith(prefix))
    in_tars = {name for name, separator, _ in below if separator}
    return {name for name in on_disk | in_tars if not name.startswith(".")}


def _rows_by_folder(index: Videos, prefix: str) -> dict[str, list[int]]:
    """Rows below each folder of ``prefix``; folders without usable videos are left out."""
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(index.paths):
        if not path.startswith(prefix):
            continue
        folder, separator, _ = path[len(prefix) :].partition("/")
        if not separator:
            raise InputError(
                f"{index.root / path} lies in no class folder: move it into one, or into {prefix}{UNLABELED}/; "
                "in a tar, put its class into a .cls beside it"
            )
        if not folder.startswith("."):
            rows.setdefault(folder, []).append(row)
    return rows


def _check_classes(index: Videos, prefix: str, rows: dict[str, list[int]]) -> None:
    """Refuse fewer than two classes, and class folders without usable videos, with the reason."""
    for name in sorted(_subfolders(index, prefix) - {UNLABELED}):
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
