"""``python -m benchmarks COMMAND``: one command for each question; each that measures ends with a line of JSON.

Exit status: 0 measured, 1 a check failed, 2 wrong input, 3 there is no GPU to check.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec

# As in train/train.py, and likewise before torch is loaded: threads that spin while they wait slow a busy machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What each command answers.  Its module is imported when asked for: no question should need what only another uses.
COMMANDS = {
    "loader": "clips per second of our loader, with nothing that consumes them",
    "peers": "our loader beside the best others, on the same files",
    "source": "clips per second of planning and slicing alone, without decoding",
    "stages": "what a clip costs from its plan to the optimizer, stage by stage, with a chart",
    "step": "the training step, compiled and not: the ceiling",
    "end-to-end": "training from files to weights, and how close it comes to the slower of loader and step",
    "roofline": "the most clips per second each stage could do, here and on GPUs that are not here",
    "growth": "how cost grows with clips, videos, threads, ranks and the size of a data set",
    "reference-step": "our training step beside the paper's, from the same batch on",
    "decode-to-loss": "whole training, from files to steps, beside the paper's way",
    "soak": "thousands of batches with damaged files: nothing lost, nothing leaked",
    "resume": "a run killed again and again ends with the same bits as one left alone",
    "ablation": "does each part of the method help: the rows of the paper's Table 1, trained",
    "methods": "which method does best on the generated motions: all of them, trained",
    "method-costs": "what each method costs beside supervised training: its views, its networks, both",
    "compare": "what changed from one result to another, and is it more than noise",
    "report": "tables and charts of the documents, drawn from the results",
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
