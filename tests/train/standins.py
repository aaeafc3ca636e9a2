"""A training that takes milliseconds: a tiny network with dropout and BatchNorm, and batches made from their step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs, Views
from train.checkpoint import LAST, TrainState, load
from train.config import Config, ModelConfig, OptimConfig, RunConfig
from train.display import Display
from train.loop import train
from train.methods import METHODS, Method
from train.metrics import MetricsLog, Window
from train.schedule import Schedule
from train.scoring import Accuracy
from train.step import new_optimizer, new_scaler
from train.stop import StopSignal
from train.validation import Judged

torch.set_num_threads(1)

CLASS_NAMES = ("fall", "jump", "run")
STEPS_PER_EPOCH = 3
LOG_EVERY = 2
POISON = -100  # as a label of all clips: cross_entropy then is a mean over nothing, NaN


class TinyRecognizer(nn.Module):
    """Normalised clips (B, 3, T, H, W) in, (logits, no features) out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(4, len(CLASS_NAMES))

    def forward(self, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
        pooled = self.norm(self.conv(clip)).relu().mean(dim=(2, 3, 4))
        return self.classifier(self.dropout(pooled)), []


class TinyMethod(Method):
    """Cross-entropy, and a note of the progress it was told."""

    needs = Needs()
    config_type = METHODS["supervised"].config_type

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyRecognizer()
        self.progress: list[float] = []

    @property
    def recognizer(self) -> R3D18:
        return self.network  # type: ignore[return-value]

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        self.progress.append(progress.item())
        logits, _ = self.network(normalize(batch.labeled.rgb))
        loss = nn.functional.cross_entropy(logits, batch.labels)
        return {"loss": 2 * loss, "supervised": loss}


class TinyRounds(TinyMethod):
    """In three rounds: what it draws when it judges decides what it learns in the next."""

    num_rounds = 3

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("judged", torch.zeros(4))
        self.judged: Tensor

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        terms = super().forward(batch, progress)
        bias = self.network.classifier.bias.sum() * self.judged.sum()
        return {"loss": terms["loss"] + bias, "supervised": terms["supervised"], "judged": bias}

    def judge(self, clips: Views) -> Tensor:
        assert not self.training
        logits, _ = self.network(normalize(clips.rgb))
        judgments: Tensor = logits.sum(dim=1) + torch.rand(len(logits))
        return judgments

    def begin_round(self, rows: Tensor, judgments: Tensor, seed: int) -> str:
        self.judged.copy_(judgments[rows])
        torch.manual_seed(seed)
        self.network.load_state_dict(TinyRecognizer().state_dict())
        return "all judged"


class TinyLoader:
    """Batches that depend on their step alone.

    Args:
        before: called with each step before its batch is handed out.
    """

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, before: Callable[[int], None] = lambda step: None) -> None:
        self.step = 0
        self.before = before
        self.quarantined: dict[str, str] = {}

    def __next__(self) -> ClipBatch:
        self.before(self.step)
        batch = make_batch(self.step)
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def make_batch(step: int) -> ClipBatch:
    """Four labeled clips of random pixels; rows of the index are 10 * step and following."""
    generator = torch.Generator().manual_seed(step)
    rgb = torch.randint(0, 256, (4, 2, 6, 6, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, len(CLASS_NAMES), (4,), generator=generator)
    return ClipBatch(Views(rgb, None), labels, None, None, 10 * step + torch.arange(4), None, None)


def make_config(run_dir: Path, *, max_steps: int | None = None, seed: int = 0) -> Config:
    """Three epochs of supervised training, evaluated after each second."""
    return Config(
        run=RunConfig(
            dir=run_dir,
            method="supervised",
            max_steps=max_steps,
            seed=seed,
            precision="fp32",
            log_every=LOG_EVERY,
            eval_every_epochs=2,
        ),
        model=ModelConfig(width=8),
        optim=OptimConfig(lr=0.1, epochs=3, warmup_epochs=1, batch_labeled=4, batch_unlabeled=4),
        method=METHODS["supervised"].config_type(),
    )


def make_state(
    config: Config, loader: TinyLoader | None = None, method_type: type[TinyMethod] = TinyMethod
) -> TrainState:
    """A training before its first step."""
    torch.manual_seed(config.run.seed)
    method = method_type()
    precision = config.run.resolved_precision
    optimizer = new_optimizer(method, lr=0.1, momentum=0.9, weight_decay=1e-4)
    scaler = new_scaler(torch.device("cpu"), precision)
    window = Window(config.run.log_every, [f"video{row}.mp4" for row in range(200)])
    return TrainState(config, CLASS_NAMES, method, optimizer, scaler, loader or TinyLoader(), window)


def run_training(
    config: Config,
    loader: TinyLoader | None = None,
    evaluate: Callable[[int], Accuracy] | None = None,
    method_type: type[TinyMethod] = TinyMethod,
    judging: Callable[[], None] = lambda: None,
) -> TrainState:
    """Train as the program does: from the run's checkpoint where there is one, else from scratch.

    Args:
        config: of the run.
        loader: where batches come from.
        evaluate: what an evaluation finds, by step.
        method_type: what is trained.
        judging: called before and after a method in rounds has judged.
    """
    state = make_state(config, loader, method_type)
    config.run.dir.mkdir(exist_ok=True)
    last = config.run.dir / LAST
    if last.exists():
        torch.manual_seed(12345)  # what a new process happens to have
        state.restore(load(last), last)
    schedule = Schedule(
        lr=0.1,
        epochs=config.optim.epochs,
        warmup_epochs=1,
        steps_per_epoch=STEPS_PER_EPOCH,
        rounds=method_type.num_rounds,
    )

    def accuracy() -> Accuracy:
        return evaluate(state.step) if evaluate else Accuracy(0.5, 1.0, 0.5, 4)

    def judge() -> Judged:
        judging()
        judgments = state.method.eval().judge(make_batch(state.step).labeled).detach()
        state.method.train()
        judging()
        return Judged(torch.arange(4), judgments, 0)

    with (
        StopSignal() as stop,
        MetricsLog(config.run.dir, state.step, state.evaluated_step) as metrics,
        Display("tiny", 0, 9) as display,
    ):
        train(state, schedule, config.run.dir, accuracy, metrics, display, stop, judge=judge)
    return state


def with_run(config: Config, **changes: object) -> Config:
    """A configuration with other values in its group ``run``."""
    return replace(config, run=replace(config.run, **changes))  # type: ignore[arg-type]
