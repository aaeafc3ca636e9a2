"""What a report tells of a run, as words and numbers: accuracies, what was trained, classes, speed, environment.

Promises functions of what the run noted down in its folder.  How it looks is left to :mod:`train.report_page`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.errors import InputError
from pipeline.lists import read_list
from pipeline.loader import steps_per_epoch
from train.checkpoint import LAST, load
from train.config import Config, from_json
from train.confusion import draw_confusion
from train.hardware import NAMES as HARDWARE
from train.hardware import describe_hardware
from train.metrics import Record, read_metrics
from train.report_classes import hardest_classes, top_confusions
from train.report_figures import Runs, data_wait_pct
from train.report_page import ConfusionSection, Row
from train.scoring import Accuracy
from train.split_record import LABELED, SPLIT, read_left_out

_MAX_CELLS = 25  # classes whose confusions fit a table


@dataclass(frozen=True)
class Notes:
    """What a run has noted down in its folder.

    Attributes:
        config: resolved.
        environment: as :func:`train.environment.describe_environment` tells it.
        split: as :func:`train.split_record.write_split` does.
        labels: classes of the labeled videos.
        step: optimizer steps the method has done, as its checkpoint or its last record says, whichever is newer.
        runs: records of the method, and of the baseline where it has been begun.
        left_out: why videos were left out, by path.
    """

    config: Config
    environment: dict[str, Any]
    split: dict[str, Any]
    labels: list[int]
    step: int
    runs: Runs
    left_out: dict[str, str]

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return tuple(self.split["class_names"])

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each logit stands for."""
        return self.config.model.output_names(self.class_names)

    @property
    def records(self) -> list[Record]:
        """Of the main method."""
        return self.runs[self.config.run.method]


def read_notes(run_dir: Path) -> Notes:
    """Read them.

    Raises:
        InputError: this is not the folder of a run, or a note is damaged.
    """
    try:
        config = from_json((run_dir / "config.json").read_text())
        folders = {config.run.method: run_dir}
        if config.run.baseline:
            folders[config.run.baseline] = run_dir / config.run.baseline
        runs = {method: read_metrics(folder) for method, folder in folders.items() if folder.is_dir()}
        return Notes(
            config,
            json.loads((run_dir / "environment.json").read_text()),
            json.loads((run_dir / SPLIT).read_text()),
            [entry.label for entry in read_list(run_dir / LABELED)],
            _steps_done(run_dir, runs[config.run.method]),
            runs,
            read_left_out(run_dir),
        )
    except FileNotFoundError as error:
        raise InputError(f"{run_dir} is not the folder of a run: there is no {error.filename}") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"a note of the run in {run_dir} is damaged: {error}") from error


def _steps_done(run_dir: Path, records: list[Record]) -> int:
    logged = max((int(record["step"] or 0) for record in records), default=0)
    try:
        return max(logged, int(load(run_dir / LAST, mmap=True)["step"]))
    except InputError:  # there is none yet, or it is damaged
        return logged


def what_is_unfinished(notes: Notes) -> str:
    """How far a method has come that has not had its final test, and how good it was then; nothing after that."""
    if notes.config.run.method in final_accuracies(notes.runs):
        return ""
    run, optim = notes.config.run, notes.config.optim
    num_train = notes.split.get("num_videos", {}).get("to train on")
    of = ""
    if num_train is not None:
        last = optim.epochs * steps_per_epoch(num_train, optim.batch_unlabeled, run.world_size or 1)
        of = f" of {min(last, run.max_steps or last)}"
    center = [record for record in notes.records if record["kind"] == "val"][-1:]
    at = [f"; at step {r['step']} top-1 {r['top1']:.1%} on one center clip of {r['num_videos']} videos" for r in center]
    return f"unfinished: step {notes.step}{of}{''.join(at)}"


def final_accuracies(runs: Runs) -> dict[str, Accuracy]:
    """The last test of each method that has been tested."""
    found = {}
    for method, records in runs.items():
        for record in records:
            if record["kind"] == "test":
                found[method] = Accuracy(**{field.name: record[field.name] for field in fields(Accuracy)})  # type: ignore[arg-type]
    return found


def results_header(num_classes: int) -> Row:
    """What stands above :func:`result_rows`."""
    return ("method", "top-1", *(["top-5"] if num_classes > 5 else []), "mean of classes", "videos")


def result_rows(results: Mapping[str, Accuracy], num_classes: int) -> Iterable[Row]:
    """A row for each method; without top-5 where that is always 100 %."""
    for method, r in results.items():
        top5 = [f"{r.top5:.1%}"] if num_classes > 5 else []
        yield method, f"{r.top1:.1%}", *top5, f"{r.mean_class:.1%}", str(r.num_videos)


def result_table(results: Mapping[str, Accuracy], num_classes: int) -> Table:
    """Final accuracies for a terminal."""
    table = Table(*results_header(num_classes))
    for row in result_rows(results, num_classes):
        table.add_row(*row)
    return table


