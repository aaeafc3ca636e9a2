"""The data path: video files in, paired weak/strong RGB and temporal-gradient clips out.

The public names below are the contract with the trainer; they are imported on first use, so that the processes
which only scan video files do not load torch and DALI.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batch import ClipBatch as ClipBatch
    from pipeline.batch import Needs as Needs
    from pipeline.batch import Views as Views
    from pipeline.batch import temporal_gradient as temporal_gradient
    from pipeline.datasets import DataOptions as DataOptions
    from pipeline.datasets import DataSplit as DataSplit
    from pipeline.datasets import split_videos as split_videos
    from pipeline.errors import BadVideo as BadVideo
    from pipeline.errors import InputError as InputError
    from pipeline.index import VideoIndex as VideoIndex
    from pipeline.loader import ClipLoader as ClipLoader
    from pipeline.plan import ClipPlan as ClipPlan
    from pipeline.plan import ClipSpec as ClipSpec
    from pipeline.plan import plan_clip as plan_clip
    from pipeline.record import VideoRecord as VideoRecord
    from pipeline.scanning import scan as scan

_HOME = {
    "BadVideo": "errors",
    "ClipBatch": "batch",
    "ClipLoader": "loader",
    "ClipPlan": "plan",
    "ClipSpec": "plan",
    "DataOptions": "datasets",
    "DataSplit": "datasets",
    "InputError": "errors",
    "Needs": "batch",
    "VideoIndex": "index",
    "VideoRecord": "record",
    "Views": "batch",
    "plan_clip": "plan",
    "scan": "scanning",
    "split_videos": "datasets",
    "temporal_gradient": "batch",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{_HOME[name]}"), name)
