"""The program: ``python -m train RECIPE [OPTIONS]``, or ``torchrun train/train.py RECIPE [OPTIONS]``.

Reads the command line, indexes the videos, trains the method and its baseline, evaluates, and writes the report.  A
run leaves in its folder: config.json, environment.json, index, split.json, labeled.txt, missing_videos.txt where a list
names such, refused_videos.txt where files cannot be used, last.pt, best.pt, metrics.jsonl, tensorboard/, report/.
Videos that go bad meanwhile are left out, and named at the end.

Exit status: 0 when all is done; 2 for a mistake in the input, said in one line, with nothing written; 1 where training
broke down or too many videos went bad; 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint written where training
had begun.
"""

import os
import sys
from pathlib import Path

# Threads that wait must sleep: spinning ones take the cores from those that decode, and on a machine that others use
# too a step took 3.5 s instead of 0.6 s.  Has to be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if not __package__:
    # Started as a file: Python has put its folder on the path, where `import train` would find this very file.
    _FOLDER = Path(__file__).resolve().parent
    sys.path[:] = [str(_FOLDER.parent), *(entry for entry in sys.path if Path(entry).resolve() != _FOLDER)]

import json
import logging
import shlex
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console

from pipeline.batch import ClipBatch
from pipeline.datasets import DataSplit, split_videos
from pipeline.errors import InputError, TooManyBadVideos
from pipeline.evaluation import center_views, multi_views
from pipeline.files import write_whole
from pipeline.index import VideoIndex
from pipeline.lists import printable
from pipeline.loader import ClipLoader
from pipeline.plan import ClipSpec
from pipeline.program import NO_PROCESSES, print_odd_names
from pipeline.quarantine import num_tolerated
from pipeline.synthetic import generate_motion_dataset
from train.checkpoint import LAST, TrainState, load
from train.cli import PROGRAM, parse
from train.config import Config, resolve, to_json, with_method
from train.display import Display
from train.environment import describe_environment
from train.evaluate import Accuracy, evaluate_center, evaluate_test
from train.loop import num_steps, train
from train.methods import METHODS
from train.metrics import MetricsLog, NonFiniteLossError, Window, read_metrics
from train.report import result_table, write_report
from train.schedule import Schedule
from train.split_record import check_same_split, remarks, write_split
from train.stop import Stopped, StopSignal

INDEX = "index"
PARTIAL_INDEX = "index.partial"

