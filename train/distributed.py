"""Several processes that train together, one for each GPU: who this one is, and what they agree on.

Promises that in a process which torchrun did not start, or started alone, nothing is sent and nothing waited for; that
what goes wrong on one rank between two steps ends all ranks at the same step, with its name and reason; and that
agreeing never waits for a GPU.  Averaging gradients is left to DDP, BatchNorm to :mod:`model.sync_batch_norm`, the
negatives of the contrast to :mod:`train.losses`; restarting to torchrun.
"""

import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from math import gcd
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import InputError
from pipeline.processes import cpu_quota, share_of_cores
from train.config import Config
from train.stop import Stopped

Value = TypeVar("Value")

# Within a step ranks are milliseconds apart; who waits this long waits for one that is gone without a word, with its
# machine.  A process that dies closes its connections, which is noticed at once.
_STEP_TIMEOUT = timedelta(minutes=10)
# Between steps they wait for the first rank to index the videos, which takes hours for the largest data sets.
_AGREEMENT_TIMEOUT = timedelta(days=1)

# torchrun takes the earliest failure for the cause; by then it has noticed that of the rank which is gone.
_NOTICED_S = 2.0


class RankFailedError(RuntimeError):
    """Something went wrong on at least one rank, and all have ended what they did; the message says where and what."""


class RankLostError(RuntimeError):
    """Another rank has died, or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; as it is by default, one that trains alone.

    Attributes:
        rank: number of this process, from 0.
        world_size: how many there are.
        local_rank: number among those on this machine.
        local_world_size: how many there are on this machine.
        hosts: connects the processes, not their GPUs; None where there is only one.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    hosts: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def device(self, kind: str) -> str:
        """The device of this process: "cpu", "cuda", or "cuda:N" where each has its own.

        Args:
            kind: "cpu" or "cuda".
        """
        return f"{kind}:{self.local_rank}" if kind == "cuda" and self.world_size > 1 else kind

    def all_raise(self, error: Exception) -> bool:
        """Whether an error was raised on all ranks, by :meth:`together`."""
        return self.world_size == 1 or isinstance(error, RankFailedError | Stopped)

    def data_parallel(self, method: nn.Module) -> nn.Module:
        """What a step calls: the method, within DDP where there are several ranks.

        All parameters must get a gradient in every step.  Buffers are not sent: SyncBatchNorm keeps them equal.
        """
        if self.world_size == 1:
            return method
        # Without device_ids, or it would copy what of a batch is meant to stay on the host, and wait for that.
        return DistributedDataParallel(method, forward_sync_buffers=False)

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in their order; whatever can be pickled.

        Raises:
            RankLostError: another rank has died.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with reaching_others():
            dist.all_gather_object(values, value, group=self.hosts)
        return values

    def first(self, value: Value) -> Value:
        """The first rank's value, where others may have another."""
        return self.gather(value)[0]

    def num_cores(self) -> int:
        """Cores for this process; those that others on its machine may use too are divided among them.

        Whether torchrun binds each process to cores of its own, to those of its GPU's NUMA node, or to none, the
        processes of a machine together have as many threads as it has cores, or as their container is given time of.
        """
        machine, cores = self.rank // self.local_world_size, os.sched_getaffinity(0)
        allowed = [theirs for where, theirs in self.gather((machine, cores)) if where == machine]
        return share_of_cores(cores, allowed, cpu_quota())

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the ranks of tensors on the host, NaN where all are."""
        return values if self.world_size == 1 else torch.stack(self.gather(values)).nanmean(dim=0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context that all ranks leave in the same way: what is raised in it on one is raised on all.

        It may hold no collective: a rank on which something was raised would be missing there.

        Raises:
            Stopped: a signal stopped at least one rank, and nothing failed on another.
            RankFailedError: something failed, on whichever ranks.
            RankLostError: another rank has died.
        """
        if self.world_size == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        trouble = torch.tensor(error is not None, dtype=torch.int32)
        with reaching_others():
            dist.all_reduce(trouble, dist.ReduceOp.MAX, group=self.hosts)
        if trouble.item():
            self._raise_together(error)

    def _raise_together(self, error: Exception | None) -> None:
        signum = error.signum if isinstance(error, Stopped) else None
        told = self.gather((signum, None if error is None or signum else _message(error)))
        messages = [message for _, message in told]
        if not any(messages):
            raise Stopped(next(signum for signum, _ in told if signum))
        if messages[0] and len(set(messages)) == 1:
            raise RankFailedError(messages[0]) from error
        failures = [f"rank {rank}: {message}" for rank, message in enumerate(messages) if message]
        raise RankFailedError("; ".join(failures)) from error


ALONE = Ranks()
"""A process that trains by itself."""


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


