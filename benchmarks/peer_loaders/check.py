"""Does a compared loader show what was planned?"""

import numpy as np

from benchmarks.peer_loaders.common import Batch, Sample
from pipeline.batch import temporal_gradient
from pipeline.decode import decode_clip
from pipeline.errors import InputError
from pipeline.index import VideoIndex

# Mean absolute differences in grey levels that ways to scale and to convert colour may leave; 1.5 was seen of RGB.
_SAME_RGB, _SAME_TG = 6.0, 3.0


def check_views(index: VideoIndex, samples: list[Sample], batch: Batch) -> None:
    """Refuse a loader that shows something else than what was planned.

    Weak views are compared with our decoder's; strong ones, whose operations the tests compare, must differ in some
    clip.

    Args:
        index: the videos.
        samples: those of the batch come first.
        batch: what the loader made.

    Raises:
        InputError: it is something else, and how much.
    """
    records = {index[row].path: index[row] for row in range(len(index))}
    apart: dict[str, list[float]] = {"rgb": [], "tg": [], "next frames": [], "opposite tg": []}
    if len(batch) != 4:
        raise InputError(f"there are {len(batch)} views, not 4")
    changed = [False, False]
    for number, sample in enumerate(samples[: len(batch[0])]):
        plan = sample.plan
        expected = decode_clip(records[sample.path], np.array(sample.frames), plan.box, plan.flip, plan.size)
        frames, later = np.split(expected, 2)
        rgb, tg, *strong = (_channels_last(view[number].numpy()) for view in batch)
        if any(view.shape != frames.shape or view.dtype != np.uint8 for view in (rgb, tg, *strong)):
            raise InputError(f"views are {rgb.shape} {rgb.dtype}, not {frames.shape} uint8")
        changed = [
            was or not np.array_equal(*pair)
            for was, pair in zip(changed, zip((rgb, tg), strong, strict=True), strict=True)
        ]
        apart["rgb"].append(_difference(rgb, frames))
        apart["tg"].append(_difference(tg, temporal_gradient(frames, later)))
        apart["next frames"].append(_difference(rgb, later))
        apart["opposite tg"].append(_difference(tg, temporal_gradient(later, frames)))
    if not all(changed):
        raise InputError("strong views are the weak ones")
    rgb_apart, tg_apart, later_apart, opposite_apart = (float(np.mean(values)) for values in apart.values())
    if rgb_apart > min(_SAME_RGB, later_apart) or tg_apart > min(_SAME_TG, opposite_apart):
        raise InputError(f"weak views are not those planned: RGB {rgb_apart:.1f} and TG {tg_apart:.1f} grey levels off")


def _channels_last(view: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) of (T, 3, H, W) or itself."""
    return view if view.shape[-1] == 3 else view.transpose(0, 2, 3, 1)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())
