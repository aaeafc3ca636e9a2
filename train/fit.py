"""One method of a run: train it, or go on training it, and test it.

Promises the files a training leaves in its folder, which the first rank alone writes, and that one which is started
again continues to the bit.  Where the videos come from is left to :mod:`train.videos`, the steps to :mod:`train.loop`.
"""

import json
from collections import ChainMap
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor

from model import synchronize_batch_norm, using_precise_bn
from pipeline.batch import ClipBatch
from pipeline.errors import InputError, TooManyBadVideos
from pipeline.files import write_whole
from pipeline.loader import ClipLoader
from train.checkpoint import LAST, TrainState, load
from train.config import Config, to_json
from train.display import Display
from train.distributed import ALONE, Ranks, batch_share, reaching_others
from train.environment import ENVIRONMENT, describe_environment
from train.loop import num_steps, train
from train.methods import METHODS, Method
from train.metrics import MetricsLog, Window, read_metrics
from train.predictions import write_predictions
from train.schedule import Schedule
from train.scoring import Accuracy
from train.seeds import seed_of
from train.split_record import check_same_split, write_split
from train.step import compile_method, new_optimizer, new_scaler
from train.stop import StopSignal
from train.validation import Judged, Validation, clip_spec, decoding
from train.videos import INDEX, PARTIAL_INDEX, Videos


def fit(
    config: Config, videos: Videos, command: str, stop: StopSignal, ranks: Ranks = ALONE
) -> tuple[Accuracy, ClipBatch | None, dict[str, str]]:
    """Train one method, or go on training it, and evaluate it on all views.

    Args:
        config: resolved.
        videos: what to train and evaluate on.
        command: the command line, for the record.
        stop: asked between steps and during evaluations.
        ranks: those that train together.

    Returns:
        Accuracy of the last weights on 10 clips x 3 crops per video, a batch to look at (None where too many videos
        have gone bad for one, and on other ranks than the first), and why videos were left out, by path.
    """
    run, split = config.run, videos.split
    method = new_method(config, config.model.num_outputs(split.class_names), ranks, num_videos=len(videos.index))
    with ExitStack() as stack:
        with ranks.together():
            if method.num_rounds > 1 and not len(split.without_label):
                raise InputError(
                    f"every training video is labeled, and {run.method} has unlabeled ones judged between its rounds: "
                    "choose another --run.method, or fewer labels"
                )
            loader = stack.enter_context(new_loader(config, videos, method, ranks))
            state, schedule = new_state(config, videos, method, loader, ranks)
            last = run.dir / LAST
            begun = last.exists()
            if begun:
                state.restore(load(last), last)
                check_same_split(run.dir, split)
        steps = ranks.gather(state.step)
        with ranks.together():
            if len(set(steps)) > 1:
                raise InputError(f"the ranks found checkpoints of steps {steps}: all need to see the same {run.dir}")
            if ranks.is_first:
                _write_provenance(config, videos, command)
        validation = Validation(config, videos, loader.decoder, stop, ranks=ranks)
        recognizer = {method.modality: method.recognizer}
        with (
            MetricsLog(run.dir if ranks.is_first else None, state.step, state.evaluated_step) as metrics,
            Display(run.method, state.step, num_steps(state, schedule), quiet=not ranks.is_first) as display,
        ):
            metrics.describe(state.step, {"command": command, "configuration": to_json(config)})
            if run.resume:
                display.note(f"resumed at step {state.step}" if begun else "no checkpoint yet, starting from scratch")

            def precise_bn() -> dict[str, Tensor]:
                return validation.precise_bn(method.recognizer, method.modality, state.step)

            def evaluate() -> Accuracy:
                state.precise_bn = precise_bn()
                with using_precise_bn(method.recognizer, state.precise_bn):
                    return validation.center(recognizer)[method.modality].accuracy(split.labels)

            def judge() -> Judged:
                statistics = state.precise_bn if state.evaluated_step == state.step else precise_bn()
                with using_precise_bn(method.recognizer, statistics):
                    return validation.judge(method)

            with reaching_others():
                module = ranks.data_parallel(method)
            train(state, schedule, run.dir, evaluate, metrics, display, stop, module, judge)
            accuracy = ranks.first(_recorded_test(run.dir, state.step))
            if accuracy is None:
                display.note("evaluating on 10 clips x 3 crops of every validation video")
                with using_precise_bn(method.recognizer, state.precise_bn or precise_bn()):
                    predictions = validation.test(recognizer)
                accuracy = predictions[method.modality].accuracy(split.labels)
                with ranks.together():
                    if ranks.is_first:
                        write_predictions(run.dir, state.step, predictions, videos.index.paths, split.labels)
                    for path, reason in (validation.unread | validation.skipped).items():
                        metrics.write({"kind": "skipped", "step": state.step, "path": path, "reason": reason})
                    metrics.write({"kind": "test", "step": state.step, **asdict(accuracy)})
                skipped = validation.unread | validation.skipped
            else:
                skipped = _recorded_skips(run.dir, state.step)
        quarantined = ranks.gather(loader.quarantined)
        batch, bad = _sample(loader) if ranks.is_first else (None, {})
        return accuracy, batch, dict(ChainMap(skipped, bad, *quarantined))


