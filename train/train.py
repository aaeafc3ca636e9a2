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

import shlex
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from rich.console import Console

from pipeline.batch import ClipBatch
from pipeline.errors import InputError, TooManyBadVideos
from pipeline.program import NO_PROCESSES, print_odd_names
from train.checkpoint import LAST
from train.cli import PROGRAM, parse
from train.config import Config, resolve, with_method
from train.fit import fit
from train.metrics import NonFiniteLossError
from train.report import result_table, write_report
from train.scoring import Accuracy
from train.split_record import remarks
from train.stop import Stopped, StopSignal
from train.videos import describe_videos, prepare_videos


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
    described = describe_videos(videos)
    console.print(described)
    for line in remarks(videos.index, videos.split, config.run.dir):
        console.print(line)

    results: dict[str, Accuracy] = {}
    samples: list[ClipBatch | None] = []
    left_out: dict[str, str] = {}
    with StopSignal() as stop:
        for method, method_config in configs.items():
            results[method], batch, bad = fit(method_config, videos, command, stop)
            samples.append(batch)
            left_out |= bad
    run_dirs = {method: method_config.run.dir for method, method_config in configs.items()}
    summary = write_report(
        config.run.dir,
        run_dirs,
        results,
        samples[0],
        videos.split.class_names,
        describe_videos(videos),
        left_out,
        command,
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


if __name__ == "__main__":
    sys.exit(main())
