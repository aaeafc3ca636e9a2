"""Which method does best on these videos?  Trains them on the same labels for as many steps, and writes one table.

    python -m train.compare folder --methods supervised fixmatch temporal_gradient --seeds 3 --data.root my_videos

Without a recipe the demo's data set is taken, without ``--methods`` all of them.  A run is a ``python -m train`` in a
process of its own; options of the recipe are of all runs, ``--set METHOD.OPTION=VALUE`` is of one method.  A seed
decides which videos have labels, the clips and the first weights, so that methods can be compared seed by seed.  What
is finished is not trained again, and what was cut off goes on: the same command, started anew, loses nothing but the
steps since the last checkpoint.

Exit status: 0 if every run ended; 1 if some failed (they are named, and left out of the means); 2 for a mistake in the
options, with nothing trained; 130 after Ctrl-C and 143 after SIGTERM, with checkpoints written.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from pipeline.errors import InputError
from pipeline.files import write_whole
from pipeline.program import report_errors
from train.cli import parse
from train.compare_table import grid, markdown_of, notes, summarize
from train.config import resolve
from train.methods import METHODS
from train.sweep import NUM_THREADS, Run, measured, train_all
from train.videos import describe_videos, prepare_videos

PROGRAM = "python -m train.compare"
RECIPE = "demo"
_ALL = "all"
_OURS = ("--run.method", "--run.baseline", "--run.seed", "--run.dir", "--run.resume")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train methods on the same labels for as many steps, and write one table.

    Options of the recipe (`python -m train RECIPE --help`) go with these, and are of all runs.
    """

    methods: tuple[str, ...] = (_ALL,)
    """Methods to compare."""
    seeds: int = 3
    """Runs of each method, with seeds 0, 1, ..."""
    sets: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="METHOD.OPTION=VALUE")
    ] = ()
    """Give one method an option of its own, `--set mean_teacher.rampup-epochs=3` say."""
    parallel: int = 1
    """Trainings at a time, each with its share of the cores; for small networks, which leave cores idle."""
    out: Path = Path("runs/compare")
    """Folder of the runs, their logs, table.md and compare.json."""


def runs_of(recipe: str, options: Sequence[str], compare: Compare) -> list[Run]:
    """All trainings, a seed of every method before the next seed: cut short, the table has fewer seeds, not methods.

    Args:
        recipe: key of RECIPES.
        options: of ``python -m train``, for all.
        compare: what is compared.

    Raises:
        InputError: a method or an option is unknown, or makes no sense.
        SystemExit: a value has the wrong type; the text has been printed.
    """
    if compare.seeds < 1 or compare.parallel < 1:
        raise InputError(f"--seeds {compare.seeds} and --parallel {compare.parallel}: take 1 or more")
    methods = tuple(METHODS) if compare.methods == (_ALL,) else compare.methods
    for method in methods:
        _check_method("--methods", method)
    _check_options(options, compare.parallel)
    own = _own_words(compare.sets, methods)
    runs = []
    for seed in range(compare.seeds):
        for method in dict.fromkeys(methods):
            folder = compare.out / f"{method}-seed{seed}"
            words = [recipe, "--run.baseline", "None", *options, "--run.method", method, *own[method]]
            words += ["--run.seed", str(seed), "--run.dir", str(folder), "--run.resume"]
            if not seed:
                _check(method, words)
            runs.append(Run(method, seed, folder, tuple(words)))
    return runs


def _check(method: str, words: Sequence[str]) -> None:
    """Refuse a command line that does not make a configuration."""
    try:
        parse(words)
    except InputError as error:
        raise InputError(f"{method}: {error}") from error


def _check_method(option: str, method: str) -> None:
    if method not in METHODS:
        raise InputError(f"{option} {method} is unknown: choose from {', '.join(METHODS)}")


def _check_options(options: Sequence[str], parallel: int) -> None:
    """Refuse options that are not for all methods alike."""
    for flag in (word.partition("=")[0].replace("_", "-") for word in options):
        if flag in _OURS:
            raise InputError(f"{flag} differs from run to run: leave it to --methods, --seeds and --out")
        if flag.startswith("--method."):
            raise InputError(f"{flag} is of one method: give it as --set METHOD.{flag.removeprefix('--method.')}=VALUE")
        if flag == NUM_THREADS and parallel > 1:
            raise InputError(
                f"{flag} and --parallel {parallel} contradict each other: each run takes its share of cores"
            )


def _own_words(sets: Sequence[str], methods: Sequence[str]) -> dict[str, list[str]]:
    """Words of the command line that are of one method, by method."""
    words: dict[str, list[str]] = {method: [] for method in methods}
    for one in sets:
        name, is_given, value = one.partition("=")
        method, _, option = name.partition(".")
        if not option or not is_given:
            raise InputError(f"--set {one} is not METHOD.OPTION=VALUE")
        _check_method("--set", method)
        if method not in words:
            raise InputError(f"--set {one}: {method} is not among --methods {' '.join(methods)}")
        if value in ("True", "False"):
            words[method].append(f"--method.{'no-' * (value == 'False')}{option}")
        else:
            first, *others = shlex.split(value) or [""]
            words[method] += [f"--method.{option}={first}", *others]
    return words


def train_methods(recipe: str, options: Sequence[str], compare: Compare, console: Console) -> dict[str, Any] | None:
    """Train what is not trained yet, and gather what came of it.

    Args:
        recipe: key of RECIPES.
        options: of ``python -m train``, for all.
        compare: what is compared.
        console: is told of the progress, and shown the table.

    Returns:
        "recipe", "options" and "set", as given; "steps" of each run; "methods", by name what
        :func:`train.compare_table.summarize` makes of their runs; "runs", each with its "method", "seed", "command" and
        what :func:`train.sweep.measured` tells; "failed", the others with their "reason".  None if no run ended.

    Raises:
        InputError: a mistake in the options or in the videos, before anything is trained; or runs cannot be compared.
        SystemExit: a signal came, or an option has the wrong type.
    """
    runs = runs_of(recipe, options, compare)
    console.print(describe_videos(prepare_videos(resolve(parse(runs[0].words)))), markup=False, highlight=False)
    failed = train_all(runs, console, compare.parallel)
    outcomes = [
        {"method": run.name, "seed": run.seed, **measured(run), "command": run.command}
        for run in runs
        if run not in failed
    ]
    if not outcomes:
        return None
    return {
        "recipe": recipe,
        "options": shlex.join(options),
        "set": list(compare.sets),
        "steps": outcomes[0]["steps"],
        "methods": summarize(outcomes),
        "failed": [{"method": run.name, "seed": run.seed, "reason": reason} for run, reason in failed.items()],
        "runs": outcomes,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments after the program's name, those of this process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    recipe = words.pop(0) if words and not words[0].startswith("-") else RECIPE
    return report_errors(lambda: _main(recipe, words))


def _main(recipe: str, words: Sequence[str]) -> int:
    compare, options = tyro.cli(Compare, prog=f"{PROGRAM} [RECIPE]", args=words, return_unknown_args=True)
    console = Console(soft_wrap=True)
    console.width = max(console.width, 150)  # the table is not for folding, in a log file either
    found = train_methods(recipe, options, compare, console)
    if found is None:
        return 1
    console.print(grid(found).table())
    for note in notes(found):
        console.print(note, markup=False, highlight=False)
    write_whole(compare.out / "compare.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(compare.out / "table.md", (markdown_of(found) + "\n").encode())
    console.print(f"{compare.out / 'table.md'}, {compare.out / 'compare.json'}", markup=False, highlight=False)
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
