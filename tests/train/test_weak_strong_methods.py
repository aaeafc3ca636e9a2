"""FixMatch and the method of temporal gradients: their options, rows, pseudo-labels, warm-up and definitions.

What they share with UDA is asked of it too.  A threshold of 0 keeps every pseudo-label.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import normalize
from pipeline.batch import Modality, Views
from pipeline.errors import InputError
from tests.train.method_cases import (
    EPOCH_0,
    EPOCH_1,
    EPOCH_2,
    NUM_CLASSES,
    NUM_LABELED,
    NUM_UNLABELED,
    STRONG,
    WEAK,
    capture_logits,
    gradient_of,
    groups,
    make_batch,
    make_method,
    outputs_of,
    trained_by,
)
from tests.train.test_methods import assert_one_graph
from train.losses import alignment_loss, info_nce
from train.methods import METHODS, Method, fixmatch, temporal_gradient, uda

WEAK_STRONG = ("uda", "fixmatch", "temporal_gradient")

# --- which term trains what ---


@pytest.mark.parametrize(("stop_gradient", "trained"), [("rgb", {"tg"}), (None, {"rgb", "tg"})])
def test_the_alignment_stops_where_it_is_told(stop_gradient: str | None, trained: set[str]) -> None:
    method = make_method("temporal_gradient", stop_gradient=stop_gradient)
    assert trained_by(method, method(make_batch(method), EPOCH_0)["alignment"]) == trained


@pytest.mark.parametrize("source", ["average", "rgb", "tg", "individual"])
def test_pseudo_labels_of_any_source_train_both_networks(source: str) -> None:
    method = make_method("temporal_gradient", pseudo_label_source=source)
    outputs = method(make_batch(method), EPOCH_0)
    assert trained_by(method, outputs["pseudo_label_rgb"]) == {"rgb", "rgb.head"}
    assert trained_by(method, outputs["pseudo_label_tg"]) == {"tg", "tg.head"}


@pytest.mark.parametrize("block", range(4))
def test_alignment_of_one_block_trains_the_stages_up_to_it(block: int) -> None:
    method = make_method("temporal_gradient", alignment_blocks=(block,))
    method(make_batch(method), EPOCH_0)["alignment"].backward()
    assert isinstance(method, temporal_gradient.TemporalGradient)
    network = method.dual.rgb
    for stage, layer in enumerate((network.layer1, network.layer2, network.layer3, network.layer4)):
        assert all((parameter.grad is not None) == (stage <= block) for parameter in layer.parameters())


# --- rows ---


def rows_of(method: Method, term: str, part: Callable[[temporal_gradient.TemporalGradient], nn.Module]) -> list[bool]:
    """Which rows of a part's input, labeled, weak, strong, get gradient from a term."""
    assert isinstance(method, temporal_gradient.TemporalGradient)
    outputs: list[Tensor] = []
    part(method).register_forward_hook(lambda _, __, output: outputs.append(output))
    result = method(make_batch(method), EPOCH_0)
    (gradient,) = torch.autograd.grad(result[term], outputs[0])
    return [bool(row.any()) for row in gradient]


def test_alignment_and_contrast_see_labeled_and_weak_rows_only() -> None:
    registered = [True] * (NUM_LABELED + NUM_UNLABELED) + [False] * NUM_UNLABELED
    method = make_method("temporal_gradient", alignment_blocks=(3,))
    assert rows_of(method, "alignment", lambda m: m.dual.rgb.layer4) == registered
    # The embedding, not the features below it: the contrast head's BatchNorm ties all rows together.
    assert rows_of(make_method("temporal_gradient"), "info_nce", lambda m: m.dual.rgb_contrast) == registered
    assert rows_of(make_method("temporal_gradient"), "info_nce", lambda m: m.dual.tg_contrast) == registered


