"""The training step, with a look at the clocks between its parts.

The step is the trainer's own: hooks on the networks, a shell around the method, and a loss scaler that looks at the
clocks before it does what it does.  What a part costs is what lies between two looks; a compiled method is one part.

    forward RGB, forward TG    joining views, normalising, the network of the modality
    losses                     pseudo-labels, all terms; a contrast head, which is small, counts with what follows it
    backward                   gradients of everything
    optimizer                  clipping, SGD
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.clock import Cost, Moment, cost, now, synchronize
from benchmarks.loader import num_clips
from pipeline.batch import ClipBatch
from train.checkpoint import TrainState
from train.step import train_step


class SteppedTraining:
    """Steps of a training on one batch, part by part.

    Args:
        state: the training's; its weights move on.
        batch: on its device.

    Attributes:
        terms: of the last step.
    """

    terms: Mapping[str, Tensor]

    def __init__(self, state: TrainState, batch: ClipBatch) -> None:
        self._state, self._batch = state, batch
        self._device = next(state.method.parameters()).device
        self._marks: dict[str, Moment] = {}
        self._is_compiled = state.config.run.compile == "on"
        self._method = _Shell(state.method, lambda: self._mark("forward+losses" if self._is_compiled else "losses"))
        self._scaler = _Scaler(lambda: self._mark("backward"), self._device.type, enabled=state.scaler.is_enabled())
        if not self._is_compiled:
            for modality, network in state.method.networks.items():
                network.register_forward_hook(self._marking(f"forward {modality.upper()}"))

    @property
    def stages(self) -> tuple[str, ...]:
        """The parts, in their order."""
        if self._is_compiled:
            return "forward+losses", "backward", "optimizer"
        return (*(f"forward {name.upper()}" for name in self._state.method.networks), "losses", "backward", "optimizer")

    def step(self) -> dict[str, Cost]:
        """Take a step.

        Returns:
            What a clip cost from the beginning of the step to the end of each part.
        """
        self._marks.clear()
        config = self._state.config
        progress = torch.zeros((), device=self._device)
        assert config.optim.lr is not None, "the configuration is resolved"
        self._state.method.train()
        synchronize(self._device)
        start = now(self._device)
        self.terms = train_step(
            self._method,
            self._state.optimizer,
            self._scaler,
            self._batch,
            progress,
            lr=config.optim.lr,
            clip_norm=config.optim.clip_norm,
            precision=config.run.resolved_precision,
        )
        self._mark("optimizer")
        missing = set(self.stages) - self._marks.keys()
        assert not missing, f"the step went by without {', '.join(sorted(missing))}"
        return {name: cost(start, self._marks[name], num_clips(self._batch)) for name in self.stages}

    def _marking(self, name: str) -> Callable[..., None]:
        return lambda *_: self._mark(name)

    def _mark(self, name: str) -> None:
        self._marks[name] = now(self._device)


class _Shell(nn.Module):
    """Around a method: the same parameters and terms, and something done when they are there."""

    def __init__(self, method: nn.Module, then: Callable[[], None]) -> None:
        super().__init__()
        self.method = method
        self._then = then

    def forward(self, batch: ClipBatch, progress: Tensor) -> Mapping[str, Tensor]:
        """As the method."""
        terms: Mapping[str, Tensor] = self.method(batch, progress)
        self._then()
        return terms


class _Scaler(torch.amp.GradScaler):
    """Says when it is asked to unscale gradients: they have just been computed."""

    def __init__(self, then: Callable[[], None], device_type: str, *, enabled: bool) -> None:
        super().__init__(device_type, enabled=enabled)
        self._then = then

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """As the base."""
        self._then()
        super().unscale_(optimizer)
