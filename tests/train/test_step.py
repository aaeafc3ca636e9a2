"""A training step: one graph, no waiting, channels last, and the same bits after a resumption in every form of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from model import normalize
from pipeline.batch import ClipBatch, Views
from pipeline.errors import InputError
from pipeline.ranges import recording
from tests.forks import begin
from tests.train import standins
from tests.train.method_cases import NUM_LABELED, make_batch, make_method, new_method, waiting
from tests.train.standins import TinyMethod, make_config, make_state, run_training, with_run
from train.checkpoint import load, save
from train.methods import METHODS
from train.metrics import NonFiniteLossError, Window, read_metrics
from train.precision import Precision
from train.scoring import predict_center
from train.step import check_compiler, compile_method, new_optimizer, new_scaler, train_step

CPU = torch.device("cpu")
PRECISIONS = get_args(Precision)


class Stepper:
    """Steps of a method, each on its own batch; keeps what the loop keeps."""

    def __init__(self, method: nn.Module, precision: Precision = "fp32", scaler: torch.amp.GradScaler | None = None):
        self.method, self.precision = method, precision
        self.optimizer = new_optimizer(method, lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.scaler = scaler or new_scaler(CPU, precision)
        self.window = Window(10, [f"video{row}.mp4" for row in range(10)])
        self.num_steps = 0

    def __call__(self, batch: ClipBatch, epoch: float = 0.0) -> dict[str, Tensor]:
        terms = train_step(
            self.method,
            self.optimizer,
            self.scaler,
            batch,
            torch.full((), epoch),
            lr=0.01,
            clip_norm=40.0,
            precision=self.precision,
        )
        self.window.add(self.num_steps, terms, batch)
        self.num_steps += 1
        return terms


# --- no waiting ---


class Watch(TorchDispatchMode):
    """Sees every operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]


class NoHostSync(Watch):
    """Refuses operators that make the host wait for the device, or whose result has a size that the device decides."""

    FORBIDDEN = frozenset(
        {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "argwhere", "masked_select", "bincount"}
        | {"_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "lift_fresh", "_pin_memory"}
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert name not in self.FORBIDDEN, f"{func} makes the host wait"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{func} by a mask makes the host wait"
        if name in ("_to_copy", "copy_"):
            target = args[0].device if name == "copy_" else (kwargs or {}).get("device") or args[0].device
            source = args[1] if name == "copy_" else args[0]
            assert source.device == target, f"{func} copies from {source.device} to {target}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_makes_the_host_wait_nowhere(name: str, precision: Precision) -> None:
    method = make_method(name)
    step = Stepper(method, precision)
    step(make_batch(method))  # what is made once is made here
    batch = make_batch(method)
    with NoHostSync():
        step(batch)


@pytest.mark.parametrize("name", METHODS)
def test_losses_copy_nothing_between_host_and_gpu(name: str) -> None:
    """On a GPU that is only pretended: shapes, types and devices are computed, nothing else."""
    with FakeTensorMode(), torch.device("cuda"):
        method = new_method(name)
        batch = make_batch(method, device="cuda")
        with NoHostSync():
            terms = method(batch, torch.zeros(()))
    assert all(term.device.type == "cuda" for term in terms.values())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).any()),
        lambda x: torch.tensor(1.0),
        lambda x: x.index_put((x > 0,), torch.zeros(())),
    ],
)
def test_waiting_is_noticed(wait: Callable[[Tensor], object]) -> None:
    with pytest.raises(AssertionError, match="makes the host wait"), NoHostSync():
        wait(torch.ones(3))


# --- one graph ---


class Graphs:
    """A torch.compile backend that runs what it is given, and keeps the devices of the graphs' inputs."""

    def __init__(self) -> None:
        self.devices: list[set[str]] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.devices.append({value.device.type for value in inputs if isinstance(value, Tensor)})
        return graph.forward


@contextmanager
def no_recompilation() -> Iterator[None]:
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


