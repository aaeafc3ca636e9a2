"""The index of a folder of videos: every file scanned once, kept as flat arrays in one memory-mapped file.

Promises: refused files are kept with their reasons; a saved index that is damaged, truncated or of another version is
refused rather than misread; rows are sorted by path.  Left to others: one file (:mod:`pipeline.scan`), and which video
is of which class (:mod:`pipeline.datasets`).

File format: ``MAGIC``, the header's length (uint64) and CRC-32 (uint32), the header (JSON: root, refused files, names,
and dtype, length and offset of every array), then the arrays, each aligned to 64 bytes.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.errors import BadVideo, InputError
from pipeline.record import VideoRecord
from pipeline.scan import scan

__all__ = ["VIDEO_SUFFIXES", "VideoIndex", "VideoRecord", "find_videos", "scan"]

VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".divx", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)

_MAGIC = b"TGINDEX1"
_PREFIX = struct.Struct("<8sQI")
_ALIGN = 64

# Columns with one number a video; text and packets are stored flat, with the end of each video's part in a column.
_NUMBERS = {
    "width": np.int32,
    "height": np.int32,
    "rotation": np.int16,
    "fps": np.float64,
    "num_frames": np.int64,
    "sliceable": np.bool_,
    "stream": np.int16,
    "file_size": np.int64,
    "mtime_ns": np.int64,
}
_PER_PACKET = {"offsets": np.int64, "sizes": np.int32, "keyframes": np.bool_, "shown": np.bool_}
_NAMES = ("codec", "pixel_format")
_BYTES = ("paths", "extradata")


class VideoIndex:
    """Records of the usable videos below a folder.

    Attributes:
        root: the folder, absolute.
        paths: paths of the videos relative to the root, with "/", sorted; a video's row is its place here.
        refused: reasons by relative path for the files that cannot be used.
    """

    def __init__(self, root: Path, columns: dict[str, np.ndarray], names: list[str], refused: dict[str, str]) -> None:
        self.root = root
        self.refused = refused
        self._columns = columns
        self._names = names  # of codecs and pixel formats, by number
        ends = columns["paths_end"].tolist()
        text = columns["paths"].tobytes()
        self.paths = [os.fsdecode(text[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> VideoRecord:
        """The record of a row; its arrays are views of the index."""
        columns = self._columns
        packets = slice(columns["packets_end"][row - 1] if row else 0, columns["packets_end"][row])
        extradata = slice(columns["extradata_end"][row - 1] if row else 0, columns["extradata_end"][row])
        fields: dict[str, Any] = {name: self._names[columns[name][row]] for name in _NAMES}
        fields |= {name: columns[name][row].item() for name in _NUMBERS}
        fields |= {name: columns[name][packets] for name in _PER_PACKET}
        path = os.path.join(self.root, self.paths[row])
        return VideoRecord(path=path, extradata=columns["extradata"][extradata].tobytes(), **fields)

    def shapes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What planning a clip has to know of its video, without the rest of its record.

        Args:
            rows: (N,) rows.

        Returns:
            (N,) frame counts, and (N, 2) width and height in pixels as displayed.
        """
        columns = self._columns
        sizes = np.stack([columns["width"][rows], columns["height"][rows]], axis=1)
        turned = columns["rotation"][rows] % 180 == 90
        sizes[turned] = sizes[turned, ::-1]
        return columns["num_frames"][rows], sizes

    @classmethod
    def build(
        cls,
        root: str | os.PathLike[str],
        *,
        previous: "VideoIndex | None" = None,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> "VideoIndex":
        """Scan every video below a folder, in parallel.

        Args:
            root: the folder.
            previous: an earlier index of it; files with the size and modification time noted there are not read again.
            num_workers: processes; as many as there are cores where None.
            progress: show a progress bar.

        Raises:
            InputError: there is no such folder, or not one usable video in it.
        """
        root = Path(root).absolute()
        paths = find_videos(root)
        records = _unchanged(previous, root, paths)
        todo = [path for path in paths if path not in records]
        refused: dict[str, str] = {}
        with _progress_bar(progress and bool(todo)) as bar:
            task = bar.add_task("indexing", total=len(todo))
            for path, outcome in _scan_all(root, todo, num_workers or os.cpu_count() or 1):
                if isinstance(outcome, VideoRecord):
                    records[path] = outcome
                else:
                    refused[path] = outcome
                bar.advance(task)
        if not records:
            raise InputError(_nothing_usable(root, refused))
        return _from_records(root, dict(sorted(records.items())), dict(sorted(refused.items())))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, whole or not at all."""
        arrays: dict[str, dict[str, Any]] = {}
        at = 0
        for name, column in self._columns.items():
            at += -at % _ALIGN
            arrays[name] = {"dtype": column.dtype.str, "length": len(column), "offset": at}
            at += column.nbytes
        header = json.dumps(
            {"root": str(self.root), "names": self._names, "refused": self.refused, "arrays": arrays, "num_bytes": at}
        ).encode()
        temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(_PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
                base = _data_start(len(header))
                for name, column in self._columns.items():
                    file.seek(base + arrays[name]["offset"])
                    column.tofile(file)
                file.truncate(base + at)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "VideoIndex":
        """Open a saved index; its arrays are read from the file as they are needed.

        Raises:
            InputError: there is no such file, or it is not a whole index of this version.
        """
        remedy = f"delete {path} and index again"
        try:
            size = os.path.getsize(path)
            with Path(path).open("rb") as file:
                prefix = file.read(_PREFIX.size)
                magic, length, checksum = _PREFIX.unpack(prefix) if len(prefix) == _PREFIX.size else (b"", 0, 0)
                if magic != _MAGIC:
                    raise InputError(f"{path} is not an index of this version: {remedy}")
                header = file.read(length) if length <= size else b""
        except OSError as error:
            raise InputError(f"the index {path} cannot be read: {error.strerror}") from error
        if zlib.crc32(header) != checksum:
            raise InputError(f"the header of the index {path} is damaged: {remedy}")
        fields = json.loads(header)
        base = _data_start(len(header))
        if size != base + fields["num_bytes"]:
            raise InputError(f"the index {path} has {size} bytes, not {base + fields['num_bytes']}: {remedy}")
        data = np.memmap(path, np.uint8, mode="r")
        columns = {}
        for name, array in fields["arrays"].items():
            dtype = np.dtype(array["dtype"])
            start = base + array["offset"]
            columns[name] = data[start : start + array["length"] * dtype.itemsize].view(dtype)
        return cls(Path(fields["root"]), columns, fields["names"], fields["refused"])

    def changed(self) -> dict[str, str]:
        """What differs on disk by now: "new", "gone" or "changed" by relative path."""
        found = set(find_videos(self.root))
        sizes, times = self._columns["file_size"], self._columns["mtime_ns"]
        changes = dict.fromkeys(found - set(self.paths) - set(self.refused), "new")
        for row, path in enumerate(self.paths):
            if path not in found:
                changes[path] = "gone"
            elif _stat(self.root, path) != (sizes[row], times[row]):
                changes[path] = "changed"
        return dict(sorted(changes.items()))


def find_videos(root: Path) -> list[str]:
    """Paths of all files below a folder that are videos by their suffix, relative, with "/", sorted.

    Hidden files and folders are passed over; linked folders are followed, each once.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds the videos")
    seen: set[tuple[int, int]] = set()
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        for name in files:
            is_video = not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
            if is_video and os.path.isfile(os.path.join(folder, name)):  # no dangling links, no pipes
                found.append(Path(relative, name).as_posix())
    return sorted(found)


def _scan_one(path: str) -> VideoRecord | str:
    try:
        return scan(path)
    except BadVideo as error:
        return error.reason


def _scan_all(root: Path, paths: list[str], num_workers: int) -> Iterator[tuple[str, VideoRecord | str]]:
    """Scan in processes: most of a scan holds the GIL.  A file that kills its process is refused like any other."""
    context = get_context("spawn")  # torch, DALI and progress threads do not survive a fork
    left = dict.fromkeys(paths)
    pool = ProcessPoolExecutor(max(1, min(num_workers, len(paths))), context)
    try:
        futures = {pool.submit(_scan_one, str(root / path)): path for path in paths}
        for future in as_completed(futures):
            outcome = future.result()
            del left[futures[future]]
            yield futures[future], outcome
    except BrokenProcessPool:
        for path in left:
            try:
                with ProcessPoolExecutor(1, context) as pool:
                    yield path, pool.submit(_scan_one, str(root / path)).result()
            except BrokenProcessPool:
                yield path, "reading it crashes FFmpeg"
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C only the files in hand are finished


def _unchanged(previous: VideoIndex | None, root: Path, paths: Iterable[str]) -> dict[str, VideoRecord]:
    if previous is None or previous.root != root:
        return {}
    on_disk = set(paths)
    changes = previous.changed()
    return {path: previous[row] for row, path in enumerate(previous.paths) if path in on_disk and path not in changes}


def _from_records(root: Path, records: dict[str, VideoRecord], refused: dict[str, str]) -> VideoIndex:
    rows = list(records.values())
    names = sorted({getattr(record, name) for record in rows for name in _NAMES})
    columns: dict[str, np.ndarray] = {}
    for name in _NAMES:
        columns[name] = np.array([names.index(getattr(record, name)) for record in rows], np.int16)
    for name, dtype in _NUMBERS.items():
        columns[name] = np.array([getattr(record, name) for record in rows], dtype)
    texts = {"paths": [os.fsencode(path) for path in records], "extradata": [record.extradata for record in rows]}
    for name in _BYTES:
        columns[f"{name}_end"] = np.cumsum([len(text) for text in texts[name]], dtype=np.int64)
        columns[name] = np.frombuffer(b"".join(texts[name]), np.uint8)
    columns["packets_end"] = np.cumsum([len(record.sizes) for record in rows], dtype=np.int64)
    for name, dtype in _PER_PACKET.items():
        columns[name] = np.concatenate([getattr(record, name) for record in rows]).astype(dtype)
    return VideoIndex(root, columns, names, refused)


def _nothing_usable(root: Path, refused: dict[str, str]) -> str:
    if not refused:
        return f"no videos in {root}: files are recognised by suffix ({', '.join(sorted(VIDEO_SUFFIXES))})"
    path, reason = next(iter(refused.items()))
    return f"none of the {len(refused)} videos in {root} can be used; the first, {path}: {reason}"


def _stat(root: Path, path: str) -> tuple[int, int]:
    stat = os.stat(root / path)
    return stat.st_size, stat.st_mtime_ns


def _data_start(header_length: int) -> int:
    end = _PREFIX.size + header_length
    return end + -end % _ALIGN


def _progress_bar(shown: bool) -> Any:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), disable=not shown
    )
