"""``python -m pipeline.pack SRC DST``: put the videos of a folder into tars of about one size, as shards.

Few large files are what object storage and network file systems like.  The tars hold the videos under the paths they
have in SRC, so DST is the same data set to every program that takes a folder: nothing is unpacked, and the same ranges
of bytes are read.  Lists and annotations (.txt, .csv, .tsv, .json) lie beside the tars.

Promises: the same videos give the same bytes, whatever their times and owners; a tar appears whole or not at all; the
same command goes on after an interruption, and packs again what has changed.  Videos are not looked into.

Exit status: 0, or 1 where the system refuses something; 2 for a mistake in the input; 130 after Ctrl-C; 143 after
SIGTERM.
"""

import errno
import json
import os
import re
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

import tyro
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline.errors import InputError
from pipeline.files import find_videos, open_whole, write_whole
from pipeline.program import run_program
from pipeline.sources import Source, stat_source
from pipeline.trees import check_folders, copy_lists

MARK = ".pack"
"""File in DST that notes of what each finished shard was made."""

_SIZE = re.compile(r"([0-9]+) ?(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)?", re.IGNORECASE)
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_COPIED_AT_ONCE = 1 << 20  # bytes


class Shard(NamedTuple):
    """One tar: its name, and what is to be in it."""

    name: str
    videos: Sequence[tuple[str, Source]]

    @property
    def digest(self) -> str:
        """Tells these videos, as they are, from others."""
        return blake2b(repr([*self.videos]).encode(), digest_size=16).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Size of the tar."""
        blocks = 2 + sum(_num_blocks(path, source) for path, source in self.videos)
        return -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def pack(
    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")],
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")],
    *,
    shard_size: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "1GiB",
) -> None:
    """Put the videos of a folder into tars, which every program takes in place of the folder.

    The same command goes on after an interruption and takes up what was added or changed.

    Args:
        src: folder of videos, prepared ones best.
        dst: folder for the tars; empty, or an earlier run's.
        shard_size: of a tar at most, as 500MB or 1GiB; a larger video gets a tar of its own.

    Raises:
        InputError: folders or options make no sense; nothing is written.
        OSError: something cannot be read or written, or a video changes meanwhile.
    """
    max_bytes = parse_size(shard_size)
    src, dst = src.absolute(), dst.absolute()
    check_folders(src, dst, MARK)
    videos = {path: stat_source(src / path) for path in find_videos(src)}
    if not videos:
        raise InputError(f"there are no videos in {src}")
    shards = plan_shards(videos, max_bytes)
    dst.mkdir(parents=True, exist_ok=True)
    done = _finished(dst, shards)
    copy_lists(src, dst, dst / f"{MARK}.list")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("packing", total=sum(source.size for source in videos.values()))
        for shard in shards:
            if shard.name not in done:
                write_shard(src, dst / shard.name, shard, lambda size: bar.advance(task, size))
                done[shard.name] = shard.digest
                _note(dst, done)
            else:
                bar.advance(task, sum(source.size for _, source in shard.videos))
    num_bytes = sum(shard.num_bytes for shard in shards)
    print(f"{dst}: {len(videos):,} videos in {len(shards):,} tars, {num_bytes / 1e6:,.1f} MB")


def parse_size(text: str) -> int:
    """Bytes of a size as people write it.

    Raises:
        InputError: it is none, or 0.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(match[1]) * _UNITS[(match[2] or "B").lower()] if match else 0
    if not size:
        raise InputError(f"--shard-size {text}: write a whole number and a unit, such as 500MB or 1GiB")
    return size


def plan_shards(videos: Mapping[str, Source], max_bytes: int) -> list[Shard]:
    """Divide videos among tars, in the order of their paths, each filled before the next.

    Args:
        videos: by path.
        max_bytes: of a tar at most, unless one video takes more.
    """
    groups: list[list[tuple[str, Source]]] = []
    room = 0  # in blocks, of which two end a tar, which consists of whole records
    for path, source in sorted(videos.items()):
        num_blocks = _num_blocks(path, source)
        if not groups or num_blocks > room:
            groups.append([])
            room = max_bytes // tarfile.RECORDSIZE * (tarfile.RECORDSIZE // tarfile.BLOCKSIZE) - 2
        room -= num_blocks
        groups[-1].append((path, source))
    return [Shard(f"shard-{number:05}.tar", group) for number, group in enumerate(groups)]


def _num_blocks(path: str, source: Source) -> int:
    """What a video takes in a tar: its header, its bytes, and a member more for a long path."""
    length = len(os.fsencode(path))
    parts = [source.size] if length <= tarfile.LENGTH_NAME else [source.size, length + 1]  # a name ends in a zero
    return sum(1 + -(-part // tarfile.BLOCKSIZE) for part in parts)


def write_shard(src: Path, file: Path, shard: Shard, advance: Callable[[int], None]) -> None:
    """Write a tar, whole or not at all.

    Args:
        src: the folder of the videos.
        file: the tar.
        shard: what is to be in it.
        advance: called with the bytes of each video.

    Raises:
        OSError: something cannot be read or written, or a video is not what it was when the shard was planned.
    """
    with open_whole(file) as stream, _new_tar(stream) as tar:
        for path, source in shard.videos:
            member = tarfile.TarInfo(path)  # owned by root, of the year 1970
            member.size = source.size
            with (src / path).open("rb") as video:
                _add(tar, member, video, source)
            advance(source.size)


def _new_tar(stream: BinaryIO) -> tarfile.TarFile:
    """GNU's format, as it takes paths of any length and bytes, and headers of one block else."""
    return tarfile.TarFile(
        fileobj=stream,
        mode="w",
        format=tarfile.GNU_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        copybufsize=_COPIED_AT_ONCE,
    )


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, video: BinaryIO, source: Source) -> None:
    try:
        tar.addfile(member, video)
    finally:
        if stat_source(video.fileno()) != source:
            raise OSError(errno.ESTALE, "it has changed while it was packed", video.name)


def _finished(dst: Path, shards: Sequence[Shard]) -> dict[str, str]:
    """Digests of the shards that need not be written, by name; all others of an earlier run are removed."""
    try:
        noted = json.loads((dst / MARK).read_bytes())
    except (FileNotFoundError, ValueError):
        noted = {}
    there = {file.name: file for pattern in ("shard-*.tar", "shard-*.tar.tmp") for file in dst.glob(pattern)}
    done = {
        shard.name: shard.digest
        for shard in shards
        if noted.get(shard.name) == shard.digest
        and shard.name in there
        and there[shard.name].stat().st_size == shard.num_bytes
    }
    _note(dst, done)
    for name in there.keys() - done.keys():
        there[name].unlink()
    return done


def _note(dst: Path, done: Mapping[str, str]) -> None:
    write_whole(dst / MARK, (json.dumps(done, indent=2) + "\n").encode())


def main() -> int:
    """Run the program; returns its exit status."""
    kept = "; finished tars are kept, and the same command goes on"
    return run_program(pack, "python -m pipeline.pack", kept)


if __name__ == "__main__":
    sys.exit(main())
