"""The program: ``python -m train RECIPE [OPTIONS]``, or ``torchrun train/train.py RECIPE [OPTIONS]``.

Reads the command line, indexes the videos, trains the method and its baseline, evaluates, and writes the report.  A
run leaves in its folder: config.json, environment.json, index, last.pt, best.pt, metrics.jsonl, tensorboard/, report/.

Exit status: 0 when all is done; 2 for a mistake in the input, said in one line, with nothing written; 1 where
training broke down; 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint written where training had begun.
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
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from rich.console import Console

from pipeline.batch import ClipBatch
from pipeline.datasets import DataSplit, split_folder
from pipeline.errors import BadVideo, InputError
from pipeline.evaluation import center_views, multi_views
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipSpec
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
from train.stop import Stopped, StopSignal

INDEX = "index"


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
    try:
        run(parse(argv), command)
    except BadVideo as error:
        return _fail(f"{error}. The checkpoint is written: restore the video, then go on with --run.resume", 1)
    except InputError as error:
        return _fail(str(error), 2)
    except (NonFiniteLossError, OSError) as error:
        return _fail(str(error), 1)
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
        InputError: something in the input is wrong; nothing is written but a generated data set.
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
    for path, reason in videos.index.refused.items():
        console.print(f"left out: {path}: {reason}")

    results: dict[str, Accuracy] = {}
    samples: list[ClipBatch] = []
    with StopSignal() as stop:
        for method, method_config in configs.items():
            results[method], batch = train_one(method_config, videos, command, stop)
            samples.append(batch)
    run_dirs = {method: method_config.run.dir for method, method_config in configs.items()}
    summary = write_report(
        config.run.dir, run_dirs, results, samples[0], videos.split.class_names, _describe(videos), command
    )
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
    index = VideoIndex.build(data.root, previous=previous)
    if previous is not None and (config.run.dir / LAST).exists() and index.paths != previous.paths:
        different = sorted(set(index.paths) ^ set(previous.paths))
        raise InputError(
            f"the videos below {data.root} are not those the run in {config.run.dir} began with, for example "
            f"{different[0]}: restore them, or choose another --run.dir"
        )
    split = split_folder(
        index,
        labels_per_class=data.labels_per_class,
        labeled_fraction=data.labeled_fraction,
        val_fraction=data.val_fraction,
        seed=config.run.seed,
    )
    if not len(split.val):
        raise InputError(f"no videos to validate on below {data.root}: add some, or raise --data.val-fraction")
    return Videos(index, split)


def train_one(config: Config, videos: Videos, command: str, stop: StopSignal) -> tuple[Accuracy, ClipBatch]:
    """Train one method, or go on training it, and evaluate it on all views.

    Args:
        config: resolved.
        videos: what to train and evaluate on.
        command: the command line, for the record.
        stop: asked between steps and during evaluations.

    Returns:
        Accuracy of the last weights on 10 clips x 3 crops per video, and a batch to look at.
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
        **decoding,
    ) as loader:
        state, schedule = _new_state(config, videos, loader)
        last = run.dir / LAST
        begun = last.exists()
        if begun:
            state.restore(load(last), last)
        _write_provenance(config, videos.index, command)
        with (
            MetricsLog(run.dir, state.step) as metrics,
            Display(run.method, state.step, num_steps(state, schedule)) as display,
        ):
            if run.resume:
                display.note(f"resumed at step {state.step}" if begun else "no checkpoint yet, starting from scratch")

            def evaluate() -> Accuracy:
                batch_size = optim.batch_labeled + optim.batch_unlabeled
                clips = center_views(videos.index, split.val, spec, batch_size=batch_size, **decoding)
                return evaluate_center(state.method.recognizer, stop.watch(clips), split.labels)

            train(state, schedule, run.dir, evaluate, metrics, display, stop)
            accuracy = _recorded_test(run.dir, state.step)
            if accuracy is None:
                display.note("evaluating on 10 clips x 3 crops of every validation video")
                views = multi_views(videos.index, split.val, spec, **decoding)
                accuracy = evaluate_test(state.method.recognizer, stop.watch(views), split.labels)
                metrics.write({"kind": "test", "step": state.step, **asdict(accuracy)})
        return accuracy, next(loader)


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


def _write_provenance(config: Config, index: VideoIndex, command: str) -> None:
    """The first thing a run writes: what it is and where it runs."""
    folder = config.run.dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(config))
    (folder / "environment.json").write_text(json.dumps(describe_environment(command), indent=2) + "\n")
    index.save(folder / INDEX)


def _recorded_test(run_dir: Path, step: int) -> Accuracy | None:
    """The final accuracy, if an earlier start of this run has got that far."""
    for record in read_metrics(run_dir):
        if record["kind"] == "test" and record["step"] == step:
            return Accuracy(**{field.name: record[field.name] for field in fields(Accuracy)})  # type: ignore[arg-type]
    return None


def _describe(videos: Videos) -> str:
    """How many videos there are and what they serve for, in one line."""
    split = videos.split
    return (
        f"{len(videos.index)} videos of {len(split.class_names)} classes: {len(split.unlabeled)} to train on, "
        f"{len(split.labeled)} of them with labels, {len(split.val)} to validate on"
    )


if __name__ == "__main__":
    sys.exit(main())
