"""S4L-Rotation: its definition, which views it looks at, and that it learns which way is up."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import normalize
from pipeline.batch import ClipBatch, Needs, Views
from tests.train.method_cases import EPOCH_0, NUM_LABELED, NUM_UNLABELED, make_batch, make_method
from train.methods import s4l
from train.step import new_optimizer, new_scaler, train_step


def make_s4l(*, dropout: float = 0.0, rotation_weight: float = 1.0) -> s4l.S4L:
    method = make_method("s4l", dropout=dropout, rotation_weight=rotation_weight)
    assert isinstance(method, s4l.S4L)
    return method


def black(view: Views | None) -> Views:
    assert view is not None
    return Views(torch.zeros_like(view.rgb))


def changed(method: s4l.S4L, batch: ClipBatch, **views: Any) -> set[str]:
    """What a method says otherwise where views of the batch are others."""
    outputs, others = method(batch, EPOCH_0), method(batch._replace(**views), EPOCH_0)
    return {key for key in outputs if not torch.equal(outputs[key], others[key])}


def test_the_defaults_are_the_papers() -> None:
    assert s4l.Config() == s4l.Config(rotation_weight=1.0)
    assert s4l.S4L.needs == Needs(unlabeled=True, rotated=True)


def test_terms_are_classes_of_upright_clips_and_turns_of_turned_ones_view_by_view() -> None:
    method = make_s4l().eval()
    batch = make_batch(method)
    assert batch.labeled_rotated is not None and batch.labeled_turns is not None
    assert batch.rotated is not None and batch.turns is not None

    def turns(view: Views) -> Tensor:
        _, features = method.rgb(normalize(view.rgb))
        logits: Tensor = method.rotation(features[-1].flatten(2).mean(dim=2))
        return logits

    outputs = method(batch, EPOCH_0)
    labeled, _ = method.rgb(normalize(batch.labeled.rgb))
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(labeled, batch.labels))
    # The mean of the two means, not over all rows: there are two labeled clips and three unlabeled ones.
    of_labeled = F.cross_entropy(turns(batch.labeled_rotated), batch.labeled_turns)
    of_unlabeled = F.cross_entropy(turns(batch.rotated), batch.turns)
    torch.testing.assert_close(outputs["rotation"], (of_labeled + of_unlabeled) / 2)
    torch.testing.assert_close(outputs["loss"], outputs["supervised"] + outputs["rotation"])


def test_the_weight_weighs_the_rotation_alone() -> None:
    method = make_s4l(rotation_weight=3.0)
    outputs = method(make_batch(method), EPOCH_0)
    torch.testing.assert_close(outputs["loss"], outputs["supervised"] + 3 * outputs["rotation"])


def test_each_view_changes_its_own_term_and_the_weak_view_of_unlabeled_clips_none() -> None:
    method = make_s4l().eval()
    batch = make_batch(method)
    assert changed(method, batch, labeled=black(batch.labeled)) == {"loss", "supervised"}
    for view in ("labeled_rotated", "rotated"):
        found = changed(method, batch, **{view: black(getattr(batch, view))})
        assert found - {"rotation_accuracy"} == {"loss", "rotation"}
    assert changed(method, batch, weak=black(batch.weak)) == set()


def test_all_views_share_the_batch_that_batch_norm_sees() -> None:
    method = make_s4l()
    batch = make_batch(method)
    seen: list[int] = []
    method.rgb.bn1.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for view in ("labeled", "labeled_rotated", "rotated"):
        assert changed(method, batch, **{view: black(getattr(batch, view))}) >= {"loss", "supervised", "rotation"}
    assert set(seen) == {s4l.S4L.smallest_batch(s4l.Config(), NUM_LABELED, NUM_UNLABELED)}


def test_dropout_is_before_the_classifier_alone() -> None:
    method = make_s4l(dropout=0.5)
    batch = make_batch(method)
    first, second = method(batch, EPOCH_0), method(batch, EPOCH_0)
    assert first["supervised"] != second["supervised"]
    assert first["rotation"] == second["rotation"]


def test_rotation_accuracy_is_the_share_of_turns_told_right_labeled_or_not() -> None:
    method = make_s4l()
    nn.init.zeros_(method.rotation.weight)
    with torch.no_grad():
        method.rotation.bias[2] = 1.0
    batch = make_batch(method)
    for labeled, unlabeled, right in (([2, 0], [2, 1, 3], 2), ([2, 2], [2, 2, 2], 5), ([0, 1], [3, 1, 0], 0)):
        turns = batch._replace(labeled_turns=torch.tensor(labeled), turns=torch.tensor(unlabeled))
        assert method(turns, EPOCH_0)["rotation_accuracy"].item() == pytest.approx(right / 5)


def test_which_way_is_up_is_learned_and_told_of_clips_not_seen() -> None:
    """Clips of which one side is bright, which a turn moves round."""
    method = make_s4l()
    unseen = [lit_from_above(method, 1000 + number) for number in range(4)]

    def accuracy() -> float:
        return torch.stack([method(batch, EPOCH_0)["rotation_accuracy"] for batch in unseen]).mean().item()

    assert accuracy() < 0.6
    optimizer = new_optimizer(method, lr=0.01, momentum=0.9, weight_decay=0.0)
    scaler = new_scaler(torch.device("cpu"), "fp32")
    for step in range(40):
        batch = lit_from_above(method, step)
        train_step(method, optimizer, scaler, batch, EPOCH_0, lr=0.01, clip_norm=5.0, precision="fp32")
    assert accuracy() > 0.8


def lit_from_above(method: s4l.S4L, seed: int) -> ClipBatch:
    """Noise, all of it bright in its upper half before it is turned."""
    batch = make_batch(method, seed)
    assert batch.labeled_turns is not None and batch.turns is not None

    def turned(turns: Tensor) -> Views:
        upright = torch.randint(0, 128, (len(turns), 8, 32, 32, 3), generator=torch.Generator().manual_seed(seed))
        upright[:, :, :16] += 128
        clips = [torch.rot90(clip, turn, dims=(1, 2)) for clip, turn in zip(upright, turns.tolist(), strict=True)]
        return Views(torch.stack(clips).to(torch.uint8))

    return batch._replace(labeled_rotated=turned(batch.labeled_turns), rotated=turned(batch.turns))
