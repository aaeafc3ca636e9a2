"""UPS: what becomes a pseudo-label or a negative, what is learned from them, and how a round begins."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import normalize
from pipeline.batch import Views
from pipeline.errors import InputError
from tests.train.method_cases import EPOCH_0, NUM_CLASSES, NUM_LABELED, NUM_UNLABELED, make_batch, new_method
from train.methods.ups import UPS, Config, most_certain


def new_ups(*, dropout: float = 0.0, **options: Any) -> UPS:
    """One in its first round, with the paper's constants but for what is given."""
    torch.manual_seed(0)
    method = UPS(NUM_CLASSES, Config(**options), width=8, dropout=dropout)
    method.keep_videos(NUM_LABELED + NUM_UNLABELED)
    return method


def clips(seed: int = 0) -> Views:
    views = make_batch(new_method("ups"), seed).weak
    assert views is not None
    return views


# --- what is learned ---


def test_losses_are_those_of_the_definition() -> None:
    """Two labeled clips, two of three unlabeled ones with pseudo-labels, and two with one and two negatives."""
    method = new_ups(negative_weight=0.5).eval()
    method.pseudo_labels[3], method.pseudo_labels[4] = 1, 0
    method.negatives[2, 0] = method.negatives[4, 1] = method.negatives[4, 2] = True
    batch = make_batch(method)
    assert batch.weak is not None
    labeled, weak = (method.recognizer(normalize(view.rgb))[0] for view in (batch.labeled, batch.weak))
    outputs = method(batch, EPOCH_0)
    taught = F.cross_entropy(torch.cat([labeled, weak[1:]]), torch.tensor([0, 2, 1, 0]))
    p = weak.softmax(dim=1)
    one, two = -(1 - p[0, 0]).log(), (-(1 - p[2, 1]).log() - (1 - p[2, 2]).log()) / 2
    torch.testing.assert_close(outputs["supervised"] + outputs["pseudo_label"], taught)
    torch.testing.assert_close(outputs["supervised"], F.cross_entropy(labeled, batch.labels) * 2 / 4)
    torch.testing.assert_close(outputs["negative"], (one + two) / 2)
    torch.testing.assert_close(outputs["loss"], taught + 0.5 * (one + two) / 2)
    assert outputs["mask_rate"].item() == pytest.approx(2 / 3)
    assert outputs["pseudo_label_accuracy"].item() == 1


def test_the_first_round_learns_from_labels_alone() -> None:
    method = new_ups().eval()
    batch = make_batch(method)
    outputs = method(batch, EPOCH_0)
    assert outputs["pseudo_label"].item() == outputs["negative"].item() == outputs["mask_rate"].item() == 0
    supervised = F.cross_entropy(method.recognizer(normalize(batch.labeled.rgb))[0], batch.labels)
    torch.testing.assert_close(outputs["loss"], supervised)


