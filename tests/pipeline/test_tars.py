"""Whatever is in a tar, each of its videos is found where it lies or refused by name."""

import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.tars import Listing, list_tar

VIDEO = b"bytes of a video" * 100


def write_tar(file: Path, members: Mapping[str, bytes | tarfile.TarInfo], format: int = tarfile.GNU_FORMAT) -> Path:
    """A tar of members by name; those that are no plain files as tarfile has them."""
    with tarfile.open(file, "w", format=format) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name) if isinstance(content, bytes) else content
            if isinstance(content, bytes):
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content if isinstance(content, bytes) else b""))
    return file


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "a/one.mp4"
    return member


def contents(file: Path, listing: Listing) -> dict[str, bytes]:
    data = file.read_bytes()
    return {path: data[start : start + size] for path, (start, size) in listing.videos.items()}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_videos_lie_where_the_listing_says(tmp_path: Path, format: int) -> None:
    names = ["a/one.mp4", "./a/two.MP4", "b/drei é (1).webm", "b/caf\udce9.avi", f"{'long/' * 30}c.mkv"]
    videos = {name: VIDEO[number:] for number, name in enumerate(names)}
    others = {"a/._one.mp4": b"", ".hidden/x.mp4": b"", "a/notes.txt": b"", "__MACOSX/._y.mp4": b"", "one.jpg": b""}
    file = write_tar(tmp_path / "0.tar", others | videos | {"c": special("c.mp4", tarfile.DIRTYPE)}, format)
    listing = list_tar(file)
    assert contents(file, listing) == {name.removeprefix("./"): content for name, content in videos.items()}
    assert (listing.refused, listing.damage) == ({}, "")


def test_members_that_cannot_be_read_in_place_are_refused_by_name(tmp_path: Path) -> None:
    sparse = special("d/sparse.mp4", tarfile.GNUTYPE_SPARSE)
    members: dict[str, bytes | tarfile.TarInfo] = {
        "a/one.mp4": VIDEO,
        "soft": special("b/soft.mp4", tarfile.SYMTYPE),
        "hard": special("b/hard.mp4", tarfile.LNKTYPE),
        "pipe": special("b/pipe.mp4", tarfile.FIFOTYPE),
        "sparse": sparse,
        "../up.mp4": VIDEO,
        "a/../../up.mp4": VIDEO,
        "/etc/root.mp4": VIDEO,
    }
    file = write_tar(tmp_path / "0.tar", members)
    with tarfile.open(file, "a") as tar:
        again = tarfile.TarInfo("a/two.mp4")
        for _ in range(2):
            tar.addfile(again)
        tar.addfile(tarfile.TarInfo("./a/one.mp4"))
    listing = list_tar(file)
    assert listing.videos == {}
    reasons = {
        "b/soft.mp4": "a link to a/one.mp4: pack the file itself",
        "b/hard.mp4": "a link to a/one.mp4: pack the file itself",
        "b/pipe.mp4": "a special file",
        "d/sparse.mp4": "a sparse file",
        "0.tar:..\\up.mp4": "leads out of the folder",
        "0.tar:a\\..\\..\\up.mp4": "leads out of the folder",
        "0.tar:\\etc\\root.mp4": "leads out of the folder",
        "a/two.mp4": "2 times in the tar",
        "a/one.mp4": "twice in 0.tar",
    }
    assert listing.refused.keys() == reasons.keys()
    assert all(reasons[path] in reason for path, reason in listing.refused.items())


