"""A packed folder is the same data set, whatever happens on the way there."""

import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import pack as module
from pipeline.datasets import DataOptions, split_videos
from pipeline.decode import whole_frames
from pipeline.errors import BadVideo, InputError
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.pack import MARK, pack, parse_size, plan_shards
from pipeline.plan import ClipSpec
from pipeline.slicing import slice_clip
from pipeline.sources import Source
from tests.pipeline.test_loader import ALL, assert_same, take

NAMES = ["a/it's (1).mp4", "b/drei é.mp4", os.fsdecode(b"b/caf\xe9.avi"), f"{'deep/' * 25}c.mkv", "empty.webm"]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(5000 * number * (name != "empty.webm")))
    (tmp_path / "src/lists").mkdir()
    (tmp_path / "src/lists/train.txt").write_text("a/it's (1).mp4 1\n")
    (tmp_path / "src/b/notes.md").write_text("not packed")
    return tmp_path / "src"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARK
    }


def unpacked(folder: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            contents |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return contents


def build(root: Path, previous: VideoIndex | None = None) -> VideoIndex:
    """An index, scanned in this process, as starting others takes longest."""

    def work(function, items, num_workers, crashed):  # type: ignore[no-untyped-def]
        return [(item, function(item)) for item in items]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.index.map_in_processes", work)
        return VideoIndex.build(root, previous=previous, num_workers=1, progress=False)


@pytest.fixture(scope="module")
def packed_index(small_index: VideoIndex, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """The videos of ``small_index`` in two tars, its index saved and opened again."""
    dst = tmp_path_factory.mktemp("packed")
    total = sum(small_index[row].file_size for row in range(len(small_index)))
    pack(small_index.root, dst, shard_size=f"{int(total * 0.6)}B")
    index = build(dst)
    index.save(dst / "index")
    return VideoIndex.load(dst / "index")


def test_a_packed_folder_gives_the_batches_of_the_loose_one_to_the_bit(
    small_index: VideoIndex, packed_index: VideoIndex
) -> None:
    assert {packed_index[row].tar[-15:] for row in range(12)} == {"shard-00000.tar", "shard-00001.tar"}
    splits = [split_videos(index, DataOptions(labels_per_class=2)) for index in (small_index, packed_index)]
    assert splits[0].digests == splits[1].digests
    spec = ClipSpec(clip_len=4, frame_stride=3, size=32, eval_size=40)
    batches = []
    for index, split in zip((small_index, packed_index), splits, strict=True):
        with ClipLoader(index, split, ALL, spec, batch_labeled=3, batch_unlabeled=4, seed=0, num_threads=2) as loader:
            batches.append(take(loader, 5))
    assert_same(*batches)


def test_a_packed_video_has_the_record_and_the_frames_of_the_loose_one(
    small_index: VideoIndex, packed_index: VideoIndex
) -> None:
    assert (packed_index.paths, packed_index.refused) == (small_index.paths, {})
    for row in range(len(small_index)):
        loose, packed = small_index[row], packed_index[row]
        assert packed.path == str(packed_index.root / packed_index.paths[row])
        for field in fields(loose):
            if field.name not in ("path", "mtime_ns", "tar", "tar_size", "start"):
                np.testing.assert_array_equal(getattr(packed, field.name), getattr(loose, field.name), field.name)
        for one, other in zip(whole_frames(loose), whole_frames(packed), strict=True):
            assert np.array_equal(one.to_ndarray(), other.to_ndarray())


def test_a_tar_that_changes_costs_its_videos_until_it_is_indexed_again(
    packed_index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(packed_index.root, root, ignore=shutil.ignore_patterns("index"))
    index = build(root)
    monkeypatch.setattr("pipeline.index._scan_one", None)  # whatever is scanned fails
    assert build(root, index) is index
    assert index.changed() == {}
    os.utime(root / "shard-00001.tar", ns=(1, 1))
    rows = [row for row in range(len(index)) if index[row].tar.endswith("1.tar")]
    assert index.changed() == {index.paths[row]: "changed" for row in rows}
    for read in (lambda record: slice_clip(record, np.array([0])), lambda record: next(whole_frames(record))):
        with pytest.raises(BadVideo, match=r"its tar .*shard-00001\.tar has changed since it was indexed"):
            read(index[rows[0]])
    (root / "shard-00001.tar").unlink()
    with pytest.raises(BadVideo, match=r"its tar .*shard-00001\.tar cannot be opened any more: No such file"):
        slice_clip(index[rows[0]], np.array([0]))
    assert index.changed() == {index.paths[row]: "gone" for row in rows}
    assert len(build(root, index)) == len(index) - len(rows)


def test_an_unusable_video_in_a_tar_is_refused_as_a_loose_one_is(tmp_path: Path, video: Callable[..., Path]) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    (src / "a").mkdir(parents=True)
    (src / "a/1.mp4").write_bytes(video("h264").read_bytes())
    (src / "a/2.mp4").write_bytes(video("h264").read_bytes()[:3000])
    (src / "a/3.mp4").write_bytes(b"")
    (src / "a/4.avi").write_bytes(b"no video at all")
    pack(src, dst)
    loose, packed = (build(root) for root in (src, dst))
    assert packed.paths == ["a/1.mp4"]
    assert packed.refused == loose.refused
    assert len(packed.refused) == 3


def test_tars_hold_every_video_under_its_path_in_bytes_that_hang_on_nothing_else(src: Path, tmp_path: Path) -> None:
    for dst, time_ns in (("one", 10**18), ("two", 2 * 10**18)):
        for name in NAMES:
            os.utime(src / name, ns=(time_ns, time_ns))
            (src / name).chmod(0o600 if dst == "one" else 0o644)
        pack(src, tmp_path / dst, shard_size="20kB")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert unpacked(tmp_path / "one") == {name: (src / name).read_bytes() for name in NAMES}
    assert (tmp_path / "one/lists/train.txt").read_bytes() == (src / "lists/train.txt").read_bytes()
    sizes = [path.stat().st_size for path in (tmp_path / "one").glob("*.tar")]
    assert len(sizes) > 1


def test_what_has_changed_is_packed_again_and_nothing_of_before_stays(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = module.write_shard

    def noting(src: Path, file: Path, *rest: object) -> None:
        written.append(file.name)
        write(src, file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_shard", noting)
    dst = tmp_path / "dst"
    pack(src, dst, shard_size="20kB")
    names = sorted(path.name for path in dst.glob("*.tar"))
    assert written == names
    written.clear()
    pack(src, dst, shard_size="20kB")
    assert written == []
    os.truncate(dst / names[0], 100)
    (src / NAMES[2]).write_bytes(b"another")
    (dst / "shard-00007.tar.tmp").write_bytes(b"of a run that was killed")
    pack(src, dst, shard_size="20kB")
    assert names[0] in written and len(written) < len(names) + 1
    pack(src, tmp_path / "anew", shard_size="20kB")
    assert tree(dst) == tree(tmp_path / "anew")
    pack(src, dst, shard_size="1GiB")
    assert [path.name for path in dst.glob("shard*")] == ["shard-00000.tar"]


def test_a_video_that_changes_meanwhile_leaves_no_tar(src: Path, tmp_path: Path) -> None:
    shard = plan_shards({NAMES[0]: Source(3, 0)}, 10**6)[0]
    with pytest.raises(OSError, match="changed while it was packed"):
        module.write_shard(src, tmp_path / "0.tar", shard, lambda size: None)
    assert not [*tmp_path.glob("0.tar*")]


def test_an_interrupted_run_is_taken_up_to_the_same_end(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dst = tmp_path / "dst"
    add = module._add

    def stop(tar: tarfile.TarFile, member: tarfile.TarInfo, *rest: object) -> None:
        if member.name == NAMES[1]:
            raise KeyboardInterrupt
        add(tar, member, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "_add", stop)
        with pytest.raises(KeyboardInterrupt):
            pack(src, dst, shard_size="12kB")
    kept = {path.name: path.stat().st_mtime_ns for path in dst.glob("shard*")}
    assert kept and all(name.endswith(".tar") for name in kept)
    pack(src, dst, shard_size="12kB")
    assert unpacked(dst) == {name: (src / name).read_bytes() for name in NAMES}
    assert {name: (dst / name).stat().st_mtime_ns for name in kept} == kept
    assert len([*dst.glob("shard*")]) > len(kept)


@given(
    sizes=st.dictionaries(st.text("ab/", min_size=1, max_size=150), st.integers(0, 40_000), min_size=1, max_size=12),
    max_bytes=st.integers(1, 100_000),
)
def test_shards_hold_every_video_once_and_keep_to_their_size(sizes: Mapping[str, int], max_bytes: int) -> None:
    shards = plan_shards({path: Source(size, 0) for path, size in sizes.items()}, max_bytes)
    assert [path for shard in shards for path, _ in shard.videos] == sorted(sizes)
    assert all(shard.num_bytes <= max_bytes or len(shard.videos) == 1 for shard in shards)


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("500 MB", 5 * 10**8), ("7", 7), ("2kib", 2048), ("3tb", 3 * 10**12)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0MB", "1.5GiB", "-1GB", "big", "1 G", "٣MB"])
def test_what_is_no_size_is_refused_with_nothing_written(text: str, src: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--shard-size"):
        pack(src, tmp_path / "dst", shard_size=text)
    assert not (tmp_path / "dst").exists()


def test_tars_are_not_packed_again(src: Path, tmp_path: Path) -> None:
    pack(src, tmp_path / "once")
    with pytest.raises(InputError, match=r"shard-00000\.tar is a tar, and only files are taken: unpack it"):
        pack(tmp_path / "once", tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
