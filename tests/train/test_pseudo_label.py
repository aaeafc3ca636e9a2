"""Pseudo-Label: what it computes of which rows, how its weight rises, and what options it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import normalize
from pipeline.batch import Views
from pipeline.errors import InputError
from tests.train.method_cases import (
    EPOCH_0,
    NUM_CLASSES,
    NUM_LABELED,
    NUM_UNLABELED,
    WEAK,
    capture_logits,
    gradient_of,
    make_batch,
    make_method,
    outputs_of,
)
from train.methods import Method
from train.methods.pseudo_label import Config, PseudoLabel


def opinionated(**options: Any) -> Method:
    """A method in eval mode that is surer of some clips than of others."""
    method = make_method("pseudo_label", **options).eval()
    nn.init.normal_(method.recognizer.classifier.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return method


def weak_logits(method: Method) -> Tensor:
    batch = make_batch(method)
    assert batch.weak is not None
    logits: Tensor = method.recognizer(normalize(batch.weak.rgb))[0]
    return logits


def threshold_between(confidence: Tensor) -> float:
    """One that keeps all but the least sure row."""
    low, middle, *_ = confidence.sort().values.tolist()
    return float(low + middle) / 2


# --- the definition, view by view: in eval mode BatchNorm does not tie the views together ---


def test_sure_weak_views_learn_their_own_class_and_all_count_in_the_mean() -> None:
    confidence = weak_logits(opinionated()).softmax(dim=1).amax(dim=1)
    method = opinionated(threshold=threshold_between(confidence))
    batch = make_batch(method)
    outputs = method(batch, EPOCH_0)
    # The cross-entropy of the most probable class is the negative logarithm of its probability.
    kept = confidence.sort().values[1:]
    torch.testing.assert_close(outputs["pseudo_label"], -kept.log().sum() / NUM_UNLABELED)
    assert outputs["mask_rate"].item() == pytest.approx(2 / NUM_UNLABELED)
    labeled = method.recognizer(normalize(batch.labeled.rgb))[0]
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(labeled, batch.labels))


def test_kept_weak_logits_get_the_gradient_of_a_label_that_is_fixed() -> None:
    probabilities = weak_logits(opinionated()).softmax(dim=1)
    confidence, labels = probabilities.max(dim=1)
    method = opinionated(threshold=threshold_between(confidence))
    captured = capture_logits(method.recognizer)
    method(make_batch(method), EPOCH_0)["pseudo_label"].backward()
    kept = (confidence > confidence.min()).float()[:, None]
    gradient = gradient_of(captured[0])
    torch.testing.assert_close(gradient[WEAK], kept * (probabilities - F.one_hot(labels, NUM_CLASSES)) / NUM_UNLABELED)
    assert not gradient[:NUM_LABELED].any()


# --- batches ---


def test_labeled_and_weak_views_are_one_batch() -> None:
    method = make_method("pseudo_label")
    captured = capture_logits(method.recognizer)
    batch = make_batch(method)
    assert batch.weak is not None
    seen = method(batch, EPOCH_0)
    unseen = method(batch._replace(weak=Views(torch.zeros_like(batch.weak.rgb))), EPOCH_0)
    assert not torch.equal(seen["supervised"], unseen["supervised"])
    assert len(captured[0]) == PseudoLabel.smallest_batch(Config(), NUM_LABELED, NUM_UNLABELED)


# --- the weight ---


@pytest.mark.parametrize(
    ("warmup_epochs", "rampup_epochs", "expected"),
    [
        (0, 0, [1, 1, 1, 1, 1, 1, 1]),
        (2, 0, [0, 0, 1, 1, 1, 1, 1]),
        (0, 4, [0, 0.25, 0.5, 0.75, 1, 1, 1]),
        (1, 2, [0, 0, 0.5, 1, 1, 1, 1]),
    ],
)
def test_the_weight_rises_in_a_line_after_the_warm_up(
    warmup_epochs: int, rampup_epochs: int, expected: list[float]
) -> None:
    method = opinionated(warmup_epochs=warmup_epochs, rampup_epochs=rampup_epochs)
    batch = make_batch(method)
    full = F.cross_entropy(weak_logits(method), weak_logits(method).argmax(dim=1)).item()
    values = [method(batch, torch.tensor(float(epoch)))["pseudo_label"].item() for epoch in range(7)]
    assert values == pytest.approx([share * full for share in expected], rel=1e-4)


def test_lees_own_schedule_is_a_matter_of_options() -> None:
    """No threshold, and a weight that rises to 3 between his epochs 100 and 600."""
    method = opinionated(threshold=0.0, pseudo_label_weight=3.0, warmup_epochs=100, rampup_epochs=500)
    weak, batch = weak_logits(method), make_batch(method)
    for epoch, weight in ((0.0, 0.0), (100.0, 0.0), (350.0, 1.5), (600.0, 3.0), (700.0, 3.0)):
        outputs = method(batch, torch.tensor(epoch))
        expected = outputs["supervised"] + weight * F.cross_entropy(weak, weak.argmax(dim=1))
        torch.testing.assert_close(outputs["loss"], expected)


# --- options ---


def test_the_defaults_are_those_of_the_variant_with_a_threshold() -> None:
    assert Config() == Config(threshold=0.95, pseudo_label_weight=1.0, warmup_epochs=0, rampup_epochs=72)
    outputs = outputs_of("pseudo_label")
    torch.testing.assert_close(outputs["loss"], outputs["supervised"] + outputs["pseudo_label"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5 is not a probability"),
        ({"warmup_epochs": -1}, "warmup_epochs -1 is negative"),
        ({"rampup_epochs": -1}, "rampup_epochs -1 is negative"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Config(), **options)