View = TypeVar("View")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Videos:
    """The videos of a run: what is in them, and which is used for what."""

    index: VideoIndex
    split: DataSplit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments after the program's name, those of this process by default.

    Returns:
        The exit status.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = f"{PROGRAM} {shlex.join(argv)}"
    print_odd_names()
    try:
        run(parse(argv), command)
    except TooManyBadVideos as error:
        print(f"error: {error}\nThe checkpoint is written: go on with --run.resume", file=sys.stderr)
        return 1
    except InputError as error:
        return _fail(str(error), 2)
    except (NonFiniteLossError, OSError) as error:
        return _fail(str(error), 1)
    except BrokenProcessPool:
        return _fail(NO_PROCESSES, 1)
    except Stopped as stopped:
        again = command if "--run.resume" in argv else f"{command} --run.resume"
        print(f"{stopped}; the checkpoint is written. Go on with: {again}", file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _fail(message: str, status: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return status


def run(config: Config, command: str) -> dict[str, Accuracy]:
    """Train the method and its baseline, and write the report.

    Args:
        config: as the command line gives it.
        command: that command line.

    Returns:
        Final accuracy of each method.

    Raises:
        InputError: something in the input is wrong; nothing is written but a generated data set, a shared index and
            what has been scanned so far.
        TooManyBadVideos: more videos have gone bad than may; the checkpoint is written.
        NonFiniteLossError: training diverged.
        Stopped: a signal came.
    """
    config = resolve(config)
    configs = {config.run.method: config}
    if config.run.baseline:
        baseline = with_method(config, config.run.baseline)
        folder = config.run.dir / config.run.baseline
        configs[config.run.baseline] = replace(baseline, run=replace(baseline.run, dir=folder))
    _refuse_to_overwrite(configs.values())
    videos = prepare_videos(config)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(_describe(videos))
    for line in remarks(videos.index, videos.split, config.run.dir):
        console.print(line)

    results: dict[str, Accuracy] = {}
    samples: list[ClipBatch | None] = []
    left_out: dict[str, str] = {}
    with StopSignal() as stop:
        for method, method_config in configs.items():
            results[method], batch, bad = train_one(method_config, videos, command, stop)
            samples.append(batch)
            left_out |= bad
    run_dirs = {method: method_config.run.dir for method, method_config in configs.items()}
    summary = write_report(
        config.run.dir, run_dirs, results, samples[0], videos.split.class_names, _describe(videos), left_out, command
    )
    for path, reason in sorted(left_out.items()):
        console.print(f"gone bad, left out: {path}: {reason}")
    console.print(result_table(results))
    console.print(f"report: {summary}")
    return results


def _refuse_to_overwrite(configs: Iterable[Config]) -> None:
    for config in configs:
        if (config.run.dir / LAST).exists() and not config.run.resume:
            raise InputError(
                f"{config.run.dir} already holds a run: continue it with --run.resume, or choose another --run.dir"
            )


def prepare_videos(config: Config) -> Videos:
    """Generate the data set if the recipe has one, index the videos, and decide which labels are used.

    Raises:
        InputError: there are no usable videos, too few labels, or other videos than when the run began.
    """
    data, generate = config.data, config.data.generate
    if generate is not None:
        generate_motion_dataset(data.root, **asdict(generate))
    saved = config.run.dir / INDEX
    previous = VideoIndex.load(saved) if saved.exists() else None
    index = _resumed_index(config, previous)
    if index is None:
        index = _scanned_index(config, previous)
    return Videos(index, split_videos(index, data, seed=config.run.seed))


def _scanned_index(config: Config, previous: VideoIndex | None) -> VideoIndex:
    """The index of the videos as they are now."""
    data = config.data
    if data.index:
        return VideoIndex.refresh(data.index, data.root)
    return VideoIndex.build(data.root, previous=previous, partial=config.run.dir / PARTIAL_INDEX)


def _resumed_index(config: Config, previous: VideoIndex | None) -> VideoIndex | None:
    """The index that a run began with, if it has begun: its rows must stay what they are, whatever files come and go.

    Raises:
        InputError: the videos were moved, and are not the same there.
    """
    if previous is None or not (config.run.dir / LAST).exists():
        return None
    root = config.data.root
    if previous.root != root.absolute():
        index = _scanned_index(config, None)
        difference = _first_difference(index, previous)
        if difference:
            raise InputError(
                f"the videos below {root} are not those the run in {config.run.dir} began with, for example "
                f"{difference}: restore them, or choose another --run.dir"
            )
        return index
    changes = previous.changed()
    for kind, what_follows in (("new", "ignored"), ("gone", "left out"), ("changed", "left out")):
        paths = [path for path, change in changes.items() if change == kind]
        if paths:
            log.warning("%s since the run began and %s: %d videos, %s first", kind, what_follows, len(paths), paths[0])
    return previous


def _first_difference(index: VideoIndex, previous: VideoIndex) -> str | None:
    """A video that only one of two indexes has, or that has other frames in one than in the other."""
    different = sorted(set(index.paths) ^ set(previous.paths))
    if different:
        return printable(different[0])
    shapes, before = (np.column_stack([one.num_frames, one.display_sizes]) for one in (index, previous))
    rows = np.flatnonzero((shapes != before).any(axis=1))
    if not len(rows):
        return None
    now, then = (f"{frames} frames of {width}x{height}" for frames, width, height in (shapes[rows[0]], before[rows[0]]))
    return f"{printable(index.paths[rows[0]])} ({now}, not {then})"


def train_one(
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
    spec, decoding = clip_spec(config), _decoding(config)
    with ClipLoader(
        videos.index,
        split,
        METHODS[run.method].needs,
        spec,
        batch_labeled=optim.batch_labeled,
        batch_unlabeled=optim.batch_unlabeled,
        seed=run.seed,
        max_bad_fraction=config.data.max_bad_fraction,
        **decoding,
    ) as loader:
        state, schedule = _new_state(config, videos, loader)
        last = run.dir / LAST
        begun = last.exists()
        if begun:
            state.restore(load(last), last)
            check_same_split(run.dir, split)
        _write_provenance(config, videos, command)
        skipped: dict[str, str] = {}
        decoding["decoder"] = loader.decoder  # settled; training and evaluation must not come to differ
        enough = partial(
            _enough, skipped=skipped, num_videos=len(split.val), max_bad_fraction=config.data.max_bad_fraction
        )
        with (
            MetricsLog(run.dir, state.step) as metrics,
            Display(run.method, state.step, num_steps(state, schedule)) as display,
        ):
            if run.resume:
                display.note(f"resumed at step {state.step}" if begun else "no checkpoint yet, starting from scratch")

            def evaluate() -> Accuracy:
                batch_size = optim.batch_labeled + optim.batch_unlabeled
                clips = center_views(videos.index, split.val, spec, batch_size=batch_size, skipped=skipped, **decoding)
                return evaluate_center(state.method.recognizer, stop.watch(enough(clips)), split.labels)

            train(state, schedule, run.dir, evaluate, metrics, display, stop)
            accuracy = _recorded_test(run.dir, state.step)
            if accuracy is None:
                display.note("evaluating on 10 clips x 3 crops of every validation video")
                views = multi_views(videos.index, split.val, spec, skipped=skipped, **decoding)
                accuracy = evaluate_test(state.method.recognizer, stop.watch(enough(views)), split.labels)
                for path, reason in skipped.items():
                    metrics.write({"kind": "skipped", "step": state.step, "path": path, "reason": reason})
                metrics.write({"kind": "test", "step": state.step, **asdict(accuracy)})
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


def _enough(views: Iterable[View], skipped: dict[str, str], num_videos: int, max_bad_fraction: float) -> Iterator[View]:
    """The same views, as long as few enough videos are skipped: accuracies over other videos are not the same numbers.

    Args:
        views: of validation videos.
        skipped: reasons by path; grows while the views are made.
        num_videos: validation videos there are.
        max_bad_fraction: of them that may be skipped; one always may, if another is left.

    Raises:
        TooManyBadVideos: more are skipped.
    """
    limit = min(num_tolerated(num_videos, max_bad_fraction), num_videos - 1)
    for view in views:
        if len(skipped) > limit:
            break
        yield view
    if len(skipped) > limit:
        remedy = f"they are needed to validate on: restore them, or raise max_bad_fraction, now {max_bad_fraction:g}"
        raise TooManyBadVideos(skipped, num_videos, remedy)


def clip_spec(config: Config) -> ClipSpec:
    """What a clip is, for the pipeline."""
    data = config.data
    return ClipSpec(
        clip_len=data.clip_len,
        frame_stride=data.frame_stride,
        size=data.size,
        eval_size=data.eval_size,
        min_crop_area=data.min_crop_area,
        flip=data.flip,
        tg_stride=data.tg_stride,
        tg_form=data.tg_form,
    )


def _decoding(config: Config) -> dict[str, Any]:
    """Where and how clips are decoded, alike for training and evaluation."""
    data = config.data
    return {"device": config.run.device, "decoder": data.decoder, "num_threads": data.num_threads}


def _new_state(config: Config, videos: Videos, loader: ClipLoader) -> tuple[TrainState, Schedule]:
    """Networks with their first weights, an optimizer without momentum yet, and the schedule."""
    run, optim, class_names = config.run, config.optim, videos.split.class_names
    assert optim.lr is not None, "the configuration is resolved"
    torch.manual_seed(run.seed)
    method = METHODS[run.method](len(class_names), config.method, config.model.width, config.model.dropout)
    method.to(torch.device(run.device)).to(memory_format=torch.channels_last_3d)
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


def _describe(videos: Videos) -> str:
    """How many videos there are and what they serve for, in one line."""
    split = videos.split
    return (
        f"{len(videos.index)} videos of {len(split.class_names)} classes: {len(split.unlabeled)} to train on, "
        f"{len(split.labeled)} of them with labels ({split.labels_from}; subset {split.digests['labeled']}), "
        f"{len(split.val)} to validate on"
    )


if __name__ == "__main__":
    sys.exit(main())
