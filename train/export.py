"""The program that exports the recognizer of a run: ``python -m train.export RUN``.

Promises that every file has been read again and held against the network on clips of real videos before it is
written, that a file is there whole or not at all, and that only the RGB network is in it.  Writes, into RUN/export:
model.safetensors, model.pt2 (torch.export), model.onnx, and preprocessing.json, which says how a video becomes their
input.

Weights without this program, in a Python that has torch, safetensors and this project's ``model/``::

    import json, safetensors, torch
    from model import R3D18, normalize
    with safetensors.safe_open("runs/demo/export/model.safetensors", "pt") as file:
        network = R3D18(**json.loads(file.metadata()["network"])).eval()
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    logits = network(normalize(torch.zeros(1, 8, 46, 46, 3, dtype=torch.uint8)))[0]

Exit status: 0 when all is written; 1 where a file does not say what the network says, with nothing written, or the
system refused something; 2 for a mistake in the input; 130 after Ctrl-C and 143 after SIGTERM.
"""

import json
import sys
from collections.abc import Callable
from itertools import islice
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.errors import InputError
from pipeline.evaluation import multi_views
from pipeline.files import write_whole
from pipeline.plan import NUM_TEST_CROPS
from pipeline.program import run_program
from train.formats import DESCRIPTION, FORMATS, Recognizer
from train.preprocessing import describe
from train.saved_run import Checkpoint, DataRoot, OutFolder, RunFolder, SavedRun, open_run, open_videos
from train.validation import clip_spec, decoding
from train.videos import Videos

EXPORT = "export"
MODEL = "model"

_NUM_VIDEOS = 4  # whose clips the files are checked on
_VIEWS_OF_VIDEO = slice(None, None, 3 * NUM_TEST_CROPS + 1)  # clips from all of the video, and every crop
_TOLERANCE = 1e-4  # of the largest logit, or of 1: another order of sums in float32 makes 1e-6


def export(
    run: RunFolder,
    *,
    formats: tuple[Literal["safetensors", "pt2", "onnx"], ...] = ("safetensors", "pt2", "onnx"),
    checkpoint: Checkpoint = "last",
    data_root: DataRoot = None,
    out: OutFolder = None,
) -> int:
    """Write the RGB network of a run as safetensors weights, as a torch.export program and as ONNX.

    Each file is checked against the network on clips of the run's validation videos before it is written.

    Args:
        run: folder of the run, its --run.dir.
        formats: files to write.
        checkpoint: the last weights, or those best in the evaluations on center clips.
        data_root: folder of the videos, if they have moved.
        out: folder to write to; RUN/export where None.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    saved = open_run(run, checkpoint, "cpu")
    if saved.method.modality != "rgb":
        raise InputError(
            f"{run} has no RGB network: its recognizer sees temporal gradients, which an exported program does not "
            "compute. Export a run of another method"
        )
    if not formats:
        raise InputError(f"--formats names none: take some of {', '.join(FORMATS)}")
    clips = _real_clips(saved, open_videos(saved, data_root))
    console.print(f"{saved}; checked on {len(clips)} clips of its validation videos")
    recognizer = Recognizer(saved.method.recognizer).eval()
    with torch.inference_mode():
        expected = recognizer(clips)
    recognizer.to(memory_format=torch.contiguous_format)  # files know no other
    metadata = describe(saved)
    files: dict[str, bytes] = {}
    table = Table("file", "MB", "largest difference of a logit")
    for name in dict.fromkeys(formats):
        exporter, file = FORMATS[name], MODEL + FORMATS[name].suffix
        with console.status(f"exporting {file}"):
            files[file] = exporter.write(recognizer, torch.zeros_like(clips[:2]), metadata)
            difference = largest_difference(exporter.read(files[file]), clips, expected)
        if difference is None:
            print(f"error: {file} differs from the network on real clips: nothing is written", file=sys.stderr)
            return 1
        table.add_row(file, f"{len(files[file]) / 1e6:.1f}", f"{difference:.1g}")
    files[DESCRIPTION] = (json.dumps(metadata, indent=2) + "\n").encode()
    folder = out or run / EXPORT
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_whole(folder / file, content)
    console.print(table)
    console.print(f"written to {folder}, with {DESCRIPTION}, which says how a video becomes their input")
    return 0


def largest_difference(logits_of: Callable[[Tensor], Tensor], clips: Tensor, expected: Tensor) -> float | None:
    """Hold an exported network against its original, on all clips at once and on one alone.

    Args:
        logits_of: the exported one.
        clips: (N, T, H, W, 3) uint8.
        expected: (N, K) logits of the original.

    Returns:
        The largest absolute difference of a logit, or None if it is too large, or a clip is of another class.
    """
    with torch.inference_mode():
        found = logits_of(clips)
        alone = logits_of(clips[:1])
    if found.shape != expected.shape or not torch.equal(found.argmax(dim=1), expected.argmax(dim=1)):
        return None
    difference = max((found - expected).abs().max().item(), (alone - expected[:1]).abs().max().item())
    limit = _TOLERANCE * max(1.0, expected.abs().max().item())
    return difference if difference <= limit else None  # NaN is not


def _real_clips(run: SavedRun, videos: Videos) -> Tensor:
    """(N, T, H, W, 3) uint8 views of the final test, some of each of the first validation videos."""
    skipped: dict[str, str] = {}
    views = multi_views(videos.index, videos.split.val, clip_spec(run.config), **decoding(run.config), skipped=skipped)
    clips = [shown.rgb[_VIEWS_OF_VIDEO].clone() for _, shown in islice(views, _NUM_VIDEOS)]
    if not clips:
        path, reason = next(iter(skipped.items()))
        raise InputError(f"no validation video is left to check the export on; the first, {path}: {reason}")
    return torch.cat(clips)


def main() -> int:
    """Run the program; returns its exit status."""
    return run_program(export, "python -m train.export")


if __name__ == "__main__":
    sys.exit(main())
