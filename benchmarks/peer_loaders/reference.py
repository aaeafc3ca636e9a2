"""Like the paper's code (mmaction2): decord decodes twice, OpenCV crops and resizes, imgaug makes the strong views.

Follows what its pipeline for videos does: the file is read whole, the frames and their partners are fetched by two
calls, the gradient is taken in float32 at full size, each image is resized by itself, and the strong views are made of
a copy.  Its workers then turn all into normalised float32 for the network; no other loader here does, so that is left
out where loaders are compared, and done where whole steps are.
"""

import builtins
import copy
import io
from collections.abc import Generator
from typing import Any

import cv2
import decord
import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_loaders.common import BATCH_SIZE, CLIP_LEN, Batch, Sample, worker_batches
from model.r3d import PIXEL_MEAN, PIXEL_STD
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


def batches(samples: list[Sample], batch_size: int = BATCH_SIZE, *, normalized: bool = False) -> Generator[Batch]:
    """See :mod:`benchmarks.peer_loaders.common`; the tensors are (B, T, H, W, 3), or normalised (B, 3, T, H, W)."""
    cv2.setNumThreads(0)
    augment_rgb, augment_tg = _rand_augment(), _rand_augment()

    def load(sample: Sample) -> Batch:
        views = [_crop(images, sample.plan) for images in _decode(sample)]
        if sample.plan.strong_rgb is not None:
            strong = [copy.deepcopy(images) for images in views]
            views += [_augment(strong[0], augment_rgb), _augment(strong[1], augment_tg)]
        return tuple(_network_input(images) if normalized else torch.from_numpy(np.stack(images)) for images in views)

    return worker_batches(samples, load, batch_size)


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
    images = [cv2.resize(i[y : y + height, x : x + width], plan.size, interpolation=cv2.INTER_LINEAR) for i in images]
    return [cv2.flip(image, 1) for image in images] if plan.flip else images


def _network_input(images: Images) -> Tensor:
    """(3, T, H, W) float32: each image normalised by itself, then put in the order of the network's input."""
    mean, inverse_std = (np.array([values], np.float64) for values in (PIXEL_MEAN, [1 / std for std in PIXEL_STD]))
    normalized = [
        cv2.multiply(cv2.subtract(image.astype(np.float32), mean), inverse_std, dtype=cv2.CV_32F) for image in images
    ]
    return torch.from_numpy(np.ascontiguousarray(np.stack(normalized).transpose(3, 0, 1, 2)))


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
