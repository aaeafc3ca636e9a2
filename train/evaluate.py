"""The program that tests a trained run again: ``python -m train.evaluate RUN``.

Promises the accuracy that the training itself reported for the same weights, to the bit on the same machine, since it
goes the same way.  Leaves evaluation.json, predictions.npz, confusion.csv and confusion.png.

Exit status: 0 when all is done; 2 for a mistake in the input, 1 where too many videos are gone or the system refused
something, each said in one line; 130 after Ctrl-C and 143 after SIGTERM.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from pipeline.batch import Modality
from pipeline.errors import TooManyBadVideos
from pipeline.files import write_whole
from pipeline.loader import choose_decoder
from pipeline.program import run_program
from pipeline.text import lines_spelled_out
from train.confusion import class_table, confusion_csv, confusion_table, draw_confusion
from train.predictions import PREDICTIONS, write_predictions
from train.report_classes import recalls_of
from train.saved_run import Checkpoint, DataRoot, Device, OutFolder, RunFolder, SavedRun, open_run, open_videos
from train.scoring import Accuracy, Predictions, accuracy, confusion_matrix
from train.stop import StopSignal
from train.validation import Validation
from train.videos import Videos

EVALUATION = "evaluation.json"
CONFUSION = "confusion"
FUSED = "fused"

_MAX_CLASSES = 20  # that are printed


class _Score(NamedTuple):
    """How good a network is; the matrix is (K, K) counts, rows true."""

    accuracy: Accuracy
    matrix: np.ndarray


def evaluate(
    run: RunFolder,
    *,
    checkpoint: Checkpoint = "last",
    center_clip: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    data_root: DataRoot = None,
    max_bad_fraction: Annotated[float | None, tyro.conf.arg(name="data.max-bad-fraction", metavar="FRACTION")] = None,
    device: Device = "auto",
    out: OutFolder = None,
) -> int:
    """Test the networks of a run on its validation videos: 10 clips x 3 crops of each.

    The run's result is the recognizer's; the temporal-gradient network and the mean of both networks' logits, where
    the method has them, show what the recognizer could have learned.

    Args:
        run: folder of the run, its --run.dir.
        checkpoint: the last weights, or those best in the evaluations on center clips.
        center_clip: show one center clip of each video instead, which takes a thirtieth of the time.
        data_root: folder of the videos, if they have moved.
        max_bad_fraction: give up when more than this fraction of the videos is gone; the run's own where None.
        device: where to run; auto takes a GPU if there is one.
        out: folder to write to; None takes the run's, or one in it unless all views go through the last weights.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    saved = open_run(run, checkpoint, device)
    videos = open_videos(saved, data_root)
    if max_bad_fraction is not None:
        data = replace(saved.config.data, max_bad_fraction=max_bad_fraction)
        saved = replace(saved, config=replace(saved.config, data=data))
    console.print(f"{saved}; {len(videos.split.val)} validation videos")
    try:
        predictions, skipped = _predict(saved, videos, center_clip, console)
    except TooManyBadVideos as error:
        print("error:", lines_spelled_out(str(error)), file=sys.stderr)
        return 1
    scores = _scores(predictions, videos.split.labels)
    folder = out or _default_folder(run, checkpoint, center_clip)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder, saved.step, predictions, videos.index.paths, videos.split.labels)
    matrix = scores[saved.method.modality].matrix
    write_whole(folder / f"{CONFUSION}.csv", confusion_csv(matrix, saved.class_names).encode())
    write_whole(folder / f"{CONFUSION}.png", draw_confusion(matrix, saved.class_names))
    described = _describe(saved, scores, skipped, "center clip" if center_clip else "10 clips x 3 crops")
    write_whole(folder / EVALUATION, (json.dumps(described, indent=2) + "\n").encode())
    _show(console, saved, scores)
    console.print(f"written to {folder}: {EVALUATION}, {PREDICTIONS}, {CONFUSION}.csv, {CONFUSION}.png")
    return 0


