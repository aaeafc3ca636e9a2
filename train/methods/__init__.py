"""The methods: each turns a batch into named losses, in one file that holds its constants too.

Promises :data:`METHODS`, the only table of them; nothing outside this package branches on which method it runs.
Making batches, stepping the optimizer and logging are left to others.
"""

from train.methods.base import Method
from train.methods.fixmatch import FixMatch
from train.methods.s4l import S4L
from train.methods.supervised import Supervised
from train.methods.tcl import TCL
from train.methods.temporal_gradient import TemporalGradient

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "s4l": S4L,
    "tcl": TCL,
    "fixmatch": FixMatch,
    "temporal_gradient": TemporalGradient,
}

__all__ = ["METHODS", "Method"]
