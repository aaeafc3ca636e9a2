"""ActorCutMix: labels are mixed as the pixels are; without another clip's scene it is FixMatch."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model import normalize
from tests.train.method_cases import EPOCH_0, NUM_CLASSES, make_batch, make_method
from train.methods.actor_cutmix import Config, mixed_labels


def test_a_label_is_mixed_of_the_actors_and_the_scene() -> None:
    labels, share = torch.tensor([0, 1, 2]), torch.tensor([0.5, 1.0, 0.0])
    mixed = mixed_labels(labels, share, NUM_CLASSES)
    weight = 1 - 0.5**4
    torch.testing.assert_close(mixed, torch.tensor([[weight, 0, 1 - weight], [0, 1, 0], [1, 0, 0]]))


def test_losses_are_those_of_the_definition() -> None:
    method = make_method("actor_cutmix").eval()
    batch = make_batch(method)
    assert batch.weak is not None and batch.strong is not None and batch.actor_share is not None
    labeled, weak, strong = (method.recognizer(normalize(v.rgb))[0] for v in (batch.labeled, batch.weak, batch.strong))
    outputs = method(batch, EPOCH_0)
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(labeled, batch.labels))
    own = weak.argmax(dim=1)
    w = 1 - (batch.actor_share - 1) ** 4
    log_p = strong.log_softmax(dim=1)
    rows = torch.arange(len(own))
    expected = -(w * log_p[rows, own] + (1 - w) * log_p[rows, own.flip(0)]).mean()
    torch.testing.assert_close(outputs["pseudo_label"], expected)


def test_the_label_of_the_scene_needs_no_confidence() -> None:
    """A clip is kept for its own label's sake, whatever its partner's confidence."""
    method = make_method("actor_cutmix", threshold=0.9)
    weak = torch.tensor([[9.0, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
    strong = torch.zeros(3, NUM_CLASSES)
    logits = torch.cat([torch.zeros(2, NUM_CLASSES), weak, strong])
    batch = make_batch(method)._replace(actor_share=torch.tensor([0.5, 0.5, 0.5]))
    method.recognizer.register_forward_hook(lambda _, __, output: (logits, output[1]))
    outputs = method(batch, EPOCH_0)
    assert outputs["mask_rate"].item() == pytest.approx(1 / 3)
    torch.testing.assert_close(outputs["pseudo_label"], torch.tensor(NUM_CLASSES).log() / 3)


def test_clips_that_show_nothing_else_are_learned_from_as_in_fixmatch() -> None:
    ours, theirs = make_method("actor_cutmix"), make_method("fixmatch")
    batch = make_batch(ours)._replace(actor_share=torch.ones(3))
    mine, other = ours(batch, EPOCH_0), theirs(batch, EPOCH_0)
    for key, value in other.items():
        torch.testing.assert_close(mine[key], value)


def test_the_file_of_boxes_is_asked_for_where_there_is_one() -> None:
    needs = make_method("actor_cutmix", boxes=Path("people.npz")).needs
    assert needs.actors and needs.boxes == Path("people.npz")
    assert make_method("actor_cutmix").needs.boxes is None


def test_the_defaults_are_the_authors() -> None:
    config = Config()
    assert (config.threshold, config.warmup_epochs, config.boxes) == (0.95, 0, None)
    assert (config.supervised_weight, config.pseudo_label_weight) == (1, 1)
