"""One method of a run: train it, or go on training it, and test it.

Promises the files a training leaves in its folder, and that one which is started again continues to the bit.  Where
the videos come from is left to :mod:`train.videos`, the steps to :mod:`train.loop`.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch

from pipeline.batch import ClipBatch
from pipeline.errors import TooManyBadVideos
from pipeline.files import write_whole
from pipeline.loader import ClipLoader
from train.checkpoint import LAST, TrainState, load
from train.config import Config, to_json
from train.display import Display
from train.environment import describe_environment
from train.loop import num_steps, train
from train.methods import METHODS, Method
from train.metrics import MetricsLog, Window, read_metrics
from train.predictions import write_predictions
from train.schedule import Schedule
from train.scoring import Accuracy
from train.split_record import check_same_split, write_split
from train.stop import StopSignal
from train.validation import Validation, clip_spec, decoding
from train.videos import INDEX, PARTIAL_INDEX, Videos


def fit(
    config: Config, videos: Videos, command: str, stop: StopSignal
) -> tuple[Accuracy, ClipBatch | None, dict[str, str]]:
    """Train one method, or go on training it, and evaluate it on all views.

    Args:
        config: resolved.
        videos: what to train and evaluate on.
        command: the command line, for the record.
        stop: asked between steps and during evaluations.

    Returns:
        Accuracy of the last weights on 10 clips x 3 crops per video, a batch to look at (None where too many videos
        have gone bad for one), and why videos were left out, by path.
    """
    run, optim, split = config.run, config.optim, videos.split
    method = _new_method(config, len(split.class_names))
    with ClipLoader(
        videos.index,
        split,
        method.needs,
        clip_spec(config),
        batch_labeled=optim.batch_labeled,
        batch_unlabeled=optim.batch_unlabeled,
        seed=run.seed,
        max_bad_fraction=config.data.max_bad_fraction,
        **decoding(config),
    ) as loader:
        state, schedule = _new_state(config, videos, method, loader)
        last = run.dir / LAST
        begun = last.exists()
        if begun:
            state.restore(load(last), last)
            check_same_split(run.dir, split)
        _write_provenance(config, videos, command)
        validation = Validation(config, videos, loader.decoder, stop)
        recognizer = {method.modality: method.recognizer}
        with (
            MetricsLog(run.dir, state.step) as metrics,
            Display(run.method, state.step, num_steps(state, schedule)) as display,
        ):
            if run.resume:
                display.note(f"resumed at step {state.step}" if begun else "no checkpoint yet, starting from scratch")

            def evaluate() -> Accuracy:
                return validation.center(recognizer)[method.modality].accuracy(split.labels)

            train(state, schedule, run.dir, evaluate, metrics, display, stop)
            accuracy = _recorded_test(run.dir, state.step)
            if accuracy is None:
                display.note("evaluating on 10 clips x 3 crops of every validation video")
                predictions = validation.test(recognizer)
                accuracy = predictions[method.modality].accuracy(split.labels)
                write_predictions(run.dir, state.step, predictions, videos.index.paths, split.labels)
                for path, reason in validation.skipped.items():
                    metrics.write({"kind": "skipped", "step": state.step, "path": path, "reason": reason})
                metrics.write({"kind": "test", "step": state.step, **asdict(accuracy)})
                skipped = validation.skipped
            else:
                skipped = _recorded_skips(run.dir, state.step)
        batch, bad = _sample(loader)
        return accuracy, batch, {**skipped, **bad}


def _sample(loader: ClipLoader) -> tuple[ClipBatch | None, dict[str, str]]:
    """A batch, and the videos left out; all else is done, so that there is none is no reason to fail."""
    try:
        batch = next(loader)
    except TooManyBadVideos as error:
        return None, error.bad
    return batch, loader.quarantined


def _new_method(config: Config, num_classes: int) -> Method:
    """Networks with their first weights."""
    torch.manual_seed(config.run.seed)
    method = METHODS[config.run.method](num_classes, config.method, config.model.width, config.model.dropout)
    return method.to(torch.device(config.run.device)).to(memory_format=torch.channels_last_3d)


def _new_state(config: Config, videos: Videos, method: Method, loader: ClipLoader) -> tuple[TrainState, Schedule]:
    """An optimizer without momentum yet, and the schedule."""
    run, optim, class_names = config.run, config.optim, videos.split.class_names
    assert optim.lr is not None, "the configuration is resolved"
    optimizer = torch.optim.SGD(
        method.parameters(), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, foreach=True
    )
    schedule = Schedule(
        lr=optim.lr, epochs=optim.epochs, warmup_epochs=optim.warmup_epochs, steps_per_epoch=loader.steps_per_epoch
    )
    window = Window(run.log_every, videos.index.paths)
    return TrainState(config, class_names, method, optimizer, loader, window), schedule


def _write_provenance(config: Config, videos: Videos, command: str) -> None:
    """The first thing a run writes: what it is, where it runs, and which videos it takes."""
    folder = config.run.dir
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", to_json(config).encode())
    write_whole(folder / "environment.json", (json.dumps(describe_environment(command), indent=2) + "\n").encode())
    write_split(folder, videos.index, videos.split)
    videos.index.save(folder / INDEX)
    (folder / PARTIAL_INDEX).unlink(missing_ok=True)


def _recorded_test(run_dir: Path, step: int) -> Accuracy | None:
    """The final accuracy, if an earlier start of this run has got that far."""
    for record in read_metrics(run_dir):
        if record["kind"] == "test" and record["step"] == step:
            return Accuracy(**{field.name: record[field.name] for field in fields(Accuracy)})  # type: ignore[arg-type]
    return None


def _recorded_skips(run_dir: Path, step: int) -> dict[str, str]:
    """Why videos were left out of evaluations, by path, as recorded with the final accuracy."""
    records = [record for record in read_metrics(run_dir) if record["kind"] == "skipped" and record["step"] == step]
    return {str(record["path"]): str(record["reason"]) for record in records}
