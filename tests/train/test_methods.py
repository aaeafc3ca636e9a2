"""What holds for every method: each term trains what it should, nothing waits for the host, and a run resumes.

What is particular to one method stands in a file of its own.
"""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.train.method_cases import (
    CASES,
    EPOCH_0,
    EPOCH_1,
    NUM_UNLABELED,
    begin_round,
    groups,
    make_batch,
    make_method,
    outputs_of,
    trained_by,
    waiting,
)
from train.methods import METHODS, Method
from train.step import new_optimizer, new_scaler, train_step

WITH_PSEUDO_LABELS = [name for name, case in CASES.items() if "pseudo_label_accuracy" in case.metrics]


def test_every_method_has_a_case() -> None:
    assert CASES.keys() == METHODS.keys()


# --- losses ---


@pytest.mark.parametrize("name", METHODS)
def test_outputs_are_finite_scalars_named_by_contract(name: str) -> None:
    case, outputs = CASES[name], outputs_of(name)
    assert outputs.keys() == {"loss", *case.routes, *case.metrics}
    assert all(value.shape == () and value.dtype == torch.float32 for value in outputs.values())
    assert all(outputs[key].requires_grad == (key not in case.metrics) for key in outputs)
    assert all(outputs[key].isfinite() for key in ("loss", *case.routes))
    assert all(outputs[key] > 0 for key in case.routes), "a term that is 0 shows nothing"


@pytest.mark.parametrize(("name", "term"), [(name, term) for name, case in CASES.items() for term in case.routes])
def test_each_term_trains_the_networks_it_should_and_no_other(name: str, term: str) -> None:
    method = make_method(name)
    assert trained_by(method, method(make_batch(method), EPOCH_0)[term]) == CASES[name].routes[term]


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_trains_every_parameter_that_is_to_be_trained(name: str) -> None:
    method = make_method(name)
    assert trained_by(method, method(make_batch(method), EPOCH_0)["loss"]) == set(groups(method))


@pytest.mark.parametrize("name", METHODS)
def test_no_gradient_reaches_a_teacher_and_no_optimizer_moves_it(name: str) -> None:
    method = make_method(name)
    steps = Steps(method)
    fixed = {key: value for key, value in method.named_parameters() if not value.requires_grad}
    before = {key: value.clone() for key, value in fixed.items()}
    steps.train(1)
    for key, value in fixed.items():
        assert value.grad is None
        assert torch.equal(value, before[key]), key
    method.stepped()
    assert all(not torch.equal(value, before[key]) for key, value in fixed.items() if value.ndim > 1)


@pytest.mark.parametrize("name", METHODS)
def test_no_loss_reads_the_labels_of_unlabeled_clips(name: str) -> None:
    outputs = []
    for truth in ([0, 1, -1], [2, 0, 1], [-1, -1, -1]):
        method = make_method(name)
        batch = make_batch(method)
        outputs.append(method(batch._replace(unlabeled_labels=torch.tensor(truth)), EPOCH_0))
    for key in outputs[0].keys() - {"pseudo_label_accuracy"}:
        assert torch.equal(outputs[0][key], outputs[1][key])
        assert torch.equal(outputs[0][key], outputs[2][key])


@pytest.mark.parametrize("name", WITH_PSEUDO_LABELS)
def test_a_confident_wrong_pseudo_label_changes_the_student(name: str) -> None:
    """All networks are sure of a class that is none of the unlabeled clips'; learning from it makes them surer."""
    wrong = 1
    method = make_method(name, threshold=0.9)
    for network in method.networks.values():
        nn.init.zeros_(network.classifier.weight)
        with torch.no_grad():
            network.classifier.bias[wrong] = 5.0
    batch = make_batch(method)._replace(unlabeled_labels=torch.tensor([0, 2, 2]))
    begin_round(method, batch)
    outputs = method(batch, EPOCH_0)
    assert outputs["mask_rate"].item() == 1
    assert outputs["pseudo_label_accuracy"].item() == 0
    terms = [term for key, term in outputs.items() if key.startswith("pseudo_label") and term.requires_grad]
    torch.stack(terms).sum().backward()
    for network in method.networks.values():
        bias = network.classifier.bias.grad
        assert bias is not None
        assert bias[wrong] < 0


# --- compilation ---


class CountGraphs:
    """A torch.compile backend that runs what it is given and counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.count += 1
        return graph.forward


def assert_one_graph(name: str, **options: Any) -> None:
    """fullgraph refuses whatever reads a value on the host: .item(), a branch on a tensor, an index by mask."""
    method, eager = (make_method(name, **waiting(name), **options) for _ in range(2))
    batch = make_batch(method)
    torch._dynamo.reset()
    graphs = CountGraphs()
    step = torch.compile(method, backend=graphs, fullgraph=True)
    for progress in (EPOCH_0, EPOCH_1, torch.tensor(7.0)):
        outputs = step(batch, progress)
        torch.testing.assert_close(outputs, eager(batch, progress), equal_nan=True)
    outputs["loss"].backward()
    assert graphs.count == 1
    assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_one_graph_whatever_the_progress(name: str) -> None:
    assert_one_graph(name)


# --- state ---


class Steps:
    """Steps of a method, each on a batch of its own; rounds have two steps, and noise is judged."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.optimizer = new_optimizer(method, lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.scaler = new_scaler(torch.device("cpu"), "fp32")
        self.num_steps = 0

    def train(self, num_steps: int) -> None:
        """Steps, without what follows them."""
        for _ in range(num_steps):
            train_step(
                self.method,
                self.optimizer,
                self.scaler,
                make_batch(self.method, self.num_steps),
                EPOCH_0,
                lr=0.01,
                clip_norm=40.0,
                precision="fp32",
            )
            self.num_steps += 1

    def run(self, num_steps: int) -> None:
        """Steps as the loop takes them."""
        for _ in range(num_steps):
            self.train(1)
            self.method.stepped()
            if self.num_steps % 2:
                begin_round(self.method, make_batch(self.method, 100 + self.num_steps))

    def saved(self) -> bytes:
        """All state, as a checkpoint has it."""
        file = io.BytesIO()
        state = [self.method.state_dict(), self.optimizer.state_dict(), torch.get_rng_state(), self.num_steps]
        torch.save(state, file)
        return file.getvalue()

    def restore(self, saved: bytes) -> None:
        """Go on from a state."""
        method, optimizer, rng, self.num_steps = torch.load(io.BytesIO(saved), weights_only=True)
        self.method.load_state_dict(method)
        self.optimizer.load_state_dict(optimizer)
        torch.set_rng_state(rng)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_resumes_to_the_bit(name: str) -> None:
    """Teachers, rounds and dropout included."""
    straight, cut = (Steps(make_method(name, dropout=0.5)) for _ in range(2))
    torch.manual_seed(7)
    straight.run(2)
    saved = straight.saved()
    straight.run(2)
    torch.manual_seed(12345)  # what a new process happens to have
    cut.restore(saved)
    cut.run(2)
    ours, theirs = copy.deepcopy(cut.method.state_dict()), straight.method.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
    assert not torch.equal(torch.load(io.BytesIO(saved), weights_only=True)[0][key], theirs[key])


@pytest.mark.parametrize("name", METHODS)
def test_judgments_are_asked_for_by_rounds_alone(name: str) -> None:
    method = make_method(name)
    batch = make_batch(method)
    if method.num_rounds > 1:
        assert batch.weak is not None
        assert len(method.judge(batch.weak)) == NUM_UNLABELED
    else:
        with pytest.raises(NotImplementedError):
            method.begin_round(batch.labeled_ids, torch.zeros(0), seed=0)
