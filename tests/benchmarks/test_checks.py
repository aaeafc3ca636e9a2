"""A batch that is not what was planned is refused before anything is timed, and a good one is not."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.checks import check_batch, check_losses, long_way_round
from benchmarks.training import Training
from pipeline.batch import ClipBatch, Views
from pipeline.decode import decode_clip
from pipeline.errors import InputError
from pipeline.plan import ClipSpec, plan_clip
from pipeline.scanning import scan

BROKEN: dict[str, tuple[str, Callable[[ClipBatch], ClipBatch]]] = {
    "no strong": ("no strong clips", lambda batch: batch._replace(strong=None)),
    "no tg": ("makes no weak tg", lambda batch: _with_weak(batch, tg=None)),
    "float": ("torch.float32", lambda batch: _with_weak(batch, rgb=_weak(batch).rgb.float())),
    "channels first": ("not (2, 4, 32, 32, 3)", lambda batch: _with_weak(batch, rgb=_weak(batch).rgb.movedim(-1, 1))),
    "one colour": ("one colour", lambda batch: _with_weak(batch, rgb=torch.full_like(_weak(batch).rgb, 3))),
    "other crop": ("rgb of", lambda batch: _with_weak(batch, rgb=_weak(batch).rgb.flip(3))),
    "blank tg": ("tg of", lambda batch: _with_weak(batch, tg=torch.full_like(_tg(batch), 127))),
    "tg of later minus earlier": ("tg of", lambda batch: _with_weak(batch, tg=254 - _tg(batch))),
    "strong is weak": ("strong clips are the weak ones", lambda batch: batch._replace(strong=batch.weak)),
    "other video": ("was planned", lambda batch: batch._replace(labeled_ids=batch.labeled_ids + 1)),
}


def _weak(batch: ClipBatch) -> Views:
    assert batch.weak is not None
    return batch.weak


def _tg(batch: ClipBatch) -> torch.Tensor:
    return _weak(batch).of("tg")


def _with_weak(batch: ClipBatch, **modality: Any) -> ClipBatch:
    return batch._replace(weak=_weak(batch)._replace(**modality))


def test_a_broken_batch_is_refused_by_what_is_wrong_with_it(training: Training) -> None:
    needs, config = training.state.method.needs, training.state.config
    with training.loader as loader:
        batch = next(loader)
    check_batch(batch, needs, config, training.videos)
    for complaint, damage in BROKEN.values():
        with pytest.raises(InputError, match=re.escape(complaint)):
            check_batch(damage(batch), needs, config, training.videos)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_long_way_round_leads_to_the_same_pixels(rotation: int, video: Callable[..., Path]) -> None:
    record = replace(scan(video("mjpeg")), rotation=rotation)
    spec = ClipSpec(clip_len=3, frame_stride=4, size=40)
    for position in range(3):
        plan = plan_clip(record, spec, 0, 0, position)
        expected = decode_clip(record, plan.later, plan.box, plan.flip, plan.size)
        error = np.abs(long_way_round(record, plan, plan.later).astype(float) - expected).mean()
        turned = np.abs(np.rot90(expected, axes=(1, 2)).astype(float) - expected).mean()
        assert error < 8 < 16 < turned


def test_a_step_that_went_wrong_is_refused() -> None:
    check_losses({"loss": torch.tensor(1.0), "grad_norm": torch.tensor(2.0)})
    with pytest.raises(InputError, match="grad_norm of the first step: not finite"):
        check_losses({"loss": torch.tensor(1.0), "grad_norm": torch.tensor(float("nan"))})
