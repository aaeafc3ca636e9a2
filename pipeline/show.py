"""Contact sheets: a picture of what the networks see."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.batch import ClipBatch, Views

_GAP = 2  # pixels between frames
_DPI = 100
_MIN_FRAME_PX = 72  # smaller frames are enlarged by whole factors


def contact_sheet(batch: ClipBatch, path: Path, class_names: tuple[str, ...], *, num_clips: int = 3) -> None:
    """Draw the first clips of a batch, one row for each view and modality, time from left to right.

    Args:
        batch: of any method; labeled clips are drawn where it has no unlabeled ones.
        path: PNG to write.
        class_names: by label.
        num_clips: clips to draw at most.
    """
    views = {"labeled": batch.labeled} if batch.weak is None else {"weak": batch.weak, "strong": batch.strong}
    rows = {f"{view} {modality.upper()}": clip for view, clips in views.items() for modality, clip in _named(clips)}
    labels = batch.labels if batch.weak is None else batch.unlabeled_labels
    ids = batch.labeled_ids if batch.weak is None else batch.unlabeled_ids
    assert labels is not None and ids is not None
    num_clips = min(num_clips, len(ids))

    strips = [[_strip(clips[clip].cpu().numpy()) for clips in rows.values()] for clip in range(num_clips)]
    height, width = strips[0][0].shape[:2]
    left, top = 100, 24  # pixels for the names of rows and clips
    figure = Figure(((left + width) / _DPI, num_clips * (top + len(rows) * height) / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    total_height = num_clips * (top + len(rows) * height)
    y = 0
    for clip in range(num_clips):
        label = int(labels[clip])
        name = class_names[label] if label >= 0 else "class unknown"
        _text(figure, 4, y + top / 2, f"video {int(ids[clip])}: {name}", left + width, total_height)
        y += top
        for row, strip in zip(rows, strips[clip], strict=True):
            figure.figimage(strip, left, total_height - y - height, origin="upper")
            _text(figure, 4, y + height / 2, row, left + width, total_height)
            y += height
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(path, dpi=_DPI, format="png")


def _named(views: Views | None) -> list[tuple[str, Tensor]]:
    return [] if views is None else [(name, clip) for name, clip in views._asdict().items() if clip is not None]


def _strip(clip: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) to one picture, frames side by side with gaps."""
    factor = -(-_MIN_FRAME_PX // clip.shape[1])
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    padded = np.pad(clip, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)


def _text(figure: Figure, x: float, y: float, text: str, width: float, height: float) -> None:
    figure.text(x / width, 1 - y / height, text, fontsize=8, va="center", ha="left")
