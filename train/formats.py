"""The formats a network is exported in, each as the bytes of a whole file: safetensors, torch.export and ONNX.

Promises programs that take pixels: uint8 RGB frames (B, T, H, W, 3) of any B go in, normalisation is inside, logits
(B, K) come out.  safetensors holds the weights of :class:`model.R3D18`.  Whether a file computes what the network
does is left to :mod:`train.export`, which reads it again by the functions here.
"""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import onnx
import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn

from model import R3D18, normalize

Metadata = Mapping[str, Any]
"""What :func:`train.preprocessing.describe` says; as strings in a file, each value is JSON."""

FRAMES, LOGITS, BATCH = "frames", "logits", "batch"
DESCRIPTION = "preprocessing.json"

_OPSET = 18  # the oldest that the exporter writes, for readers that lag behind


class Recognizer(nn.Module):
    """A network from pixels to logits.

    Args:
        network: in eval mode, on the host.
    """

    def __init__(self, network: R3D18) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 -> (B, K) float32."""
        logits: Tensor = self.network(normalize(frames))[0]
        return logits


class Format(NamedTuple):
    """How a format is written and read.

    Attributes:
        suffix: of the file.
        write: (network, frames to trace it with, metadata) -> content of the file; a program holds these frames.
        read: content of the file -> the function it holds, from frames to logits.
    """

    suffix: str
    write: Callable[[Recognizer, Tensor, Metadata], bytes]
    read: Callable[[bytes], Callable[[Tensor], Tensor]]


def _strings(metadata: Metadata) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in metadata.items()}


def _write_safetensors(recognizer: Recognizer, frames: Tensor, metadata: Metadata) -> bytes:
    weights = {name: weight.contiguous() for name, weight in recognizer.network.state_dict().items()}
    return safetensors.torch.save(weights, _strings(metadata))


def _read_safetensors(content: bytes) -> Callable[[Tensor], Tensor]:
    size = int.from_bytes(content[:8], "little")  # of the header; the library reads metadata from files alone
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    network = R3D18(**json.loads(metadata["network"]))
    network.load_state_dict(safetensors.torch.load(content))
    return Recognizer(network).eval()


def _write_program(recognizer: Recognizer, frames: Tensor, metadata: Metadata) -> bytes:
    program = torch.export.export(recognizer, (frames,), dynamic_shapes={FRAMES: {0: torch.export.Dim(BATCH, min=1)}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which are nobody else's business
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(metadata)})
    return content.getvalue()


def _read_program(content: bytes) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(content)).module()


def _write_onnx(recognizer: Recognizer, frames: Tensor, metadata: Metadata) -> bytes:
    exported = torch.onnx.export(
        recognizer,
        (frames,),
        dynamo=True,
        verbose=False,
        input_names=[FRAMES],
        output_names=[LOGITS],
        dynamic_shapes={FRAMES: {0: torch.export.Dim(BATCH, min=1)}},
        opset_version=_OPSET,
        external_data=False,
    )
    assert exported is not None
    proto = exported.model_proto
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH  # the exporter calls it s41 or so
    del graph.value_info[:]  # shapes in between, by the old name
    for part in (graph, *graph.input, *graph.output, *graph.node):
        del part.metadata_props[:]  # how each was traced, with paths of this machine
    onnx.helper.set_model_props(proto, _strings(metadata))
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


def _read_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def logits_of(frames: Tensor) -> Tensor:
        return torch.from_numpy(session.run([LOGITS], {FRAMES: frames.numpy()})[0])

    return logits_of


FORMATS: dict[str, Format] = {
    "safetensors": Format(".safetensors", _write_safetensors, _read_safetensors),
    "pt2": Format(".pt2", _write_program, _read_program),
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
}
