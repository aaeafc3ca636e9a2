"""``python -m benchmarks COMMAND``: one command for each question; each ends with a line of JSON.

Exit status: 0 measured, 1 a check failed, 2 wrong input, 3 there is no GPU to check.
"""

import sys
from importlib import import_module
from importlib.util import find_spec

# What each command answers.  Its module is imported when asked for: no question should need what only another uses.
COMMANDS = {
    "loader": "clips per second of our loader on a folder of videos",
    "peers": "our loader beside the best others, on the same files",
    "source": "clips per second of planning and slicing alone, without decoding",
    "stations": "CPU time of a clip, station by station",
    "step": "the training step, compiled and not",
    "reference-step": "our training step beside the paper's, from the same batch on",
    "decode-to-loss": "whole training, from files to steps, beside the paper's way",
    "soak": "thousands of batches with damaged files: nothing lost, nothing leaked",
    "resume": "a run killed again and again ends with the same bits as one left alone",
    "ablation": "does each part of the method help: the rows of the paper's Table 1, trained",
    "gpu-check": "everything that only a GPU can show",
}


def main() -> None:
    """Hand the command line to the command's module."""
    known = {name: question for name, question in COMMANDS.items() if find_spec(_module(name))}
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    if asked in known:
        sys.argv[:2] = [f"python -m benchmarks {asked}"]
        import_module(_module(asked)).main()
        return
    asked_for_help = asked in ("-h", "--help")
    lines = [f"  {name:<16}{question}" for name, question in known.items()]
    usage = "\n".join(["usage: python -m benchmarks COMMAND [--help]", "", *lines])
    print(usage, file=sys.stdout if asked_for_help else sys.stderr)
    sys.exit(0 if asked_for_help else 2)


def _module(command: str) -> str:
    return f"benchmarks.{command.replace('-', '_')}"


if __name__ == "__main__":
    main()
