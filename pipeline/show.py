"""Contact sheets: pictures of what the networks see, and of where in the video they see it.

:func:`contact_sheet` draws a batch as it comes from a loader; :func:`draw_clips` draws training clips of any videos,
with the planned box on the source frames.  Left to others: planning and making the clips.

    python -m pipeline.show ROOT --out clips.png
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.batch import ClipBatch, Views
from pipeline.datasets import DataOptions, split_videos
from pipeline.decode import decode_clip
from pipeline.errors import BadVideo, InputError
from pipeline.files import open_whole
from pipeline.graph import ClipGraph, GraphSpec
from pipeline.index import VideoIndex
from pipeline.plan import ClipPlan, ClipSpec, plan_clip
from pipeline.program import run_program
from pipeline.record import VideoRecord
from pipeline.strong import OPS
from pipeline.text import spelled_out

_DPI = 100
_GAP = 2  # pixels between frames
_MIN_FRAME_PX = 72  # smaller frames are enlarged by whole factors
_LEFT, _TITLE, _CAPTION = 100, 24, 14  # pixels for the names of rows, for the title of a clip, for captions of frames
_CHARACTER_PX = 6.5  # of the widest texts; longer titles are cut
_BOX_COLOR = (255, 60, 0)
_BOX_SHARE = 1 / 60  # thickness of the box's lines, of the frame's height; 2 pixels at least
_MAX_ASPECT = 2  # wider source frames are drawn lower than the views


class _Strip(NamedTuple):
    """One row of a sheet: frames from left to right, each (H, W, 3) uint8, with a caption each or none at all."""

    name: str
    frames: list[np.ndarray]
    captions: list[str]


class _Panel(NamedTuple):
    """One clip of a sheet."""

    title: str
    strips: list[_Strip]


def contact_sheet(batch: ClipBatch, path: Path, class_names: tuple[str, ...], *, num_clips: int = 3) -> None:
    """Draw the first clips of a batch, one row for each view and modality, time from left to right.

    Args:
        batch: of any method; labeled clips are drawn where it has no unlabeled ones.
        path: PNG to write.
        class_names: by label.
        num_clips: clips to draw at most.
    """
    views: dict[str, Views | None] = {"weak": batch.weak, "strong": batch.strong}
    if batch.weak is None:
        views = {"labeled": batch.labeled}
    labels = batch.labels if batch.weak is None else batch.unlabeled_labels
    ids = batch.labeled_ids if batch.weak is None else batch.unlabeled_ids
    assert labels is not None and ids is not None
    panels = []
    for clip in range(min(num_clips, len(ids))):
        label = int(labels[clip])
        name = class_names[label] if label >= 0 else "class unknown"
        panels.append(_Panel(f"video {int(ids[clip])}: {name}", _view_strips(views, clip)))
    _draw_sheet(panels, path)


def draw_clips(
    index: VideoIndex,
    rows: Sequence[int],
    class_names: Sequence[str],
    path: Path,
    spec: ClipSpec,
    *,
    num_clips: int = 4,
    seed: int = 0,
    epoch: int = 0,
) -> list[BadVideo]:
    """Draw training clips: the source frames with the planned box, then every view of it.

    Args:
        index: the videos.
        rows: videos to draw, the first of them that can be read.
        class_names: one for each of the rows.
        path: PNG to write.
        spec: what a clip is.
        num_clips: clips to draw at most.
        seed: as of a run.
        epoch: another epoch shows other parts of the videos.

    Returns:
        What could not be read on the way.

    Raises:
        InputError: none of the videos could be read.
    """
    views = GraphSpec(spec.clip_len, tg=True, strong=True, decoder="ffmpeg", tg_form=spec.tg_form)
    graph = ClipGraph(views, spec.size, 1, "cpu", 1)
    panels: list[_Panel] = []
    bad: list[BadVideo] = []
    for position, (row, name) in enumerate(zip(rows, class_names, strict=True)):
        if len(panels) == num_clips:
            break
        try:
            record = index[row]
            plan = plan_clip(record, spec, seed, epoch, position)
            weak, strong = graph([graph.read(record, plan)])
            panels.append(_clip_panel(f"{name}: {index.paths[row]}", record, plan, weak, strong))
        except BadVideo as error:
            bad.append(error)
    if not panels:
        raise InputError(f"none of the {len(bad)} videos can be read; the first: {bad[0]}")
    _draw_sheet(panels, path)
    return bad


def draw_clip(name: str, record: VideoRecord, plan: ClipPlan, weak: Views, strong: Views | None, path: Path) -> None:
    """Draw one training clip as :func:`draw_clips` does, of views that have been made.

    Args:
        name: what to call the video.
        record: the video.
        plan: of the clip.
        weak: (1, T, H, W, C) uint8 in each modality there is.
        strong: the same, where there is such a view.
        path: PNG to write.

    Raises:
        BadVideo: the source frames cannot be read.
    """
    _draw_sheet([_clip_panel(name, record, plan, weak, strong)], path)


def _clip_panel(name: str, record: VideoRecord, plan: ClipPlan, weak: Views, strong: Views | None) -> _Panel:
    source = _source_strip(record, plan, max(plan.size[1], _MIN_FRAME_PX))
    views = _view_strips({"weak": weak, "strong": strong}, 0, plan)
    return _Panel(f"{name} ({describe_video(record)}); {describe_box(plan)}", [source, *views])


def describe_video(record: VideoRecord) -> str:
    """Codec, size, frames and frame rate of a video, for a title."""
    size = "x".join(map(str, record.display_size))
    turned = f" turned by {record.rotation} degrees" if record.rotation else ""
    return f"{record.codec} {size}{turned}, {record.num_frames} frames at {record.fps:.4g}/s"


def describe_box(plan: ClipPlan) -> str:
    """The crop of a clip, for a title."""
    x, y, width, height = plan.box
    return f"box {width}x{height} at {x},{y}{', flipped' if plan.flip else ''}"


def _source_strip(record: VideoRecord, plan: ClipPlan, height: int) -> _Strip:
    """The clip's frames as displayed, whole, with the box on them."""
    full_width, full_height = record.display_size
    scale = min(height / full_height, _MAX_ASPECT * height / full_width)
    size = (max(1, round(full_width * scale)), max(1, round(full_height * scale)))
    frames = decode_clip(record, plan.frames, (0, 0, full_width, full_height), False, size)
    x, y, width, box_height = plan.box
    left, right = (min(round(at * scale), size[0]) for at in (x, x + width))
    top, bottom = (min(round(at * scale), size[1]) for at in (y, y + box_height))
    line = max(2, round(size[1] * _BOX_SHARE))
    for rows, columns in (
        (slice(top, top + line), slice(left, right)),
        (slice(max(0, bottom - line), bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + line)),
        (slice(top, bottom), slice(max(0, right - line), right)),
    ):
        frames[:, rows, columns] = _BOX_COLOR
    return _Strip("source", list(frames), [f"frame {number}" for number in plan.frames])


