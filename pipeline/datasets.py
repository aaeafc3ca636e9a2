"""From an index of video files to who is who: classes, labelled, unlabelled and validation videos.

:func:`split_videos` is the one way there, for UCF-101, HMDB-51, Kinetics, list files and plain folders alike.  Its
parts: :mod:`pipeline.official` and :mod:`pipeline.lists` read annotations, :mod:`pipeline.lookup` finds the videos,
:mod:`pipeline.roster` and :mod:`pipeline.folders` say who trains and who validates, :mod:`pipeline.subsets` whose
labels are used.  Reading videos is left to :mod:`pipeline.index`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import official
from pipeline.errors import InputError
from pipeline.folders import roster_of_folders
from pipeline.lists import UNKNOWN, Entry, check_listable, read_class_names, read_list
from pipeline.lookup import Lookup, Videos
from pipeline.official import Annotations
from pipeline.roster import Roster, compare_labels, roster_of_lists
from pipeline.subsets import digest, draw_per_class, draw_uniform, draw_val, take_listed
from pipeline.text import printable

Format = Literal["auto", "folder", "ucf101", "hmdb51", "kinetics", "list"]

_OFFICIAL: dict[str, Callable[[Path], bool]] = {
    "ucf101": official.has_ucf101,
    "hmdb51": official.has_hmdb51,
    "kinetics": official.has_kinetics,
}
# Where archives and the guides of the field put annotations, relative to the videos' root.
_ANNOTATION_FOLDERS = (
    ".",
    "annotations",
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    "testTrainMulti_7030_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "splits",
)
_MAX_NAMES = 5  # class names that a remark lists


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which videos train, which validate, and whose labels are used."""

    format: Format = "auto"
    """Whose rules the folder follows; auto looks for the annotation files of the known data sets."""
    annotations: Path | None = None
    """Folder of classInd.txt, *_test_split1.txt or train.csv; None looks in the root and its usual sub-folders."""
    split: int = 1
    """Which of the three splits of UCF-101 or HMDB-51."""
    hmdb_unused: bool = False
    """Train on the HMDB-51 videos that its split leaves unused too, as the paper: 5236 instead of 3570 videos."""
    train_list: Path | None = None
    """Training list: lines of `path label` or `path frames label`, labels from 0."""
    val_list: Path | None = None
    """Validation list, of the same form."""
    class_names: Path | None = None
    """Class names for the lists, one a line in the order of the labels; numbers before them may count from 0 or 1."""
    labels_per_class: int | None = None
    """Use the labels of this many training videos of each class and treat all others as unlabeled."""
    labeled_fraction: float | None = None
    """Or: use the labels of this fraction of each class, of one video at least."""
    labeled_uniform: float | None = None
    """Or: use the labels of this fraction of all training videos whatever their class; a class may get none."""
    labeled_list: Path | None = None
    """Or: use the labels of this list, such as those of VideoSSL. None of the four: use every label."""
    exclude_labeled: bool = False
    """Leave labeled videos out of the unlabeled ones, which are the whole training list otherwise."""
    val_fraction: float = 0.2
    """Fraction of the videos kept for validation where there is no folder val/ and no validation list."""

    def __post_init__(self) -> None:
        given = [name for name in LABEL_OPTIONS if getattr(self, name) is not None]
        if len(given) > 1:
            options = " and ".join(f"{_flag(name)} {getattr(self, name)}" for name in given)
            raise InputError(f"{options} contradict each other: give one of them")
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise InputError(
                f"--data.labels-per-class {self.labels_per_class}: take 1 or more, or None for every label"
            )
        for name in ("labeled_fraction", "labeled_uniform"):
            fraction = getattr(self, name)
            if fraction is not None and not 0 < fraction <= 1:
                raise InputError(f"{_flag(name)} {fraction}: take a fraction above 0 and at most 1")
        if not 0 < self.val_fraction < 1:
            raise InputError(f"--data.val-fraction {self.val_fraction}: take one between 0 and 1")
        if not 1 <= self.split <= 3:
            raise InputError(f"--data.split {self.split}: UCF-101 and HMDB-51 have splits 1, 2 and 3")
        if self.format == "list" and self.train_list is None:
            raise InputError("--data.format list needs --data.train-list FILE")
        if self.val_list is not None and self.train_list is None and self.format in ("auto", "folder"):
            raise InputError(f"--data.val-list {self.val_list} needs --data.train-list FILE beside it")
        if self.format == "folder" and self.train_list is not None:
            raise InputError("--data.format folder takes no --data.train-list: leave one of the two out")


