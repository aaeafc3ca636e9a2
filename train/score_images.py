"""The program that asks an image network what it sees in each video: ``python -m train.score_images``.

Writes the file that ``--method.scores`` takes: of each video the mean, over some frames of it, of the probabilities of
the classes of ImageNet.  The network is one of torchvision's, its weights a file at hand.  Promises that the file is
there whole or not at all, that one at its place is not written over, and that a video which cannot be read costs no
other its scores: it is named, and has none.

Exit status: 0 when all videos have scores, 1 when some have none or the system refused something, 2 for a mistake in
the input, 130 after Ctrl-C and 143 after SIGTERM.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from model import normalize
from pipeline.errors import InputError
from pipeline.evaluation import frame_views, unlogged
from pipeline.index import VideoIndex
from pipeline.processes import num_cores
from pipeline.program import run_program
from pipeline.text import spelled_out
from pipeline.video_scores import NUM_SCORES, write_video_scores
from train.config import Config, RunConfig, find_device
from train.saved_run import Device

_NETWORKS = {"resnet18": resnet18, "resnet50": resnet50}
_BATCH = 16  # videos


def score_images(
    *,
    data_root: Annotated[Path, tyro.conf.arg(name="data.root", metavar="DIR")],
    data_index: Annotated[Path | None, tyro.conf.arg(name="data.index", metavar="FILE")] = None,
    weights: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    network: Literal["resnet18", "resnet50"] = "resnet50",
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    num_frames: Annotated[int, tyro.conf.arg(metavar="N")] = 3,
    device: Device = "auto",
) -> int:
    """Write down what an image network sees in each video, for --run.method videossl --method.scores FILE.

    Args:
        data_root: folder of the videos.
        data_index: file of what is known of the videos, brought up to date; None takes the folder's, or scans it.
        weights: state dict of the network, as torchvision publishes it: a .pth file.
        network: which ResNet of torchvision the weights are of.
        out: file to write.
        num_frames: frames of each video, the middle ones of so many equal parts; 1 takes that in the middle.
        device: where to run; auto takes a GPU if there is one.
    """
    if num_frames < 1:
        raise InputError(f"--num-frames {num_frames} shows nothing: take 1 or more")
    _check_free(out)
    device = find_device(Config(run=RunConfig(device=device)))
    classifier = load_network(network, weights).to(device)
    index = VideoIndex.refresh(data_index, data_root) if data_index else VideoIndex.build(data_root)
    scores = np.zeros((len(index), NUM_SCORES), np.float16)
    skipped = dict(index.refused)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    with Progress(*columns, console=console) as bar, unlogged():
        task = bar.add_task(network, total=len(index))
        for rows, probabilities in _scored(classifier, index, num_frames, device, skipped):
            scores[rows] = probabilities
            bar.advance(task, len(rows))
    num_videos = len(index) + len(index.refused)
    if len(skipped) == num_videos:
        raise InputError(f"none of the {num_videos} videos in {data_root} can be decoded: there is nothing to write")
    write_video_scores(out, index.paths, scores)
    for path, reason in sorted(skipped.items()):
        print(f"no scores: {spelled_out(path)}: {spelled_out(reason)}", file=sys.stderr)
    print(
        f"{out} ({out.stat().st_size / 1e6:,.1f} MB): scores of {num_videos - len(skipped):,} of {num_videos:,} videos"
    )
    return 1 if skipped else 0


def load_network(name: str, weights: Path) -> nn.Module:
    """A network of torchvision with the weights of a file, in eval mode.

    Raises:
        InputError: the file cannot be read, or holds the weights of another network.
    """
    network: nn.Module = _NETWORKS[name](weights=None)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds, depending on the bytes it meets
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise InputError(f"{weights} is no file of weights that can be read: {reason}") from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]  # torch lists every tensor that does not fit
        raise InputError(
            f"{weights} is not the state dict of torchvision's {name}: {reason}: choose --network, or other weights"
        ) from error
    return network.eval()


def _check_free(out: Path) -> None:
    """Before hours of work, not after."""
    if out.exists():
        raise InputError(f"--out {out} exists already: choose another name, or delete it")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out} cannot be written there: choose a folder that exists and may be written to")


def _scored(
    network: nn.Module, index: VideoIndex, num_frames: int, device: str, skipped: dict[str, str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows, and (B, NUM_SCORES) float32 mean probabilities of their frames."""
    views = frame_views(
        index,
        np.arange(len(index)),
        num_frames,
        batch_size=_BATCH,
        device=device,
        num_threads=num_cores(),
        skipped=skipped,
    )
    with torch.inference_mode(), closing(views):
        for ids, frames in views:
            yield ids.numpy(), mean_probabilities(network, frames.to(device)).cpu().numpy()


def mean_probabilities(network: nn.Module, frames: Tensor) -> Tensor:
    """(B, F, H, W, 3) uint8 frames -> (B, K) float32, the mean over each video's frames of the network's softmax."""
    images = normalize(frames).movedim(2, 1)  # (B, F, 3, H, W)
    logits: Tensor = network(images.flatten(0, 1))
    probabilities = logits.float().softmax(dim=1)
    return probabilities.reshape(*images.shape[:2], -1).mean(dim=1)


def main() -> int:
    """Run the program; returns its exit status."""
    return run_program(score_images, "python -m train.score_images", "; nothing has been written")


if __name__ == "__main__":
    sys.exit(main())
