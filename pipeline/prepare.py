"""``python -m pipeline.prepare SRC DST``: transcode a tree of videos into training-friendly files.

Every video below SRC gets a copy in DST, by :mod:`pipeline.transcode`, under the same path but for the suffix.  List
files (.txt, .csv, .tsv, .json) go over as they are: they may name videos by their old suffix, and readers match by
stem.  Promises: a result appears whole and checked, or not at all; whatever failed is listed with its reason, and the
rest is done; a killed program loses only the videos in hand, and the same command goes on.

What has been done stands in DST/.prepare (:mod:`pipeline.manifest`).  A video is done again when its size, its
modification time or the options have changed; failed ones are tried again every time.  ``--shard i/n`` takes one of n
parts of the videos, by a hash of their paths, so that n machines share the work.

Exit status: 0 when every video of the part has its result; 1 when some have not, or the disk is full; 2 for a mistake
in the input, with nothing written; 130 after Ctrl-C; 143 after SIGTERM.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pynvml
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.errors import BadVideo, InputError
from pipeline.files import find_videos
from pipeline.manifest import FOLDER, Entry, append, open_manifest, read_manifests, summarize, summary_table
from pipeline.processes import map_in_processes, num_processes
from pipeline.program import run_program
from pipeline.text import spelled_out
from pipeline.transcode import CODECS, DISK_FULL, Options, transcode
from pipeline.trees import REPORT, check_folders, copy_lists

_CRASHED = "transcoding it crashes FFmpeg, or takes more memory than there is"
_MIN_SHORT_SIDE = 16


class _Job(NamedTuple):
    """One video to transcode: its source, where to write, where to put it, and what to note."""

    source: str
    part: Path
    result: Path
    entry: Entry


def prepare(
    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")],
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")],
    *,
    codec: Literal["auto", "h264", "vp8", "vp9", "mjpeg"] = "auto",
    short_side: int = 256,
    gop: int = 8,
    shard: str = "0/1",
    num_workers: int | None = None,
) -> int:
    """Transcode a tree of videos into training-friendly files.

    Results have a short side of 256 pixels, rotation baked in, square pixels, a constant frame rate, 4:2:0, no
    B-frames, short closed GOPs and no sound.  Class folders, names and list files are kept.  The same command goes on
    after an interruption and takes up what was added or changed.

    Args:
        src: folder of videos.
        dst: folder for the results; empty, or an earlier run's.
        codec: auto is what dst holds already, else h264 on a machine with an NVIDIA GPU and mjpeg on others; mjpeg
            takes a CPU the least to decode, at four times the bytes of h264.
        short_side: in pixels; smaller videos keep their size.
        gop: frames from one keyframe to the next.
        shard: i/n with i from 0 to n-1, to do the i-th of n parts.
        num_workers: processes; one per core where None.

    Returns:
        The exit status.

    Raises:
        InputError: folders or options make no sense; nothing is written.
        OSError: the disk is full.
    """
    began = time.monotonic()
    number, num_shards = _parse_shard(shard)
    if short_side < _MIN_SHORT_SIDE or gop < 1:
        raise InputError(f"--short-side {short_side} --gop {gop}: take {_MIN_SHORT_SIDE} or more, and 1 or more")
    num_workers = num_processes(num_workers)
    src, dst = src.absolute(), dst.absolute()
    check_folders(src, dst, FOLDER)
    videos = find_videos(src)
    if not videos:
        raise InputError(f"there are no videos in {src}")
    mine = [path for path in videos if _shard_of(path, num_shards) == number]
    (dst / FOLDER).mkdir(parents=True, exist_ok=True)
    name = f"{number}of{num_shards}"
    parts = dst / FOLDER / name  # unfinished files
    with open_manifest(dst, name) as manifest:
        entries = read_manifests(dst)
        options = Options(_settle_codec(codec, entries.values()), short_side, gop)
        clashes = _find_clashes(videos, options.codec)
        jobs = _find_jobs(src, dst, parts, [path for path in mine if path not in clashes], entries, options)
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        try:
            copy_lists(src, dst, parts / "list")
            for entry in _transcode_all(jobs, len(mine), num_workers):
                _remove_outdated(dst, entries.get(entry.path), entry)
                append(manifest, entry)
        finally:
            shutil.rmtree(parts, ignore_errors=True)
    report = summarize(videos, read_manifests(dst), clashes)
    run = {"src": str(src), "shard": shard, "options": options._asdict(), "seconds": round(time.monotonic() - began, 1)}
    _write_report(dst, run | report)
    _print_report(Console(soft_wrap=True, highlight=False, markup=False, emoji=False), dst, run | report)
    failed = {failure["path"] for failure in report["failures"]}
    return int(bool(failed & set(mine)))


def main() -> int:
    """Run the program; returns its exit status."""
    kept = "; what is finished is kept, and the same command goes on"
    return run_program(prepare, "python -m pipeline.prepare", kept)


def _parse_shard(shard: str) -> tuple[int, int]:
    number, slash, count = shard.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"--shard {shard}: write i/n with i from 0 to n-1, such as 0/4")
    return int(number), int(count)


def _shard_of(path: str, num_shards: int) -> int:
    """Depends on the path alone: shards stay apart even if they see the folder at different times."""
    return int.from_bytes(blake2b(os.fsencode(path), digest_size=8).digest()) % num_shards


def _settle_codec(codec: str, entries: Collection[Entry]) -> str:
    if codec != "auto":
        return codec
    if entries:  # the machines of a cluster need not be alike
        return max(entries, key=lambda entry: entry.finished).options.codec
    return "h264" if _has_gpu() else "mjpeg"


def _has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


def _result_path(path: str, codec: str) -> str:
    return os.path.splitext(path)[0] + CODECS[codec].suffix


def _find_clashes(videos: Iterable[str], codec: str) -> dict[str, str]:
    """Why videos are left out that would have the same result, by path."""
    sources: dict[str, list[str]] = {}
    for path in videos:
        sources.setdefault(_result_path(path, codec), []).append(path)
    return {
        path: f"{' and '.join(paths)} would both become {result}: rename one"
        for result, paths in sources.items()
        if len(paths) > 1
        for path in paths
    }


def _find_jobs(
    src: Path, dst: Path, parts: Path, paths: Iterable[str], entries: dict[str, Entry], options: Options
) -> list[_Job]:
    """What has no result yet, or an outdated one."""
    jobs = []
    for path in paths:
        try:
            stat = os.stat(src / path)
        except OSError:
            continue  # removed since the folder was read; it counts as not yet tried
        entry = Entry(path, stat.st_size, stat.st_mtime_ns, options)
        result = _result_path(path, options.codec)
        if not _is_done(dst, entries.get(path), entry, result):
            part = parts / f"{blake2b(os.fsencode(path), digest_size=16).hexdigest()}{CODECS[options.codec].suffix}"
            jobs.append(_Job(str(src / path), part, dst / result, replace(entry, result=result)))
    return jobs


def _is_done(dst: Path, known: Entry | None, wanted: Entry, result: str) -> bool:
    if known is None or known.result != result:
        return False
    try:
        size = os.stat(dst / result).st_size
    except OSError:
        return False
    noted = (known.size, known.mtime_ns, known.options, known.result_size)
    return noted == (wanted.size, wanted.mtime_ns, wanted.options, size)


def _transcode_all(jobs: list[_Job], num_videos: int, num_workers: int) -> Iterable[Entry]:
    """Transcode in processes, showing progress; yields entries as they are finished."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("preparing", total=num_videos, completed=num_videos - len(jobs))
        for job, outcome in map_in_processes(_transcode_one, jobs, num_workers, crashed=None, chunk=1):
            entry = outcome or _failed(job, _CRASHED)
            if entry.reason:
                line = spelled_out(f"failed: {entry.path}: {entry.reason}")
                bar.console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)
            bar.advance(task)
            yield entry