LABEL_OPTIONS = ("labels_per_class", "labeled_fraction", "labeled_uniform", "labeled_list")


def _flag(name: str) -> str:
    return f"--data.{name.replace('_', '-')}"


@dataclass(frozen=True)
class DataSplit:
    """Which rows of the index serve for what.

    Attributes:
        class_names: names of the K classes.
        labels: (num_videos,) int64 class of every row, -1 where unknown.
        labeled: int64 rows whose label training may use.
        unlabeled: int64 rows of the whole training list, labelled videos included, as the reference trains.
        val: int64 rows that training never sees.
        labels_from: how the labelled videos were chosen, in a few words.
        digests: by "labeled", "unlabeled" and "val" eight digits that tell one choice of videos and classes from
            another, the same for every copy of a data set.
        missing: reasons by path for listed videos that are not in the index.
        remarks: what a user should know, one sentence each.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    labeled: NDArray[np.int64]
    unlabeled: NDArray[np.int64]
    val: NDArray[np.int64]
    labels_from: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def without_label(self) -> NDArray[np.int64]:
        """Those of the unlabeled rows whose label training may not use, ascending."""
        return np.setdiff1d(self.unlabeled, self.labeled)


def split_videos(index: Videos, options: DataOptions | None = None, *, seed: int = 0) -> DataSplit:
    """Split the videos of an index into training, labelled and validation videos.

    Args:
        index: the videos.
        options: all defaults where None: what the folder itself says.
        seed: of what is drawn: labelled videos, and validation videos where no list or folder names them.

    Raises:
        InputError: folder, lists and options do not fit; the message names what and the remedy.
    """
    options = options or DataOptions()
    kind, folder = find_annotations(index.root, options)
    if kind == "folder":
        lookup, roster = Lookup(index), roster_of_folders(index)
    else:
        lookup = Lookup(
            index,
            fold=official.fold_ucf101 if kind == "ucf101" else str,
            by_name=kind == "kinetics",
        )
        roster = _roster_of_lists(kind, folder, options, lookup)
    if not roster.val:
        listed = read_list(options.labeled_list) if options.labeled_list else []
        draw_val(roster, options.val_fraction, seed, keep={lookup.find(entry) for entry in listed})
    labeled, labels_from = _labeled(roster, options, lookup, seed)
    if not labeled:
        raise InputError("no training video has a label: write labels from 0 into the lists, -1 is for unknown ones")
    for row in labeled:
        check_listable(index.paths[row])  # a run writes them down as a list
    unlabeled = roster.train.keys() - labeled if options.exclude_labeled else roster.train.keys()
    if not unlabeled:
        raise InputError("every training video is labeled: add others, or leave out --data.exclude-labeled")
    _remark_on_classes(roster, labeled)
    num_unused = len(index.paths) - len(roster.train) - len(roster.val)
    if kind != "folder" and num_unused:
        roster.remarks.append(f"{num_unused} videos below {index.root} are on no list and are not used")
    if kind in _OFFICIAL and options.labeled_list is None and len(labeled) < len(roster.train):
        roster.remarks.append("labels are drawn by seed; published lists of them are taken with --data.labeled-list")
    labels = np.full(len(index.paths), UNKNOWN, dtype=np.int64)
    for row, label in (roster.train | roster.val).items():
        labels[row] = label
    rows = {"labeled": labeled, "unlabeled": unlabeled, "val": roster.val.keys()}
    return DataSplit(
        class_names=roster.class_names,
        labels=labels,
        **{name: np.array(sorted(subset), dtype=np.int64) for name, subset in rows.items()},
        labels_from=labels_from,
        digests={name: _digest(roster, labels, subset) for name, subset in rows.items()},
        missing=roster.missing,
        remarks=tuple(roster.remarks),
    )


def find_annotations(root: Path, options: DataOptions) -> tuple[str, Path]:
    """Settle whose rules a folder follows, and where the files lie that say so.

    Raises:
        InputError: the files asked for are not there, or those of two data sets are.
    """
    if options.format in ("folder", "list"):
        return options.format, root
    if options.annotations is not None and not options.annotations.is_dir():
        raise InputError(f"--data.annotations {options.annotations} is not a folder: give that of the annotation files")
    folders = [options.annotations] if options.annotations else [root / name for name in _ANNOTATION_FOLDERS]
    kinds = _OFFICIAL if options.format == "auto" else (options.format,)
    found = {kind: folder for kind in kinds for folder in reversed(folders) if _OFFICIAL[kind](folder)}
    if len(found) > 1:
        places = " and ".join(f"{kind} in {folder}" for kind, folder in found.items())
        raise InputError(f"annotations of {places}: choose with --data.format or --data.annotations")
    if found:
        return next(iter(found.items()))
    if options.format != "auto" or options.annotations:
        raise InputError(
            f"no annotation files of {' or '.join(kinds)} in {', '.join(str(folder) for folder in folders)}: "
            "give their folder with --data.annotations"
        )
    return ("list" if options.train_list else "folder"), root


def _roster_of_lists(kind: str, folder: Path, options: DataOptions, lookup: Lookup) -> Roster:
    """Training and validation list of a data set, or those given in their place."""
    given_train = read_list(options.train_list) if options.train_list else None
    given_val = read_list(options.val_list) if options.val_list else None
    if kind == "list":
        assert given_train is not None, "checked by DataOptions and find_annotations"
        entries = [*given_train, *(given_val or [])]
        class_names = read_class_names(options.class_names) if options.class_names else _names_by_folder(entries)
        return roster_of_lists(Annotations(class_names, given_train, given_val or []), lookup)
    if options.class_names:
        raise InputError(f"--data.class-names {options.class_names}: {folder} names the classes already: leave it out")
    if kind == "ucf101":
        own = official.read_ucf101(folder, options.split)
    elif kind == "hmdb51":
        own = official.read_hmdb51(folder, options.split, unused=options.hmdb_unused)
    else:
        own = official.read_kinetics(folder)
    roster = roster_of_lists(Annotations(own.class_names, given_train or own.train, given_val or own.val), lookup)
    known = {lookup.find(entry): entry.label for entry in [*own.train, *own.val]} if given_train or given_val else {}
    for given in (given_train, given_val):
        rows = {lookup.find(entry): entry for entry in given or []}
        compare_labels(
            {row: entry for row, entry in rows.items() if isinstance(row, int)},
            {row: label for row, label in known.items() if isinstance(row, int)},
            roster,
        )
    return roster


def _names_by_folder(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The folders of the classes, where each class has its own; else the labels."""
    folders: dict[int, set[str]] = {}
    for entry in entries:
        folders.setdefault(entry.label, set()).add(entry.path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2])
    folders.pop(UNKNOWN, None)
    if not folders:
        raise InputError("no video on the lists has a class: write labels from 0 at the ends of the lines")
    labels = range(max(folders) + 1)
    names = [min(folders.get(label, {""})) for label in labels]
    unique = all(names) and len(set(names)) == len(names) and all(len(folders[label]) == 1 for label in labels)
    return tuple(names) if unique else tuple(str(label) for label in labels)


