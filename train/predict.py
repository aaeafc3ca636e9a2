"""The program that classifies videos with a trained run: ``python -m train.predict RUN VIDEO_OR_FOLDER...``.

Promises the views that the final test of a training sees, and that a video which cannot be used costs no other its
prediction.  Nothing is written, neither into the run nor beside the videos.

With ``--json``, standard output is one JSON object a line and nothing else, for every video in the order given:
``{"video": "a.mp4", "predictions": [{"class": "jump", "probability": 0.9}, ...]}``, or
``{"video": "b.mp4", "error": "the file is empty"}``.

Exit status: 0 when all videos are predicted, 1 when some are not, 2 for a mistake in the input, 130 after Ctrl-C and
143 after SIGTERM.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pipeline.errors import InputError
from pipeline.evaluation import center_views, multi_views, unlogged
from pipeline.index import VideoIndex
from pipeline.program import run_program
from pipeline.sources import TAR_SUFFIX, Source, Sources, find_sources, sources_in, stat_source
from pipeline.text import printable
from train.saved_run import Checkpoint, Device, RunFolder, SavedRun, open_run
from train.scoring import predict_center, predict_test
from train.validation import clip_spec, decoding

_CENTER_BATCH = 8  # videos whose center clips go through the network together


class Prediction(NamedTuple):
    """What a run says of one video.

    Attributes:
        video: the file as the user spelled it, or its folder.
        probabilities: (K,) float32, the softmax of the mean of the logits over the views; None for a bad video.
        reason: why there are none.
    """

    video: Path
    probabilities: Tensor | None
    reason: str = ""


def predict(
    run: RunFolder,
    videos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO_OR_FOLDER...")],
    *,
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 5,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
    center_clip: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
) -> int:
    """Classify videos with the recognizer of a run, by 10 clips x 3 crops of each.

    Args:
        run: folder of the run, its --run.dir.
        videos: video files, and folders and tars of which all videos are meant.
        top: classes to name, the likeliest first.
        as_json: print a JSON object a line for each video, and nothing else.
        center_clip: look at one center clip of each video instead, which takes a thirtieth of the time.
        checkpoint: the last weights, or those best in the evaluations on center clips.
        device: where to run; auto takes a GPU if there is one.
    """
    if not videos:
        raise InputError("no videos to predict: give files or folders after the run")
    if top < 1:
        raise InputError(f"--top {top} names no class: take 1 or more")
    saved = open_run(run, checkpoint, device)
    num_given = 0
    bad = []
    with _progress(as_json) as bar, unlogged():  # videos are named as they were given
        for prediction in predictions(saved, videos, center_clip=center_clip, bar=bar):
            num_given += 1
            if prediction.probabilities is None:
                bad.append(prediction)
            if as_json:
                print(json.dumps(_described(prediction, saved.class_names, top)), flush=True)
            elif prediction.probabilities is not None:
                print(printable(str(prediction.video)))
                for name, probability in _likeliest(prediction.probabilities, saved.class_names, top):
                    print(f"  {probability:6.1%}  {printable(name)}", flush=True)
    for video, _, reason in bad:
        print(f"not predicted: {printable(str(video))}: {printable(reason)}", file=sys.stderr)
    if bad:
        print(f"error: {_what_is_bad(bad, num_given)}", file=sys.stderr)
    return 1 if bad else 0


def _what_is_bad(bad: Sequence[Prediction], num_given: int) -> str:
    num_folders = sum(one.video.is_dir() for one in bad)
    num_bad, num_videos = len(bad) - num_folders, num_given - num_folders
    in_words = []
    if num_bad:
        in_words.append(f"{num_bad} of {num_videos} videos could not be predicted")
    if num_folders:
        in_words.append(f"no videos found in {num_folders} folder{'s' if num_folders > 1 else ''}")
    return "; ".join(in_words)


def predictions(run: SavedRun, given: Sequence[Path], *, center_clip: bool, bar: Progress) -> Iterator[Prediction]:
    """Predict videos one after the other.

    Args:
        run: as :func:`train.saved_run.open_run` returns it.
        given: files and folders.
        center_clip: show one clip of each video instead of 10 clips x 3 crops.
        bar: shows the progress.

    Yields:
        A prediction for each video, and one without probabilities for whatever is none, in the order given.
    """
    found, in_tars, reasons = _find(given)
    files = [Path("/", path) for path in found if path not in reasons]
    reading = bar.add_task("reading", total=len(files))
    index = VideoIndex.of_files(files, in_tars=in_tars, scanned=lambda: bar.advance(reading))
    reasons |= index.refused
    place = {path: row for row, path in enumerate(index.paths)}
    rows = np.array([place[path] for path in found if path in place], np.int64)
    predicting = bar.add_task("predicting", total=len(rows))
    waiting = iter(found.items())
    for row, logits in _mean_logits(run, index, rows, center_clip, reasons):
        for path, video in waiting:
            if path == index.paths[row]:
                yield Prediction(video, logits.softmax(dim=0))
                break
            yield Prediction(video, None, reasons[path])
        bar.advance(predicting)
    for path, video in waiting:
        yield Prediction(video, None, reasons[path])


def _find(given: Sequence[Path]) -> tuple[dict[str, Path], dict[Path, Source], dict[str, str]]:
    """The videos meant, each once, by their path below "/"; where those in tars lie; and why some given are none."""
    found: dict[str, Path] = {}
    in_tars: dict[Path, Source] = {}
    reasons: dict[str, str] = {}
    for path in given:
        is_tar = path.suffix.lower() == TAR_SUFFIX and path.is_file()
        if not is_tar and not path.is_dir():
            found.setdefault(_below_root(path), path)
            continue
        folder = path.parent if is_tar else path
        try:
            sources = sources_in(folder, path.name, stat_source(path)) if is_tar else find_sources(path)
            reason = "there are no videos in it: files are recognised by suffix, or name them one by one"
        except InputError as error:
            sources, reason = Sources(), str(error)
        if not sources.videos:
            found.setdefault(_below_root(path), path)
            reasons[_below_root(path)] = reason
        for name, source in sorted(sources.videos.items()):
            key = _below_root(folder / name)
            if found.setdefault(key, folder / name) != folder / name:
                continue  # given before, in another spelling
            if source.tar:
                in_tars[Path("/", key)] = source._replace(tar=_below_root(folder / source.tar))
            if name in sources.refused:
                reasons[key] = sources.refused[name].reason
    return found, in_tars, reasons


def _below_root(path: Path) -> str:
    return os.path.abspath(path).lstrip("/")


def _mean_logits(
    run: SavedRun, index: VideoIndex, rows: np.ndarray, center_clip: bool, skipped: dict[str, str]
) -> Iterator[tuple[int, Tensor]]:
    """Rows of the videos that can be decoded, and the (K,) mean of their logits over the views."""
    if not len(rows):
        return
    modality, spec = run.method.modality, clip_spec(run.config)
    average, precision = run.config.eval.average, run.config.run.resolved_precision
    networks = {modality: run.method.recognizer}
    # The run may insist on a decoder that cannot take these videos: auto always finds one.
    options: dict[str, Any] = {**decoding(run.config), "decoder": "auto", "tg": modality == "tg", "skipped": skipped}
    if center_clip:
        for ids, views in center_views(index, rows, spec, batch_size=_CENTER_BATCH, **options):
            predicted = predict_center(networks, [(ids, views)], precision)
            yield from zip(ids.tolist(), predicted[modality].logits, strict=True)
    else:
        for row, views in multi_views(index, rows, spec, **options):
            yield row, predict_test(networks, [(row, views)], average, precision)[modality].logits[0]


def _described(prediction: Prediction, class_names: Sequence[str], top: int) -> dict[str, object]:
    """A prediction as it is printed for ``--json``."""
    video = str(prediction.video)
    if prediction.probabilities is None:
        return {"video": video, "error": prediction.reason}
    likeliest = _likeliest(prediction.probabilities, class_names, top)
    return {"video": video, "predictions": [{"class": name, "probability": share} for name, share in likeliest]}


def _likeliest(probabilities: Tensor, class_names: Sequence[str], top: int) -> list[tuple[str, float]]:
    values, classes = probabilities.topk(min(top, len(class_names)))
    return [(class_names[row], value) for row, value in zip(classes.tolist(), values.tolist(), strict=True)]


def _progress(as_json: bool) -> Progress:
    """A bar that never gets between the lines of standard output where those are read by a program."""
    to_terminal = sys.stdout.isatty()
    console = Console(stderr=not to_terminal)
    return Progress(
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        console=console,
        redirect_stdout=to_terminal,
        disable=not console.is_terminal or (to_terminal and as_json),
    )


def main() -> int:
    """Run the program; returns its exit status."""
    return run_program(predict, "python -m train.predict")


if __name__ == "__main__":
    sys.exit(main())