def _transcode_one(job: _Job) -> Entry | None:
    """Called in a worker; always returns an entry, so that None is left to mean a crash."""
    try:
        done = transcode(job.source, job.part, job.entry.options)
        size = job.part.stat().st_size
        job.result.parent.mkdir(parents=True, exist_ok=True)
        job.part.replace(job.result)
    except BadVideo as error:
        return _failed(job, error.reason)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return _failed(job, f"its result cannot be written: {error}")
    finally:
        job.part.unlink(missing_ok=True)
    return replace(
        job.entry,
        finished=time.time(),
        result_size=size,
        num_source_frames=done.num_source_frames,
        num_frames=done.num_frames,
    )


def _failed(job: _Job, reason: str) -> Entry:
    return replace(job.entry, finished=time.time(), result=None, reason=reason)


def _remove_outdated(dst: Path, before: Entry | None, now: Entry) -> None:
    """Remove the result of an earlier version of a source, or of other options, where nothing has replaced it."""
    if before and before.result and before.result != now.result:
        (dst / before.result).unlink(missing_ok=True)


def _write_report(dst: Path, report: dict[str, Any]) -> None:
    """As JSON and as text."""
    path = dst / f"{REPORT}.json"
    temporary = dst / FOLDER / f"{report['shard'].replace('/', 'of')}.report"
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(path)
    with temporary.open("w", errors="backslashreplace") as file:
        _print_report(
            Console(file=file, width=120, soft_wrap=True, highlight=False, markup=False, emoji=False), dst, report
        )
    temporary.replace(path.with_suffix(".txt"))


def _print_report(console: Console, dst: Path, report: dict[str, Any]) -> None:
    console.print(summary_table(report))
    for failure in report["failures"]:
        console.print(spelled_out(f"failed: {failure['path']}: {failure['reason']}"))
    for path in report["without_source"]:
        console.print(spelled_out(f"its source is gone, remove it if it is not wanted: {dst / path}"))
    options = " ".join(f"{name} {value}" for name, value in report["options"].items())
    console.print(f"{report['src']} to {dst} in {report['seconds']} s: {options}, part {report['shard']}")


if __name__ == "__main__":
    sys.exit(main())
