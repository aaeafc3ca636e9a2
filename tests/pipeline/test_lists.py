"""List files are read whole and right, or refused by file and line, whatever is in them."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.lists import read_class_names, read_lines, read_list, write_list


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def attempt(read: Callable[[Path], Any], path: Path) -> Any:
    """What is read, or the message of the refusal; any other error is the test's."""
    try:
        return read(path)
    except InputError as error:
        return str(error)


def entries(path: Path) -> list[tuple[str, int]]:
    return [(entry.path, entry.label) for entry in read_list(path)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/x.avi 0\nb/y.avi 12\n", [("a/x.avi", 0), ("b/y.avi", 12)]),
        ("a/x 120 0\nb/y 7 12\n", [("a/x", 0), ("b/y", 12)]),
        ("a b/x 1.mp4 3\n", [("a b/x 1.mp4", 3)]),
        ("a b/x 1.mp4 250 3\n", [("a b/x 1.mp4", 3)]),
        ("take 1 5\nx.mp4 5\n", [("take 1", 5), ("x.mp4", 5)]),  # frames only where every line has them
        ("a/x.avi\t4\n\n   \n  b/y.avi   5  ", [("a/x.avi", 4), ("b/y.avi", 5)]),
        ("a/x.avi,4\nb, c/y.avi, 5\n", [("a/x.avi", 4), ("b, c/y.avi", 5)]),
        ("# videos of 2022\n#\na/x.avi 0\n#no label\n", [("a/x.avi", 0)]),
        ("clap/#20_Rhythm 78 4\n#20_Rhythm 78 4\n", [("clap/#20_Rhythm", 4), ("#20_Rhythm", 4)]),  # of HMDB-51
        ("a/x.avi 0\r\nb/y.avi 1\r\n", [("a/x.avi", 0), ("b/y.avi", 1)]),
        ("a/x.avi 0\rb/y.avi 1", [("a/x.avi", 0), ("b/y.avi", 1)]),
        (b"\xef\xbb\xbfa/x.avi 0\n", [("a/x.avi", 0)]),
        ("a/ü.avi 0\r\n".encode("utf-16"), [("a/ü.avi", 0)]),
        (b"a/\xff.avi 3\n", [("a/\udcff.avi", 3)]),  # as os.fsdecode names the file
        ("a\\x.avi 0\n", [("a\\x.avi", 0)]),
        ("a/x.avi -1\n", [("a/x.avi", -1)]),
        ("laugh/Bag__on_;0)_laugh 336 23", [("laugh/Bag__on_;0)_laugh", 23)]),
    ],
)
def test_lines_are_read(tmp_path: Path, text: str | bytes, expected: list[tuple[str, int]]) -> None:
    assert entries(write(tmp_path / "list.txt", text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/x.avi 0\nb/y.avi\n", r"list\.txt, line 2: no label at the end of 'b/y\.avi': a line is `path label`"),
        ("a/x.avi ٣\n", "line 1: no label"),
        ("3\n", "line 1: no label"),
        ("a/x.avi 0\n\n" + "y" * 500 + "\n", r"line 3: no label at the end of 'y{77}\.\.\.'"),
        ("a/x.avi -2\n", "line 1: -2 is no label: count classes from 0"),
        ("a/x.avi 999999999\n", "line 1: 999999999 is no label"),
        ("", r"list\.txt lists no videos"),
        ("# nothing\n", r"list\.txt lists no videos"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_list(write(tmp_path / "list.txt", text))
    assert "\n" not in str(error.value)


def test_a_missing_list_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(InputError, match=f"{path.name} cannot be read"):
            read_list(path)


@settings(max_examples=150, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_random_bytes_are_read_or_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fuzz.txt", data)
    for read in (read_list, read_class_names):
        found = attempt(read, path)
        assert "fuzz.txt" in found if isinstance(found, str) else len(found) > 0


LINES = st.lists(st.sampled_from(["a/x.avi 3", "b c/y 12 0", "# 3", "d.mp4 -1", "", " \t", "é/z.webm,7"]), max_size=6)


@settings(max_examples=100, deadline=None)
@given(
    lines=LINES, cut=st.integers(0, 80), flips=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=3)
)
def test_damaged_lists_are_read_or_refused(
    lines: list[str], cut: int, flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray("\n".join(lines).encode())[:cut]
    for place, value in flips:
        if place < len(data):
            data[place] ^= value
    path = write(tmp_path_factory.getbasetemp() / "damaged.txt", bytes(data))
    found = attempt(read_list, path)
    if isinstance(found, str):
        assert "damaged.txt" in found
    else:
        numbers = dict(read_lines(path))
        assert all(entry.path in numbers[entry.line] for entry in found)


# Names as a file system may hold them: bytes that are no UTF-8, spaces, quotes, "#", separators; but no line break.
CHARACTERS = st.characters(exclude_characters="\0/\n\r", exclude_categories=["Cs"])
NAMES = st.text(
    st.one_of(st.sampled_from("# ,;\t'\"[]&\\\udcff") | CHARACTERS | st.sampled_from(string.digits)), max_size=12
)
PATHS = st.lists(NAMES.filter(bool), min_size=1, max_size=3).map("/".join)


@settings(max_examples=200, deadline=None)
@given(
    videos=st.lists(st.tuples(PATHS.map(lambda path: f"{path}.mp4"), st.integers(-1, 99_999)), min_size=1, max_size=5)
)
def test_what_is_written_is_read_back(videos: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "written.txt"
    write_list(path, videos)
    assert [(found.removeprefix("./"), label) for found, label in entries(path)] == videos


def test_a_name_with_a_line_break_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'a\\nb\.mp4' cannot be listed: rename the file"):
        write_list(tmp_path / "list.txt", [("a\nb.mp4", 0)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jump\nrun\n", ("jump", "run")),
        ("1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n", ("ApplyEyeMakeup", "ApplyLipstick")),
        ("1 b\n0 a\n", ("a", "b")),
        ("\ufeff1 play the harp\n2 tie, knot\n", ("play the harp", "tie, knot")),
        ("100 m run\n50 m swim\n", ("100 m run", "50 m swim")),  # numbers that do not count
    ],
)
def test_class_names_are_read(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    assert read_class_names(write(tmp_path / "names.txt", text)) == expected


@pytest.mark.parametrize(("text", "message"), [("", "holds no class names"), ("a\nb\na\n", "names class 'a' twice")])
def test_wrong_class_names_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"names\.txt {message}"):
        read_class_names(write(tmp_path / "names.txt", text))
