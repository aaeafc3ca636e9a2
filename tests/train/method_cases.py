"""What the tests of methods share: small methods, batches for them, which parameters a term trains, and what it should.

Clips are 8 frames of 32x32 and networks 8 channels wide.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_checks.ranks import from_the_start
from pipeline.batch import ClipBatch
from pipeline.noise import noise_batch
from train.methods import METHODS, Method

NUM_CLASSES = 3
NUM_LABELED = 2
NUM_UNLABELED = 3
WEAK = slice(NUM_LABELED, NUM_LABELED + NUM_UNLABELED)
STRONG = slice(NUM_LABELED + NUM_UNLABELED, None)

EPOCH_0, EPOCH_1, EPOCH_2 = (torch.tensor(float(epoch)) for epoch in range(3))

PSEUDO_LABEL_METRICS = frozenset({"mask_rate", "pseudo_label_accuracy"})
_HEADS = {"classifier": "head", "contrast": "contrast", "rotation": "rotation", "distillation": "distillation"}


@dataclass(frozen=True)
class Case:
    """What is expected of a method.

    Attributes:
        routes: by term, the groups of parameters that it trains; all others it must leave alone.
        options: beside those that switch every term on from the first step.
        metrics: what it measures beside its terms.
        ranks_differ: why two ranks with half of the clips each do not compute what one does, where that is so.
    """

    routes: dict[str, set[str]]
    options: dict[str, Any] = field(default_factory=dict)
    metrics: frozenset[str] = PSEUDO_LABEL_METRICS
    ranks_differ: str | None = None


RGB = {"rgb", "rgb.head"}
TG = {"tg", "tg.head"}

CASES: dict[str, Case] = {
    "supervised": Case({"supervised": RGB}, metrics=frozenset()),
    "pseudo_label": Case({"supervised": RGB, "pseudo_label": RGB}),
    "mean_teacher": Case({"supervised": RGB, "consistency": RGB}, metrics=frozenset()),
    "uda": Case({"supervised": RGB, "pseudo_label": RGB}),
    "s4l": Case({"supervised": RGB, "rotation": {"rgb", "rgb.rotation"}}, metrics=frozenset({"rotation_accuracy"})),
    "ups": Case(
        {"supervised": RGB, "pseudo_label": RGB, "negative": RGB},
        # A first choice of one video a class, all others have negatives; later all videos have pseudo-labels.
        {"max_deviation": 1.0, "negative_threshold": 1.0, "negative_max_deviation": 1.0}
        | {"balanced_rounds": 1, "min_per_class": 1},
    ),
    "videossl": Case(
        {"supervised": RGB, "pseudo_label": RGB, "distillation": {"rgb", "rgb.distillation"}},
        {"scores": Path("scores")},
    ),
    "tcl": Case({"supervised": RGB, "instance_contrast": RGB, "group_contrast": RGB}, metrics=frozenset()),
    "actor_cutmix": Case(
        {"supervised": RGB, "pseudo_label": RGB}, ranks_differ="a clip's scene is of its own rank's batch"
    ),
    "mvpl": Case({f"{term}_{modality}": RGB for term in ("supervised", "pseudo_label") for modality in ("rgb", "tg")}),
    "fixmatch": Case({"supervised": RGB, "pseudo_label": RGB}),
    "temporal_gradient": Case(
        {
            "supervised_rgb": RGB,
            "supervised_tg": TG,
            "pseudo_label_rgb": RGB,
            "pseudo_label_tg": TG,
            "alignment": {"rgb"},
            "info_nce": {"rgb", "tg", "rgb.contrast", "tg.contrast"},
        }
    ),
}


def make_batch(method: Method, seed: int = 0, device: str = "cpu") -> ClipBatch:
    """Random pixels, and nothing but what the method needs; classes 0 and 2, and 0, 1 and unknown."""
    batch = noise_batch(
        method.needs,
        num_labeled=NUM_LABELED,
        num_unlabeled=NUM_UNLABELED,
        clip_len=8,
        size=32,
        num_classes=NUM_CLASSES,
        device=device,
        generator=torch.Generator("cpu").manual_seed(seed),
    )
    known = batch.unlabeled_labels is not None
    return batch._replace(
        labels=torch.tensor([0, 2], device=device),
        unlabeled_labels=torch.tensor([0, 1, -1], device=device) if known else None,
    )


def make_method(name: str, *, dropout: float = 0.0, **options: Any) -> Method:
    """A small method with channels last, with every term on from the first step unless told otherwise.

    One with rounds has judged the default batch, and its second round has begun.
    """
    method = new_method(name, dropout=dropout, **options).to(memory_format=torch.channels_last_3d)
    begin_round(method, make_batch(method))
    return method


def new_method(name: str, *, dropout: float = 0.0, **options: Any) -> Method:
    """The same in whatever layout its weights are made, and in its first round."""
    torch.manual_seed(0)
    config_type = METHODS[name].config_type
    options = {**from_the_start(config_type), **CASES[name].options, **options}
    method = METHODS[name](NUM_CLASSES, config_type(**options), width=8, dropout=dropout)
    method.keep_videos(NUM_LABELED + NUM_UNLABELED)
    return method


def begin_round(method: Method, batch: ClipBatch) -> None:
    """Have a method judge the unlabeled clips of a batch, and begin its next round if it has such."""
    if method.num_rounds > 1:
        assert batch.weak is not None and batch.unlabeled_ids is not None
        with torch.no_grad():
            judgments = method.eval().judge(batch.weak)
        method.train().begin_round(batch.unlabeled_ids, judgments, seed=0)


def waiting(name: str) -> dict[str, Any]:
    """Options with which all that can wait for some epoch waits for the second."""
    return {option: 1 for option in ("warmup_epochs",) if option in from_the_start(METHODS[name].config_type)}


def outputs_of(name: str, **options: Any) -> dict[str, Tensor]:
    """What a method says of its batch."""
    method = make_method(name, **options)
    result: dict[str, Tensor] = method(make_batch(method), EPOCH_0)
    return result


def groups(method: Method) -> dict[str, list[nn.Parameter]]:
    """Trained parameters by what they belong to: rgb, tg, and their heads."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            modality = "tg" if "tg" in name else "rgb"
            head = next((f".{head}" for part, head in _HEADS.items() if part in name), "")
            found.setdefault(modality + head, []).append(parameter)
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
        if logits.requires_grad:
            logits.retain_grad()
        captured.append(logits)

    assert isinstance(network.classifier, nn.Linear)
    network.classifier.register_forward_hook(keep)
    return captured


def gradient_of(logits: Tensor) -> Tensor:
    """Of captured logits, after a backward pass."""
    assert logits.grad is not None
    return logits.grad
