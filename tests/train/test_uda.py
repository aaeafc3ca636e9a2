"""UDA: its targets, over which rows it takes the mean, and what options it refuses.

What it shares with FixMatch is tested with it.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import normalize
from pipeline.errors import InputError
from tests.train.method_cases import EPOCH_0, NUM_UNLABELED, make_batch, make_method, outputs_of
from tests.train.test_methods import assert_one_graph
from train.methods import Method
from train.methods.uda import UDA, Config


def opinionated(**options: Any) -> Method:
    """A method in eval mode, where BatchNorm ties no views together, that is surer of some clips than of others."""
    method = make_method("uda", **options).eval()
    nn.init.normal_(method.recognizer.classifier.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return method


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_sharpened_predictions_of_sure_weak_views_teach_the_strong_ones(temperature: float) -> None:
    method = opinionated()
    batch = make_batch(method)
    assert batch.weak is not None
    assert batch.strong is not None
    labeled, weak, strong = (method.recognizer(normalize(v.rgb))[0] for v in (batch.labeled, batch.weak, batch.strong))
    confidence = weak.softmax(dim=1).amax(dim=1)
    threshold = confidence.sort().values[:2].mean().item()
    targets = (weak / temperature).softmax(dim=1)
    if temperature < 1:
        assert (targets.amax(dim=1) > threshold).all(), "sharpened, all would be kept"

    outputs = opinionated(threshold=threshold, temperature=temperature)(batch, EPOCH_0)
    cross_entropies = -(targets * strong.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(outputs["pseudo_label"], cross_entropies[confidence > threshold].mean())
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(labeled, batch.labels))
    assert outputs["mask_rate"].item() == pytest.approx(2 / NUM_UNLABELED)


def test_with_targets_that_are_all_but_classes_and_all_kept_it_is_fixmatch() -> None:
    uda, fixmatch = make_method("uda", temperature=1e-6).eval(), make_method("fixmatch").eval()
    torch.testing.assert_close(uda(make_batch(uda), EPOCH_0), fixmatch(make_batch(fixmatch), EPOCH_0))


def test_the_defaults_are_those_of_the_code_for_videos() -> None:
    assert Config() == Config(
        threshold=0.8,
        warmup_epochs=30,
        pseudo_label_dropout=True,
        split_batches=False,
        temperature=0.4,
        pseudo_label_weight=1.0,
    )
    outputs = outputs_of("uda", pseudo_label_weight=3.0)
    torch.testing.assert_close(outputs["loss"], outputs["supervised"] + 3 * outputs["pseudo_label"])


@pytest.mark.parametrize(("split", "rows"), [(False, 8), (True, 3)])
def test_the_smallest_batch_is_that_of_fixmatch(split: bool, rows: int) -> None:
    assert UDA.smallest_batch(Config(split_batches=split), 2, 3) == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5 is not a probability"),
        ({"warmup_epochs": -1}, "warmup_epochs -1 is negative"),
        ({"temperature": 0.0}, "temperature 0.0 divides logits"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Config(), **options)


def test_a_step_with_all_switches_turned_is_one_graph_too() -> None:
    assert_one_graph("uda", split_batches=True, pseudo_label_dropout=False)
