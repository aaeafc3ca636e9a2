"""What the networks said of each validation video, as a file in the run's folder: ``predictions.npz``.

Promises whole files, read without pickle.  Making predictions is left to :mod:`train.scoring`.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline.batch import Modality
from pipeline.errors import InputError
from pipeline.files import write_whole
from train.scoring import Predictions

PREDICTIONS = "predictions.npz"
_LOGITS = "logits_"


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions of a finished run.

    Attributes:
        step: of the weights that made them.
        paths: (N,) of the videos, below the data root.
        labels: (N,) int64 true classes.
        logits: (N, K) float32 of each network, by the modality it sees.
    """

    step: int
    paths: tuple[str, ...]
    labels: np.ndarray
    logits: dict[Modality, np.ndarray]


def write_predictions(
    run_dir: Path, step: int, predictions: Mapping[Modality, Predictions], paths: Sequence[str], labels: np.ndarray
) -> None:
    """Write them, replacing earlier ones.

    Args:
        run_dir: of the run.
        step: of the weights.
        predictions: of the same videos, by modality.
        paths: of all rows of the index.
        labels: (num_videos,) int64 class of every row of the index.
    """
    rows = next(iter(predictions.values())).rows.numpy()
    arrays = {f"{_LOGITS}{modality}": one.logits.numpy() for modality, one in predictions.items()}
    buffer = io.BytesIO()
    arrays |= {"step": np.array(step), "paths": np.array([paths[row] for row in rows]), "labels": labels[rows]}
    np.savez(buffer, allow_pickle=False, **arrays)
    write_whole(run_dir / PREDICTIONS, buffer.getvalue())


def read_predictions(run_dir: Path) -> SavedPredictions:
    """Read what :func:`write_predictions` wrote.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    path = run_dir / PREDICTIONS
    try:
        with np.load(path, allow_pickle=False) as file:
            logits: dict[Modality, np.ndarray] = {
                modality: file[f"{_LOGITS}{modality}"] for modality in ("rgb", "tg") if f"{_LOGITS}{modality}" in file
            }
            return SavedPredictions(int(file["step"]), tuple(file["paths"].tolist()), file["labels"], logits)
    except FileNotFoundError:
        raise InputError(f"{path} is not there: a run writes it when it ends, go on with it by --run.resume") from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): delete it, and evaluate the run again") from error
