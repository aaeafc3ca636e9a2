"""Which method does best on the generated motions?  Those of ``ablation``, hence the same runs where rows are the same.

A comparison by :mod:`train.compare`, with what the methods' own schedules come to in eight epochs.

    python -m benchmarks methods --seeds 3

Finished runs are kept, and what was cut off goes on.  Exit status as for ``python -m train.compare``.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.ablation import ON_MOTIONS
from benchmarks.results import RESULTS, Record, finish
from train.compare import Compare, train_methods
from train.compare_table import grid, markdown_of
from train.methods import METHODS

# The papers' constants are for hundreds of times these 320 steps.  An average that keeps 0.999 of its weights in a step
# would be that of the whole training; at the papers' weights of 100 and 9 what is drawn together is what has not been
# learned yet, and the accuracy stays at chance.  Tried on seed 7, which is not in the table.
SETS = (
    "mean_teacher.decay=0.99",
    "mean_teacher.consistency-weight=10",
    "mean_teacher.rampup-epochs=6",
    "ups.num-rounds=2",
    "tcl.instance-contrast-weight=1",
)


@dataclass(frozen=True, kw_only=True)
class MethodsBenchmark:
    """Train methods on the generated motions, and keep their table."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to compare."""
    seeds: int = 3
    """Runs of each method, with seeds 0, 1, ..."""
    parallel: int = 1
    """Trainings at a time, each with its share of the cores."""
    runs: Path = Path("runs/methods")
    """Folder of the runs and their logs."""
    results: Path = RESULTS
    """Folder that the result is written to."""


def comparison(benchmark: MethodsBenchmark) -> Compare:
    """What is compared, with the options of the methods that are."""
    return Compare(
        methods=benchmark.methods,
        seeds=benchmark.seeds,
        sets=tuple(one for one in SETS if one.partition(".")[0] in benchmark.methods),
        parallel=benchmark.parallel,
        out=benchmark.runs,
    )


def run(benchmark: MethodsBenchmark) -> int:
    """Train what is not trained yet, print the table, keep the result.

    Raises:
        InputError: a method is unknown, or a run's folder holds a run of another command.
        SystemExit: a signal stopped it.
    """
    console = Console(soft_wrap=True)
    console.width = max(console.width, 150)  # the table is not for folding, in a log file either
    found = train_methods("demo", ON_MOTIONS.split(), comparison(benchmark), console)
    if found is None:
        return 1
    console.print(grid(found).table())
    finish("methods", benchmark, benchmark.results, findings=found)
    return 1 if found["failed"] else 0


def markdown(record: Record) -> str:
    """The table for a document."""
    return markdown_of(record.findings)


def main() -> None:
    """Command line: the fields of :class:`MethodsBenchmark`."""
    results.main(MethodsBenchmark, run)


if __name__ == "__main__":
    main()