def test_a_network_sure_of_a_negative_class_has_a_finite_loss() -> None:
    method = new_ups()
    method.negatives[:, 1] = True
    torch.nn.init.zeros_(method.rgb.classifier.weight)
    with torch.no_grad():
        method.rgb.classifier.bias[1] = 100.0
    outputs = method(make_batch(method), EPOCH_0)
    assert outputs["negative"].item() == pytest.approx(16.118, abs=1e-3)  # -log 1e-7
    outputs["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters())


# --- what is chosen ---


def test_judgments_are_those_of_as_many_passes_of_the_whole_network() -> None:
    """With dropout on and BatchNorm of evaluation: the passes need the features only once."""
    method = new_ups(dropout=0.5, threshold=0.0, num_passes=7).eval()
    for _ in range(3):
        method.train()(make_batch(method), EPOCH_0)  # so that running averages are not those of a new network
    method.eval()
    shown = clips()
    torch.manual_seed(5)
    judged = method.judge(shown)
    torch.manual_seed(5)
    method.rgb.dropout.train()
    passes = torch.stack([method.rgb(normalize(shown.rgb))[0] for _ in range(7)]).softmax(dim=2)
    mean, deviation = passes.mean(dim=0), passes.std(dim=0)
    assert judged.shape == (NUM_UNLABELED, 2 + NUM_CLASSES)
    sure = deviation[range(NUM_UNLABELED), mean.argmax(dim=1)] < 0.05
    assert torch.equal(judged[:, 0], mean.argmax(dim=1).where(sure, -1).float())
    torch.testing.assert_close(judged[:, 1], deviation[range(NUM_UNLABELED), mean.argmax(dim=1)])
    assert judged[:, 1].min() > 0


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Judgment of one clip whose passes give the probabilities that are told."""

    def judge_(*passes: tuple[float, ...], **options: Any) -> Tensor:
        method = new_ups(**options).eval()
        logits = torch.tensor(passes)[:, None].log()
        monkeypatch.setattr(method.rgb.classifier, "forward", lambda _: logits)
        return method.judge(Views(clips().rgb[:1]))[0]

    return judge_


def test_a_probable_class_that_varies_little_is_a_pseudo_label(judge: Callable[..., Tensor]) -> None:
    sure, varying, unsure = (
        ((0.8, 0.1, 0.1), (0.78, 0.12, 0.1)),
        ((0.95, 0, 0.05), (0.75, 0.2, 0.05)),
        2 * ((0.6, 0.4, 0),),
    )
    assert judge(*sure)[0] == 0
    assert judge(*sure)[1].item() == pytest.approx(0.02 / 2**0.5, rel=1e-5)  # unbiased
    assert judge(*varying)[0] == -1
    assert judge(*varying, max_deviation=0.15)[0] == 0
    assert judge(*unsure)[0] == -1
    assert judge(*unsure, threshold=0.6 - 1e-6)[0] == 0


def test_an_improbable_class_that_varies_little_is_negative(judge: Callable[..., Tensor]) -> None:
    def negatives(*passes: tuple[float, ...], **options: Any) -> list[float]:
        found: list[float] = judge(*passes, negative_temperature=1.0, **options)[2:].tolist()
        return found

    assert negatives((0.6, 0.36, 0.04), (0.59, 0.37, 0.04)) == [0, 0, 1]
    assert negatives((0.58, 0.36, 0.06), (0.58, 0.36, 0.06)) == [0, 0, 0]
    assert negatives((0.58, 0.36, 0.06), (0.58, 0.36, 0.06), negative_threshold=0.07) == [0, 0, 1]
    assert negatives((0.6, 0.38, 0.02), (0.6, 0.34, 0.06)) == [0, 0, 0]
    assert negatives((0.6, 0.38, 0.02), (0.6, 0.34, 0.06), negative_max_deviation=0.03) == [0, 0, 1]
    # The likeliest class is none, whatever the thresholds.
    assert negatives((0.4, 0.3, 0.3), (0.4, 0.3, 0.3), negative_threshold=1.0) == [0, 1, 1]


def test_negatives_are_chosen_at_their_temperature(judge: Callable[..., Tensor]) -> None:
    passes = 2 * ((0.81, 0.18, 0.01),)
    tempered = 0.1 / (0.9 + 0.18**0.5 + 0.1)  # the root at temperature 2
    assert judge(*passes)[4] == 0
    assert judge(*passes, negative_threshold=tempered + 1e-3)[4] == 1
    assert judge(*passes, negative_threshold=tempered - 1e-3)[4] == 0
    assert judge(*passes, negative_temperature=1.0)[4] == 1


def test_the_most_certain_of_each_class_are_chosen() -> None:
    labels = torch.tensor([0, 0, 1, -1, 0, 1, 0])
    deviations = torch.tensor([0.4, 0.1, 0.3, 0.0, 0.2, 0.1, 0.2])
    chosen = most_certain(labels, deviations, 2, 1).nonzero().flatten().tolist()
    assert chosen == [1, 2, 4, 5]  # as many as the rarest class has; the first of equals
    assert most_certain(labels, deviations, 2, 3).nonzero().flatten().tolist() == [1, 2, 4, 5, 6]
    assert most_certain(labels, deviations, 3, 1).nonzero().flatten().tolist() == [1, 5]  # one class has none
    assert not most_certain(torch.tensor([-1, -1]), torch.zeros(2), 2, 1).any()


# --- how a round begins ---

JUDGMENTS = torch.tensor([[1, 0.03, 1, 0, 1], [-1, 0.2, 0, 1, 1], [1, 0.01, 1, 0, 0]])  # rows 1, 3 and 4


def test_negatives_are_of_videos_without_pseudo_labels_and_nothing_accumulates() -> None:
    method = new_ups()
    said = method.begin_round(torch.tensor([1, 3, 4]), JUDGMENTS, seed=0)
    assert said == "2 pseudo-labels, 1 videos with negative ones"
    assert method.pseudo_labels.tolist() == [-1, 1, -1, -1, 1]
    assert method.negatives.nonzero().tolist() == [[3, 1], [3, 2]]
    method.begin_round(torch.tensor([0]), torch.tensor([[-1, 0.2, 1, 0, 0]]), seed=1)
    assert method.pseudo_labels.tolist() == [-1] * 5
    assert method.negatives.nonzero().tolist() == [[0, 0]]


def test_balancing_ends_after_its_rounds_and_what_it_drops_may_have_negatives() -> None:
    method = new_ups(balanced_rounds=1, min_per_class=1)
    method.begin_round(torch.tensor([1, 3, 4]), JUDGMENTS, seed=0)
    assert method.pseudo_labels.tolist() == [-1, -1, -1, -1, 1]
    assert method.negatives.nonzero().tolist() == [[1, 0], [1, 2], [3, 1], [3, 2]]
    method.begin_round(torch.tensor([1, 3, 4]), JUDGMENTS, seed=0)
    assert method.pseudo_labels.tolist() == [-1, 1, -1, -1, 1]


def test_a_round_begins_with_the_weights_of_its_seed_in_place_of_the_old_ones() -> None:
    method, fresh = new_ups().to(memory_format=torch.channels_last_3d), new_ups()
    method(make_batch(method), EPOCH_0)
    before = {name: (value.data_ptr(), value.stride()) for name, value in method.state_dict().items()}
    for seed in (3, 4):
        method.begin_round(torch.tensor([1, 3, 4]), JUDGMENTS, seed)
        torch.manual_seed(seed)
        fresh.rgb = fresh._new_network()
        for name, value in fresh.rgb.state_dict().items():
            assert torch.equal(method.rgb.state_dict()[name], value), name
    assert {name: (value.data_ptr(), value.stride()) for name, value in method.state_dict().items()} == before


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_rounds": 0}, "num_rounds 0: take 1 or more"),
        ({"threshold": 1.5}, "threshold 1.5 is not a probability"),
        ({"num_passes": 1}, "num_passes 1 have no standard deviation"),
        ({"negative_temperature": 0.0}, "negative_temperature 0.0: take more than 0"),
        ({"max_deviation": -1.0}, "max_deviation -1.0 is negative"),
        ({"negative_threshold": -0.1}, "negative_threshold -0.1 is negative"),
        ({"negative_max_deviation": -0.1}, "negative_max_deviation -0.1 is negative"),
        ({"balanced_rounds": -1}, "balanced_rounds -1 is negative"),
        ({"min_per_class": 0}, "min_per_class 0: take 1 or more"),
    ],
)
def test_constants_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config(**options)


def test_all_clips_are_one_batch() -> None:
    assert UPS.smallest_batch(Config(), 2, 3) == 5
