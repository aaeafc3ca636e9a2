"""What a run notes about its videos: which are labeled, which are missing, and whether they are still the same.

Lists and folders can change while a run rests; it must not go on with other labels unnoticed.
"""

import json
from pathlib import Path

from pipeline.datasets import DataSplit
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.lists import printable, write_list

SPLIT = "split.json"
LABELED = "labeled.txt"
MISSING = "missing_videos.txt"


def remarks(split: DataSplit, run_dir: Path) -> list[str]:
    """What a user should know about the videos, a line each."""
    lines = [f"note: {printable(remark)}" for remark in split.remarks]
    if split.missing:
        lines.append(f"note: all missing videos are named in {run_dir / MISSING}")
    return lines


def write_split(run_dir: Path, index: VideoIndex, split: DataSplit) -> None:
    """Write split.json, labeled.txt, which ``--data.labeled-list`` takes, and the missing videos if there are any."""
    described = {"labels_from": split.labels_from, "digests": dict(split.digests), "class_names": split.class_names}
    (run_dir / SPLIT).write_text(json.dumps(described, indent=2) + "\n")
    write_list(run_dir / LABELED, [(index.paths[row], int(split.labels[row])) for row in split.labeled])
    if split.missing:
        lines = (f"{printable(path)}\t{printable(reason)}\n" for path, reason in split.missing.items())
        (run_dir / MISSING).write_text("".join(lines))


def check_same_split(run_dir: Path, split: DataSplit) -> None:
    """Refuse to go on with other videos, classes or labels than the run began with.

    Raises:
        InputError: names which of them differ.
    """
    file = run_dir / SPLIT
    if not file.exists():
        return
    begun = json.loads(file.read_text())["digests"]
    for subset, found in split.digests.items():
        if begun[subset] != found:
            raise InputError(
                f"the {subset} videos or their classes (digest {found}) are not those the run in {run_dir} began with "
                f"({begun[subset]}): restore the lists and folders, or choose another --run.dir"
            )
