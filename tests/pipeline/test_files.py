"""Small files that are old or new, never half."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.files import write_whole
from pipeline.lists import write_list


@pytest.mark.parametrize("write", [write_whole, lambda path, _: write_list(path, [("a.mp4", 0)])])
def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def die(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", die)
        with pytest.raises(KeyboardInterrupt):
            write(path, b"new")
    assert path.read_bytes() == b"old"
    write(path, b"new")
    assert path.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [path]
