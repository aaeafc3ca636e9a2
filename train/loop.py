"""The training loop: a batch, its losses, one step; once in a while a log line, an evaluation, a checkpoint.

Promises that steps do not wait for the device except where numbers are logged, and that a stop request, and whatever
fails between two steps, is answered with a checkpoint.  What a loss is, is left to the method; where batches come from,
to the loader.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from train.checkpoint import BEST, LAST, TrainState, save
from train.display import Display
from train.metrics import Meter, MetricsLog
from train.schedule import Schedule
from train.scoring import Accuracy
from train.step import train_step
from train.stop import StopSignal


def train(
    state: TrainState,
    schedule: Schedule,
    run_dir: Path,
    evaluate: Callable[[], Accuracy],
    metrics: MetricsLog,
    display: Display,
    stop: StopSignal,
) -> None:
    """Train from the state's step to the end.

    Args:
        state: fresh or restored; changed in place.
        schedule: length and learning rates.
        run_dir: where checkpoints go.
        evaluate: measures the recognizer on the validation videos.
        metrics: takes the records.
        display: shows them.
        stop: asked between steps and during evaluations.

    Raises:
        Stopped: a signal asked for it; the checkpoint is written.
        TooManyBadVideos: more videos have gone bad than may; the checkpoint is written.
        NonFiniteLossError: a loss or the gradient became infinite or NaN; nothing is saved.
    """
    config, method, optimizer = state.config, state.method, state.optimizer
    last_step = num_steps(state, schedule)
    device = next(method.parameters()).device
    progress = torch.zeros((), device=device)
    meter = Meter()
    method.train()
    while True:
        with _saving_what_is_done(state, run_dir):
            if _evaluation_due(state, schedule, last_step):
                _evaluate_and_save(state, run_dir, evaluate, metrics, display)
                meter.restart()
            if state.step >= last_step:
                return
            stop.check()
            started = time.perf_counter()
            batch = next(state.loader)
            waited = time.perf_counter() - started

        lr = schedule.lr_at(state.step)
        progress.fill_(schedule.epoch(state.step))
        terms = train_step(method, optimizer, batch, progress, lr=lr, clip_norm=config.optim.clip_norm)
        state.window.add(state.step, terms, batch)
        meter.step(waited, batch)
        state.step += 1
        display.advance(state.step)

        if state.step % config.run.log_every == 0 or state.step == last_step:
            record = {"epoch": schedule.epoch(state.step - 1), "lr": lr, **state.window.means(), **meter.read()}
            record["num_quarantined"] = len(state.loader.quarantined)
            metrics.write({"kind": "train", "step": state.step, **record})
            display.log(state.step, record)
            meter.restart()


@contextmanager
def _saving_what_is_done(state: TrainState, run_dir: Path) -> Iterator[None]:
    """What fails between two steps costs none: a batch that could not be made has not touched the weights."""
    try:
        yield
    except Exception:
        save(run_dir / LAST, state.checkpoint())
        raise


def num_steps(state: TrainState, schedule: Schedule) -> int:
    """Step at which training ends: all epochs, or ``--run.max-steps`` if that is sooner."""
    return min(schedule.num_steps, state.config.run.max_steps or schedule.num_steps)


def _evaluation_due(state: TrainState, schedule: Schedule, last_step: int) -> bool:
    """At the end, and every few epochs; asked before a step, so that a cut-off evaluation is made up for."""
    every = state.config.run.eval_every_epochs * schedule.steps_per_epoch
    return state.evaluated_step < state.step and (state.step % every == 0 or state.step >= last_step)


def _evaluate_and_save(
    state: TrainState, run_dir: Path, evaluate: Callable[[], Accuracy], metrics: MetricsLog, display: Display
) -> None:
    accuracy = evaluate()
    is_best = accuracy.top1 > state.best_top1
    state.best_top1 = max(accuracy.top1, state.best_top1)
    state.evaluated_step = state.step
    checkpoint = state.checkpoint()
    # The record comes first: if the run dies before the checkpoint is whole, resuming drops it and evaluates again.
    metrics.write({"kind": "val", "step": state.step, **asdict(accuracy)})
    if is_best:
        save(run_dir / BEST, checkpoint)
    save(run_dir / LAST, checkpoint)
    display.note(f"step {state.step}: val top-1 {accuracy.top1:.1%} on one center clip of {accuracy.num_videos} videos")
