"""VideoSSL: pseudo-labels and distillation of image scores, each on its rows; without scores, nothing of the latter."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import normalize
from pipeline.errors import InputError
from tests.train.method_cases import EPOCH_0, EPOCH_1, EPOCH_2, make_batch, make_method
from train.methods.videossl import Config, VideoSSL


def new_videossl(**options: Any) -> VideoSSL:
    method = make_method("videossl", **options)
    assert isinstance(method, VideoSSL)
    return method


def test_losses_are_those_of_the_definition() -> None:
    """A threshold between the confidences, so that some rows are kept and some are not."""
    method = new_videossl().eval()
    batch = make_batch(method)
    assert batch.weak is not None and batch.labeled_scores is not None and batch.scores is not None
    with torch.no_grad():
        probabilities = method.rgb(normalize(batch.weak.rgb))[0].softmax(dim=1)
    method.config = Config(
        scores=Path("scores"),
        threshold=probabilities.max(dim=1).values.median().item(),
        warmup_epochs=0,
        pseudo_label_weight=3.0,
        distillation_weight=0.5,
    )
    outputs = method(batch, EPOCH_0)

    (labeled, own), (weak, theirs) = (method.rgb(normalize(view.rgb)) for view in (batch.labeled, batch.weak))
    supervised = F.cross_entropy(labeled, batch.labels)
    kept = weak.softmax(dim=1).max(dim=1).values >= method.config.threshold
    assert 0 < kept.sum() < len(kept)
    pseudo_label = F.cross_entropy(weak[kept], weak[kept].argmax(dim=1)) * kept.sum() / len(kept)
    assert isinstance(method.distillation, nn.Linear)
    pooled = torch.cat([own[-1], theirs[-1]]).mean(dim=(2, 3, 4))
    log_p = method.distillation(pooled).log_softmax(dim=1)
    distillation = -(torch.cat([batch.labeled_scores, batch.scores]) * log_p).sum(dim=1).mean()
    torch.testing.assert_close(outputs["supervised"], supervised)
    torch.testing.assert_close(outputs["pseudo_label"], pseudo_label)
    torch.testing.assert_close(outputs["distillation"], distillation)
    torch.testing.assert_close(outputs["loss"], supervised + 3 * pseudo_label + 0.5 * distillation)
    assert outputs["mask_rate"] == kept.float().mean()


def test_without_scores_there_is_neither_head_nor_term_nor_need() -> None:
    method = new_videossl(scores=None)
    assert not [name for name, _ in method.named_parameters() if "distillation" in name]
    assert method.needs.scores is None
    assert method(make_batch(method), EPOCH_0).keys() >= {"loss", "supervised", "pseudo_label"}
    assert "distillation" not in method(make_batch(method), EPOCH_0)


def test_pseudo_labels_wait_for_the_warm_up_and_distillation_does_not() -> None:
    method = new_videossl(warmup_epochs=2)
    batch = make_batch(method)
    terms = [method(batch, epoch) for epoch in (EPOCH_0, EPOCH_1, EPOCH_2)]
    assert [term["pseudo_label"].item() > 0 for term in terms] == [False, False, True]
    assert all(term["distillation"].item() > 0 for term in terms)


def test_both_heads_drop_features_each_for_itself() -> None:
    method = new_videossl(dropout=0.5)
    seen: list[torch.Tensor] = []
    for head in (method.rgb.classifier, method.distillation):
        assert isinstance(head, nn.Linear)
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0] == 0))
    method(make_batch(method), EPOCH_0)
    classifier, distillation = seen
    assert (classifier & ~distillation).any()
    assert (distillation & ~classifier).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold -0.1 is not a probability"),
        ({"warmup_epochs": -1}, "warmup_epochs -1 is negative"),
    ],
)
def test_constants_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config(**options)


def test_all_clips_are_one_batch() -> None:
    assert VideoSSL.smallest_batch(Config(), 2, 3) == 5
