"""The index of a folder of videos: each scanned once, kept as flat arrays in one memory-mapped file.

Promises: refused files are kept with their reasons; a saved index that is damaged, truncated or of another version is
refused rather than misread, and damage to one video's packet table shows when its record is read; the same files give
the same bytes, in whatever order and in however many sittings they were scanned.  Rows are sorted by path.  Left to
others: one video (:mod:`pipeline.scanning`), which there are (:mod:`pipeline.sources`), the file format
(:mod:`pipeline.array_file`), and which video is of which class (:mod:`pipeline.datasets`).

    python -m pipeline.index ROOT       index a folder ahead of training, or bring its index up to date
"""

import contextlib
import logging
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.array_file import StoredArray, read_arrays, write_arrays
from pipeline.errors import BadVideo, InputError
from pipeline.files import VIDEO_SUFFIXES, stays_inside
from pipeline.processes import map_in_processes, num_processes
from pipeline.program import run_program
from pipeline.record import VideoRecord
from pipeline.scanning import scan
from pipeline.sources import Refusal, Source, Sources, find_sources
from pipeline.text import spelled_out

log = logging.getLogger(__name__)

FILE_NAME = ".index"
"""Where ``python -m pipeline.index`` puts a folder's index: in the folder itself, hidden from those who list it."""

_MAGIC = b"TGINDEX3"

# Columns with one number a video.
_NUMBERS = {
    "colorspace": np.int16,
    "color_range": np.int16,
    "width": np.int32,
    "height": np.int32,
    "rotation": np.int16,
    "fps": np.float64,
    "num_frames": np.int64,
    "sliceable": np.bool_,
    "joinable": np.bool_,
    "stream": np.int16,
    "file_size": np.int64,
    "mtime_ns": np.int64,
    "start": np.int64,
}
_PER_PACKET = {"offsets": np.int64, "sizes": np.int32, "roles": np.int8, "frames": np.int32}
_NAMES = ("codec", "codec_tag", "pixel_format")
# A video's packets and extradata are its table.  Tables lie one after the other, so that a record takes one read of a
# few kilobytes; they are 1.3 GB at 250,000 videos of 300 packets and stay in the file.  All else is 40 MB.
_PACKET = np.dtype([*_PER_PACKET.items()])

_CRASHED = "reading it crashes FFmpeg"
_SAVE_EVERY_S = 30.0
_SAVING_SHARE = 0.05  # of the time, at most, goes into saving what has been scanned so far


class _Refused(NamedTuple):
    """What a scan says of a video it refuses; a lasting refusal stands until the file changes."""

    reason: str
    lasting: bool = True

    def at(self, source: Source) -> Refusal:
        """The refusal of a video that lies there."""
        return Refusal(self.reason, source) if self.lasting else Refusal.passing(self.reason, source)


