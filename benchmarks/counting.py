"""Counts what a step computes and moves, and what a clip takes from its file; nothing is timed.

Steps run on tensors without contents, so counting takes seconds whatever the sizes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torchvision.models.video import r3d_18

from benchmarks.ceilings import PUBLISHED_BATCH, PUBLISHED_CLIP_LEN, PUBLISHED_SIZE, StepCost
from pipeline.noise import noise_batch
from pipeline.plan import ClipSpec, plan_clip
from pipeline.record import VideoRecord
from pipeline.slicing import needed_packets
from train.methods import METHODS
from train.precision import Precision, autocast
from train.step import new_optimizer, new_scaler, train_step

NUM_CLASSES = 400
LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")
"""Parts of R3D-18 that are counted apart."""


class Layer(NamedTuple):
    """A part of the networks, in one step.

    Attributes:
        flops: of the forward pass.
        activation_bytes: that its modules put out.
    """

    flops: float
    activation_bytes: float


class Counted(NamedTuple):
    """A step.

    Attributes:
        cost: what it takes.
        layers: by name of :data:`LAYERS`, all networks together.
        parameter_bytes: of all weights.
    """

    cost: StepCost
    layers: dict[str, Layer]
    parameter_bytes: int


class _Bytes(TorchDispatchMode):
    """Sums what operations read and write, as if nothing were fused and no cache kept anything."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of_products = 0
        self.of_others = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        schema = func._schema
        is_view = any(value.alias_info and not value.alias_info.is_write for value in schema.returns)
        if func.namespace == "aten" and not is_view and "empty" not in schema.name:  # others only ask for a device
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            if func._overloadpacket in flop_registry:
                self.of_products += moved
            else:
                self.of_others += moved
        return out


def count_method(method: str, *, clip_len: int, size: int, width: int, batch: int, precision: Precision) -> Counted:
    """Count a training step of a method.

    Args:
        method: of :data:`train.methods.METHODS`.
        clip_len: frames of a clip.
        size: height and width of clips in pixels.
        width: channels of the networks' stems.
        batch: labeled clips, and as many unlabeled ones.
        precision: of the networks.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        method_type = METHODS[method]
        module = method_type(NUM_CLASSES, method_type.config_type(), width)
        optimizer = new_optimizer(module, lr=0.1, momentum=0.9, weight_decay=1e-4)
        scaler = new_scaler(torch.device("cpu"), precision)
        module.keep_videos(2 * batch)
        clips = noise_batch(
            module.needs,
            num_labeled=batch,
            num_unlabeled=batch,
            clip_len=clip_len,
            size=size,
            num_classes=NUM_CLASSES,
        )
        progress = torch.zeros(())

        def step() -> None:
            train_step(module, optimizer, scaler, clips, progress, lr=0.1, clip_norm=40.0, precision=precision)

        return _count(module, step, 2 * batch)


def count_published() -> Counted:
    """Count the step behind :data:`benchmarks.ceilings.PUBLISHED_STEP_S`: torchvision's R3D-18, supervised, bf16."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = r3d_18(num_classes=NUM_CLASSES)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        clips = torch.zeros(PUBLISHED_BATCH, 3, PUBLISHED_CLIP_LEN, PUBLISHED_SIZE, PUBLISHED_SIZE)
        labels = torch.zeros(PUBLISHED_BATCH, dtype=torch.long)

        def step() -> None:
            optimizer.zero_grad()
            with autocast(torch.device("cpu"), "bf16"):
                loss = F.cross_entropy(module(clips), labels)
            loss.backward()
            optimizer.step()

        return _count(module, step, PUBLISHED_BATCH)


def _count(module: nn.Module, step: Callable[[], None], clips: int) -> Counted:
    step()  # the first one makes the optimizer's state
    flops, moved = FlopCounterMode(display=False), _Bytes()
    with _activations(module) as activations, flops, moved:
        step()
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    cost = StepCost(clips, flops.get_total_flops(), moved.of_products, moved.of_others, parameters)
    by_layer: Counter[str] = Counter()
    for name, operations in flops.get_flop_counts().items():
        if layer := _layer(name, whole=True):
            # Forward alone: the counter takes the backward pass of one network for that of the other's stem, since a
            # module whose input needs no gradient never counts as left.
            by_layer[layer] += operations.get(torch.ops.aten.convolution, 0)
    layers = {layer: Layer(by_layer[layer], activations[layer]) for layer in LAYERS if by_layer[layer]}
    return Counted(cost, layers, parameters)


@contextmanager
def _activations(module: nn.Module) -> Iterator[Counter[str]]:
    """Bytes that the innermost modules put out in forward passes meanwhile, by layer."""
    found: Counter[str] = Counter()
    handles = []
    for name, inner in module.named_modules():
        layer = _layer(name, whole=False)
        if layer and not any(True for _ in inner.children()):

            def hook(_: nn.Module, inputs: Any, output: Tensor, layer: str = layer) -> None:
                found[layer] += output.numel() * output.element_size()

            handles.append(inner.register_forward_hook(hook))
    yield found
    for handle in handles:
        handle.remove()


def _layer(name: str, *, whole: bool) -> str | None:
    """The layer of a network that a module is in, or with ``whole`` is; ``layer1.0.conv1`` is in layer1."""
    parts = name.split(".")
    layer = next((part for part in parts if part in LAYERS), None)
    return layer if not whole or parts[-1] == layer else None


class Taken(NamedTuple):
    """What clips take from their files, on average.

    Attributes:
        frames: decoded where FFmpeg decodes.
        frames_closed: decoded where DALI does, which starts at closed keyframes only.
        packet_bytes: read, for the latter.
        spread: first and last decile of ``frames_closed``.
    """

    frames: float
    frames_closed: float
    packet_bytes: float
    spread: tuple[float, float]


def count_frames(records: Sequence[VideoRecord], spec: ClipSpec, num_clips: int) -> Taken:
    """Plan clips with the planner, slice them with their records, and count; no file is read.

    Args:
        records: of sliceable videos, which are taken in turn.
        spec: of the clips.
        num_clips: that are planned.
    """
    counts = []
    for position in range(num_clips):
        record = records[position % len(records)]
        plan = plan_clip(record, spec, 0, 0, position)
        numbers = np.concatenate([plan.frames, plan.later])
        ours, _ = needed_packets(record, numbers)
        closed, _ = needed_packets(record, numbers, closed=True)
        counts.append((len(ours), len(closed), record.sizes[closed].sum()))
    frames, frames_closed, packet_bytes = np.mean(counts, axis=0).tolist()
    low, high = np.quantile([count[1] for count in counts], (0.1, 0.9)).tolist()
    return Taken(frames, frames_closed, packet_bytes, (low, high))
