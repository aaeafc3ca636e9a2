"""What a run's network looked at: validation clips with Grad-CAM over them, as pictures for the report.

Promises pictures of clips as evaluation shows them.  The heat itself is left to :mod:`train.grad_cam`, the choice of
videos to :mod:`train.report_classes`.
"""

import io
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.image import imread, imsave
from torch import Tensor

from model import normalize
from pipeline.evaluation import center_views
from train.grad_cam import grad_cam, overlay
from train.predictions import SavedPredictions
from train.report_classes import telling_videos
from train.saved_run import SavedRun
from train.validation import clip_spec, decoding
from train.videos import Videos

_BATCH = 2  # clips at a time: gradients keep all activations
_FRAME_PX = 112  # height of a frame in the picture
_GAP = 2  # pixels between frames
_QUALITY = 88  # of JPEG


class ExplainedClip(NamedTuple):
    """A clip, what the network took it for, and what made it do so.

    Attributes:
        path: of the video, below the data root.
        true_class: its name.
        guess: name of the class guessed from this clip.
        probability: that the network gives the guess.
        cells: (T, H, W) of the features that the heat is interpolated from.
        jpeg: frames from left to right, below them the same with the heat on top.
    """

    path: str
    true_class: str
    guess: str
    probability: float
    cells: tuple[int, int, int]
    jpeg: bytes


def explain_clips(run: SavedRun, videos: Videos, predictions: SavedPredictions) -> list[ExplainedClip]:
    """Draw what the recognizer looked at in videos it was sure of, wrongly and rightly.

    Args:
        run: whose recognizer it is.
        videos: of the run.
        predictions: of the final test, which tell what videos to take.

    Returns:
        Wrong ones of the final test first.  Videos that cannot be read any more are left out.
    """
    modality, network = run.method.modality, run.method.recognizer
    rows_of = {videos.index.paths[row]: row for row in videos.split.val.tolist()}
    chosen = [predictions.paths[place] for place in telling_videos(predictions.logits[modality], predictions.labels)]
    rows = np.array([rows_of[path] for path in chosen if path in rows_of], dtype=np.int64)
    spec, options = clip_spec(run.config), decoding(run.config)
    views = center_views(videos.index, rows, spec, batch_size=_BATCH, tg=modality == "tg", **options)
    clips = []
    for ids, batch in views:
        pixels = batch.of(modality)
        found = grad_cam(network, normalize(pixels.to(next(network.parameters()).device)))
        for number, row in enumerate(ids.tolist()):
            clips.append(
                ExplainedClip(
                    path=videos.index.paths[row],
                    true_class=run.class_names[videos.split.labels[row]],
                    guess=run.class_names[int(found.guesses[number])],
                    probability=float(found.probabilities[number]),
                    cells=found.cells,
                    jpeg=_strips(pixels[number].cpu(), found.heat[number]),
                )
            )
    return clips


def as_jpeg(png: bytes) -> bytes:
    """The same picture, of clips, in a tenth of the bytes."""
    return _jpeg(imread(io.BytesIO(png))[..., :3])


def _strips(frames: Tensor, heat: Tensor) -> bytes:
    """Frames (T, H, W, 3) uint8 and below them the same with the heat (T, H, W) on top."""
    hot = torch.from_numpy(overlay(frames.numpy(), heat.numpy()))
    return _jpeg(np.concatenate([_strip(frames), _strip(hot)]))


def _strip(frames: Tensor) -> np.ndarray:
    """Frames beside each other, all of the same height whatever size the clip has, on white."""
    width = round(_FRAME_PX * frames.shape[2] / frames.shape[1])
    planes = frames.permute(0, 3, 1, 2).float()
    scaled = F.interpolate(planes, (_FRAME_PX, width), mode="bicubic", antialias=True).clamp(0, 255).round().byte()
    framed = F.pad(scaled, (0, _GAP, 0, _GAP), value=255)
    strip: np.ndarray = framed.permute(2, 0, 3, 1).flatten(1, 2).numpy()
    return strip


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, picture, format="jpg", pil_kwargs={"quality": _QUALITY})
    return buffer.getvalue()