@pytest.mark.parametrize("name", WEAK_STRONG)
def test_weak_logits_get_no_gradient(name: str) -> None:
    method = make_method(name)
    networks = [method.recognizer]
    if isinstance(method, temporal_gradient.TemporalGradient):
        networks.append(method.dual.tg)
    captured = [capture_logits(network) for network in networks]
    method(make_batch(method), EPOCH_0)["loss"].backward()
    for (logits,) in captured:
        assert logits.shape == (NUM_LABELED + 2 * NUM_UNLABELED, NUM_CLASSES)
        gradient = gradient_of(logits)
        assert not gradient[WEAK].any()
        assert gradient[:NUM_LABELED].any(dim=1).all()
        assert gradient[STRONG].any(dim=1).all()


# --- pseudo-labels ---


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("name", WEAK_STRONG)
def test_the_threshold_keeps_all_or_none(name: str, threshold: float, kept: float) -> None:
    outputs = outputs_of(name, threshold=threshold)
    assert outputs["mask_rate"].item() == kept
    for key in (key for key in outputs if key.startswith("pseudo_label") and key != "pseudo_label_accuracy"):
        assert (outputs[key].item() > 0) == bool(kept)
    assert outputs["pseudo_label_accuracy"].isnan().item() == (not kept)
    assert outputs["loss"].isfinite()


def test_pseudo_label_accuracy_is_among_kept_rows_of_known_class() -> None:
    method = make_method("fixmatch")
    captured = capture_logits(method.recognizer)
    batch = make_batch(method)
    method(batch, EPOCH_0)
    predicted = captured[0][WEAK].argmax(dim=1)
    truth = torch.stack([predicted[0], (predicted[1] + 1) % NUM_CLASSES, torch.tensor(-1)])
    outputs = method(batch._replace(unlabeled_labels=truth), EPOCH_0)
    assert outputs["pseudo_label_accuracy"].item() == 0.5


def opinionated(classes: dict[str, int], confidence: dict[str, float], **options: Any) -> dict[str, Tensor]:
    """Outputs of a method whose networks say the same of every clip: a class, with a bias of some size."""
    method = make_method("temporal_gradient", threshold=0.9, **options)
    for modality, network in method.networks.items():
        nn.init.zeros_(network.classifier.weight)
        with torch.no_grad():
            network.classifier.bias[classes[modality]] = confidence[modality]
    result: dict[str, Tensor] = method(make_batch(method), EPOCH_0)
    return result


def test_individual_pseudo_labels_are_each_network_s_own() -> None:
    both = {"rgb": 5.0, "tg": 5.0}
    own = opinionated({"rgb": 0, "tg": 1}, both, pseudo_label_source="individual")
    agreeing = F.cross_entropy(torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([0])).item()
    for term in ("pseudo_label_rgb", "pseudo_label_tg"):
        assert own[term].item() == pytest.approx(agreeing)
    # True classes are 0, 1 and unknown: RGB is right of the first, TG of the second.
    assert (own["mask_rate"].item(), own["pseudo_label_accuracy"].item()) == (1, 0.5)
    taught = opinionated({"rgb": 0, "tg": 1}, both, pseudo_label_source="rgb")
    assert taught["pseudo_label_rgb"].item() == pytest.approx(agreeing)
    assert taught["pseudo_label_tg"].item() == pytest.approx(agreeing + 5)


def test_individual_pseudo_labels_have_masks_of_their_own() -> None:
    outputs = opinionated({"rgb": 0, "tg": 1}, {"rgb": 5.0, "tg": 0.1}, pseudo_label_source="individual")
    assert outputs["pseudo_label_rgb"].item() > 0
    assert outputs["pseudo_label_tg"].item() == 0
    assert (outputs["mask_rate"].item(), outputs["pseudo_label_accuracy"].item()) == (0.5, 0.5)