def _labeled(roster: Roster, options: DataOptions, lookup: Lookup, seed: int) -> tuple[list[int], str]:
    """The training videos whose labels are used, and how they were chosen."""
    if options.labeled_list is not None:
        return take_listed(
            roster, read_list(options.labeled_list), lookup
        ), f"listed in {printable(options.labeled_list.name)}"
    if options.labels_per_class is not None:
        labeled = draw_per_class(roster, seed, count=options.labels_per_class)
        return labeled, f"{options.labels_per_class} of each class, drawn by seed {seed}"
    if options.labeled_fraction is not None:
        labeled = draw_per_class(roster, seed, fraction=options.labeled_fraction)
        return labeled, f"{options.labeled_fraction:.3g} of each class, drawn by seed {seed}"
    if options.labeled_uniform is not None:
        labeled = draw_uniform(roster, seed, options.labeled_uniform)
        return labeled, f"{options.labeled_uniform:.3g} of all, drawn by seed {seed}"
    return [row for row, label in roster.train.items() if label != UNKNOWN], "all there are"


def _remark_on_classes(roster: Roster, labeled: Iterable[int]) -> None:
    """Say which classes cannot be learned."""
    names = roster.class_names
    with_videos = set(roster.train.values())
    with_labels = {roster.train[row] for row in labeled}
    no_videos = [name for label, name in enumerate(names) if label not in with_videos]
    no_labels = [name for label, name in enumerate(names) if label in with_videos - with_labels]
    for lacking, what in ((no_videos, "training video"), (no_labels, "label")):
        if lacking:
            more = ", ..." if len(lacking) > _MAX_NAMES else ""
            roster.remarks.append(
                f"{len(lacking)} of {len(names)} classes have no {what}: {', '.join(lacking[:_MAX_NAMES])}{more}"
            )


def _digest(roster: Roster, labels: NDArray[np.int64], rows: Iterable[int]) -> str:
    names = (*roster.class_names, "")  # the last for UNKNOWN, -1
    return digest((roster.names[row], names[labels[row]]) for row in rows)
