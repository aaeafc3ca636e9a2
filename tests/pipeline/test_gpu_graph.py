"""What can be known of the GPU's graph without a GPU.

It is built, validated and serialised by DALI; every operator is registered for its device; it is wired as the graph
that runs on the CPU; nothing goes back to the host.  The last tests slip mistakes in, so that these cannot rot.  What
only a GPU shows (constructors, kernels, decoding, pixels) is left to ``benchmarks gpu-check``.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
from nvidia.dali import backend as dali_backend
from nvidia.dali import fn

from pipeline import graph, strong
from pipeline.graph import DECODERS, GraphSpec, clip_pipeline
from pipeline.plan import TG_FORMS

backend: Any = dali_backend

REGISTERED = {
    "cpu": set(backend.RegisteredCPUOps()),
    "gpu": set(backend.RegisteredGPUOps()),
    "mixed": set(backend.RegisteredMixedOps()),
}
ASKED = [(True, form, strong) for form in TG_FORMS for strong in (False, True)] + [
    (False, "aligned", strong) for strong in (False, True)
]
SPECS = [
    pytest.param(
        GraphSpec(8, tg, strong, decoder, form),
        id=f"{decoder}-{form if tg else 'rgb'}-{'strong' if strong else 'weak'}",
    )
    for decoder in DECODERS
    for tg, form, strong in ASKED
] + [pytest.param(GraphSpec(8, True, False, "dali", "reference_slow", num_clips=10), id="test")]
UPLOAD = ("cpu", "gpu")
DOWNLOAD = ("gpu", "cpu")
EVERYTHING = GraphSpec(8, tg=True, strong=True, decoder="dali")


class Edge(NamedTuple):
    """One input of an operator."""

    producer: int
    """Place of the operator it comes from."""
    output: int
    """Which of that operator's outputs it is."""
    leaves: str
    """Device it is made on: "mixed" counts as "gpu"."""
    arrives: str
    """Device it is used on."""


class Operator(NamedTuple):
    name: str
    device: str
    inputs: list[Edge]


def operators(spec: GraphSpec, device_type: str) -> list[Operator]:
    """All operators of the graph in the order of their execution, after DALI has validated and serialised it."""
    # device_id None: with a number, DALI asks for the driver
    pipeline: Any = clip_pipeline(spec, 224, device_type, batch_size=4, num_threads=2, device_id=None)
    pipeline._build_graph()
    outputs = [output.device for output in pipeline._graph_out]
    assert outputs == ["gpu" if device_type == "cuda" else "cpu"] * len(spec.modalities) * (1 + spec.strong)
    assert len(pipeline.serialize()) > 0
    made: dict[str, tuple[int, int, str]] = {}
    result = []
    for place, instance in enumerate(pipeline._ops):
        edges = [Edge(*made[node.name], node.device) for node in instance.inputs]
        result.append(Operator(instance._op.schema.Name(), instance._op.device, edges))
        device = "cpu" if instance._op.device == "cpu" else "gpu"
        made |= {node.name: (place, number, device) for number, node in enumerate(instance.outputs)}
    return result


gpu_operators = cache(lambda spec: operators(spec, "cuda"))


def faults(gpu: list[Operator]) -> list[str]:
    """What would keep these operators from running on a GPU, or make them wait for the host."""
    unknown = [f"{op.name} has no form for {op.device}" for op in gpu if op.name not in REGISTERED[op.device]]
    back = [
        f"{op.name} takes from the GPU to the host"
        for op in gpu
        for edge in op.inputs
        if (edge.leaves, edge.arrives) == DOWNLOAD
    ]
    return unknown + back


def wiring(ops: list[Operator]) -> list[tuple[str, list[tuple[int, int]]]]:
    return [(op.name, [(edge.producer, edge.output) for edge in op.inputs]) for op in ops]


@pytest.mark.parametrize("spec", SPECS)
def test_gpu_graph_can_run_and_is_wired_as_the_cpu_graph(spec: GraphSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = gpu_operators(spec)
    assert not faults(gpu)
    # The one stage with two forms, test_strong.py shows that they give the same bits.
    monkeypatch.setattr(strong, "_stretch_on_cpu", strong._stretch_on_gpu)
    assert wiring(gpu) == wiring(operators(spec, "cpu"))


@pytest.mark.parametrize("spec", SPECS)
def test_only_inputs_go_from_the_host_to_the_gpu(spec: GraphSpec) -> None:
    gpu = gpu_operators(spec)
    uploaded = {gpu[edge.producer].name for op in gpu for edge in op.inputs if (edge.leaves, edge.arrives) == UPLOAD}
    mixed = [op.name for op in gpu if op.device == "mixed"]
    if spec.decoder == "dali":
        assert not uploaded
        assert mixed == ["decoders__Video"]
    else:
        assert uploaded <= {"ExternalSource"}
        assert not mixed


def slip_in(monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Any], Any]) -> None:
    right = graph.temporal_gradient_node
    monkeypatch.setattr(graph, "temporal_gradient_node", lambda earlier, later: mistake(right(earlier, later)))


def test_an_operator_without_a_gpu_form_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slip_in(monkeypatch, lambda tg: tg + fn.zeros_like(tg))
    assert faults(operators(EVERYTHING, "cuda")) == ["ZerosLike has no form for gpu"]
    assert operators(EVERYTHING, "cpu")  # on the CPU nothing is amiss


def test_a_way_back_to_the_host_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slip_in(monkeypatch, lambda tg: fn.equalize(tg.cpu()).gpu())
    assert faults(operators(EVERYTHING, "cuda")) == ["Equalize takes from the GPU to the host"]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda tg: fn.brightness(tg, brightness=fn.reductions.mean(tg)),  # a number the host would have to know
        lambda tg: fn.equalize(tg, device="cpu"),
    ],
)
def test_an_operator_that_asks_the_host_is_refused(
    mistake: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slip_in(monkeypatch, mistake)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)cpu"):
        operators(EVERYTHING, "cuda")


def test_a_stage_that_is_wired_otherwise_on_the_gpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slip_in(monkeypatch, lambda tg: tg ^ tg if tg.device == "gpu" else tg)
    assert wiring(operators(EVERYTHING, "cuda")) != wiring(operators(EVERYTHING, "cpu"))