@pytest.mark.parametrize(("name", "precision"), [*((name, "fp32") for name in METHODS), ("temporal_gradient", "bf16")])
def test_a_step_is_one_graph_that_is_compiled_once(name: str, precision: Precision) -> None:
    """fullgraph refuses whatever reads a value on the host: .item(), a branch on a tensor, an index by mask."""
    eager, method = make_method(name, **waiting(name)), make_method(name, **waiting(name))
    torch._dynamo.reset()
    graphs = Graphs()
    compile_method(method, backend=graphs)
    # Rows of the index stay on the host: were they an input of the graph, it could not be replayed as a CUDA graph.
    batch = make_batch(method)._replace(labeled_ids=torch.zeros(NUM_LABELED, dtype=torch.int64, device="meta"))
    # oneDNN's convolutions in bfloat16 give other gradients at every call on CPUs with AVX512-BF16, infinite ones too.
    with torch.backends.mkldnn.flags(enabled=precision != "bf16"):
        assert_close(Stepper(method, precision)(batch), Stepper(eager, precision)(batch))
    assert graphs.devices == [{"cpu"}]

    step = Stepper(method, precision)
    step(make_batch(method))
    with no_recompilation(), recording(nullcontext) as spans:
        for epoch in (1.0, 7.0):
            pixels = torch.randint_like(batch.labeled.rgb, 256)
            predict_center({"rgb": method.recognizer}, [(torch.arange(2), Views(pixels, pixels))], precision)
            ids = torch.arange(5, dtype=torch.int32)
            step(batch._replace(labeled=Views(pixels, batch.labeled.tg), labeled_ids=ids), epoch)
    assert len(graphs.devices) == 1
    # Profiled, it is one range.
    assert {span.name for span in spans} == {"forward and losses", "backward", "clip gradients", "optimizer"}
    assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, equal_nan=True)


# --- channels last ---


class Layouts(Watch):
    """Notes the operators that make a volume (B, C, T, H, W) which does not have its channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.num_volumes = 0
        self.others: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # Volumes seen with their dimensions in another order; what is then made of them counts.
        if func.is_view or func is torch.ops.aten.slice_backward.default:
            return out
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.ndim == 5 and tensor.dtype != torch.uint8:
                self.num_volumes += 1
                if not tensor.is_contiguous(memory_format=torch.channels_last_3d):
                    self.others.append(f"{func}: {tuple(tensor.shape)}, {tensor.stride()}")
        return out


def test_every_volume_of_a_step_has_its_channels_last() -> None:
    """From the pixels through both networks and losses, back to the gradients, and in the optimizer.

    In float32: CPUs without instructions for 16 bits convolve those in a way of their own, contiguously.
    """
    method = make_method("temporal_gradient")
    step, batch = Stepper(method), make_batch(method)
    with Layouts() as layouts:
        step(batch)
    assert layouts.others == []
    assert layouts.num_volumes > 300
    for name, parameter in method.named_parameters():
        if parameter.ndim == 5:
            assert parameter.grad is not None
            for tensor in (parameter, parameter.grad, step.optimizer.state[parameter]["momentum_buffer"]):
                assert tensor.is_contiguous(memory_format=torch.channels_last_3d), name


# --- loss scaling ---


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_says_so() -> None:
    torch.manual_seed(0)
    method = TinyMethod()
    before = [parameter.detach().clone() for parameter in method.parameters()]
    step = Stepper(method, "fp16", torch.amp.GradScaler("cpu", init_scale=2.0**40))
    terms = step(standins.make_batch(0))
    assert terms["loss"].isfinite()
    assert terms["grad_norm"].isnan()
    assert terms["loss_scale"] == 2.0**40
    assert all(torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
    for _ in range(40):
        terms = step(standins.make_batch(0))
        if terms["grad_norm"].isfinite():
            break
    assert terms["loss_scale"] < 2.0**40
    moved = torch.stack([(o - n).norm() for o, n in zip(before, method.parameters(), strict=True)]).norm()
    # One step without a past: momentum of skipped steps would be memory that nobody has written.
    torch.testing.assert_close(moved, 0.01 * terms["grad_norm"], rtol=0.05, atol=0)
    assert step.window.means()["grad_norm"] == pytest.approx(terms["grad_norm"].item())


def test_gradients_that_overflow_at_any_scale_end_the_run() -> None:
    method = TinyMethod()
    step = Stepper(method, "fp16", torch.amp.GradScaler("cpu", init_scale=1.0))
    method.network.conv.weight.register_hook(lambda gradient: gradient * torch.inf)
    step(standins.make_batch(0))
    with pytest.raises(NonFiniteLossError, match="grad_norm = inf"):
        step.window.means()


def test_gradients_that_are_not_finite_without_scaling_end_the_run() -> None:
    method = TinyMethod()
    step = Stepper(method)
    method.network.conv.weight.register_hook(lambda gradient: gradient * torch.nan)
    step(standins.make_batch(0))
    with pytest.raises(NonFiniteLossError, match="grad_norm = nan"):
        step.window.means()


def test_training_with_loss_scaling_resumes_to_the_bit(tmp_path: Path) -> None:
    straight, cut = (with_run(make_config(tmp_path / name), precision="fp16") for name in ("straight", "cut"))
    checkpoint = run_training(straight).checkpoint()
    run_training(with_run(cut, max_steps=4))
    assert_same_bits(checkpoint, run_training(cut).checkpoint())
    assert checkpoint["scaler"] != new_scaler(CPU, "fp16").state_dict()  # or it need not have been restored
    scales = [
        [record["loss_scale"] for record in read_metrics(config.run.dir) if record["kind"] == "train"]
        for config in (straight, cut)
    ]
    assert scales[0] == scales[1]


def assert_same_bits(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Two checkpoints of the same training."""
    for part in ("step", "method", "optimizer", "scaler", "window", "loader", "rng"):
        _assert_equal(ours[part], theirs[part])


