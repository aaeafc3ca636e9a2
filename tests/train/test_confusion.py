"""Confusion matrices as people read them, whatever the classes are called and however many there are."""

import csv
import io
import os

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from train.confusion import class_table, confusion_csv, confusion_table, draw_confusion
from train.report_classes import recalls_of

NAMES = ["[red]hug", "a $b$, c", os.fsdecode(b"caf\xe9"), "跑:fire:"]
MATRIX = np.array([[3, 1, 0, 0], [0, 0, 4, 0], [0, 0, 2, 0], [0, 0, 0, 0]])


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120, markup=False, emoji=False)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_recall_is_the_share_of_a_row_and_nan_without_videos() -> None:
    assert recalls_of(MATRIX)[:3].tolist() == [0.75, 0, 1]
    assert np.isnan(recalls_of(MATRIX)[3])


def test_hardest_classes_come_first_with_what_they_are_taken_for() -> None:
    lines = printed(class_table({"rgb": MATRIX, "tg": MATRIX.T}, NAMES, max_classes=2)).splitlines()
    assert lines[0].strip() == "the 2 hardest of 3 classes"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows == [
        ["a $b$, c", "4", "0.0%", "0.0%", "caf\ufffd (4)"],
        ["[red]hug", "4", "75.0%", "100.0%", "a $b$, c (1)"],
    ]


def test_small_matrices_are_printed_and_large_ones_as_their_worst_pairs() -> None:
    small = printed(confusion_table(MATRIX, NAMES))
    assert "┃ true \\ guessed ┃ [red]hug ┃ a $b$, c ┃ caf\ufffd ┃ 跑:fire: ┃" in small
    assert "│ [red]hug       │ 3        │ 1        │ .    │ .        │" in small
    large = np.eye(400, dtype=np.int64) * 5
    large[7, 9] = 3
    pairs = [
        line for line in printed(confusion_table(large, [f"c{i}" for i in range(400)])).splitlines() if "│" in line
    ]
    assert [cell.strip() for cell in pairs[0].strip("│").split("│")] == ["c7", "c9", "3", "8"]
    assert len(pairs) == 1


@pytest.mark.parametrize("num_classes", [2, 7, 12])
def test_columns_are_headed_by_names_while_those_fit(num_classes: int) -> None:
    names = [f"{letter} class of a name" for letter in "abcdefghijkl"[:num_classes]]
    matrix = np.eye(num_classes, dtype=np.int64)
    shortened, numbered = (printed(confusion_table(matrix, given)) for given in (names, [name[::-1] for name in names]))
    assert max(map(len, shortened.splitlines())) <= 80
    heads = [[cell.strip() for cell in text.splitlines()[1].split("┃")[2:-1]] for text in (shortened, numbered)]
    if num_classes == 2:
        assert heads[0] == names
    elif num_classes == 7:
        assert heads[0] == [f"{name[:4].strip()}…" for name in names]
    assert (heads[1] == [str(row) for row in range(num_classes)]) == (num_classes > 2)


def test_csv_reads_back() -> None:
    rows = list(csv.reader(io.StringIO(confusion_csv(MATRIX, NAMES))))
    assert rows[0][1:] == ["[red]hug", "a $b$, c", "caf\ufffd", "跑:fire:"]
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == MATRIX.tolist()


def test_names_cannot_be_formulas_in_a_spreadsheet_nor_steer_a_terminal() -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-2", "@sum", "a=b", "\x1b[2J\t=x"]
    matrix = np.eye(6, dtype=np.int64)
    rows = list(csv.reader(io.StringIO(confusion_csv(matrix, names))))
    expected = ["'=cmd|' /C calc'!A0", "'+1", "'-2", "'@sum", "a=b", "\\x1b[2J\\t=x"]
    assert rows[0][1:] == [row[0] for row in rows[1:]] == expected
    tables = printed(confusion_table(matrix, names)) + printed(class_table({"rgb": matrix}, names, max_classes=9))
    assert "\x1b" not in tables


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("num_classes", [4, 30, 200])
def test_pictures_can_be_drawn(num_classes: int) -> None:
    names = [NAMES[row % 4] for row in range(num_classes)]
    png = draw_confusion(np.eye(num_classes, dtype=np.int64), names)
    assert png.startswith(b"\x89PNG")