class VideoIndex:
    """Records of the usable videos below a folder.

    Attributes:
        root: the folder, absolute.
        paths: paths of the videos relative to the root, with "/", sorted; a video's row is its place here.
        refused: reasons by relative path for the videos and tars that cannot be used.
    """

    def __init__(
        self,
        root: Path,
        columns: Mapping[str, np.ndarray],
        tables: np.ndarray | StoredArray,
        names: list[str],
        refusals: Mapping[str, Refusal],
        tars: Mapping[str, tuple[int, int]],
    ) -> None:
        self.root = root
        self.refused = {path: refusal.reason for path, refusal in refusals.items()}
        self._refusals = refusals
        self._tars = tars  # that were listed, of size and modification time; the column "tar" counts them
        self._tar_of = [(os.path.join(root, tar), size) for tar, (size, _) in tars.items()]
        self._columns = columns
        self._tables = tables
        self._folder = os.path.join(root, "")
        self._names = names  # of codecs, their tags and pixel formats, by number
        ends = columns["paths_end"].tolist()
        text = columns["paths"].tobytes()
        self.paths = [os.fsdecode(text[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> VideoRecord:
        """The record of a row; its arrays share one block of memory.

        Raises:
            BadVideo: its part of the index is damaged.
        """
        columns = self._columns
        ends, num_packets = columns["table_end"], columns["num_packets"].item(row)
        table = self._tables[ends.item(row - 1) if row else 0 : ends.item(row)]
        path = f"{self._folder}{self.paths[row]}"
        if zlib.crc32(table.data) != columns["crc"].item(row):
            raise BadVideo(path, "its packet table in the index is damaged: delete the index and make it again")
        packets = table[: num_packets * _PACKET.itemsize].view(_PACKET)
        fields: dict[str, Any] = {name: packets[name] for name in _PER_PACKET}
        for name in _NUMBERS:
            fields[name] = columns[name].item(row)
        for name in _NAMES:
            fields[name] = self._names[columns[name].item(row)]
        tar = columns["tar"].item(row)
        if tar >= 0:
            fields["tar"], fields["tar_size"] = self._tar_of[tar]
        return VideoRecord(path=path, extradata=table[packets.nbytes :].tobytes(), **fields)

    @property
    def num_frames(self) -> np.ndarray:
        """(num_videos,) int64 frames of every video, by row."""
        return self._columns["num_frames"]

    @cached_property
    def display_sizes(self) -> np.ndarray:
        """(num_videos, 2) int32 width and height of every video as displayed, by row."""
        stored = np.stack([self._columns["width"], self._columns["height"]], axis=1)
        turned = np.isin(self._columns["rotation"], (90, 270))
        return np.where(turned[:, None], stored[:, ::-1], stored)

    def kinds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sort videos by what a decoder has to cope with: codec, pixel format, rotation, and how they may be cut.

        Args:
            rows: (N,) rows.

        Returns:
            (K,) the first row of each kind, in the order they come in, and (K,) how many of the rows are of it.
        """
        names = ("codec", "pixel_format", "rotation", "sliceable", "joinable")
        traits = np.stack([self._columns[name][rows] for name in names], axis=1)
        _, first, counts = np.unique(traits, axis=0, return_index=True, return_counts=True)
        order = np.argsort(first)
        return rows[first[order]], counts[order]

    def joinable_by_codec(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Those of the rows that are of joinable videos, in their order, by codec."""
        rows = rows[self._columns["joinable"][rows]]
        codecs = self._columns["codec"][rows]
        return {self._names[codec]: rows[codecs == codec] for codec in np.unique(codecs).tolist()}

    @classmethod
    def build(
        cls,
        root: str | os.PathLike[str],
        *,
        previous: "VideoIndex | None" = None,
        partial: str | os.PathLike[str] | None = None,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> "VideoIndex":
        """Scan every video below a folder, in files of their own and in tars, in parallel.

        Args:
            root: the folder.
            previous: an earlier index of it; files and tars with the size and modification time noted there are not
                read again.  What ``python -m pipeline.index`` left in the folder where None; if that is unusable, a
                warning says so.
            partial: file that keeps what has been scanned, every half minute or less often; what is in it is not
                scanned again.  Remove it when the index is saved.
            num_workers: processes; as many as there are cores where None.
            progress: show a progress bar.

        Raises:
            InputError: there is no such folder, or not one usable video in it, or two have one path; or ``partial``
                cannot be written.
        """
        num_workers = num_processes(num_workers)
        root = Path(root).absolute()
        if previous is None:
            previous = _index_in(root)
        before = previous._sources() if previous is not None and previous.root == root else None
        found = find_sources(root, before)
        sources = found.videos
        if previous is not None and before is not None and (before.videos, before.tars) == (sources, found.tars):
            return previous
        if partial and Path(partial).parent.exists():
            _check_writable(Path(partial))  # now, not after hours of scanning
        outcomes: dict[str, VideoRecord | Refusal] = {**found.refused}
        for known in (previous, cls.load(partial) if partial and os.path.exists(partial) else None):
            if known is not None and known.root == root:
                outcomes |= known._unchanged(sources)
        todo = {path: source for path, source in sources.items() if path not in outcomes}
        began = saved = time.monotonic()
        saving_s = 0.0
        try:
            for path, outcome in _scan_all(root, todo, num_workers, progress):
                outcomes[path] = outcome if isinstance(outcome, VideoRecord) else outcome.at(sources[path])
                now = time.monotonic()
                if partial and now - saved > max(_SAVE_EVERY_S, saving_s / _SAVING_SHARE):
                    _assemble(root, outcomes, found.tars).save(partial)
                    saved = time.monotonic()
                    saving_s = saved - now
        except BaseException:
            if partial and len(outcomes) > len(sources) - len(todo):
                _assemble(root, outcomes, found.tars).save(partial)
            raise
        index = _assemble(root, outcomes, found.tars)
        if not len(index):
            raise InputError(_nothing_usable(root, index.refused))
        if partial and time.monotonic() - began > _SAVE_EVERY_S:
            index.save(partial)  # whatever happens until the caller saves it
        return index

    @classmethod
    def of_files(
        cls,
        paths: Sequence[Path],
        *,
        in_tars: Mapping[Path, Source] | None = None,
        num_workers: int | None = None,
        scanned: Callable[[], None] = lambda: None,
    ) -> "VideoIndex":
        """Scan videos wherever they are, in parallel; the index may be empty, and its root is "/".

        Args:
            paths: absolute, of any suffix.
            in_tars: by path, where those lie that are in tars, with the paths of these below "/".
            num_workers: as for :meth:`build`.
            scanned: called after each file.
        """
        root = Path("/")
        outcomes: dict[str, VideoRecord | Refusal] = {}
        crashed: VideoRecord | _Refused = _Refused(_CRASHED)
        in_tars = in_tars or {}
        videos = [(str(path), _absolute(root, in_tars.get(path))) for path in paths]
        for video, outcome in map_in_processes(_scan_one, videos, num_processes(num_workers), crashed=crashed):
            path = video[0].removeprefix("/")
            outcomes[path] = outcome if isinstance(outcome, VideoRecord) else outcome.at(Source(-1, -1))
            scanned()
        tars = {source.tar: (source.tar_size, source.mtime_ns) for source in in_tars.values()}
        return _assemble(root, outcomes, tars)

    @classmethod
    def of_records(cls, root: Path, records: Mapping[str, VideoRecord]) -> "VideoIndex":
        """The index of videos that have been scanned already, by path relative to the root."""
        return _assemble(root, records, {})

    @classmethod
    def refresh(
        cls,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str],
        *,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> "VideoIndex":
        """The index kept at a path, made or brought up to date, saved, and memory-mapped.

        Args:
            path: the file; beside it, ``path``.partial keeps what has been scanned until all is.
            root: the folder it is of.
            num_workers: as for :meth:`build`.
            progress: show a progress bar.

        Raises:
            InputError: as :meth:`build` and :meth:`load`; or the index is of another folder, or cannot be written.
        """
        path, root = Path(path), Path(root).absolute()
        previous = cls.load(path) if path.exists() else None
        if previous is not None and previous.root != root:
            raise InputError(
                f"{path} is the index of {previous.root}, not of {root}: choose another file, "
                "or delete this one if that folder is no more"
            )
        if previous is None:
            _check_writable(path)
        partial = path.with_name(f"{path.name}.partial")
        index = cls.build(root, previous=previous, partial=partial, num_workers=num_workers, progress=progress)
        if index is previous:
            return index
        index.save(path)
        partial.unlink(missing_ok=True)
        return cls.load(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, whole or not at all; one in its own folder, as FILE_NAME, may move with it."""
        inside = Path(path).absolute() == self.root / FILE_NAME
        facts = {"root": str(self.root), "inside": inside, "names": self._names}
        facts |= {"refused": self._refusals, "tars": self._tars}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, _MAGIC, facts, self._columns, {"tables": self._tables})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "VideoIndex":
        """Open a saved index; packet tables are read from the file as they are needed.

        Raises:
            InputError: there is no such file, it is not a whole index of this version, or it names files elsewhere.
        """
        facts, columns, tables = read_arrays(path, _MAGIC, "index")
        refusals = {file: Refusal(reason, Source(*source)) for file, (reason, source) in facts["refused"].items()}
        tars = {tar: (size, mtime_ns) for tar, (size, mtime_ns) in facts["tars"].items()}
        inside = facts.get("inside") and Path(path).name == FILE_NAME  # a copy elsewhere has another name
        root = Path(path).absolute().parent if inside else Path(facts["root"])
        index = cls(root, columns, tables["tables"], facts["names"], refusals, tars)
        outside = [file for file in (*index.paths, *refusals, *tars) if not stays_inside(file)]
        if outside:
            raise InputError(
                f"the index {path} names {outside[0]!r}, which is not below {root}: this program has not made it so, "
                "delete it and make it again"
            )
        return index

    def changed(self) -> dict[str, str]:
        """What differs on disk by now: "new", "gone" or "changed" by relative path."""
        noted = self._sources()
        before, now = noted.videos, find_sources(self.root, noted).videos
        changes = dict.fromkeys(now.keys() - before.keys(), "new") | dict.fromkeys(before.keys() - now.keys(), "gone")
        changes |= {path: "changed" for path in now.keys() & before.keys() if now[path] != before[path]}
        return dict(sorted(changes.items()))

    def _sources(self) -> Sources:
        """Where every video lay, refused ones too, as noted; their order is that of the rows, then of the refusals."""
        tars = [(tar, size) for tar, (size, _) in self._tars.items()] + [("", 0)]  # the last, -1, is none
        numbers = (self._columns[name].tolist() for name in ("file_size", "mtime_ns", "tar", "start"))
        videos = {
            path: Source(size, mtime_ns, tars[tar][0], tars[tar][1], start)
            for path, size, mtime_ns, tar, start in zip(self.paths, *numbers, strict=True)
        }
        videos |= {path: refusal.source for path, refusal in self._refusals.items()}
        return Sources(videos, dict(self._refusals), dict(self._tars))

    def _unchanged(self, sources: Mapping[str, Source]) -> dict[str, "VideoRecord | Refusal"]:
        """What is known of the videos that are still as they were."""
        known: dict[str, VideoRecord | Refusal] = {}
        for row, (path, source) in enumerate(self._sources().videos.items()):
            if sources.get(path) != source:
                continue
            if path in self._refusals:
                known[path] = self._refusals[path]
            else:
                with contextlib.suppress(BadVideo):  # its part of the index is damaged: it is scanned again
                    known[path] = self[row]
        return known


def _index_in(root: Path) -> VideoIndex | None:
    """The index that a folder holds, or None: it was not asked for, so what is wrong with it ends no run."""
    path = root / FILE_NAME
    if not path.exists():
        return None
    try:
        index = VideoIndex.load(path)
    except InputError as error:
        log.warning("%s; it is not used", error)
        return None
    if index.root != root:
        log.warning("%s is the index of %s, not of %s; it is not used", path, index.root, root)
    return index


def _check_writable(path: Path) -> None:
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"the index {path} cannot be written there: choose another file")


def _absolute(root: Path, source: Source | None) -> Source | None:
    """A source as :func:`scan` takes it, None for a file of its own."""
    return source._replace(tar=os.path.join(root, source.tar)) if source and source.tar else None


def _scan_one(video: tuple[str, Source | None]) -> "VideoRecord | _Refused":
    try:
        return scan(*video)
    except BadVideo as error:
        # What the system refuses to read may be readable the next time: it is not remembered.
        return _Refused(error.reason, lasting=not isinstance(error.__cause__, OSError))


def _scan_all(
    root: Path, sources: Mapping[str, Source], num_workers: int, progress: bool
) -> Iterator[tuple[str, "VideoRecord | _Refused"]]:
    """Scan in processes: most of a scan holds the GIL."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not (progress and sources)) as bar:
        task = bar.add_task("indexing", total=len(sources))
        paths = {f"{root}/{path}": path for path in sources}
        videos = [(f"{root}/{path}", _absolute(root, source)) for path, source in sources.items()]
        crashed: VideoRecord | _Refused = _Refused(_CRASHED)
        for (file, _), outcome in map_in_processes(_scan_one, videos, num_workers, crashed=crashed):
            yield paths[file], outcome
            bar.advance(task)


def _assemble(
    root: Path, outcomes: Mapping[str, VideoRecord | Refusal], tars: Mapping[str, tuple[int, int]]
) -> VideoIndex:
    """The index of what has been found, by path."""
    tars = dict(sorted(tars.items()))
    numbers = {os.path.join(root, tar): number for number, tar in enumerate(tars)} | {"": -1}
    records = {path: found for path, found in sorted(outcomes.items()) if isinstance(found, VideoRecord)}
    refusals = {path: found for path, found in sorted(outcomes.items()) if isinstance(found, Refusal)}
    rows = list(records.values())
    names = sorted({getattr(record, name) for record in rows for name in _NAMES})
    columns: dict[str, np.ndarray] = {}
    for name in _NAMES:
        columns[name] = np.array([names.index(getattr(record, name)) for record in rows], np.int16)
    for name, dtype in _NUMBERS.items():
        columns[name] = np.array([getattr(record, name) for record in rows], dtype)
    columns["tar"] = np.array([numbers[record.tar] for record in rows], np.int32)
    names_on_disk = [os.fsencode(path) for path in records]
    columns["paths"], columns["paths_end"] = _joined(names_on_disk), _ends(names_on_disk)
    tables = [_table(record) for record in rows]
    columns["table_end"] = _ends(tables)
    columns["num_packets"] = np.array([len(record.sizes) for record in rows], np.int64)
    columns["crc"] = np.array([zlib.crc32(table) for table in tables], np.uint32)
    return VideoIndex(root, columns, _joined(tables), names, refusals, tars)


def _table(record: VideoRecord) -> bytes:
    packets = np.empty(len(record.sizes), _PACKET)
    for name in _PER_PACKET:
        packets[name] = getattr(record, name)
    return packets.tobytes() + record.extradata


def _joined(parts: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(parts), np.uint8)


def _ends(parts: list[bytes]) -> np.ndarray:
    return np.cumsum([len(part) for part in parts], dtype=np.int64)


def _nothing_usable(root: Path, refused: Mapping[str, str]) -> str:
    if not refused:
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
        return f"no videos in {root}, loose or in .tar files: they are recognised by suffix ({suffixes})"
    path, reason = next(iter(refused.items()))
    return f"none of the {len(refused)} videos in {root} can be used; the first, {path}: {reason}"


def index_folder(
    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")],
    *,
    index: Path | None = None,
    num_workers: int | None = None,
) -> None:
    """Index a folder of videos ahead of training, or bring its index up to date.

    An interrupted scan is taken up where it was; files are read again only when they have changed.

    Args:
        root: the folder.
        index: the file to keep it in; ROOT/.index where None, which training on ROOT finds by itself. Give another
            where ROOT cannot be written to, and give it to training as --data.index.
        num_workers: processes; one per core where None.
    """
    began = time.monotonic()
    path = index or root / FILE_NAME
    found = VideoIndex.refresh(path, root, num_workers=num_workers)
    for file, reason in found.refused.items():
        print(f"refused: {spelled_out(file)}: {spelled_out(reason)}")
    numbers = f"{len(found):,} videos of {found.num_frames.sum():,} frames, {len(found.refused):,} files refused"
    print(f"{path} ({path.stat().st_size / 1e6:,.1f} MB): {numbers}, in {time.monotonic() - began:.1f} s")


def main() -> int:
    """Run the program; returns its exit status: 0, 1, 2 for a mistake in the input, 130 or 143 when stopped."""
    kept = "; what is scanned is kept, and the same command goes on"
    return run_program(index_folder, "python -m pipeline.index", kept)


if __name__ == "__main__":
    sys.exit(main())