def headline(notes: Notes, results: Mapping[str, Accuracy]) -> list[tuple[str, str]]:
    """The numbers in large print, and what they are; none before the test."""
    main, baseline = notes.config.run.method, notes.config.run.baseline
    if main not in results:
        return []
    cards = [(f"{results[main].top1:.1%}", f"top-1 of {main}")]
    if baseline is not None and baseline in results:
        gain = 100 * (results[main].top1 - results[baseline].top1)
        cards.append((f"{gain:+.1f}", f"points of top-1 beyond {baseline}"))
    cards.append((f"{results[main].mean_class:.1%}", "mean recall of the classes"))
    cards.append((str(len(notes.labels)), "labels"))
    return cards


def what_was_trained(notes: Notes) -> list[tuple[str, str]]:
    """Videos, labels, clips, networks and schedule, a line each."""
    run, data, optim, split = notes.config.run, notes.config.data, notes.config.optim, notes.split
    steps = [record for record in notes.records if record["kind"] == "train"]
    logged = steps[-1]["step"] if steps else 0
    first = f", the first {logged}" if logged != notes.step else ""
    rows = [
        ("method", run.method + (f", compared with {run.baseline}" if run.baseline else "")),
        ("videos", ", ".join(f"{number} {what}" for what, number in split.get("num_videos", {}).items())),
        ("classes", str(len(notes.class_names))),
        ("labels", _labels(notes)),
        ("digests", ", ".join(f"{subset} {digest}" for subset, digest in split["digests"].items())),
        ("clips", f"{data.clip_len} frames of {data.size}×{data.size}, {data.frame_stride} frames of the video apart"),
        ("network", f"R3D-18 of {notes.config.model.width} channels"),
        ("a step", f"{optim.batch_labeled} labeled and {optim.batch_unlabeled} unlabeled clips"),
        ("schedule", f"{optim.epochs} epochs, of these {optim.warmup_epochs} warm-up to learning rate {optim.lr:g}"),
        ("done", f"{notes.step} steps{first} in {_duration(steps)}"),
        ("seed", str(run.seed)),
    ]
    return [(name, value) for name, value in rows if value]


def _labels(notes: Notes) -> str:
    per_class = np.bincount(notes.labels, minlength=len(notes.class_names))
    low, high = per_class.min(), per_class.max()
    counts = "" if low == high else f", {low} to {high} of a class"
    return f"{len(notes.labels)}{counts} ({notes.split['labels_from']})"


def confusion_section(matrix: np.ndarray, class_names: tuple[str, ...]) -> ConfusionSection:
    """Which class is taken for which: a table where it can be read, a picture where there are too many classes."""
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    is_table = len(class_names) <= _MAX_CELLS
    cells = [list(zip(*row, strict=True)) for row in zip(matrix.tolist(), shares.tolist(), strict=True)]
    return ConfusionSection(
        class_names,
        cells if is_table else None,
        None if is_table else draw_confusion(matrix, class_names),
        top_confusions(matrix, class_names),
        hardest_classes(matrix, class_names),
        int((matrix.sum(axis=1) > 0).sum()),
    )


def speeds(runs: Runs) -> list[Row]:
    """Medians of what log lines say of speed and machine: a row each, a column for each method."""
    columns = [dict(_speed(records)) for records in runs.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, *(column.get(name, "–") for column in columns)) for name in names]


def describe_machine(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a run took place, a line each."""
    packages = environment["packages"].items()
    return [
        ("commit", environment["git_commit"] or "unknown"),
        ("Python", environment["python"]),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages if version)),
        ("GPUs", ", ".join(environment["gpus"]) or "none"),
        ("CUDA", environment["cuda"] or "none"),
        ("CPU", f"{environment['cpu']}, {environment['num_cores']} cores"),
        ("system", environment["platform"]),
        ("host", environment["hostname"]),
        ("folder", environment["working_directory"]),
    ]


def _speed(records: list[Record]) -> Iterable[tuple[str, str]]:
    steps = [{**record, "data_wait_pct": data_wait_pct(record)} for record in records if record["kind"] == "train"]
    names = ("clips_per_s", "step_ms", "data_wait_pct", *HARDWARE)
    values = {name: [record[name] for record in steps if record.get(name) is not None] for name in names}
    medians = {name: float(np.median(found)) for name, found in values.items() if found}  # type: ignore[arg-type]
    for name, label, form in (
        ("clips_per_s", "clips/s", "{:.1f}"),
        ("step_ms", "step", "{:.0f} ms"),
        ("data_wait_pct", "waiting for data", "{:.0f}%"),
    ):
        if name in medians:
            yield label, form.format(medians[name])
    yield from describe_hardware(medians)


def _duration(steps: list[Record]) -> str:
    """Time spent in training steps, as the log lines tell it."""
    seconds, done = 0.0, 0
    for record in steps:
        seconds += (int(record["step"] or 0) - done) * float(record.get("step_ms") or 0) / 1000
        done = int(record["step"] or 0)
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
