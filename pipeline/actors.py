"""Strong views that show the actors of one clip before the scene of another, or in another tempo: ActorCutMix.

Where people are is read from a file, as a detector leaves it: :class:`ActorBoxes`.  :func:`with_actors` makes the
views: of the weak ones where actors are pasted, of the strong ones elsewhere.  A clip's partner is the one that stands
as far from the end of the rank's batch as it from the start; the middle clip of an odd batch has none.

From "Learning Representational Invariances for Data-Efficient Action Recognition" (Zou et al. 2021) and its code.
Differs: the code pastes in whole batches, here each clip is drawn for itself (:func:`pipeline.plan.plan_tempos`); its
mask had gone through the strong operations of a view that it is not pasted on; and a partner without people gave no
scene, where here all of it is scene.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import Views
from pipeline.errors import InputError
from pipeline.plan import ClipPlan, Tempo

MIN_SCORE = 0.4
"""Boxes of this score or less are no people."""

MEAN_COLOR = (124, 116, 104)
"""Where neither clip has anything to show; it is 0 once normalised."""

_ARRAYS = {"paths": (1, "U"), "starts": (1, "iu"), "frames": (1, "iu"), "boxes": (2, "f"), "scores": (1, "f")}


class ActorBoxes:
    """Where people are in each video, read from a file.

    The file is an .npz of numpy's: ``paths`` (V,) of the videos, as in the index; ``starts`` (V + 1,): what belongs to
    video v lies in rows ``starts[v]`` to ``starts[v + 1]`` of ``frames`` (N,), numbers of frames, ascending; ``boxes``
    (N, 4), corners x0, y0, x1, y1 as fractions of the frame as displayed; and ``scores`` (N,).  A frame that has none
    of its own has the boxes of the nearest earlier one; one without people is told by a box of score 0.

    Args:
        path: the file.
        paths: of all videos, by row of the index.
        rows: those that are asked for.

    Raises:
        InputError: the file cannot be read, is not as above, or lacks a video.
    """

    def __init__(self, path: Path, paths: Sequence[str], rows: np.ndarray) -> None:
        arrays = _read(path)
        self._frames, self._boxes, self._scores = arrays["frames"], arrays["boxes"], arrays["scores"]
        places = {video: place for place, video in enumerate(arrays["paths"].tolist())}
        missing = [paths[row] for row in rows.tolist() if paths[row] not in places]
        if missing:
            raise InputError(
                f"{path} says nothing of {len(missing)} of {len(rows)} videos, first {missing[0]}: "
                "add them, without boxes where nobody is to be seen"
            )
        starts = arrays["starts"].astype(np.int64)
        self._parts = {row: slice(*starts[(at := places[paths[row]]) : at + 2].tolist()) for row in rows.tolist()}

    def of(self, row: int, frames: np.ndarray) -> list[np.ndarray]:
        """The people in some frames of a video: for each frame (P, 4) float32, as fractions."""
        part_of_video = self._parts[row]
        known = self._frames[part_of_video]
        found = []
        for last in np.searchsorted(known, frames, side="right").tolist():
            first = int(np.searchsorted(known, known[last - 1], side="left")) if last else 0
            part = slice(part_of_video.start + first, part_of_video.start + last)
            found.append(self._boxes[part][self._scores[part] > MIN_SCORE].astype(np.float32))
        return found


def _read(path: Path) -> dict[str, np.ndarray]:
    remedy = "docs/methods.md shows how one is written"
    try:
        with ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays: dict[str, np.ndarray] = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no file of boxes ({error}): {remedy}") from error
    for name, (ndim, kinds) in _ARRAYS.items():
        if arrays[name].ndim != ndim or arrays[name].dtype.kind not in kinds:
            raise InputError(f"{path}: {name} is {arrays[name].dtype} of shape {arrays[name].shape}: {remedy}")
    starts, frames = arrays["starts"].astype(np.int64), arrays["frames"]
    num = len(frames)
    fits = (
        len(starts) == len(arrays["paths"]) + 1
        and starts[0] == 0
        and starts[-1] == num
        and bool((np.diff(starts) >= 0).all())
        and arrays["boxes"].shape == (num, 4)
        and arrays["scores"].shape == (num,)
    )
    if not fits:
        raise InputError(f"{path}: its arrays do not fit together: {remedy}")
    # Detectors look a little beyond the edge.
    fractions = ((arrays["boxes"] >= -1) & (arrays["boxes"] <= 2)).all(axis=1)
    if not fractions.all():
        row = int((~fractions).argmax())
        raise InputError(
            f"{path}: the box in row {row}, {arrays['boxes'][row].tolist()}, is not in fractions of the frame: divide "
            "pixels by its width and height"
        )
    within = np.diff(frames.astype(np.int64)) >= 0
    within[starts[1:-1][(starts[1:-1] > 0) & (starts[1:-1] < num)] - 1] = True  # from one video to the next
    if not within.all():
        raise InputError(f"{path}: the frames of a video do not ascend, at row {int((~within).argmax())}: {remedy}")
    return arrays


def boxes_in_clip(boxes: Sequence[np.ndarray], plan: ClipPlan, display_size: tuple[int, int]) -> list[np.ndarray]:
    """Where boxes lie in a clip.

    Args:
        boxes: for each frame (P, 4), as fractions of the frame as displayed.
        plan: of the clip.
        display_size: width and height of the video in pixels.

    Returns:
        The same in pixels of the clip; they may lie outside.
    """
    x, y, width, height = plan.box
    scale = np.array([plan.size[0] / width, plan.size[1] / height] * 2, np.float32)
    found = []
    for corners in boxes:
        corners = (corners * np.array(display_size * 2, np.float32) - np.array([x, y] * 2, np.float32)) * scale
        if plan.flip:
            corners = np.stack(
                [plan.size[0] - corners[:, 2], corners[:, 1], plan.size[0] - corners[:, 0], corners[:, 3]], axis=1
            )
        found.append(corners.astype(np.float32))
    return found


def actor_masks(boxes: Sequence[Sequence[np.ndarray]], size: int, device: torch.device) -> Tensor:
    """Draw boxes.

    Args:
        boxes: for each clip and frame (P, 4) corners in pixels of the clip.
        size: height and width of the clips in pixels.
        device: where the masks are made.

    Returns:
        (B, T, size, size) bool, True in the pixels whose centre lies in a box.
    """
    most = max((len(people) for clip in boxes for people in clip), default=0)
    padded = np.zeros((len(boxes), len(boxes[0]), most, 4), np.float32)  # a box without area holds no pixel
    for clip, frames in zip(padded, boxes, strict=True):
        for frame, people in zip(clip, frames, strict=True):
            frame[: len(people)] = people
    x0, y0, x1, y1 = torch.from_numpy(padded).to(device)[..., None].unbind(dim=3)
    center = torch.arange(size, device=device) + 0.5
    columns, rows = ((low <= center) & (center < high) for low, high in ((x0, x1), (y0, y1)))
    # A sum over boxes of outer products: how many of them hold a pixel.
    masks: Tensor = rows.float().transpose(-1, -2) @ columns.float() > 0
    return masks


def with_actors(weak: Views, strong: Views, masks: Tensor, tempos: Sequence[Tempo]) -> tuple[Views, Tensor]:
    """Make the strong views.

    Args:
        weak: (B, T, H, W, C) uint8 RGB.
        strong: likewise, as the strong operations leave it.
        masks: (B, T, H, W) bool, where the actors of the weak clips are.
        tempos: of each clip.

    Returns:
        The views, and (B,) float32 the share of each clip's pixels that its own actors cover; 1 where nothing of
        another clip is shown.
    """
    device, num = weak.rgb.device, len(tempos)
    order = torch.from_numpy(np.stack([tempo.order for tempo in tempos])).to(device)
    wanted = torch.tensor([tempo.pasted and 2 * clip + 1 != num for clip, tempo in enumerate(tempos)]).to(device)
    share = masks.float().mean(dim=(1, 2, 3))
    pasted = wanted & (share > 0) & (share < 1)
    in_order = strong.rgb[torch.arange(num, device=device)[:, None], order]
    color = torch.tensor(MEAN_COLOR, dtype=torch.uint8).to(device)
    scene = torch.where(masks[..., None], color, weak.rgb).flip(0)
    actors = torch.where(masks[..., None], weak.rgb, scene)
    rgb = torch.where(pasted[:, None, None, None, None], actors, in_order)
    return Views(rgb), torch.where(pasted, share, 1.0)
