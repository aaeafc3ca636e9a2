"""Exported networks say what the run says, hold nothing else, and are not written where they do not."""

import json
import re
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import train.export
from model import R3D18, normalize
from pipeline.encode import write_video
from pipeline.errors import InputError
from pipeline.evaluation import multi_views
from pipeline.index import VideoIndex
from pipeline.plan import Shape, plan_test
from tests.conftest import moving_frames
from train.export import export, largest_difference
from train.formats import FORMATS, Format, Metadata, Recognizer
from train.predict import predict
from train.saved_run import open_run
from train.validation import clip_spec, decoding

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with all files that the finished run is exported to."""
    folder = tmp_path_factory.mktemp("export") / "out"
    assert export(finished / "run", out=folder) == 0
    return folder


@pytest.fixture(scope="module")
def new_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("new") / "clip.avi"
    write_video(path, moving_frames(30, 96, 72, seed=5), "mjpeg")
    return path


@pytest.fixture(scope="module")
def clips(finished: Path, new_video: Path) -> Tensor:
    """The views of a new video that prediction shows the network."""
    config = open_run(finished / "run", device="cpu").config
    index = VideoIndex.of_files([new_video])
    ((_, views),) = multi_views(index, np.arange(1), clip_spec(config), **decoding(config))
    return views.rgb.clone()


def test_a_newcomer_gets_the_same_answer_from_onnx_as_from_predict(
    finished: Path, exported: Path, new_video: Path, clips: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (logits,) = session.run(None, {"frames": clips.numpy()})
    network = open_run(finished / "run", device="cpu").method.recognizer
    with torch.inference_mode():
        expected = network(normalize(clips))[0]
    assert np.abs(logits - expected.numpy()).max() < 1e-4

    described = json.loads((exported / "preprocessing.json").read_text())
    assert predict(finished / "run", (new_video,), as_json=True, device="cpu") == 0
    predicted = json.loads(capfd.readouterr().out)["predictions"]
    assert described["class_names"][logits.mean(axis=0).argmax()] == predicted[0]["class"]
    probabilities = torch.from_numpy(logits).mean(dim=0).softmax(dim=0)
    assert probabilities.max().item() == pytest.approx(predicted[0]["probability"], abs=1e-5)
    assert [value.shape for value in (*session.get_inputs(), *session.get_outputs())] == [
        described["input"]["shape"],
        described["output"]["shape"],
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_files_take_any_number_of_clips(finished: Path, exported: Path, clips: Tensor, name: str) -> None:
    network = Recognizer(open_run(finished / "run", device="cpu").method.recognizer)
    logits_of = FORMATS[name].read((exported / f"model{FORMATS[name].suffix}").read_bytes())
    for batch in (clips[:1], clips[:7], clips):
        with torch.inference_mode():
            assert (logits_of(batch) - network(batch)).abs().max() < 1e-4


def test_only_the_rgb_network_is_in_the_files(finished: Path, exported: Path) -> None:
    recognizer = open_run(finished / "run", device="cpu").method.recognizer
    names = set(recognizer.state_dict())
    assert set(safetensors.torch.load_file(exported / "model.safetensors")) == names
    program = torch.export.load(exported / "model.pt2")
    assert set(program.state_dict) == {f"network.{name}" for name in names}
    weights = onnx.load(exported / "model.onnx").graph.initializer
    named = {weight.name.removeprefix("network.") for weight in weights if weight.name.startswith("network.")}
    assert {name.removesuffix("_bias") for name in named} <= names
    num_dims = Counter(len(weight.dims) for weight in weights)
    num_convolutions = sum(isinstance(module, nn.Conv3d) for module in recognizer.modules())
    assert (num_dims[5], num_dims[2]) == (num_convolutions, 1)  # no other convolution, no head but the classifier
    # The exporter folds constants, so of a kernel that only sees single frames it may keep the middle third alone.
    share = sum(np.prod(weight.dims, dtype=int) for weight in weights) / sum(p.numel() for p in recognizer.parameters())
    assert 1 / 3 < share < 1.02


def test_files_describe_themselves_alike(exported: Path) -> None:
    described = json.loads((exported / "preprocessing.json").read_text())
    properties = {one.key: json.loads(one.value) for one in onnx.load(exported / "model.onnx").metadata_props}
    with safetensors.safe_open(exported / "model.safetensors", "pt") as file:
        assert {key: json.loads(value) for key, value in file.metadata().items()} == properties == described
    extra = {"preprocessing.json": ""}
    torch.export.load(exported / "model.pt2", extra_files=extra)
    assert json.loads(extra["preprocessing.json"]) == described


def test_files_hold_no_pictures_and_no_paths(exported: Path) -> None:
    archive = zipfile.ZipFile(exported / "model.pt2")
    contents = [archive.read(name) for name in archive.namelist()]
    contents += [(exported / f"model.{suffix}").read_bytes() for suffix in ("onnx", "safetensors")]
    assert not any(str(ROOT).encode() in content or b"site-packages" in content for content in contents)
    arguments, _ = torch.export.load(exported / "model.pt2").example_inputs
    assert not any(argument.any() for argument in arguments)


@pytest.mark.parametrize("num_frames", [3, 12, 57, 200])
def test_the_description_says_which_frames_the_test_takes(finished: Path, exported: Path, num_frames: int) -> None:
    described = json.loads((exported / "preprocessing.json").read_text())
    clip = described["clip"]
    frames, *_ = (text for text in described["preprocessing"] if text.startswith("Decode"))
    starts, *_ = (text for text in described["preprocessing"] if text.startswith("Take"))
    window = int(re.findall(r"num_frames - (\d+) \+ 1", starts)[0])
    assert "frames (start + 1 * t) % num_frames for t = 0 ... 3" in frames
    span = (num_frames - window + 1) / clip["num_clips"]
    expected = [
        (max(0, int(i * span + span / 2)) + clip["frame_stride"] * t) % num_frames
        for i in range(clip["num_clips"])
        for t in range(clip["clip_len"])
    ]
    spec = clip_spec(open_run(finished / "run", device="cpu").config)
    record = Shape(num_frames, (40, 32))
    plan, corners = plan_test(record, replace(spec, tg_stride=0))  # type: ignore[arg-type]
    assert plan.frames.tolist() == expected
    assert len(corners) == clip["num_crops"]


def test_the_snippet_of_the_documentation_loads_the_weights(finished: Path, exported: Path) -> None:
    assert train.export.__doc__
    snippet = train.export.__doc__.partition("::\n\n")[2].partition("\n\n")[0]
    code = "\n".join(line[4:] for line in snippet.splitlines())
    code = code.replace("runs/demo/export/model.safetensors", str(exported / "model.safetensors"))
    names: dict[str, object] = {}
    exec(code.replace("46, 46", "32, 32"), names)
    network = names["network"]
    assert isinstance(network, R3D18)
    expected = open_run(finished / "run", device="cpu").method.recognizer.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_file_that_says_something_else_is_not_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = FORMATS["safetensors"]

    def wrong(recognizer: Recognizer, frames: Tensor, metadata: Metadata) -> bytes:
        recognizer.network.classifier.bias.data[0] += 1e-2
        return good.write(recognizer, frames, metadata)

    monkeypatch.setitem(FORMATS, "safetensors", Format(good.suffix, wrong, good.read))
    assert export(finished / "run", formats=("safetensors",), out=tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        "error: model.safetensors differs from the network on real clips: nothing is written\n"
    )
    assert not (tmp_path / "out").exists()


def test_differences_that_matter_are_found() -> None:
    clips, logits = torch.zeros(3, 2, 4, 4, 3), torch.tensor([[3.0, 0], [0, 2], [1, 0]])
    assert largest_difference(lambda batch: logits[: len(batch)] + 1e-5, clips, logits) == pytest.approx(1e-5, rel=0.1)
    for found in (logits + 1e-3, logits.flip(1), logits * float("nan"), logits[:, :1]):
        assert largest_difference(lambda batch, found=found: found[: len(batch)], clips, logits) is None  # type: ignore[misc]
    assert largest_difference(lambda batch: logits if len(batch) > 1 else logits[:1] + 1, clips, logits) is None


def test_what_cannot_be_exported_is_refused(finished: Path, finished_tg: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no RGB network: its recognizer sees temporal gradients"):
        export(finished_tg)
    with pytest.raises(InputError, match="--formats names none"):
        export(run, formats=())
    with pytest.raises(InputError, match=r"give the folder they are in as --data\.root"):
        export(run, data_root=tmp_path / "none")
    assert not (run / "export").exists()
    assert not (finished_tg / "export").exists()


def test_names_of_classes_stay_data_in_a_file() -> None:
    names = ['"}, {"', "</script>", "a\x1b[2J\nb", "\udcff", "=1+1"]
    metadata = {"class_names": names, "network": {"num_classes": 5, "width": 1}}
    frames = torch.zeros(2, 2, 32, 32, 3, dtype=torch.uint8)
    content = FORMATS["safetensors"].write(Recognizer(R3D18(5, 1)).eval(), frames, metadata)
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    assert header.isascii() and b"\x1b" not in header
    assert json.loads(json.loads(header)["__metadata__"]["class_names"]) == names
