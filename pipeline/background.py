"""Two small tools that let data be made while the trainer computes.

:func:`read_ahead` maps a function over batches of items in threads, some batches ahead.  :class:`Background` runs a
generator in a thread of its own and keeps a few of its results ready.  Both keep the order and pass errors on.
"""

import atexit
import logging
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from pipeline.ranges import HAND_OVER, named

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

READER = "read"
"""What the names of the threads of :func:`read_ahead` begin with."""

PRODUCER = "produce"
"""Name of the threads of :class:`Background`."""

_BATCHES_AHEAD = 2
_RESULTS_READY = 2
_POLL_S = 0.1


def read_ahead(
    batches: Iterator[list[Item]], read: Callable[[Item], Result], num_threads: int
) -> Generator[tuple[list[Item], list[Callable[[], Result]]], None, None]:
    """Yield each batch with ``read`` of its items, which threads work out while earlier batches are consumed.

    An item whose thread failed is read once more, by the thread that asks for the result; it may also be left alone.
    The threads last as long as the generator: close it, for an error's traceback may hold it for ever.

    Args:
        batches: may be endless.
        read: called in threads.
        num_threads: threads.

    Yields:
        The items, and for each a function that waits for its result; good until the next batch is asked for.
    """
    pending: deque[tuple[list[Item], list[Callable[[], Result]]]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=READER)
    try:
        for batch in batches:
            pending.append((batch, [partial(_result, read, item, _submit(pool, read, item)) for item in batch]))
            if len(pending) > _BATCHES_AHEAD:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ThreadPoolExecutor, read: Callable[[Item], Result], item: Item) -> Future[Result]:
    try:
        return pool.submit(read, item)
    except RuntimeError as error:
        if "start new thread" not in str(error):  # the interpreter is shutting down
            raise
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed


def _result(read: Callable[[Item], Result], item: Item, future: Future[Result]) -> Result:
    error = future.exception()
    if error is None:
        return future.result()
    log.warning("a reading thread failed (%s: %s): its clip is read again", type(error).__name__, error)
    return read(item)


class Background(Generic[Result]):
    """Iterator over a generator that runs in a thread of its own, a few results ahead.

    The thread ends with :meth:`close`, soon after this object is collected, or when the interpreter exits.
    """

    def __init__(self, generator: Iterator[Result]) -> None:
        self._queue: queue.Queue[Result | _End] = queue.Queue(_RESULTS_READY)
        self._stop = threading.Event()
        arguments = (generator, self._queue, self._stop)
        self._thread = threading.Thread(target=_produce, args=arguments, name=PRODUCER, daemon=True)
        self._ended: _End | None = None
        # Whatever thread the garbage collector happens to run in must not wait: the generator may be waiting for it.
        weakref.finalize(self, self._stop.set)
        _producers[self._thread] = self._stop
        self._thread.start()

    def __iter__(self) -> "Background[Result]":
        return self

    def __next__(self) -> Result:
        item = self._ended or self._queue.get()
        if isinstance(item, _End):
            self._ended = item
            raise item.error or StopIteration
        return item

    def close(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        self._thread.join()


class _End:
    """Put in the queue when the generator ended, with the error that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _produce(generator: Iterator[Result], results: "queue.Queue[Result | _End]", stop: threading.Event) -> None:
    try:
        for result in generator:
            with named(HAND_OVER):
                is_wanted = _put(results, result, stop)
            if not is_wanted:
                break
        else:
            _put(results, _End(), stop)
    except BaseException as error:  # whatever it is, it is raised again where the result is awaited
        _put(results, _End(error), stop)
    finally:
        close = getattr(generator, "close", None)
        if close:
            close()


def _put(results: "queue.Queue[Result | _End]", result: "Result | _End", stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            results.put(result, timeout=_POLL_S)
            return True
        except queue.Full:
            pass
    return False


_producers: weakref.WeakKeyDictionary[threading.Thread, threading.Event] = weakref.WeakKeyDictionary()


@atexit.register
def _end_producers() -> None:
    """A thread that is still at work while the interpreter is taken down may crash it."""
    producers = list(_producers.items())
    for _, stop in producers:
        stop.set()
    for thread, _ in producers:
        if thread.is_alive():
            thread.join()
