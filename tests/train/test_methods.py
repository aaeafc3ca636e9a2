"""Methods: which term trains which network, what the warm-up switches, what no loss may read, and one whole graph.

Clips are 8 frames of 32x32 and networks 8 channels wide; a threshold of 0 keeps every pseudo-label.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import normalize
from pipeline.batch import ClipBatch, Modality, Views
from pipeline.errors import InputError
from train.losses import alignment_loss, info_nce
from train.methods import METHODS, Method, fixmatch, temporal_gradient

NUM_CLASSES = 3
NUM_LABELED = 2
NUM_UNLABELED = 3
WEAK = slice(NUM_LABELED, NUM_LABELED + NUM_UNLABELED)
STRONG = slice(NUM_LABELED + NUM_UNLABELED, None)

EPOCH_0, EPOCH_1, EPOCH_2 = (torch.tensor(float(epoch)) for epoch in range(3))


def make_batch(method: Method) -> ClipBatch:
    """Random pixels, and nothing but what the method needs."""
    generator = torch.Generator().manual_seed(0)
    needs = method.needs

    def views(batch: int) -> Views:
        shape = (batch, 8, 32, 32, 3)
        rgb, tg = (torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(2))
        return Views(rgb, tg if needs.tg else None)

    return ClipBatch(
        labeled=views(NUM_LABELED),
        labels=torch.tensor([0, 2]),
        weak=views(NUM_UNLABELED) if needs.unlabeled else None,
        strong=views(NUM_UNLABELED) if needs.strong else None,
        labeled_ids=torch.arange(NUM_LABELED),
        unlabeled_ids=torch.arange(NUM_UNLABELED) if needs.unlabeled else None,
        unlabeled_labels=torch.tensor([0, 1, -1]) if needs.unlabeled else None,
    )


def make_method(name: str, **options: Any) -> Method:
    """A small method without dropout, with no warm-up and every pseudo-label kept unless told otherwise."""
    torch.manual_seed(0)
    if name != "supervised":
        options = {"threshold": 0.0, "warmup_epochs": 0, **options}
    method = METHODS[name](NUM_CLASSES, METHODS[name].config_type(**options), width=8, dropout=0.0)
    return method.to(memory_format=torch.channels_last_3d)


def outputs_of(name: str, **options: Any) -> dict[str, Tensor]:
    method = make_method(name, **options)
    result: dict[str, Tensor] = method(make_batch(method), EPOCH_0)
    return result


def groups(method: Method) -> dict[str, list[nn.Parameter]]:
    """Parameters by what they belong to: rgb, tg, and their .head and .contrast."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        modality = "tg" if "tg" in name else "rgb"
        part = ".contrast" if "contrast" in name else ".head" if "classifier" in name else ""
        found.setdefault(modality + part, []).append(parameter)
    return found


def trained_by(method: Method, term: Tensor) -> set[str]:
    """Groups that get gradient from a term.  All of a group must, or exactly nothing."""
    trained = set()
    for group, parameters in groups(method).items():
        gradients = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
        reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert all(reached) or not any(reached), f"{group} is trained in part"
        if reached[0]:
            trained.add(group)
    return trained


def capture_logits(network: nn.Module) -> list[Tensor]:
    """Logits of the forward passes to come, gradients kept."""
    captured: list[Tensor] = []

    def keep(_: nn.Module, __: object, logits: Tensor) -> None:
        logits.retain_grad()
        captured.append(logits)

    assert isinstance(network.classifier, nn.Linear)
    network.classifier.register_forward_hook(keep)
    return captured


def gradient_of(logits: Tensor) -> Tensor:
    assert logits.grad is not None
    return logits.grad


# --- which term trains what ---

ROUTES = [
    ("supervised", {}, "supervised", {"rgb", "rgb.head"}),
    ("fixmatch", {}, "supervised", {"rgb", "rgb.head"}),
    ("fixmatch", {}, "pseudo_label", {"rgb", "rgb.head"}),
    ("temporal_gradient", {}, "supervised_rgb", {"rgb", "rgb.head"}),
    ("temporal_gradient", {}, "supervised_tg", {"tg", "tg.head"}),
    ("temporal_gradient", {}, "pseudo_label_rgb", {"rgb", "rgb.head"}),
    ("temporal_gradient", {}, "pseudo_label_tg", {"tg", "tg.head"}),
    ("temporal_gradient", {"stop_gradient": "tg"}, "alignment", {"rgb"}),
    ("temporal_gradient", {"stop_gradient": "rgb"}, "alignment", {"tg"}),
    ("temporal_gradient", {"stop_gradient": None}, "alignment", {"rgb", "tg"}),
    ("temporal_gradient", {}, "info_nce", {"rgb", "tg", "rgb.contrast", "tg.contrast"}),
]


@pytest.mark.parametrize(("name", "options", "term", "trained"), ROUTES)
def test_each_term_trains_the_networks_it_should_and_no_other(
    name: str, options: dict[str, Any], term: str, trained: set[str]
) -> None:
    method = make_method(name, **options)
    outputs = method(make_batch(method), EPOCH_0)
    assert trained_by(method, outputs[term]) == trained


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_trains_every_parameter(name: str) -> None:
    method = make_method(name)
    assert trained_by(method, method(make_batch(method), EPOCH_0)["loss"]) == set(groups(method))


def test_the_routes_cover_every_term_of_every_method() -> None:
    covered = {(name, term) for name, _, term, _ in ROUTES}
    terms = {(name, key) for name in METHODS for key, value in outputs_of(name).items() if value.requires_grad}
    assert covered == {(name, key) for name, key in terms if key != "loss"}


@pytest.mark.parametrize("source", ["average", "rgb", "tg"])
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