@contextmanager
def reaching_others() -> Iterator[None]:
    """Context in which ranks exchange something.

    Raises:
        RankLostError: another rank has died.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo has no type of error of its own
            raise
        time.sleep(_NOTICED_S)
        raise RankLostError(
            "another rank has died or cannot be reached: torchrun names the first that failed; the run goes on from "
            f"its last checkpoint with --run.resume ({error})"
        ) from error


def launched_ranks() -> Ranks:
    """What torchrun has made this process; one that trains alone where torchrun did not start it."""
    if not dist.is_torchelastic_launched():
        return ALONE
    names = ("rank", "world_size", "local_rank", "local_world_size")
    return Ranks(**{name: int(os.environ[name.upper()]) for name in names})  # type: ignore[arg-type]


def restarted_launch() -> str | None:
    """The launch by torchrun that has started this process anew because one had failed; None at a first start."""
    return launch_id() if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 else None


def launch_id() -> str | None:
    """What tells this launch by torchrun from all others, and outlives restarts; None without torchrun."""
    if not dist.is_torchelastic_launched():
        return None
    agent = os.getppid()
    started = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[19]  # in ticks since the machine was
    return f"{platform.node()} {agent} {started}"


def program(ranks: Ranks, name: str) -> str:
    """The words that start the program as this process was started, from the folder it was started in.

    Args:
        ranks: this process.
        name: of the program's package.
    """
    python = Path(sys.executable)
    if ranks.world_size == 1:
        return f"{_as_typed(python)} -m {name}"
    nodes = ranks.world_size // ranks.local_world_size
    several = f" --nnodes={nodes}" if nodes > 1 else ""
    return f"{_as_typed(python.with_name('torchrun'))}{several} --nproc-per-node={ranks.local_world_size} -m {name}"


def _as_typed(executable: Path) -> str:
    """The name of a program where a shell finds it by that, or else its path."""
    found, here = shutil.which(executable.name), Path.cwd()
    if not executable.exists() or (found and Path(found) == executable):
        return executable.name
    return shlex.quote(str(executable.relative_to(here) if executable.is_relative_to(here) else executable))


@contextmanager
def joined(ranks: Ranks, device: str) -> Iterator[Ranks]:
    """Context in which the ranks are connected.

    Args:
        ranks: from :func:`launched_ranks`.
        device: "cpu" or "cuda", the same everywhere.

    Yields:
        The ranks, able to agree.

    Raises:
        InputError: there are fewer GPUs than processes on this machine.
    """
    if ranks.world_size == 1:
        yield ranks
        return
    if device == "cuda":
        num_gpus = torch.cuda.device_count()
        if ranks.local_world_size > num_gpus:
            raise InputError(
                f"{ranks.local_world_size} processes cannot share {num_gpus} GPUs: "
                f"start torchrun with --nproc-per-node={num_gpus}"
            )
        torch.cuda.set_device(ranks.local_rank)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=_fresh_store(ranks),
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=_STEP_TIMEOUT,
    )
    try:
        hosts = dist.new_group(backend="gloo", timeout=_AGREEMENT_TIMEOUT)
        assert not isinstance(hosts, int), "this rank is in the group"
        yield replace(ranks, hosts=hosts)
    finally:
        dist.destroy_process_group()


def _fresh_store(ranks: Ranks) -> Store:
    """A store that nothing is left in of an earlier start of the job, for the ranks to find each other.

    torchrun keeps one store when it restarts the processes, and whoever starts first would read the addresses of those
    that are gone.  Its count of restarts does not help: every node has its own.  So the first rank makes up a prefix,
    and tells it to each of the others in answer to a word of its own.
    """
    store, _, _ = next(rendezvous("env://", timeout=_STEP_TIMEOUT))
    word = uuid4().hex
    if not ranks.is_first:
        store.set(f"asks/{ranks.rank}", word)
        prefix = store.get(f"answer/{word}").decode()  # waits for it
        store.set(f"{prefix}/{ranks.rank}", "knows")
        return PrefixStore(prefix, store)
    unaware = set(range(1, ranks.world_size))
    deadline = time.monotonic() + _STEP_TIMEOUT.total_seconds()
    while unaware:
        for rank in sorted(unaware):
            if store.check([f"asks/{rank}"]):  # perhaps one that is gone asked
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", word)
            if store.check([f"{word}/{rank}"]):
                unaware.remove(rank)
        if time.monotonic() > deadline:
            raise RankLostError(f"ranks {sorted(unaware)} have not started within {_STEP_TIMEOUT}")
        time.sleep(0.02)
    return PrefixStore(word, store)


def batch_share(config: Config, ranks: Ranks) -> tuple[int, int]:
    """Labeled and unlabeled clips that one rank contributes to a step, which has as many as when the run began.

    Args:
        config: resolved.
        ranks: those that train now.

    Raises:
        InputError: so many ranks cannot share them evenly; names how many can.
    """
    optim, began_with = config.optim, config.run.world_size
    assert began_with is not None, "the configuration is resolved"
    labeled, unlabeled = optim.batch_labeled * began_with, optim.batch_unlabeled * began_with
    common = gcd(labeled, unlabeled)
    if common % ranks.world_size:
        fitting = [str(number) for number in range(1, common + 1) if common % number == 0]
        raise InputError(
            f"{ranks.world_size} GPUs cannot share the {labeled} labeled and {unlabeled} unlabeled clips of this run's "
            f"steps evenly ({optim.batch_labeled} and {optim.batch_unlabeled} on each of {began_with} when it began): "
            f"take {', '.join(fitting)}"
        )
    return labeled // ranks.world_size, unlabeled // ranks.world_size


def merged_loader_state(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state of the loaders of all ranks: each video that any of them leaves out, from the lowest step on."""
    first, *others = states
    merged = dict(first)
    for state in others:
        assert state["step"] == first["step"], "ranks are at different steps"
        quarantine = dict(merged["quarantine"])
        for path, fault in state["quarantine"].items():
            quarantine[path] = min(fault, quarantine.get(path, fault))
        merged["quarantine"] = quarantine
    return merged
