"""Processes forked from one that has the libraries loaded: loading them takes each process seconds otherwise."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from torch.multiprocessing.spawn import start_processes

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preload"])


def begin(target: Callable[..., object], *args: Any) -> BaseProcess:
    """Call a function in a process of its own."""
    process = _FORKS.Process(target=target, args=args)
    process.start()
    return process


def run_ranks(worker: Callable[..., object], args: tuple[Any, ...], nprocs: int = 2) -> None:
    """Call ``worker(rank, *args)`` in so many processes at once, as :func:`torch.multiprocessing.spawn` does."""
    start_processes(worker, args, nprocs, start_method="forkserver")
