"""The program: ``python -m train RECIPE [OPTIONS]``, or ``torchrun --nproc-per-node=N -m train RECIPE [OPTIONS]``.

Reads the command line, indexes the videos, trains the method and its baseline, evaluates, and writes the report.  A
run leaves in its folder: config.json, environment.json, index, split.json, labeled.txt, missing_videos.txt where a list
names such, refused_videos.txt where files cannot be used, last.pt, best.pt, metrics.jsonl, predictions.npz,
left_out_videos.json, tensorboard/, report/, profile.json.gz with ``--run.profile``.  Videos that go bad
meanwhile are left out, and named at the end.

Exit status: 0 when all is done; 2 for a mistake in the input, said in one line, with nothing written; 1 where training
broke down, too many videos went bad or the disk is full; 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint
written where training had begun.
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

if __name__ == "__main__":
    from train.stop import end_at_signals

    end_at_signals()

import shlex
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

from rich.console import Console
from torch.distributed.elastic.multiprocessing.errors import record

from pipeline.batch import ClipBatch
from pipeline.errors import InputError, TooManyBadVideos
from pipeline.program import NO_PROCESSES, print_odd_names
from pipeline.text import lines_spelled_out, spelled_out
from train.checkpoint import LAST, saved_world_size
from train.cli import parse
from train.config import Config, find_device, resolve, with_method
from train.distributed import (
    RankFailedError,
    RankLostError,
    Ranks,
    batch_share,
    joined,
    launched_ranks,
    program,
    restarted_launch,
)
from train.environment import launch_of
from train.fit import fit
from train.metrics import NonFiniteLossError
from train.report import keep_sample, write_report
from train.report_contents import result_table
from train.scoring import Accuracy
from train.split_record import remarks, write_left_out
from train.stop import Stopped, StopSignal, Terminated, interrupting_signals
from train.videos import describe_videos, prepare_videos


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments after the program's name, those of this process by default.

    Returns:
        The exit status.
    """
    argv = sys.argv[1:] if argv is None else argv
    ranks = launched_ranks()
    command = f"{program(ranks, 'train')} {shlex.join(argv)}"
    again = command if "--run.resume" in argv else f"{command} --run.resume"
    print_odd_names()
    threading.excepthook = _leave_system_errors_to_the_main_thread
    try:
        with interrupting_signals():
            config = _parsed(argv, ranks)
            # torchrun prints what brought a rank down if it is told.
            record(run)(config, command) if ranks.world_size > 1 else run(config, command)
    except (RankFailedError, RankLostError) as error:
        return _fail(str(error), 1) if ranks.is_first else 1
    except TooManyBadVideos as error:
        print(
            f"error: {lines_spelled_out(str(error))}\nThe checkpoint is written: go on with --run.resume",
            file=sys.stderr,
        )
        return 1
    except InputError as error:
        return _fail(str(error), 2)
    except (NonFiniteLossError, OSError) as error:
        return _fail(str(error), 1)
    except BrokenProcessPool:
        return _fail(NO_PROCESSES, 1)
    except Stopped as stopped:
        if ranks.is_first:
            print(f"{stopped}; the checkpoint is written. Go on with: {again}", file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt as interrupt:
        signum = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
        if ranks.is_first:
            print(f"stopped by {signum.name}. Go on with: {again}", file=sys.stderr)
        return 128 + signum
    return 0


def _leave_system_errors_to_the_main_thread(error: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread, and raises what fails there once more in the main one: one line is enough."""
    if not issubclass(error.exc_type, OSError):
        threading.__excepthook__(error)


def _fail(message: str, status: int) -> int:
    print("error:", spelled_out(" ".join(message.split())), file=sys.stderr)
    return status


def _parsed(argv: Sequence[str], ranks: Ranks) -> Config:
    """Read the command line, of which the first rank alone complains."""
    if ranks.is_first:
        return parse(argv)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            return parse(argv)
        except InputError:
            sys.exit(2)


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
        RankFailedError: where there are several ranks, in place of these, on all of them.
        RankLostError: another rank has died.
    """
    with joined(launched_ranks(), find_device(config)) as ranks:
        resumes, cores = ranks.first(_goes_on(config)), ranks.num_cores()
        with ranks.together():
            config = _settled(config, ranks, resumes, cores)
            configs = {config.run.method: config}
            if config.run.baseline:
                baseline = with_method(config, config.run.baseline)
                folder = config.run.dir / config.run.baseline
                configs[config.run.baseline] = replace(baseline, run=replace(baseline.run, dir=folder))
            _refuse_to_overwrite(configs.values())
        return _train_all(configs, command, ranks)


def _goes_on(config: Config) -> bool:
    """Whether to resume: if told to, or restarted by the torchrun that this run was begun with."""
    launch = restarted_launch()
    return config.run.resume or (launch is not None and launch_of(config.run.dir) == launch)


def _settled(config: Config, ranks: Ranks, resumes: bool, cores: int) -> Config:
    """The configuration with nothing left open; a run that goes on keeps its steps."""
    config = replace(config, run=replace(config.run, resume=resumes))
    begun_with = saved_world_size(config.run.dir / LAST) if config.run.resume else None
    config = resolve(config, begun_with or ranks.world_size, cores)
    batch_share(config, ranks)  # or refuse, before anything is written
    return config


def _train_all(configs: Mapping[str, Config], command: str, ranks: Ranks) -> dict[str, Accuracy]:
    """Train and test each method, the main one first; the first rank writes the report."""
    config = next(iter(configs.values()))
    videos = prepare_videos(config, ranks)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, quiet=not ranks.is_first)
    console.print(describe_videos(videos))
    for line in remarks(videos.index, videos.split, config.run.dir):
        console.print(line)

    results: dict[str, Accuracy] = {}
    samples: list[ClipBatch | None] = []
    left_out: dict[str, str] = {}
    with StopSignal() as stop:
        for method, method_config in configs.items():
            results[method], batch, bad = fit(method_config, videos, command, stop, ranks)
            samples.append(batch)
            left_out |= bad
        with ranks.together():  # the report of the first rank must not end with another rank
            stop.check()
    if not ranks.is_first:
        return results
    keep_sample(config.run.dir, samples[0], videos.split.class_names)
    write_left_out(config.run.dir, left_out)
    page = write_report(config.run.dir, videos)
    for path, reason in sorted(left_out.items()):
        console.print(spelled_out(f"gone bad, left out: {path}: {reason}"))
    console.print(result_table(results, len(config.model.output_names(videos.split.class_names))))
    console.print(f"report: {page}")
    return results


def _refuse_to_overwrite(configs: Iterable[Config]) -> None:
    for config in configs:
        if (config.run.dir / LAST).exists() and not config.run.resume:
            raise InputError(
                f"{config.run.dir} already holds a run: continue it with --run.resume, or choose another --run.dir"
            )


if __name__ == "__main__":
    sys.exit(main())