@pytest.mark.parametrize(
    ("labels", "path"),
    [
        ({".cls": b"3"}, "3/k.mp4"),
        ({".cls": b"tying tie\n"}, "tying tie/k.mp4"),
        ({".cls": b"-1"}, "unlabeled/k.mp4"),
        ({".json": b'{"label": "jump", "cls": 4}'}, "jump/k.mp4"),
        ({".json": b'{"cls": 4, "fps": 25}'}, "4/k.mp4"),
        ({".json": b'{"cls": 4}', ".cls": b"5"}, "5/k.mp4"),
        ({".json": b'{"label": null, "cls": 4}'}, "4/k.mp4"),
        ({".json": b'{"fps": 25}'}, "k.mp4"),
        ({".json": b"[1, 2]"}, "k.mp4"),
    ],
)
def test_a_label_beside_a_video_is_its_class_folder(tmp_path: Path, labels: dict[str, bytes], path: str) -> None:
    for folder in ("", "part1/"):
        members = {f"{folder}k{suffix}": content for suffix, content in labels.items()} | {f"{folder}k.mp4": VIDEO}
        listing = list_tar(write_tar(tmp_path / "0.tar", members))
        assert [*listing.videos] == [path.removesuffix("k.mp4") + folder + "k.mp4"]
        assert not listing.refused


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        *((".cls", content) for content in (b"", b"a/b", b"..", b".a", b"\xff", b"a\nb", b"x" * 200)),
        *((".json", content) for content in (b"{", b'{"label": 1.5}', b'{"cls": true}', b"[" * 10**5)),
        *((".json", content) for content in (b'{"label": "\\ud800"}', b'{"label": [1]}', b" " * (1 << 20) + b"{}")),
    ],
)
def test_a_label_that_tells_no_class_costs_its_video_only(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = write_tar(tmp_path / "0.tar", {f"k{suffix}": content, "k.mp4": VIDEO, "l.mp4": VIDEO})
    listing = list_tar(file)
    assert [*listing.videos] == ["l.mp4"]
    assert listing.refused["k.mp4"].startswith(f"its {suffix} tells no class: ")


def test_damage_is_told_and_costs_what_lies_behind_it(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", {"a/1.mp4": VIDEO, "a/2.mp4": VIDEO, "a/3.mp4": VIDEO}).read_bytes()
    starts = [start for start, _ in list_tar(tmp_path / "good.tar").videos.values()]
    file = tmp_path / "0.tar"

    def damaged(content: bytes) -> tuple[list[str], dict[str, str], str]:
        file.write_bytes(content)
        listing = list_tar(file)
        return [*listing.videos], listing.refused, listing.damage

    cut = {"a/2.mp4": "cut off, the tar ends in the midst of it: copy the tar again"}
    assert damaged(good[: starts[1] + 10]) == (["a/1.mp4"], cut, "cut off in the midst of a/2.mp4: copy it again")
    at = starts[1] - tarfile.BLOCKSIZE
    for end in (at, at + 100):  # between two members, within a header
        videos, refused, damage = damaged(good[:end])
        assert (videos, refused) == (["a/1.mp4"], {}) and f"at byte {at}" in damage
    garbled = good[: at + 3] + b"x" + good[at + 4 :]
    assert damaged(garbled) == (["a/1.mp4"], {}, f"damaged at byte {at}: what follows is not found")
    assert damaged(b"") == ([], {}, "cut off at byte 0, it has no end: copy it again")
    assert damaged(b"a text, not a tar" * 100) == ([], {}, "not a tar, or damaged from its start")
    assert damaged(bytes(tarfile.RECORDSIZE)) == ([], {}, "")  # an empty tar
    videos, _, damage = damaged(good + good)
    assert len(videos) == 3 and "not joined by cat" in damage
    assert "run unxz" in damaged(lzma.compress(good))[2]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_garbage_ends_the_listing(data: st.DataObject, tmp_path: Path) -> None:
    """Any bytes in headers, with checksums that are right, and cut anywhere: never another error, nothing outside."""
    file = tmp_path / "0.tar"
    members = {f"{'d' * 120}/1.mp4": VIDEO, "2.mp4": VIDEO, "2.cls": b"7", "é/3.mp4": VIDEO}
    if not file.exists():
        write_tar(file, members, tarfile.PAX_FORMAT)
        (tmp_path / "good").write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "good").read_bytes())
    blocks = [at for at in range(0, len(content), tarfile.BLOCKSIZE) if content[at + 257 : at + 262] == b"ustar"]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(blocks))
        field = data.draw(st.sampled_from([(0, 100), (124, 12), (156, 1), (257, 8), (345, 155)]))
        content[at + field[0] : at + sum(field)] = data.draw(st.binary(min_size=field[1], max_size=field[1]))
        header = bytes(content[at : at + 148]) + b" " * 8 + bytes(content[at + 156 : at + tarfile.BLOCKSIZE])
        content[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    listing = list_tar(file)
    size = file.stat().st_size
    assert all(0 < start <= start + length <= size for start, length in listing.videos.values())
    assert not listing.videos.keys() & listing.refused.keys()


@given(label=st.booleans() | st.integers() | st.floats() | st.text(max_size=100) | st.lists(st.integers(), max_size=2))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_label_is_one_folder_or_refused(label: Any, tmp_path: Path) -> None:
    text = json.dumps({"label": label}).encode()
    listing = list_tar(write_tar(tmp_path / "0.tar", {"k.json": text, "k.mp4": VIDEO}))
    if listing.videos:
        folder, name = next(iter(listing.videos)).split("/")
        assert name == "k.mp4"
        assert folder == ("unlabeled" if str(label).strip() == "-1" else str(label).strip())
        assert folder not in ("", ".", "..") and not isinstance(label, bool)
    else:
        assert [*listing.refused] == ["k.mp4"]
