"""The training loop: a batch, its losses, one step; once in a while a log line, an evaluation, a checkpoint, a round.

Promises that steps do not wait for the device except where numbers are logged, that a stop request, and whatever fails
between two steps, is answered with a checkpoint, and that all ranks stop at the same step, of which the first writes.
What a loss is, is left to the method; where batches come from, to the loader.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.ranges import named
from train.bottleneck import CHECKPOINT, LOG, WAIT
from train.checkpoint import BEST, LAST, TrainState, save
from train.display import Display
from train.distributed import Ranks, reaching_others
from train.metrics import Meter, MetricsLog
from train.profiler import Profile
from train.rounds import begin_round
from train.schedule import Schedule
from train.scoring import Accuracy
from train.step import train_step
from train.stop import StopSignal
from train.validation import Judged


def train(
    state: TrainState,
    schedule: Schedule,
    run_dir: Path,
    evaluate: Callable[[], Accuracy],
    metrics: MetricsLog,
    display: Display,
    stop: StopSignal,
    module: nn.Module | None = None,
    judge: Callable[[], Judged] | None = None,
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
        module: what a step calls, if not the state's method itself: it, within DDP.
        judge: shows the unlabeled videos to the method, where the schedule has rounds.

    Raises:
        RankFailedError: one of several ranks failed between two steps; the checkpoint is written.
        RankLostError: another rank has died; nothing is saved, since a part of the state is lost.
        Stopped: a signal asked for it; the checkpoint is written.
        TooManyBadVideos: more videos have gone bad than may; the checkpoint is written.
        NonFiniteLossError: a loss or the gradient became infinite or NaN; nothing is saved.
    """
    config, method, optimizer, ranks = state.config, state.method, state.optimizer, state.ranks
    module = method if module is None else module
    last_step = num_steps(state, schedule)
    device = next(method.parameters()).device
    progress = torch.zeros((), device=device)
    meter = Meter(ranks, device)
    saved_step = state.step
    method.train()
    with Profile(
        run_dir if config.run.profile and ranks.is_first else None,
        state.step,
        last_step,
        device,
        config.data.num_threads or 1,
        display,
    ) as profile:
        while True:
            with _saving_what_is_done(state, run_dir, metrics):
                if _evaluation_due(state, schedule, last_step):
                    with ranks.together():
                        profile.end()
                    _evaluate_and_save(state, run_dir, evaluate, metrics, display)
                    saved_step = state.step
                    meter.restart()
                elif saved_step < state.step and _checkpoint_due(state):
                    with named(CHECKPOINT):
                        _save(state.checkpoint(), metrics, state.ranks, run_dir / LAST)
                    saved_step = state.step
                if state.step >= last_step:
                    return
                if state.round < schedule.round(state.step):
                    assert judge is not None
                    with ranks.together():
                        profile.end()
                    begin_round(state, schedule, judge, display)
                    meter.restart()
                with ranks.together():
                    stop.check()
                    if profile.step(state.step):
                        meter.restart()
                    started = time.perf_counter()
                    with named(WAIT):
                        batch = next(state.loader)
                    waited = time.perf_counter() - started

            lr = schedule.lr_at(state.step)
            progress.fill_(schedule.epoch(state.step))
            with reaching_others():
                terms = train_step(
                    module,
                    optimizer,
                    state.scaler,
                    batch,
                    progress,
                    lr=lr,
                    clip_norm=config.optim.clip_norm,
                    precision=config.run.resolved_precision,
                )
            method.stepped()
            state.window.add(state.step, terms, batch)
            meter.step(waited, batch)
            state.step += 1
            display.advance(state.step)

            if state.step % config.run.log_every == 0 or state.step == last_step:
                with named(LOG):
                    record = {"epoch": schedule.epoch(state.step - 1), "lr": lr, **state.window.means(), **meter.read()}
                    record["num_quarantined"] = len(set().union(*ranks.gather(list(state.loader.quarantined))))
                    with _saving_what_is_done(state, run_dir, metrics), ranks.together():
                        metrics.write({"kind": "train", "step": state.step, **record})
                    display.log(state.step, record)
                    meter.restart()


@contextmanager
def _saving_what_is_done(state: TrainState, run_dir: Path, metrics: MetricsLog) -> Iterator[None]:
    """What fails between two steps costs none: a batch that could not be made has not touched the weights."""
    try:
        yield
    except Exception as error:
        if state.ranks.all_raise(error):  # or the others are not here to tell their part of the state
            # A disk that has refused a record refuses a checkpoint too; the first refusal is the one to be told.
            with suppress(OSError) if isinstance(error, OSError) else nullcontext():
                _save(state.checkpoint(), metrics, state.ranks, run_dir / LAST)
        raise


def _save(checkpoint: dict[str, Any], metrics: MetricsLog, ranks: Ranks, *paths: Path) -> None:
    """Have the first rank write a checkpoint, after the records that it will not write again."""
    with ranks.together():
        if ranks.is_first:
            metrics.sync()
            for path in paths:
                save(path, checkpoint)


def num_steps(state: TrainState, schedule: Schedule) -> int:
    """Step at which training ends: all epochs, or ``--run.max-steps`` if that is sooner."""
    return min(schedule.num_steps, state.config.run.max_steps or schedule.num_steps)


def _evaluation_due(state: TrainState, schedule: Schedule, last_step: int) -> bool:
    """At the end, and every few epochs; asked before a step, so that a cut-off evaluation is made up for."""
    every = state.config.run.eval_every_epochs * schedule.steps_per_epoch
    return state.evaluated_step < state.step and (state.step % every == 0 or state.step >= last_step)


def _checkpoint_due(state: TrainState) -> bool:
    every = state.config.run.checkpoint_every
    return every is not None and state.step % every == 0


def _evaluate_and_save(
    state: TrainState, run_dir: Path, evaluate: Callable[[], Accuracy], metrics: MetricsLog, display: Display
) -> None:
    state.window.check()  # minutes may go into an evaluation, and none into that of weights which are not numbers
    accuracy = evaluate()
    evaluated = replace(state, evaluated_step=state.step, best_top1=max(accuracy.top1, state.best_top1))
    checkpoint = evaluated.checkpoint()
    # Record, best, last: a run that dies in between resumes from the last before, which drops the record, evaluates
    # again with the same result, and writes the same best.
    with state.ranks.together():
        metrics.write({"kind": "val", "step": state.step, **asdict(accuracy)})
    best = [run_dir / BEST] if accuracy.top1 > state.best_top1 else []
    _save(checkpoint, metrics, state.ranks, *best, run_dir / LAST)
    state.evaluated_step, state.best_top1 = evaluated.evaluated_step, evaluated.best_top1
    display.evaluated(state.step, accuracy, state.best_top1)