def _view_strips(views: dict[str, Views | None], clip: int, plan: ClipPlan | None = None) -> list[_Strip]:
    """A strip for each view and modality there is; strong ones name their operations where the plan is known."""
    strips = []
    for view, modalities in views.items():
        for modality, clips in ({} if modalities is None else modalities._asdict()).items():
            if clips is not None:
                strong = plan.strong(modality) if plan and view == "strong" else None
                name = "\n".join([f"{view} {modality.upper()}", *(OPS[op] for op in (strong.ops if strong else ()))])
                strips.append(_Strip(name, [_enlarged(frame) for frame in clips[clip].cpu().numpy()], []))
    return strips


def _enlarged(frame: np.ndarray) -> np.ndarray:
    factor = -(-_MIN_FRAME_PX // frame.shape[0])
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def _draw_sheet(panels: list[_Panel], path: Path) -> None:
    """Draw panels below each other; frames of one column are centred on each other."""
    texts: list[tuple[float, float, str]] = []  # x, y of the middle of the line, text
    width = _LEFT + max(len(panel.strips[0].frames) * (_column_width(panel) + _GAP) for panel in panels)
    height = sum(_TITLE + sum(_strip_height(strip) for strip in panel.strips) for panel in panels)
    canvas = np.full((height, width, 3), 255, np.uint8)
    y = 0
    for panel in panels:
        column = _column_width(panel)
        texts.append((4, y + _TITLE / 2, _cut(panel.title, width)))
        y += _TITLE
        for strip in panel.strips:
            frame_height, frame_width = strip.frames[0].shape[:2]
            top = y + _CAPTION * bool(strip.captions)
            texts.append((4, top + frame_height / 2, strip.name))
            for number, frame in enumerate(strip.frames):
                x = _LEFT + number * (column + _GAP) + (column - frame_width) // 2
                canvas[top : top + frame_height, x : x + frame_width] = frame
                if strip.captions:
                    texts.append((x, y + _CAPTION / 2, strip.captions[number]))
            y += _strip_height(strip)
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
    figure.figimage(canvas, 0, 0, origin="upper")
    for x, y_text, text in texts:
        figure.text(x / width, 1 - y_text / height, text, fontsize=8, va="center", ha="left", parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(path) as file:
        FigureCanvasAgg(figure).print_figure(file, dpi=_DPI, format="png")


def _column_width(panel: _Panel) -> int:
    widths: list[int] = [strip.frames[0].shape[1] for strip in panel.strips]
    return max(widths)


def _strip_height(strip: _Strip) -> int:
    height: int = strip.frames[0].shape[0]
    return height + _GAP + _CAPTION * bool(strip.captions)


def _cut(title: str, width: int) -> str:
    """What of a title fits; names that are not UTF-8 are spelled out."""
    title = spelled_out(title.encode("utf-8", "backslashreplace").decode())
    most = int(width / _CHARACTER_PX)
    return title if len(title) <= most else f"{title[: most - 1]}…"


_DATA = DataOptions()


def show(
    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")],
    *,
    out: Path = Path("clips.png"),
    num_clips: int = 4,
    seed: int = 0,
    epoch: int = 0,
    size: int = 112,
    clip_len: int = 8,
    frame_stride: int = 8,
    min_crop_area: float = 0.08,
    data: DataOptions = _DATA,
) -> None:
    """Draw a contact sheet of a folder of videos: source frames with the planned boxes, and every view made of them.

    Args:
        root: folder of videos; folders in it are classes.
        out: PNG to write.
        num_clips: clips to draw, of as many classes as possible.
        seed: another seed draws other videos and boxes.
        epoch: another epoch draws other boxes and frames of the same videos.
        size: height and width of a clip in pixels.
        clip_len: frames of a clip.
        frame_stride: distance of neighbouring frames, in frames of the video.
        min_crop_area: smallest share of the frame's area that a box may have.
        data: where the classes are known from.
    """
    spec = ClipSpec(
        clip_len=clip_len, frame_stride=frame_stride, size=size, eval_size=size, min_crop_area=min_crop_area
    )
    if num_clips < 1:
        raise InputError(f"--num-clips {num_clips} draws nothing: take 1 or more")
    index = VideoIndex.build(root)
    class_names = _class_names(index, data)
    rows = _choose_rows(class_names, seed)
    names = [class_names[row] for row in rows]
    bad = draw_clips(index, rows, names, out, spec, num_clips=num_clips, seed=seed, epoch=epoch)
    for error in bad:
        print(f"left out: {spelled_out(str(error))}")
    print(f"{min(num_clips, len(rows) - len(bad))} of {len(index)} videos: {out}")


def _class_names(index: VideoIndex, data: DataOptions) -> list[str]:
    """The class of every row."""
    try:
        split = split_videos(index, data)
    except InputError as error:
        print(f"classes are not known: {spelled_out(str(error))}")
        return ["class unknown"] * len(index)
    return [split.class_names[label] if label >= 0 else "class unknown" for label in split.labels]


def _choose_rows(class_names: list[str], seed: int) -> list[int]:
    """All rows in an order in which classes take turns, and that is random otherwise."""
    turns: dict[str, int] = {}
    keyed = []
    for row in np.random.default_rng(seed).permutation(len(class_names)).tolist():
        name = class_names[row]
        turns[name] = turns.get(name, -1) + 1
        keyed.append((turns[name], name, row))
    return [row for _, _, row in sorted(keyed)]


def main() -> int:
    """Run the program; returns its exit status."""
    return run_program(show, "python -m pipeline.show")


if __name__ == "__main__":
    sys.exit(main())
