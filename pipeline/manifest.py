"""What :mod:`pipeline.prepare` knows of its results: a line of JSON for every video, and the report made of them.

Every shard appends to a file of its own in DST/.prepare, locked while it works; what is known is all files together,
the latest line of a video counting.  Promises: a line cut off by a crash is passed over, so that its video counts as
not done; a line that names files elsewhere is refused.  Left to others: doing it (:mod:`pipeline.prepare`).
"""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rich.table import Table

from pipeline.errors import InputError
from pipeline.files import stays_inside
from pipeline.transcode import Options

FOLDER = ".prepare"
"""Folder in DST that holds the manifests; hidden, so that no reader takes it for a class."""


@dataclass(frozen=True)
class Entry:
    """What became of one video.

    Attributes:
        path: of the source, relative to SRC.
        size: bytes of the source.
        mtime_ns: modification time of the source.
        options: what the result is like.
        finished: seconds since 1970.
        result: path of the result relative to DST; None where it failed.
        result_size: bytes of the result.
        num_source_frames: frames of the source.
        num_frames: frames of the result.
        reason: why it failed, or None.
    """

    path: str
    size: int
    mtime_ns: int
    options: Options
    finished: float = 0.0
    result: str | None = None
    result_size: int = 0
    num_source_frames: int = 0
    num_frames: int = 0
    reason: str | None = None


@contextmanager
def open_manifest(dst: Path, shard: str) -> Iterator[IO[str]]:
    """Context in which a shard's manifest is open for appending, by nobody else.

    Raises:
        InputError: another process has it open.
    """
    with (dst / FOLDER / f"{shard}.jsonl").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is preparing this part of {dst}: wait for it, or end it") from error
        if file.tell():
            file.write("\n")  # the last line may have been cut off
        yield file


def append(file: IO[str], entry: Entry) -> None:
    """Write an entry through to the operating system."""
    file.write(json.dumps({**asdict(entry), "options": entry.options._asdict()}) + "\n")
    file.flush()


def read_manifests(dst: Path) -> dict[str, Entry]:
    """The latest entry of every video, by path.

    Raises:
        InputError: an entry names a file outside the folder.
    """
    entries: dict[str, Entry] = {}
    for manifest in sorted((dst / FOLDER).glob("*.jsonl")):
        for number, line in enumerate(manifest.read_text(errors="replace").splitlines(), 1):
            entry = _parse(line)
            if entry and not all(stays_inside(str(path)) for path in (entry.path, entry.result or "")):
                raise InputError(
                    f"{manifest}, line {number}: {entry.path!r} or {entry.result!r} leads out of its folder, which "
                    "this program has not written: remove the line"
                )
            if entry and (entry.path not in entries or entry.finished >= entries[entry.path].finished):
                entries[entry.path] = entry
    return entries


def _parse(line: str) -> Entry | None:
    try:
        fields = json.loads(line)
        return Entry(**{**fields, "options": Options(**fields["options"])})
    except (ValueError, TypeError, KeyError):
        return None


def summarize(paths: Iterable[str], entries: Mapping[str, Entry], clashes: Mapping[str, str]) -> dict[str, Any]:
    """The report, ready for JSON.

    Args:
        paths: of all videos of SRC.
        entries: what is known, by path.
        clashes: why videos were not even tried, by path.
    """
    paths = list(paths)
    known = [entries[path] for path in paths if path in entries and path not in clashes]
    done = [entry for entry in known if entry.result]
    failures = {entry.path: entry.reason for entry in known if not entry.result} | dict(clashes)
    there = {entry.result for entry in done}
    orphans = sorted(entry.result for entry in entries.values() if entry.result and entry.result not in there)
    return {
        "num_videos": len(paths),
        "num_prepared": len(done),
        "num_failed": len(failures),
        "num_missing": len(paths) - len(done) - len(failures),
        "bytes_before": sum(entry.size for entry in done),
        "bytes_after": sum(entry.result_size for entry in done),
        "num_frames": sum(entry.num_frames for entry in done),
        "failures": [{"path": path, "reason": reason} for path, reason in sorted(failures.items())],
        "resampled": [
            {"path": entry.path, "num_source_frames": entry.num_source_frames, "num_frames": entry.num_frames}
            for entry in done
            if entry.num_frames != entry.num_source_frames
        ],
        "without_source": orphans,
    }


def summary_table(report: Mapping[str, Any]) -> Table:
    """The report's numbers for people."""
    table = Table("", "videos", "MB before", "MB after")
    before, after = (f"{report[key] / 1e6:,.1f}" for key in ("bytes_before", "bytes_after"))
    table.add_row("prepared", f"{report['num_prepared']:,}", before, after)
    table.add_row("  of them resampled in time", f"{len(report['resampled']):,}")
    table.add_row("failed", f"{report['num_failed']:,}")
    table.add_row("not yet tried", f"{report['num_missing']:,}")
    return table
