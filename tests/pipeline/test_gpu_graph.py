"""What can be known of the GPU's graph without a GPU: it is built, of registered operators, wired like the CPU's."""

from typing import Any

import pytest
from nvidia.dali import backend as dali_backend

from pipeline.graph import GraphSpec, clip_pipeline

backend: Any = dali_backend

REGISTERED = {
    "cpu": set(backend.RegisteredCPUOps()),
    "gpu": set(backend.RegisteredGPUOps()),
    "mixed": set(backend.RegisteredMixedOps()),
}
COPIES = ("Copy", "MakeContiguous")  # to the device; DALI makes them where they are needed


def operators(decoder: str, device_type: str) -> list[tuple[str, str, list[str]]]:
    """(name, device, devices of its inputs) of each operator of the graph, in order."""
    spec = GraphSpec(clip_len=8, tg=True, strong=True, decoder=decoder)
    # device_id None: with a number, DALI asks for the driver
    graph: Any = clip_pipeline(spec, 224, device_type, batch_size=4, num_threads=2, device_id=None)
    graph._build_graph()
    assert [output.device for output in graph._graph_out] == ["gpu" if device_type == "cuda" else "cpu"] * 4
    assert len(graph.serialize()) > 0
    return [(o._op.schema.Name(), o._op.device, [i.device for i in o.inputs]) for o in graph._ops]


@pytest.mark.parametrize("decoder", ["ffmpeg", "dali"])
def test_gpu_graph_is_the_cpu_graph_on_the_gpu(decoder: str) -> None:
    gpu, cpu = operators(decoder, "cuda"), operators(decoder, "cpu")
    assert [name for name, *_ in gpu if name not in COPIES] == [name for name, *_ in cpu if name not in COPIES]
    unknown = [(name, device) for name, device, _ in gpu if name not in REGISTERED[device]]
    assert not unknown, f"no GPU form: {unknown}"
    back = [name for name, device, inputs in gpu if device == "cpu" and "gpu" in inputs]
    assert not back, f"copied from the GPU to the host: {back}"


def test_decoding_is_the_only_operator_between_host_and_gpu() -> None:
    crossing = {name for name, device, _ in operators("dali", "cuda") if device == "mixed"}
    assert crossing == {"decoders__Video"}