def _assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list):
        for left, right in zip(ours, theirs, strict=True):
            _assert_equal(left, right)
    elif isinstance(ours, Tensor):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    else:
        assert ours == theirs


# --- compiled ---


class CompilableMethod(TinyMethod):
    """Without the note of the progress, which a graph cannot take."""

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        logits, _ = self.network(normalize(batch.labeled.rgb))
        return {"loss": nn.functional.cross_entropy(logits, batch.labels)}


def train_compiled(folder: Path, last_step: int) -> None:
    """Train a compiled network with dropout; go on from the newest checkpoint, and write one after each third step.

    The network is one convolution, BatchNorm, dropout and a linear layer: each kernel takes the compiler seconds.
    """
    config = make_config(folder)
    torch.manual_seed(config.run.seed)
    method = CompilableMethod()
    compile_method(method.to(memory_format=torch.channels_last_3d))
    optimizer = new_optimizer(method, lr=0.1, momentum=0.9, weight_decay=1e-4)
    state = replace(make_state(config), method=method, optimizer=optimizer)
    for path in folder.glob("*.pt"):
        torch.manual_seed(12345)  # what a new process happens to have
        state.restore(load(path), path)
    while state.step < last_step:
        batch = next(state.loader)
        terms = train_step(
            method,
            optimizer,
            state.scaler,
            batch,
            torch.zeros(()),
            lr=0.1,
            clip_norm=40.0,
            precision="fp32",
        )
        state.window.add(state.step, terms, batch)
        state.step += 1
        if state.step % 3 == 0:
            save(folder / f"{state.step}.pt", state.checkpoint())


def test_compiled_training_resumes_to_the_bit_in_another_process(tmp_path: Path) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    straight.mkdir()
    cut.mkdir()
    torch._dynamo.reset()
    train_compiled(straight, 6)
    shutil.copy(straight / "3.pt", cut)
    process = begin(train_compiled, cut, 6)
    process.join()
    assert process.exitcode == 0
    assert_same_bits(load(straight / "6.pt"), load(cut / "6.pt"))
    losses = [load(straight / f"{step}.pt")["window"]["rows"][-1] for step in (3, 6)]
    assert not torch.equal(*losses)


def test_without_a_compiler_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler()
    with monkeypatch.context() as patch:
        patch.setattr("sysconfig.get_path", lambda name: "/nowhere")
        with pytest.raises(InputError, match=r"needs /nowhere/Python\.h.*--run\.compile off"):
            check_compiler()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler.*--run\.compile off"):
        check_compiler()
