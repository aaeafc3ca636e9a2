"""Small replicas of the data sets as they lie on disk: their annotation files, and the paths of their videos."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

UCF101_CLASSES = ("Archery", "HandstandPushups", "HandstandWalking")
HMDB51_NAMES = (
    "#20_Rhythm_{}_u_nm_np1_fr_goo_0",
    "Hittingadouble(BXbaseball)_{}_f_nm_np1_ba_bad_0",
    "YOU_need_[to]_see!_{}_h_cm_np1_fr_med_0",
    "Bag__keep_on_;0)_{}_h_cm_np1_fr_med_0",
    "Tom&Jerry's_{}_u_nm_np1_fr_goo_2",
)


@dataclass
class FakeIndex:
    """What of a VideoIndex the data sets need."""

    root: Path
    paths: list[str]
    refused: dict[str, str] = field(default_factory=dict)


def make_index(root: Path, paths: Iterable[str], refused: dict[str, str] | None = None) -> FakeIndex:
    """An index of ``paths``, whose folders exist on disk as they would have for a real one."""
    index = FakeIndex(root, list(paths), refused or {})
    for path in [*index.paths, *index.refused]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    return index


def ucf101(folder: Path, *, num_groups: int = 4) -> tuple[list[str], list[str]]:
    """Write classInd.txt, trainlist01.txt and testlist01.txt of three classes.

    Returns:
        Training and test videos as they are listed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classInd.txt").write_text("".join(f"{n} {name}\r\n" for n, name in enumerate(UCF101_CLASSES, 1)))
    lists: tuple[list[str], list[str]] = ([], [])
    lines = []
    for number, name in enumerate(UCF101_CLASSES, 1):
        file_class = name.replace("Handstand", "HandStand") if name == "HandstandPushups" else name
        for group in range(1, num_groups + 1):
            path = f"{name}/v_{file_class}_g{group:02}_c01.avi"
            lists[group == 1].append(path)
            if group != 1:
                lines.append(f"{path} {number}\r\n")
    (folder / "trainlist01.txt").write_text("".join(lines))
    (folder / "testlist01.txt").write_text("".join(f"{path}\r\n" for path in lists[True]))
    return lists


def hmdb51(folder: Path, classes: Iterable[str] = ("clap", "sword", "sword_exercise")) -> dict[int, list[str]]:
    """Write the files of split 1: of each class three videos for training, one for test, one unused.

    Returns:
        Videos by flag: 1 training, 2 test, 0 unused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for name in classes:
        lines = []
        for pattern, flag in zip(HMDB51_NAMES, (1, 1, 2, 0, 1), strict=True):
            videos[flag].append(f"{name}/{pattern.format(name)}.avi")
            lines.append(f"{pattern.format(name)}.avi {flag} \n")
        (folder / f"{name}_test_split1.txt").write_text("".join(lines))
    return videos


KINETICS = {
    "train": [
        ("tying tie", "-BRwbEgyrKQ", 8, 18),
        ("abseiling", "_dbcJuKJQNs", 40, 50),
        ("massaging person's head", "4CLgSix3fPc", 178, 188),
        ("abseiling", "3B32lodo2M0", 0, 10),
    ],
    "val": [
        ("abseiling", "a_000001_00", 59, 69),
        ("tying tie", "tH8qC8fkcFU", 1001, 1011),
        ("massaging person's head", "fA7W1J1awuM", 46, 56),
    ],
}


def kinetics(folder: Path, *, val: str = "val") -> dict[str, list[str]]:
    """Write train.csv, val.csv and a test.csv without labels.

    Returns:
        Videos by subset, as ``class/name``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos = {}
    for subset, rows in KINETICS.items():
        lines = ["label,youtube_id,time_start,time_end,split,is_cc\n"]
        lines += [f'"{label}",{name},{a},{b},{val if subset == "val" else subset},0\n' for label, name, a, b in rows]
        (folder / f"{val if subset == 'val' else subset}.csv").write_text("".join(lines))
        videos[subset] = [f"{label}/{name}_{a:06}_{b:06}" for label, name, a, b in rows]
    (folder / "test.csv").write_text("youtube_id,time_start,time_end,split\n-zzzzzzzzzz,1,11,test\n")
    return videos
