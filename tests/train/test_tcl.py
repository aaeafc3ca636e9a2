"""Temporal Contrastive Learning: its definition, its three phases, and which clips teach which.

The losses themselves are in test_losses.py.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import normalize
from pipeline.batch import ClipBatch, Needs, Views
from pipeline.errors import InputError
from tests.train.method_cases import (
    EPOCH_0,
    EPOCH_1,
    EPOCH_2,
    NUM_CLASSES,
    NUM_LABELED,
    NUM_UNLABELED,
    PSEUDO_LABEL_METRICS,
    WEAK,
    capture_logits,
    gradient_of,
    make_batch,
    make_method,
)
from tests.train.test_methods import assert_one_graph
from train.losses import group_contrast, nt_xent
from train.methods import tcl

CONTRASTS = ("instance_contrast", "group_contrast")


def make_tcl(**options: Any) -> tcl.TCL:
    method = make_method("tcl", **options)
    assert isinstance(method, tcl.TCL)
    return method


def logits_of(method: tcl.TCL, batch: ClipBatch) -> tuple[Tensor, ...]:
    """What the network says of labeled, fast and slow clips, each by themselves."""
    assert batch.weak is not None and batch.slow is not None
    return tuple(method.rgb(normalize(view.rgb))[0] for view in (batch.labeled, batch.weak, batch.slow))


def test_the_defaults_are_the_papers() -> None:
    assert tcl.Config() == tcl.Config(
        warmup_epochs=22,
        instance_contrast_weight=9.0,
        group_contrast_weight=1.0,
        temperature=0.5,
        pseudo_label_epoch=None,
        pseudo_label_weight=1.0,
        threshold=0.8,
    )
    assert tcl.TCL.needs == Needs(unlabeled=True, slow=True)


# --- the definition: in eval mode BatchNorm no longer ties the views together ---


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_terms_are_the_contrasts_of_probabilities_view_by_view(temperature: float) -> None:
    method = make_tcl(temperature=temperature).eval()
    with torch.no_grad():  # probabilities far from even ones, or logits would do as well
        method.rgb.classifier.weight *= 40
    batch = make_batch(method)
    labeled, fast, slow = logits_of(method, batch)
    probabilities = fast.softmax(dim=1), slow.softmax(dim=1)
    outputs = method(batch, EPOCH_0)
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(labeled, batch.labels))
    torch.testing.assert_close(outputs["instance_contrast"], nt_xent(*probabilities, temperature))
    torch.testing.assert_close(outputs["group_contrast"], group_contrast(*probabilities, temperature))


def test_the_loss_is_the_weighted_sum() -> None:
    method = make_tcl()
    outputs = method(make_batch(method), EPOCH_0)
    expected = outputs["supervised"] + 9 * outputs["instance_contrast"] + outputs["group_contrast"]
    torch.testing.assert_close(outputs["loss"], expected)
    weights = {"instance_contrast_weight": 2.0, "group_contrast_weight": 3.0, "pseudo_label_weight": 5.0}
    method = make_tcl(**weights, pseudo_label_epoch=2)
    for epoch in (EPOCH_1, EPOCH_2):
        outputs = method(make_batch(method), epoch)
        expected = outputs["supervised"] + 2 * outputs["instance_contrast"] + 3 * outputs["group_contrast"]
        torch.testing.assert_close(outputs["loss"], expected + 5 * outputs["pseudo_label"])


# --- which clips teach which ---


@pytest.mark.parametrize("term", CONTRASTS)
def test_contrasts_move_what_is_said_of_slow_clips_towards_fixed_fast_ones(term: str) -> None:
    method = make_tcl()
    joined_and_slow = capture_logits(method.rgb)
    method(make_batch(method), EPOCH_0)[term].backward()
    joined, slow = joined_and_slow
    assert joined.grad is None
    assert gradient_of(slow).any()


def test_labeled_and_fast_clips_share_a_batch_and_slow_ones_have_their_own() -> None:
    method = make_tcl()
    batch = make_batch(method)
    assert batch.weak is not None and batch.slow is not None
    assert batch.slow.rgb.shape[1] == batch.weak.rgb.shape[1] // 2
    found = capture_logits(method.rgb)
    black: dict[str, Any] = {
        "labeled": Views(torch.zeros_like(batch.labeled.rgb)),
        "weak": Views(torch.zeros_like(batch.weak.rgb)),
        "slow": Views(torch.zeros_like(batch.slow.rgb)),
    }
    for changed in (batch, *(batch._replace(**{name: view}) for name, view in black.items())):
        method(changed, EPOCH_0)
    joined, slow = found[::2], found[1::2]
    assert [len(logits) for logits in found[:2]] == [NUM_LABELED + NUM_UNLABELED, NUM_UNLABELED]
    assert not torch.equal(joined[0][WEAK], joined[1][WEAK]), "labeled clips must tell on fast ones"
    assert not torch.equal(joined[0][:NUM_LABELED], joined[2][:NUM_LABELED]), "fast clips must tell on labeled ones"
    assert torch.equal(joined[0], joined[3])
    assert torch.equal(slow[0], slow[1])
    assert torch.equal(slow[0], slow[2])
    assert tcl.TCL.smallest_batch(tcl.Config(), NUM_LABELED, NUM_UNLABELED) == min(map(len, found))


# --- phases ---


def test_contrasts_wait_for_the_end_of_the_warm_up() -> None:
    method = make_tcl(warmup_epochs=2)
    batch = make_batch(method)
    for term in CONTRASTS:
        values = [method(batch, epoch)[term].item() for epoch in (EPOCH_0, EPOCH_1, EPOCH_2)]
        assert values[:2] == [0, 0]
        assert values[2] > 0
    found = capture_logits(method.rgb)
    method(batch, EPOCH_1)["loss"].backward()
    assert not gradient_of(found[1]).any()


def test_without_an_epoch_for_them_there_are_no_pseudo_labels() -> None:
    method = make_tcl()
    assert method(make_batch(method), torch.tensor(1e6)).keys() == {"loss", "supervised", *CONTRASTS}


def test_pseudo_labels_replace_the_contrasts_from_their_epoch_on() -> None:
    method = make_tcl(warmup_epochs=1, pseudo_label_epoch=2)
    batch = make_batch(method)
    found = [method(batch, epoch) for epoch in (EPOCH_0, EPOCH_1, EPOCH_2)]
    for outputs in found:
        assert outputs.keys() == {"loss", "supervised", *CONTRASTS, "pseudo_label", *PSEUDO_LABEL_METRICS}
    for term in CONTRASTS:
        assert [outputs[term].item() > 0 for outputs in found] == [False, True, False]
    assert [outputs["pseudo_label"].item() > 0 for outputs in found] == [False, False, True]


def test_pseudo_labels_are_of_the_fast_clip_that_learns_them() -> None:
    method = make_tcl(pseudo_label_epoch=1).eval()
    batch = make_batch(method)
    _, fast, _ = logits_of(method, batch)
    torch.testing.assert_close(
        method(batch, EPOCH_1)["pseudo_label"], F.cross_entropy(fast, fast.argmax(dim=1).detach())
    )
    # Two of three probabilities are under the threshold: one row is kept, and the sum is divided by all three.
    confidences, labels = fast.softmax(dim=1).max(dim=1)
    method = make_tcl(pseudo_label_epoch=1, threshold=confidences.max().item() - 1e-6).eval()
    outputs = method(batch, EPOCH_1)
    assert outputs["mask_rate"].item() == pytest.approx(1 / NUM_UNLABELED)
    sure = confidences.argmax()
    torch.testing.assert_close(outputs["pseudo_label"], F.cross_entropy(fast[sure], labels[sure]) / NUM_UNLABELED)


def test_pseudo_labels_move_what_is_said_of_fast_clips_alone() -> None:
    method = make_tcl(pseudo_label_epoch=1)
    found = capture_logits(method.rgb)
    method(make_batch(method), EPOCH_1)["pseudo_label"].backward()
    gradient = gradient_of(found[0])
    assert gradient[WEAK].any(dim=1).all()
    assert not gradient[:NUM_LABELED].any()
    assert found[1].grad is None
    assert gradient.shape == (NUM_LABELED + NUM_UNLABELED, NUM_CLASSES)


def test_a_step_with_pseudo_labels_is_one_graph_too() -> None:
    assert_one_graph("tcl", pseudo_label_epoch=3)


# --- options a user can get wrong ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs -1"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"pseudo_label_epoch": 22}, "pseudo_label_epoch 22 leaves no epoch .* in epoch 22: take a later one"),
        ({"pseudo_label_epoch": 0, "warmup_epochs": 0}, "pseudo_label_epoch 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(tcl.Config(), **options)
