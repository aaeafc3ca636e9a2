"""MvPL: one network for all modalities, whose weak views together label the strong ones of each."""

import pytest
import torch
import torch.nn.functional as F

from model import normalize
from pipeline.batch import Modality
from tests.train.method_cases import EPOCH_0, EPOCH_1, make_batch, make_method
from tests.train.test_methods import assert_one_graph
from train.methods.mvpl import Config


@pytest.mark.parametrize("flow", [False, True])
def test_losses_are_those_of_the_definition(flow: bool) -> None:
    method = make_method("mvpl", flow=flow).eval()
    batch = make_batch(method)
    modalities: tuple[Modality, ...] = ("rgb", "tg", "flow") if flow else ("rgb", "tg")
    assert batch.weak is not None and batch.strong is not None
    outputs = method(batch, EPOCH_0)
    logits = {
        modality: [method.recognizer(normalize(v.of(modality)))[0] for v in (batch.labeled, batch.weak, batch.strong)]
        for modality in modalities
    }
    labels = torch.stack([weak for _, weak, _ in logits.values()]).mean(dim=0).argmax(dim=1)
    for modality, (labeled, _, strong) in logits.items():
        torch.testing.assert_close(outputs[f"supervised_{modality}"], F.cross_entropy(labeled, batch.labels))
        torch.testing.assert_close(outputs[f"pseudo_label_{modality}"], F.cross_entropy(strong, labels))
    terms = [term for key, term in outputs.items() if key.startswith(("supervised", "pseudo_label_")) and term.grad_fn]
    assert len(terms) == 2 * len(modalities)
    torch.testing.assert_close(outputs["loss"], torch.stack(terms).sum() / 2)


def test_all_views_are_one_batch_unless_strong_ones_go_apart() -> None:
    sizes: list[int] = []
    for split in (False, True):
        method = make_method("mvpl", split_batches=split)
        method.recognizer.register_forward_pre_hook(lambda _, clips: sizes.append(len(clips[0])))
        method(make_batch(method), EPOCH_0)
    assert sizes == [2 * (2 + 3 + 3), 2 * (2 + 3), 3, 3]


@pytest.mark.parametrize("options", [{"flow": True}, {"split_batches": True, "pseudo_label_dropout": False}])
def test_a_step_is_one_graph_with_every_option(options: dict[str, bool]) -> None:
    assert_one_graph("mvpl", **options)


def test_pseudo_labels_wait_for_the_end_of_the_warm_up() -> None:
    method = make_method("mvpl", warmup_epochs=1)
    batch = make_batch(method)
    assert method(batch, EPOCH_0)["pseudo_label_tg"] == 0
    assert method(batch, EPOCH_1)["pseudo_label_tg"] > 0


def test_crops_are_each_modality_s_own() -> None:
    needs = make_method("mvpl").needs
    assert needs.own_crops and needs.tg and needs.strong and not needs.flow
    assert make_method("mvpl", flow=True).needs.flow


def test_the_defaults_are_those_of_the_code_behind_the_table() -> None:
    config = Config()
    assert (config.threshold, config.warmup_epochs, config.flow) == (0.3, 30, False)
    assert (config.supervised_weight, config.pseudo_label_weight) == (0.5, 0.5)
