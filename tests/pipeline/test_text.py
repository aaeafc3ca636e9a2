"""What is printed of file names steers nothing."""

import pytest

from pipeline.files import stays_inside
from pipeline.text import lines_spelled_out, printable, printable_lines, spelled_out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("über 跑 [red] :fire: $x$", "über 跑 [red] :fire: $x$"),
        ("a\x1b[2J\x07b", r"a\x1b[2J\x07b"),
        ("a\nerror: b\r", r"a\nerror: b\r"),
        ("a\x9b31m\x7f", r"a\x9b31m\x7f"),
        ("gpj.\u202e4pm\u2028", r"gpj.\u202e4pm\u2028"),
    ],
)
def test_control_characters_are_spelled_out_and_all_else_stays(text: str, expected: str) -> None:
    assert spelled_out(text) == printable(text) == expected
    assert spelled_out("\udcff") == "\udcff"  # left to whoever writes it
    assert printable("\udcff\ud800") == "\ufffd\ufffd"


def test_ends_of_lines_are_left_where_they_are_meant() -> None:
    assert lines_spelled_out("a\n\x1bb\n") == printable_lines("a\n\x1bb\n") == "a\n\\x1bb\n"


@pytest.mark.parametrize("path", ["a.mp4", "a/b.mp4", "a/..b/...c", "..."])
def test_paths_inside(path: str) -> None:
    assert stays_inside(path)


@pytest.mark.parametrize("path", ["/a", "..", "../a", "a/../b", "a/..", "a\0b"])
def test_paths_that_may_lead_outside(path: str) -> None:
    assert not stays_inside(path)
