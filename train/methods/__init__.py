"""The methods: each turns a batch into named losses, in one file that holds its constants too.

Promises :data:`METHODS`, the only table of them; nothing outside this package branches on which method it runs.
Making batches, stepping the optimizer and logging are left to others.
"""

from train.methods.actor_cutmix import ActorCutMix
from train.methods.base import Method
from train.methods.fixmatch import FixMatch
from train.methods.mean_teacher import MeanTeacher
from train.methods.mvpl import MvPL
from train.methods.pseudo_label import PseudoLabel
from train.methods.s4l import S4L
from train.methods.supervised import Supervised
from train.methods.tcl import TCL
from train.methods.temporal_gradient import TemporalGradient
from train.methods.uda import UDA
from train.methods.ups import UPS
from train.methods.videossl import VideoSSL

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "pseudo_label": PseudoLabel,
    "mean_teacher": MeanTeacher,
    "s4l": S4L,
    "ups": UPS,
    "videossl": VideoSSL,
    "tcl": TCL,
    "actor_cutmix": ActorCutMix,
    "mvpl": MvPL,
    "uda": UDA,
    "fixmatch": FixMatch,
    "temporal_gradient": TemporalGradient,
}

__all__ = ["METHODS", "Method"]
