"""What has to be known to use an exported network: its classes, and how a video becomes the frames it takes.

Promises the views of the final test, :func:`pipeline.plan.plan_test`, in words and numbers.
"""

from typing import Any

from model.r3d import PIXEL_MEAN, PIXEL_STD
from pipeline.plan import NUM_TEST_CLIPS, NUM_TEST_CROPS
from train.saved_run import SavedRun
from train.scoring import ViewAverage

_AVERAGING: dict[ViewAverage, str] = {
    "logits": "Average the logits (the softmax of the averages is the probability of each class) of",
    "probabilities": "Average the probabilities, which are the softmax of the logits, of",
}


def describe(run: SavedRun) -> dict[str, Any]:
    """Describe the recognizer of a run and its input, as JSON types.

    Args:
        run: as :func:`train.saved_run.open_run` returns it.
    """
    data, num_classes = run.config.data, len(run.class_names)
    window, size = data.clip_len * data.frame_stride, data.eval_size
    return {
        "class_names": list(run.class_names),
        "network": {"num_classes": num_classes, "width": run.config.model.width},
        "input": {
            "name": "frames",
            "dtype": "uint8",
            "shape": ["batch", data.clip_len, size, size, 3],
            "colors": "RGB",
        },
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", num_classes]},
        "clip": {
            "clip_len": data.clip_len,
            "frame_stride": data.frame_stride,
            "eval_size": size,
            "num_clips": NUM_TEST_CLIPS,
            "num_crops": NUM_TEST_CROPS,
        },
        "normalization": {
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "done_by": "the .pt2 and .onnx programs themselves; for .safetensors, (pixels - mean) / std per channel",
        },
        "preprocessing": [
            f"Decode the frames of the video as displayed, that is after its rotation; num_frames of them.  A clip is "
            f"{data.clip_len} frames, {data.frame_stride} apart: frames (start + {data.frame_stride} * t) % num_frames "
            f"for t = 0 ... {data.clip_len - 1}.",
            f"Take {NUM_TEST_CLIPS} clips, which start at int(i * span + span / 2) for i = 0 ... {NUM_TEST_CLIPS - 1}, "
            f"where span = (num_frames - {window} + 1) / {NUM_TEST_CLIPS}; all at 0 where span is not positive.",
            f"Resize each frame bilinearly and antialiased (the filter widens where it shrinks, as FFmpeg's swscale "
            f"does with flags=bilinear) to a short side of {size} pixels, the long side in proportion.",
            f"Cut {NUM_TEST_CROPS} squares of {size} x {size} pixels out of each clip: at both ends of the long side "
            "and in its middle.",
            "Give them to the network as uint8 RGB, 0 to 255, in the order batch, time, height, width, channel.",
            f"{_AVERAGING[run.config.eval.average]} all {NUM_TEST_CLIPS * NUM_TEST_CROPS} views of a video, and take "
            "the class of the largest.",
        ],
        "trained": {"method": run.config.run.method, "step": run.step, "precise_bn": run.precise_bn},
    }