@pytest.mark.parametrize("name", WEAK_STRONG)
@pytest.mark.parametrize("dropout", [True, False])
def test_pseudo_labels_are_made_with_or_without_dropout(
    name: str, dropout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[Tensor, Tensor | None]] = []
    module = {"uda": uda, "fixmatch": fixmatch, "temporal_gradient": temporal_gradient}[name]
    pseudo_labels = module.pseudo_labels

    def note(rgb: Tensor, tg: Tensor | None, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        used.append((rgb, tg))
        labels, mask = pseudo_labels(rgb, tg, *rest, **options)
        return labels, mask

    monkeypatch.setattr(module, "pseudo_labels", note)
    config = METHODS[name].config_type(threshold=0.0, warmup_epochs=0, pseudo_label_dropout=dropout)
    method = METHODS[name](NUM_CLASSES, config, width=8, dropout=0.5)
    features: list[Tensor] = []
    for network in method.networks.values():
        network.layer4.register_forward_hook(lambda _, __, feature: features.append(feature))
    torch.manual_seed(1)
    outputs = method(make_batch(method), EPOCH_0)
    (weak,) = used
    for logits, feature, network in zip(weak, features, method.networks.values(), strict=False):
        assert logits is not None
        plain = network.classify(feature)[WEAK]
        assert torch.allclose(logits, plain, rtol=1e-4) != dropout
        assert logits.requires_grad == dropout
    torch.manual_seed(1)
    other = METHODS[name](NUM_CLASSES, replace(config, pseudo_label_dropout=not dropout), width=8, dropout=0.5)
    other.load_state_dict(before_first_batch(method, other))
    torch.manual_seed(1)
    same = other(make_batch(other), EPOCH_0)
    for term in outputs.keys() - {key for key in outputs if key.startswith(("pseudo", "mask"))} - {"loss"}:
        assert torch.equal(outputs[term], same[term]), f"{term} must not notice"


def before_first_batch(method: Method, fresh: Method) -> dict[str, Tensor]:
    """The parameters of one with the running averages of another, which has seen no batch."""
    return {**fresh.state_dict(), **dict(method.named_parameters())}


# --- batches that BatchNorm sees ---


@pytest.mark.parametrize("name", WEAK_STRONG)
@pytest.mark.parametrize("split", [False, True])
def test_strong_views_change_what_the_others_give_only_where_they_share_their_batch(name: str, split: bool) -> None:
    method = make_method(name, split_batches=split)
    batch = make_batch(method)
    assert batch.strong is not None
    black = Views(*(None if view is None else torch.zeros_like(view) for view in batch.strong))  # type: ignore[arg-type]
    seen, unseen = method(batch, EPOCH_0), method(batch._replace(strong=black), EPOCH_0)
    for term in seen.keys() & {"supervised", "supervised_rgb", "supervised_tg", "alignment", "info_nce"}:
        assert torch.equal(seen[term], unseen[term]) == split
    pseudo_label = "pseudo_label_tg" if name == "temporal_gradient" else "pseudo_label"
    assert not torch.equal(seen[pseudo_label], unseen[pseudo_label])


@pytest.mark.parametrize("name", WEAK_STRONG)
def test_split_batches_are_the_same_losses_where_batch_norm_does_not_tie_the_views(name: str) -> None:
    joint, split = (make_method(name, split_batches=split).eval() for split in (False, True))
    batch = make_batch(joint)
    torch.testing.assert_close(split(batch, EPOCH_0), joint(batch, EPOCH_0))
    assert trained_by(split, split(batch, EPOCH_0)["loss"]) == set(groups(split))


# --- warm-up ---


@pytest.mark.parametrize("name", WEAK_STRONG)
def test_pseudo_labels_wait_for_the_end_of_the_warm_up(name: str) -> None:
    keys = ["pseudo_label_rgb", "pseudo_label_tg"] if name == "temporal_gradient" else ["pseudo_label"]
    method = make_method(name, warmup_epochs=2)
    batch = make_batch(method)
    values = [[method(batch, progress)[key].item() for key in keys] for progress in (EPOCH_0, EPOCH_1, EPOCH_2)]
    assert values[0] == values[1] == [0.0] * len(keys)
    assert all(value > 0 for value in values[2])
    captured = capture_logits(method.recognizer)
    outputs = method(batch, EPOCH_1)
    assert outputs["mask_rate"].item() == 1
    outputs["loss"].backward()
    assert not gradient_of(captured[0])[STRONG].any()


def test_alignment_and_contrast_do_not_wait() -> None:
    outputs = outputs_of("temporal_gradient", warmup_epochs=2)
    assert outputs["alignment"] > 0
    assert outputs["info_nce"] > 0


# --- the sum ---


def test_the_default_weights_are_the_papers() -> None:
    plain = outputs_of("supervised")
    assert plain["loss"] == plain["supervised"]
    single = outputs_of("fixmatch")
    torch.testing.assert_close(single["loss"], single["supervised"] + single["pseudo_label"])
    both = outputs_of("temporal_gradient")
    halves = [both[key] for key in ("supervised_rgb", "supervised_tg", "pseudo_label_rgb", "pseudo_label_tg")]
    torch.testing.assert_close(both["loss"], 0.5 * sum(halves) + both["alignment"] + both["info_nce"])


def test_each_weight_weighs_its_own_terms() -> None:
    outputs = outputs_of(
        "temporal_gradient", supervised_weight=2.0, pseudo_label_weight=3.0, alignment_weight=5.0, info_nce_weight=7.0
    )
    expected = (
        2 * (outputs["supervised_rgb"] + outputs["supervised_tg"])
        + 3 * (outputs["pseudo_label_rgb"] + outputs["pseudo_label_tg"])
        + 5 * outputs["alignment"]
        + 7 * outputs["info_nce"]
    )
    torch.testing.assert_close(outputs["loss"], expected)
    outputs = outputs_of("fixmatch", supervised_weight=2.0, pseudo_label_weight=3.0)
    torch.testing.assert_close(outputs["loss"], 2 * outputs["supervised"] + 3 * outputs["pseudo_label"])


def test_the_defaults_are_the_references() -> None:
    assert temporal_gradient.Config() == temporal_gradient.Config(
        threshold=0.3,
        warmup_epochs=30,
        pseudo_label_dropout=True,
        split_batches=False,
        pseudo_label_source="average",
        pseudo_label_fuse="logits",
        supervised_weight=0.5,
        pseudo_label_weight=0.5,
        alignment_weight=1.0,
        alignment_kind="cosine",
        alignment_blocks=(0, 1, 2, 3),
        alignment_reduce="sum",
        stop_gradient="tg",
        info_nce_weight=1.0,
        temperature=0.5,
    )
    assert fixmatch.Config() == fixmatch.Config(
        threshold=0.3,
        warmup_epochs=30,
        pseudo_label_dropout=True,
        split_batches=False,
        supervised_weight=1.0,
        pseudo_label_weight=1.0,
        modality="rgb",
    )


# --- the definition, view by view: in eval mode BatchNorm no longer ties the views together ---


def test_supervised_is_cross_entropy_of_the_labeled_clips() -> None:
    method = make_method("supervised").eval()
    batch = make_batch(method)
    logits, _ = method.recognizer(normalize(batch.labeled.rgb))
    torch.testing.assert_close(method(batch, EPOCH_0)["supervised"], F.cross_entropy(logits, batch.labels))


@pytest.mark.parametrize("modality", ["rgb", "tg"])
def test_fixmatch_sees_its_modality_and_no_other(modality: Modality) -> None:
    method = make_method("fixmatch", modality=modality).eval()
    assert method.needs.tg == (modality == "tg")
    batch = make_batch(make_method("temporal_gradient"))
    loss = method(batch, EPOCH_0)["loss"]
    for blind in ("rgb", "tg"):
        assert batch.weak is not None
        assert batch.strong is not None
        views = [
            view._replace(**{blind: torch.zeros_like(view.rgb)}) for view in (batch.labeled, batch.weak, batch.strong)
        ]
        changed = method(batch._replace(labeled=views[0], weak=views[1], strong=views[2]), EPOCH_0)["loss"]
        assert torch.equal(changed, loss) == (blind != modality)


def test_fixmatch_learns_the_strong_views_from_the_weak() -> None:
    method = make_method("fixmatch").eval()
    batch = make_batch(method)
    assert batch.weak is not None
    assert batch.strong is not None
    labeled, weak, strong = (method.recognizer(normalize(v.rgb))[0] for v in (batch.labeled, batch.weak, batch.strong))
    outputs = method(batch, EPOCH_0)
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(labeled, batch.labels))
    torch.testing.assert_close(outputs["pseudo_label"], F.cross_entropy(strong, weak.argmax(dim=1)))


