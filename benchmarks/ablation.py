"""Does each part of the method help, and in the order of the paper's Table 1?

Trains every row from as many seeds, on the generated motions or on a folder of videos, and gathers the accuracies.  A
row is `python -m train` with one switch; all else is the same: data, schedule, threshold, number of steps.  A seed
decides which videos are labelled (in a folder also which validate), the clips and the first weights, so rows are
compared seed by seed.

    python -m benchmarks ablation --data motions --seeds 3

What is finished is not trained again, and what was cut off goes on: the same command, started anew, loses nothing but
the steps since the last checkpoint.

Exit status: 0 if every run ended, 1 if some failed (they are named, and left out of the means), 2 for a mistake in the
options; 130 after Ctrl-C and 143 after SIGTERM.
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console

from benchmarks import results
from benchmarks.ablation_table import ROWS, rich_table, summarize
from benchmarks.results import RESULTS, finish
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from train.cli import PROGRAM
from train.sweep import Run, measured, train_all
from train.videos import INDEX

MOTIONS = "motions"
FOLDER = "VIDEOS"  # stands for the folder of videos in what is kept: where it lies concerns nobody else

# With 8 labels a class in place of the demo's 5, FixMatch on RGB does learn something; at 32 pixels in place of 40 a
# run costs two thirds.  Evaluated at another size than it was trained with, so small a network loses a third of its
# accuracy: its last features are one pixel at 32, four at 36.
ON_MOTIONS = (
    "--data.root data/ablation --data.generate.val-videos-per-class 40 "
    "--data.labels-per-class 8 --data.size 32 --data.eval-size 32"
)
"""Options of the recipe demo."""

# Recipe and options that all rows share.
_SETTINGS = {
    MOTIONS: f"demo --run.baseline None {ON_MOTIONS}",
    FOLDER: f"folder --data.root {FOLDER} --data.labels-per-class 5 --data.val-fraction 0.4 "
    "--data.size 40 --data.eval-size 46 --model.width 16 --optim.epochs 20 --optim.warmup-epochs 5",
}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Train the rows of the table and gather their accuracies."""

    data: str = MOTIONS
    """What to train on: motions, which are generated, or a folder of videos, one sub-folder per class."""
    seeds: int = 3
    """Runs of each row, with seeds 0, 1, ..."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Rows to train."""
    out: Path | None = None
    """File for the result; None writes ablation_motions.json or ablation_real.json among the other results."""
    runs: Path = Path("runs/ablation")
    """Folder of the runs and their logs."""

    def __post_init__(self) -> None:
        if self.data != MOTIONS and not Path(self.data).is_dir():
            raise InputError(f"--data {self.data} is no folder of videos: give one, or {MOTIONS}")
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds} trains nothing: take 1 or more")
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise InputError(f"--rows {unknown[0]} is unknown: choose from {', '.join(ROWS)}")


def runs_of(ablation: Ablation) -> list[Run]:
    """All trainings, a seed of every row before the next seed: cut short, the table has fewer seeds, not fewer rows."""
    folder = ablation.runs / (MOTIONS if ablation.data == MOTIONS else "real")
    shared = _SETTINGS[_setting(ablation)].split()
    runs = []
    for seed in range(ablation.seeds):
        for row in ablation.rows:
            run_dir = folder / f"{row}-seed{seed}"
            words = [ablation.data if word == FOLDER else word for word in shared]
            words += [*ROWS[row].switch, "--run.seed", str(seed), "--run.dir", str(run_dir), "--run.resume"]
            runs.append(Run(row, seed, run_dir, tuple(words)))
    return runs


def run(ablation: Ablation) -> int:
    """Train what is not trained yet, print the table, keep the result.

    Raises:
        InputError: a run's folder holds a run of another command.
        SystemExit: a signal stopped it.
    """
    console = Console(soft_wrap=True)
    console.width = max(console.width, 120)  # the table is not for folding, in a log file either
    runs = runs_of(ablation)
    failed = train_all(runs, console)
    ended = [outcome(run, ablation.data) for run in runs if run not in failed]
    if not ended:
        return 1
    result = {
        "videos": _videos(runs),
        "shared_options": _SETTINGS[_setting(ablation)],
        "rows": summarize(ended),
        "failed": [{"row": run.name, "seed": run.seed, "reason": reason} for run, reason in failed.items()],
        "runs": ended,
    }
    console.print(rich_table(result))
    for failure in failed:
        console.print(f"FAILED and left out: {failure}", style="red")
    out = ablation.out or RESULTS / f"ablation_{MOTIONS if ablation.data == MOTIONS else 'real'}.json"
    finish(out.stem, ablation, out.parent, findings=result)
    return 1 if failed else 0


def outcome(run: Run, data: str) -> dict[str, Any]:
    """What a finished run has to say, as JSON types."""
    return {"row": run.name, "seed": run.seed, **measured(run), "command": _typed(PROGRAM, run.words, data)}


def _videos(runs: list[Run]) -> dict[str, int]:
    """How many videos each class folder has, train/ and val/ apart where there are such; every run has the same."""
    index = next(VideoIndex.load(run.folder / INDEX) for run in runs if (run.folder / INDEX).exists())
    return dict(sorted(Counter(str(PurePosixPath(path).parent) for path in index.paths).items()))


def _setting(ablation: Ablation) -> str:
    return MOTIONS if ablation.data == MOTIONS else FOLDER


def _typed(program: str, words: Sequence[str], data: str) -> str:
    """A command line without the place of the folder of videos."""
    if data != MOTIONS:
        words = [word.replace(data, FOLDER) if word in (data, f"--data={data}") else word for word in words]
    return f"{program} {shlex.join(words)}"


def main() -> None:
    """Command line: the fields of :class:`Ablation`."""
    results.main(Ablation, run)


if __name__ == "__main__":
    main()
