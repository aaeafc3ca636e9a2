"""The step is the trainer's, and every part of it is looked at."""

from dataclasses import replace

import pytest
import torch

from benchmarks.step_stages import SteppedTraining
from benchmarks.training import Repeated, Training

PARTS = ("forward RGB", "forward TG", "losses", "backward", "optimizer")


def test_a_step_taken_apart_is_the_same_step(training: Training) -> None:
    with training.loader as loader:
        batch = next(loader)
    weights = {name: value.clone() for name, value in training.state.method.state_dict().items()}
    torch.manual_seed(1)
    training.run(1, Repeated(batch))
    expected = {name: value.clone() for name, value in training.state.method.state_dict().items()}
    training.state.method.load_state_dict(weights)
    training.state.optimizer.state.clear()
    stepped = SteppedTraining(training.state, batch)
    assert stepped.stages == PARTS
    stepped._state.config = replace(
        training.state.config,
        optim=replace(training.state.config.optim, lr=training.state.optimizer.param_groups[0]["lr"]),
    )
    torch.manual_seed(1)
    costs = stepped.step()
    assert tuple(costs) == PARTS
    walls = [cost.wall_ms for cost in costs.values()]
    assert walls[0] > 0 and walls == sorted(walls)
    found = training.state.method.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_part_that_does_not_take_place_is_noticed(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    with training.loader as loader:
        stepped = SteppedTraining(training.state, next(loader))
    network = training.state.method.networks["tg"]
    network._forward_hooks.clear()
    with pytest.raises(AssertionError, match="the step went by without forward TG"):
        stepped.step()


def test_a_compiled_method_is_one_part(training: Training) -> None:
    state = training.state
    state.config = replace(state.config, run=replace(state.config.run, compile="on"))
    with training.loader as loader:
        stepped = SteppedTraining(state, next(loader))
    assert tuple(stepped.step()) == ("forward+losses", "backward", "optimizer")
    assert not state.method.networks["rgb"]._forward_hooks  # none may stand in the way of the compiler