@pytest.mark.parametrize("name", ["fixmatch", "temporal_gradient"])
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


@pytest.mark.parametrize("name", ["fixmatch", "temporal_gradient"])
def test_a_confident_wrong_pseudo_label_changes_the_student(name: str) -> None:
    wrong = 1
    method = make_method(name, threshold=0.9)
    networks = [method.recognizer]
    if isinstance(method, temporal_gradient.TemporalGradient):
        networks.append(method.dual.tg)
    for network in networks:
        nn.init.zeros_(network.classifier.weight)
        with torch.no_grad():
            network.classifier.bias[wrong] = 5.0
    captured = [capture_logits(network) for network in networks]
    batch = make_batch(method)._replace(unlabeled_labels=torch.tensor([0, 2, 2]))
    outputs = method(batch, EPOCH_0)
    assert outputs["mask_rate"].item() == 1
    assert outputs["pseudo_label_accuracy"].item() == 0
    terms = [term for key, term in outputs.items() if key.startswith("pseudo_label") and term.requires_grad]
    torch.stack(terms).sum().backward()
    for (logits,), network in zip(captured, networks, strict=True):
        assert (gradient_of(logits)[STRONG, wrong] < 0).all()
        bias = network.classifier.bias.grad
        assert bias is not None
        assert bias[wrong] < 0


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("name", ["fixmatch", "temporal_gradient"])
def test_the_threshold_keeps_all_or_none(name: str, threshold: float, kept: float) -> None:
    outputs = outputs_of(name, threshold=threshold)
    assert outputs["mask_rate"].item() == kept
    for key in (key for key in outputs if key.startswith("pseudo_label") and key != "pseudo_label_accuracy"):
        assert (outputs[key].item() > 0) == bool(kept)
    assert outputs["pseudo_label_accuracy"].isnan().item() == (not kept)
    assert outputs["loss"].isfinite()


@pytest.mark.parametrize("name", ["fixmatch", "temporal_gradient"])
def test_no_loss_reads_the_labels_of_unlabeled_clips(name: str) -> None:
    method = make_method(name)
    batch = make_batch(method)
    first = method(batch, EPOCH_0)
    second = method(batch._replace(unlabeled_labels=torch.tensor([2, 0, 1])), EPOCH_0)
    third = method(batch._replace(unlabeled_labels=torch.tensor([-1, -1, -1])), EPOCH_0)
    for key in first.keys() - {"pseudo_label_accuracy"}:
        assert torch.equal(first[key], second[key])
        assert torch.equal(first[key], third[key])
    assert third["pseudo_label_accuracy"].isnan()


def test_pseudo_label_accuracy_is_among_kept_rows_of_known_class() -> None:
    method = make_method("fixmatch")
    captured = capture_logits(method.recognizer)
    batch = make_batch(method)
    method(batch, EPOCH_0)
    predicted = captured[0][WEAK].argmax(dim=1)
    truth = torch.stack([predicted[0], (predicted[1] + 1) % NUM_CLASSES, torch.tensor(-1)])
    outputs = method(batch._replace(unlabeled_labels=truth), EPOCH_0)
    assert outputs["pseudo_label_accuracy"].item() == 0.5


# --- warm-up ---


@pytest.mark.parametrize("name", ["fixmatch", "temporal_gradient"])
def test_pseudo_labels_wait_for_the_end_of_the_warm_up(name: str) -> None:
    keys = ["pseudo_label"] if name == "fixmatch" else ["pseudo_label_rgb", "pseudo_label_tg"]
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


@pytest.mark.parametrize("name", METHODS)
def test_outputs_are_scalars_named_by_contract(name: str) -> None:
    outputs = outputs_of(name)
    terms = {
        "supervised": {"supervised"},
        "fixmatch": {"supervised", "pseudo_label"},
        "temporal_gradient": {
            *("supervised_rgb", "supervised_tg", "pseudo_label_rgb", "pseudo_label_tg", "alignment", "info_nce")
        },
    }[name]
    metrics = set() if name == "supervised" else {"mask_rate", "pseudo_label_accuracy"}
    assert outputs.keys() == {"loss"} | terms | metrics
    assert all(value.shape == () and value.dtype == torch.float32 for value in outputs.values())
    assert all(outputs[key].requires_grad == (key not in metrics) for key in outputs)


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
        pseudo_label_source="average",
        pseudo_label_fuse="logits",
        supervised_weight=0.5,
        pseudo_label_weight=0.5,
        alignment_weight=1.0,
        alignment_kind="cosine",
        alignment_blocks=(0, 1, 2, 3),
        stop_gradient="tg",
        info_nce_weight=1.0,
        temperature=0.5,
    )
    assert fixmatch.Config() == fixmatch.Config(0.3, 30, 1.0, 1.0)


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
    labeled, weak, strong = (method.dual(*view) for view in (batch.labeled, batch.weak, batch.strong))
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


class CountGraphs:
    """A torch.compile backend that runs what it is given and counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.count += 1
        return graph.forward


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_one_graph_whatever_the_progress(name: str) -> None:
    """fullgraph refuses whatever reads a value on the host: .item(), a branch on a tensor, an index by mask."""
    method = make_method(name, **({} if name == "supervised" else {"warmup_epochs": 1}))
    batch = make_batch(method)
    torch._dynamo.reset()
    graphs = CountGraphs()
    step = torch.compile(method, backend=graphs, fullgraph=True)
    for progress in (EPOCH_0, EPOCH_1, torch.tensor(7.0)):
        outputs = step(batch, progress)
        torch.testing.assert_close(outputs, method(batch, progress), equal_nan=True)
    outputs["loss"].backward()
    assert graphs.count == 1
    assert all(parameter.grad is not None for parameter in method.parameters())
