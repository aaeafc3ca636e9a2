"""``python -m benchmarks COMMAND``: one command for each question; each ends with a line of JSON.

Exit status: 0 measured, 1 a check failed, 2 wrong input, 3 there is no GPU to check.
"""

import sys
from importlib import import_module
from importlib.util import find_spec

import tyro

from pipeline.errors import InputError

# command: (module, class of its options, what it answers).  Modules are imported when they are asked for: one question
# should not need what only another one uses.
COMMANDS = {
    "loader": ("LoaderBenchmark", "clips per second of our loader on a folder of videos"),
    "peers": ("PeersBenchmark", "our loader beside the best others, on the same files"),
    "source": ("SourceBenchmark", "clips per second of planning and slicing alone, without decoding"),
    "stations": ("StationsBenchmark", "CPU time of a clip, station by station"),
    "soak": ("SoakBenchmark", "thousands of batches with damaged files: nothing lost, nothing leaked"),
    "gpu-check": ("GpuCheck", "everything that only a GPU can show"),
}


def main() -> None:
    """Dispatch to the command's module."""
    commands = {name: command for name, command in COMMANDS.items() if find_spec(_module(name))}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        asked_for_help = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
        lines = [f"  {name:<12}{question}" for name, (_, question) in commands.items()]
        print(
            "usage: python -m benchmarks COMMAND [--help]\n",
            *lines,
            sep="\n",
            file=None if asked_for_help else sys.stderr,
        )
        sys.exit(0 if asked_for_help else 2)
    name = sys.argv[1]
    module = import_module(_module(name))
    try:
        sys.exit(module.run(tyro.cli(getattr(module, commands[name][0]), prog=f"benchmarks {name}", args=sys.argv[2:])))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _module(command: str) -> str:
    return f"benchmarks.{command.replace('-', '_')}"


if __name__ == "__main__":
    main()
