"""What a run notes about its videos: which are labeled, missing or refused, and whether they are still the same.

Lists and folders can change while a run rests; it must not go on with other labels unnoticed.
"""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from pipeline.datasets import DataSplit
from pipeline.errors import InputError
from pipeline.files import write_whole
from pipeline.index import VideoIndex
from pipeline.lists import write_list
from pipeline.text import printable

SPLIT = "split.json"
LABELED = "labeled.txt"
MISSING = "missing_videos.txt"
REFUSED = "refused_videos.txt"
LEFT_OUT = "left_out_videos.json"
_MAX_SHOWN = 20  # refused videos that are printed; Kinetics has thousands


def remarks(index: VideoIndex, split: DataSplit, run_dir: Path) -> list[str]:
    """What a user should know about the videos, a line each."""
    lines = [f"left out: {line}" for line in _reasons(dict(islice(index.refused.items(), _MAX_SHOWN)), ": ")]
    if len(index.refused) > _MAX_SHOWN:
        lines.append(f"left out: {len(index.refused)} videos in all, named in {run_dir / REFUSED}")
    lines += [f"note: {printable(remark)}" for remark in split.remarks]
    if split.missing:
        lines.append(f"note: all missing videos are named in {run_dir / MISSING}")
    return lines


def write_split(run_dir: Path, index: VideoIndex, split: DataSplit) -> None:
    """Write split.json, labeled.txt, which ``--data.labeled-list`` takes, and missing and refused videos if any."""
    counts = {"in all": len(index), "to train on": len(split.unlabeled), "to validate on": len(split.val)}
    described = {
        "labels_from": split.labels_from,
        "digests": dict(split.digests),
        "class_names": split.class_names,
        "num_videos": counts,
    }
    write_whole(run_dir / SPLIT, (json.dumps(described, indent=2) + "\n").encode())
    write_list(run_dir / LABELED, [(index.paths[row], int(split.labels[row])) for row in split.labeled])
    for name, videos in ((MISSING, split.missing), (REFUSED, index.refused)):
        if videos:
            write_whole(run_dir / name, "".join(f"{line}\n" for line in _reasons(videos, "\t")).encode())


def write_left_out(run_dir: Path, left_out: Mapping[str, str]) -> None:
    """Note why videos that went bad during the run were left out, by path."""
    write_whole(run_dir / LEFT_OUT, (json.dumps(dict(sorted(left_out.items())), indent=2) + "\n").encode())


def read_left_out(run_dir: Path) -> dict[str, str]:
    """What :func:`write_left_out` noted; none before the end of a run."""
    path = run_dir / LEFT_OUT
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _reasons(videos: Mapping[str, str], separator: str) -> list[str]:
    return [f"{printable(path)}{separator}{printable(reason)}" for path, reason in videos.items()]


def check_same_split(run_dir: Path, split: DataSplit) -> None:
    """Refuse to go on with other videos, classes or labels than the run began with.

    Raises:
        InputError: names which of them differ, or the record of them is damaged.
    """
    file = run_dir / SPLIT
    if not file.exists():
        return
    try:
        digests = json.loads(file.read_bytes())["digests"]
        begun = {subset: digests[subset] for subset in split.digests}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is damaged, and nothing else tells whether the videos and labels are still the same: restore it, "
            "or delete it to go on with those of now"
        ) from error
    for subset, found in split.digests.items():
        if begun[subset] != found:
            raise InputError(
                f"the {subset} videos or their classes (digest {found}) are not those the run in {run_dir} began with "
                f"({begun[subset]}): restore the lists and folders, or begin another run"
            )