def test_temporal_gradient_is_its_terms_on_the_views_they_are_meant_for() -> None:
    method = make_method("temporal_gradient", pseudo_label_source="tg").eval()
    assert isinstance(method, temporal_gradient.TemporalGradient)
    batch = make_batch(method)
    assert batch.weak is not None
    assert batch.strong is not None
    labeled, weak, strong = (
        method.dual(view.of("rgb"), view.of("tg")) for view in (batch.labeled, batch.weak, batch.strong)
    )
    outputs = method(batch, EPOCH_0)
    pseudo_labels = weak[1].logits.argmax(dim=1)
    for modality, name in enumerate(("rgb", "tg")):
        supervised = F.cross_entropy(labeled[modality].logits, batch.labels)
        pseudo_label = F.cross_entropy(strong[modality].logits, pseudo_labels)
        torch.testing.assert_close(outputs[f"supervised_{name}"], supervised)
        torch.testing.assert_close(outputs[f"pseudo_label_{name}"], pseudo_label)
    features = [
        [torch.cat(pair) for pair in zip(labeled[modality].features, weak[modality].features, strict=True)]
        for modality in range(2)
    ]
    torch.testing.assert_close(outputs["alignment"], alignment_loss(features[0], features[1]))
    embeddings = [torch.cat([labeled[modality].embedding, weak[modality].embedding]) for modality in range(2)]
    torch.testing.assert_close(outputs["info_nce"], info_nce(embeddings[0], embeddings[1], 0.5))


