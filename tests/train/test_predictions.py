"""Predictions read back as they were written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batch import Modality
from pipeline.errors import InputError
from train.predictions import PREDICTIONS, read_predictions, write_predictions
from train.scoring import Predictions

PATHS = ["a/1.mp4", "b/2.mp4", "a/ö [3].mp4"]
LABELS = np.array([0, 1, 0])


def test_predictions_come_back_to_the_bit(tmp_path: Path) -> None:
    rows = torch.tensor([2, 0])
    predictions: dict[Modality, Predictions] = {
        "rgb": Predictions(rows, torch.randn(2, 3)),
        "tg": Predictions(rows, torch.randn(2, 3)),
    }
    write_predictions(tmp_path, 7, predictions, PATHS, LABELS)
    saved = read_predictions(tmp_path)
    assert saved.step == 7
    assert saved.paths == ("a/ö [3].mp4", "a/1.mp4")
    assert saved.labels.tolist() == [0, 0]
    for modality, one in predictions.items():
        assert saved.logits[modality].tobytes() == one.logits.numpy().tobytes()


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predictions\.npz is not there: .* --run\.resume"):
        read_predictions(tmp_path)
    for damage in (b"", b"PK\x03\x04nothing", b"\x80\x04K\x01."):
        (tmp_path / PREDICTIONS).write_bytes(damage)
        with pytest.raises(InputError, match=r"predictions\.npz is damaged"):
            read_predictions(tmp_path)