def _predict(
    saved: SavedRun, videos: Videos, center_clip: bool, console: Console
) -> tuple[dict[Modality, Predictions], dict[str, str]]:
    """What each network says, of the videos that all of them have seen, and why others were left out."""
    split = videos.split
    rows = np.unique(np.concatenate([split.labeled, split.unlabeled, split.val]))  # as the training chooses
    decoder = choose_decoder(videos.index, rows, saved.config.data.decoder, saved.config.run.device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        # One network at a time: beside temporal gradients the RGB clips of a short video would show fewer frames.
        predictions: dict[Modality, Predictions] = {}
        skipped: dict[str, str] = {}
        for modality, network in saved.method.networks.items():
            task = bar.add_task(f"{modality.upper()} network", total=None if center_clip else len(split.val))
            shown = partial(bar.advance, task)
            validation = Validation(saved.config, videos, decoder, StopSignal(), skipped, shown=shown)
            show = validation.center if center_clip else validation.test
            predictions |= show({modality: network})
            bar.update(task, total=len(split.val), completed=len(split.val))
    seen = set.intersection(*(set(one.rows.tolist()) for one in predictions.values()))
    kept = {modality: _of_rows(one, seen) for modality, one in predictions.items()}
    return kept, skipped


def _of_rows(predictions: Predictions, rows: set[int]) -> Predictions:
    mask = torch.tensor([row in rows for row in predictions.rows.tolist()])
    return Predictions(predictions.rows[mask], predictions.logits[mask])


def _scores(predictions: Mapping[Modality, Predictions], labels: np.ndarray) -> dict[str, _Score]:
    """Score each network, and the mean of their logits where there are several."""
    rows = next(iter(predictions.values())).rows
    logits: dict[str, Tensor] = {modality: one.logits for modality, one in predictions.items()}
    if len(logits) > 1:
        logits[FUSED] = torch.stack([*logits.values()]).mean(dim=0)
    true = torch.from_numpy(labels)[rows]
    return {
        name: _Score(accuracy(one, true), confusion_matrix(one, true, one.shape[1])) for name, one in logits.items()
    }


def _default_folder(run: Path, checkpoint: Checkpoint, center_clip: bool) -> Path:
    """The run's own folder for what the training writes there too; another one for anything else."""
    if checkpoint == "last" and not center_clip:
        return run
    return run / "_".join(["evaluation", checkpoint, *(["center_clip"] if center_clip else [])])


def _describe(
    saved: SavedRun, scores: Mapping[str, _Score], skipped: Mapping[str, str], views: str
) -> dict[str, object]:
    """All numbers, for evaluation.json; a recall is null where a class has no videos."""
    recalls = {name: recalls_of(score.matrix).tolist() for name, score in scores.items()}
    num_videos = scores[saved.method.modality].matrix.sum(axis=1).tolist()
    classes = [
        {
            "name": name,
            "num_videos": num_videos[row],
            "recall": {network: recall[row] if num_videos[row] else None for network, recall in recalls.items()},
        }
        for row, name in enumerate(saved.class_names)
    ]
    return {
        "run": str(saved.folder),
        "method": saved.config.run.method,
        "step": saved.step,
        "precise_bn": saved.precise_bn,
        "views": views,
        "recognizer": saved.method.modality,
        "accuracy": {name: asdict(score.accuracy) for name, score in scores.items()},
        "classes": classes,
        "skipped": dict(skipped),
    }


def _show(console: Console, saved: SavedRun, scores: Mapping[str, _Score]) -> None:
    recognizer = saved.method.modality
    matrices = {name: score.matrix for name, score in scores.items()}
    console.print(class_table(matrices, saved.class_names, max_classes=_MAX_CLASSES))
    console.print(confusion_table(matrices[recognizer], saved.class_names))
    has_top5 = len(saved.class_names) > 5
    table = Table("network", "top-1", *(["top-5"] if has_top5 else []), "mean of classes", "videos")
    for name, score in scores.items():
        found = score.accuracy
        numbers = (f"{share:.1%}" for share in (found.top1, *([found.top5] if has_top5 else []), found.mean_class))
        table.add_row(f"{name}, the recognizer" if name == recognizer else name, *numbers, str(found.num_videos))
    console.print(table)


def main() -> int:
    """Run the program; returns its exit status."""
    return run_program(evaluate, "python -m train.evaluate")


if __name__ == "__main__":
    sys.exit(main())