# --- what is shipped ---


def test_the_recognizer_needs_rgb_alone() -> None:
    method = make_method("temporal_gradient").eval()
    assert isinstance(method, temporal_gradient.TemporalGradient)
    clip = normalize(make_batch(method).labeled.rgb)
    before, _ = method.recognizer(clip)
    with torch.no_grad():
        for part in (method.dual.tg, method.dual.tg_contrast, method.dual.rgb_contrast):
            for parameter in part.parameters():
                parameter.fill_(float("nan"))
    after, _ = method.recognizer(clip)
    assert after.isfinite().all()
    assert torch.equal(before, after)


# --- options a user can get wrong ---


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (fixmatch.Config(), {"threshold": 1.5}, "threshold 1.5"),
        (fixmatch.Config(), {"warmup_epochs": -1}, "warmup_epochs -1"),
        (temporal_gradient.Config(), {"threshold": -0.1}, "threshold -0.1"),
        (temporal_gradient.Config(), {"alignment_blocks": (1, 4)}, r"alignment_blocks \(1, 4\)"),
        (temporal_gradient.Config(), {"alignment_blocks": ()}, "set alignment_weight to 0"),
        (temporal_gradient.Config(), {"temperature": 0.0}, "temperature 0.0"),
    ],
)
def test_impossible_options_are_refused(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(config, **options)


# --- compilation ---


SWITCHED = {"split_batches": True, "pseudo_label_dropout": False}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fixmatch", SWITCHED),
        ("temporal_gradient", {**SWITCHED, "pseudo_label_source": "individual", "alignment_reduce": "mean"}),
    ],
)
def test_a_step_with_all_switches_turned_is_one_graph_too(name: str, options: dict[str, Any]) -> None:
    assert_one_graph(name, **options)
