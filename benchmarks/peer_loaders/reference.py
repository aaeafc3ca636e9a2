"""Like the paper's code (mmaction2): decord decodes twice, OpenCV crops and resizes, imgaug makes the strong views.

Follows what its pipeline for videos does: the file is read whole, the frames and their partners are fetched by two
calls, the gradient is taken in float32 at full size, each image is resized by itself, and the strong views are made of
a copy.  Kinder than it in one thing: its workers then turn all into normalised float32, as no other loader does here.
"""

import builtins
import copy
import io
from collections.abc import Iterator
from typing import Any

import cv2
import decord
import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_loaders.common import CLIP_LEN, SIZE, Batch, Sample, worker_batches
from pipeline.plan import ClipPlan
from pipeline.strong import CUTOUT, ENHANCE, POSTERIZE_BITS, ROTATE_DEGREES, SHEAR_DEGREES, TRANSLATE

# imgaug 0.4.0, the last one, was written for numpy 1: give it the names that numpy 2 dropped.
for _name in ("bool", "int", "float", "object", "complex"):
    if _name not in vars(np):
        setattr(np, _name, getattr(builtins, _name))
if "sctypes" not in vars(np):
    np.sctypes = {  # type: ignore[attr-defined]
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64],
    }
import imgaug.augmenters as iaa  # noqa: E402

Images = list[np.ndarray]


def batches(samples: list[Sample]) -> Iterator[Batch]:
    """See :mod:`benchmarks.peer_loaders.common`; the tensors are (B, T, H, W, 3)."""
    cv2.setNumThreads(0)
    augment_rgb, augment_tg = _rand_augment(), _rand_augment()

    def load(sample: Sample) -> tuple[Tensor, ...]:
        rgb, tg = (_crop(images, sample.plan) for images in _decode(sample))
        strong_rgb = _augment(copy.deepcopy(rgb), augment_rgb)
        strong_tg = _augment(copy.deepcopy(tg), augment_tg)
        return tuple(torch.from_numpy(np.stack(view)) for view in (rgb, tg, strong_rgb, strong_tg))

    return worker_batches(samples, load)


def _decode(sample: Sample) -> tuple[Images, Images]:
    with open(sample.path, "rb") as file:
        reader = decord.VideoReader(io.BytesIO(file.read()), num_threads=1)
    numbers = sample.frames
    images = list(reader.get_batch(numbers[:CLIP_LEN]).asnumpy())
    later = list(reader.get_batch(numbers[CLIP_LEN:]).asnumpy())
    gradients = [
        ((a.astype(np.float32) - b.astype(np.float32) + 255.0) / 2.0).astype(np.uint8)
        for a, b in zip(images, later, strict=True)
    ]
    return images, gradients


def _crop(images: Images, plan: ClipPlan) -> Images:
    x, y, width, height = plan.box
    images = [
        cv2.resize(i[y : y + height, x : x + width], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for i in images
    ]
    return [cv2.flip(image, 1) for image in images] if plan.flip else images


def _augment(images: Images, augment: Any) -> Images:
    same_for_all = augment.to_deterministic()
    return [same_for_all.augment_image(image) for image in images]


def _rand_augment() -> Any:
    """Two of fifteen, drawn anew for each clip."""
    pil = iaa.pillike
    return iaa.SomeOf(
        2,
        [
            iaa.ShearX(SHEAR_DEGREES),
            iaa.ShearY(SHEAR_DEGREES),
            iaa.TranslateX(percent=TRANSLATE),
            iaa.TranslateY(percent=TRANSLATE),
            iaa.Rotate(ROTATE_DEGREES),
            iaa.Posterize(nb_bits=POSTERIZE_BITS),
            iaa.Solarize(threshold=230.4),
            pil.EnhanceColor(ENHANCE),
            pil.EnhanceContrast(ENHANCE),
            pil.EnhanceBrightness(ENHANCE),
            pil.EnhanceSharpness(ENHANCE),
            pil.Autocontrast(cutoff=0),
            pil.Equalize(),
            iaa.Invert(p=1.0),
            iaa.Cutout(nb_iterations=1, size=CUTOUT, squared=True),
        ],
    )
