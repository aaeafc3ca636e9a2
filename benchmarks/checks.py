"""Is a loader's batch what training needs?  Asked before it is timed: a fast loader of wrong clips is worth nothing.

Shapes, types and places of all views; and of one clip of each stream the pixels, decoded once more the long way round:
the whole file from its start, every frame at full size in RGB, cut by numpy, resized by torch.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.batch import ClipBatch, Needs, Views, temporal_gradient
from pipeline.decode import whole_frames
from pipeline.errors import InputError
from pipeline.plan import ClipPlan
from pipeline.record import VideoRecord
from pipeline.stream import ClipStream
from train.config import Config
from train.validation import clip_spec
from train.videos import Videos

# Mean grey levels.  Of the benchmark clips two ways differ by 0.4 to 1.4 in RGB, where a clip of one colour would be 17
# to 55 off and one of another crop 38 to 68; in TG by 0.01 to 0.3, where a blank one would be 0.04 to 2 off.
_ROUNDING = 0.1


def streams_of(needs: Needs, config: Config, videos: Videos) -> dict[str, ClipStream]:
    """The streams of planned clips that the training's loader draws, "labeled" and where needed "unlabeled"."""
    spec = clip_spec(config)
    spec = spec if needs.partners else replace(spec, tg_stride=0)
    drawn = {"labeled": (videos.split.labeled, config.optim.batch_labeled)}
    if needs.unlabeled:
        drawn["unlabeled"] = (videos.split.unlabeled, config.optim.batch_unlabeled)
    return {
        name: ClipStream(videos.index, rows, spec, seed=config.run.seed, name=name, batch_size=batch_size)
        for name, (rows, batch_size) in drawn.items()
    }


def check_batch(batch: ClipBatch, needs: Needs, config: Config, videos: Videos) -> None:
    """Refuse the first batch of a loader that is not what it should be.

    Args:
        batch: the first one.
        needs: of the training's method.
        config: of the training.
        videos: it is made of.

    Raises:
        InputError: says what is wrong with it.
    """
    device, streams = torch.device(config.run.device), streams_of(needs, config, videos)
    wanted = {
        "labeled": True,
        "weak": needs.unlabeled,
        "strong": needs.strong,
        "labeled_second": needs.second,
        "second": needs.second,
        "slow": needs.slow,
        "labeled_rotated": needs.rotated,
        "rotated": needs.rotated,
    }
    for name, needed in wanted.items():
        views = getattr(batch, name)
        if (views is not None) != needed:
            raise InputError(f"the loader makes {'no' if views is None else 'needless'} {name} clips: do not time it")
        if views is not None:
            clip_len = config.data.clip_len // 2 if name == "slow" else config.data.clip_len
            batch_size = streams["labeled" if name.startswith("labeled") else "unlabeled"].batch_size
            _check_views(name, views, (batch_size, clip_len), config, needs, device)
    if batch.weak is not None and batch.strong is not None and torch.equal(batch.weak.rgb, batch.strong.rgb):
        raise InputError("strong clips are the weak ones: do not time this loader")
    ids = {"labeled": batch.labeled_ids, "unlabeled": batch.unlabeled_ids}
    for name, stream in streams.items():
        clip, views = stream.batch(0)[0], batch.labeled if name == "labeled" else batch.weak
        rows = ids[name]
        assert rows is not None and views is not None
        if rows[0] != clip.row:
            raise InputError(f"the first {name} clip is of video {rows[0]}, {clip.row} was planned")
        views = Views(views.rgb) if needs.own_crops else views  # TG of another crop than the plan's
        _check_pixels(name, views, videos.index[clip.row], clip.plan)


def check_losses(terms: Mapping[str, Tensor]) -> None:
    """Refuse a step whose loss or gradient is infinite or NaN.

    Args:
        terms: 0-dim, as :func:`train.step.train_step` returned them.

    Raises:
        InputError: names the terms.
    """
    bad = [name for name in ("loss", "grad_norm") if not bool(terms[name].isfinite())]
    if bad:
        raise InputError(f"{' and '.join(bad)} of the first step: not finite, there is nothing to time")


def _check_views(
    name: str, views: Views, clips_and_frames: tuple[int, int], config: Config, needs: Needs, device: torch.device
) -> None:
    shape = (*clips_and_frames, config.data.size, config.data.size, 3)
    for modality, clips in views._asdict().items():
        if (clips is not None) != (modality in needs.modalities):
            raise InputError(f"the loader makes {'no' if clips is None else 'needless'} {name} {modality}")
        if clips is None:
            continue
        if tuple(clips.shape) != shape or clips.dtype != torch.uint8 or clips.device.type != device.type:
            is_ = f"{tuple(clips.shape)} {clips.dtype} on {clips.device.type}"
            raise InputError(f"{name} {modality} clips are {is_}, not {shape} torch.uint8 on {device.type}")
    if bool((views.rgb == views.rgb[0, 0, 0, 0]).all()):
        raise InputError(f"{name} rgb clips show one colour and nothing else: do not time this loader")


def _check_pixels(name: str, views: Views, record: VideoRecord, plan: ClipPlan) -> None:
    """Compare a view's first clip with what :func:`long_way_round` makes of the same plan."""
    rgb = long_way_round(record, plan, plan.frames)
    _compare(f"{name} rgb of {record.path}", views.rgb[0], rgb, rgb.mean(axis=(0, 1, 2)))
    if views.tg is not None:
        tg = temporal_gradient(rgb, long_way_round(record, plan, plan.later))
        _compare(f"{name} tg of {record.path}", views.tg[0], tg, np.array(127.0))


def _compare(what: str, clip: Tensor, expected: np.ndarray, blank: np.ndarray) -> None:
    """Two ways to scale and to convert colours differ by what a clip is like, so that tells how far they may."""
    ours = clip.cpu().numpy().astype(np.float32)
    error, content = np.abs(ours - expected).mean(), np.abs(expected - blank).mean()
    if not error <= content / 2 + _ROUNDING:
        raise InputError(
            f"{what} is {error:.1f} grey levels off its frames, where a blank one is {content:.1f}: "
            "do not time this loader"
        )


def long_way_round(record: VideoRecord, plan: ClipPlan, numbers: np.ndarray) -> np.ndarray:
    """Frames of a planned clip, with neither slices, nor FFmpeg's filters, nor DALI.

    Args:
        record: the video.
        plan: crop, size and flip.
        numbers: (N,) which frames, any order, repeats allowed.

    Returns:
        (N, height, width, 3) uint8.
    """
    x, y, width, height = plan.box
    whole = {}
    for number, frame in enumerate(whole_frames(record)):
        if number in numbers:
            turned = np.rot90(frame.to_ndarray(format="rgb24"), record.rotation // 90)
            whole[number] = turned[y : y + height, x : x + width]
        if number >= numbers.max():
            break
    crops = torch.from_numpy(np.stack([whole[number] for number in numbers.tolist()])).permute(0, 3, 1, 2).float()
    clips = F.interpolate(crops, plan.size[::-1], mode="bilinear", antialias=True).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray((clips.flip(2) if plan.flip else clips).numpy())