def _sample(loader: ClipLoader) -> tuple[ClipBatch | None, dict[str, str]]:
    """A batch, and the videos left out; all else is done, so that there is none is no reason to fail."""
    try:
        batch = next(loader)
    except TooManyBadVideos as error:
        return None, error.bad
    return batch, loader.quarantined


def new_method(config: Config, num_outputs: int, ranks: Ranks = ALONE, *, num_videos: int = 0) -> Method:
    """Networks with their first weights, the same on all ranks; their dropout is not.

    Args:
        config: resolved.
        num_outputs: of the classifiers.
        ranks: those that train together.
        num_videos: rows of the index, for what is kept of each; 0 where nothing is trained.
    """
    torch.manual_seed(config.run.seed)
    method = METHODS[config.run.method](num_outputs, config.method, config.model.width, config.model.dropout)
    method.keep_videos(num_videos)
    if ranks.world_size > 1:
        synchronize_batch_norm(method)
        torch.manual_seed(seed_of(config.run.seed, ranks.rank))
    method = method.to(torch.device(ranks.device(config.run.device))).to(memory_format=torch.channels_last_3d)
    if config.run.compile == "on":
        compile_method(method, cuda_graphs=config.run.cuda_graphs)
    return method


def new_loader(config: Config, videos: Videos, method: Method, ranks: Ranks = ALONE) -> ClipLoader:
    """This rank's share of every step."""
    batch_labeled, batch_unlabeled = batch_share(config, ranks)
    return ClipLoader(
        videos.index,
        videos.split,
        method.needs,
        clip_spec(config),
        batch_labeled=batch_labeled,
        batch_unlabeled=batch_unlabeled,
        seed=config.run.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        max_bad_fraction=config.data.max_bad_fraction,
        **decoding(config, ranks),
    )


def new_state(
    config: Config, videos: Videos, method: Method, loader: ClipLoader, ranks: Ranks = ALONE
) -> tuple[TrainState, Schedule]:
    """An optimizer without momentum yet, and the schedule."""
    run, optim, class_names = config.run, config.optim, videos.split.class_names
    assert optim.lr is not None, "the configuration is resolved"
    precision = run.resolved_precision
    optimizer = new_optimizer(method, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    scaler = new_scaler(torch.device(run.device), precision)
    schedule = Schedule(
        lr=optim.lr,
        epochs=optim.epochs,
        warmup_epochs=optim.warmup_epochs,
        steps_per_epoch=loader.steps_per_epoch,
        rounds=method.num_rounds,
    )
    window = Window(run.log_every, videos.index.paths, ranks)
    num_videos = len(videos.index)
    state = TrainState(
        config, class_names, method, optimizer, scaler, loader, window, ranks=ranks, num_videos=num_videos
    )
    return state, schedule


def _write_provenance(config: Config, videos: Videos, command: str) -> None:
    """The first thing a run writes: what it is, where it runs, and which videos it takes."""
    folder = config.run.dir
    folder.mkdir(parents=True, exist_ok=True)
    for half in folder.glob("*.tmp"):
        half.unlink()  # left by a run that was killed while it wrote
    write_whole(folder / "config.json", to_json(config).encode())
    write_whole(folder / ENVIRONMENT, (json.dumps(describe_environment(command), indent=2) + "\n").encode())
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
