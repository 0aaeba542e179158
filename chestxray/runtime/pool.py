"""A function in a pool of processes that are started afresh."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from chestxray.runtime.guard import ADVICE, POOL, UNGUARDED
from chestxray.runtime.signals import block_signals, ignore_signals

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 8  # items that a process takes at a time
_POLL_SECONDS = 0.2  # between two checks while waiting for results


@contextmanager
def pool_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    check: Callable[[], None],
) -> Iterator[Iterator[Result]]:
    """The results of a function for all items, in order, from a pool of processes.

    Args:
        function: of a module, as processes are sent it by name.
        items: its arguments.
        workers: processes.
        check: called now and then while waiting; an exception from it ends processes and waiting.

    Raises:
        OSError: a process died, or ran a script that has no main guard.
    """
    source = _unreadable_script()
    if source is not None:
        print(
            f"the script comes from {source}, which other processes cannot read: one works alone",
            file=sys.stderr,
        )
        yield map(function, items)
        return
    check()
    context = _Context()
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        with block_signals():  # a new process ignores them only after its first imports
            chunks = [
                pool.submit(_call_each, function, items[first : first + _CHUNK])
                for first in range(0, len(items), _CHUNK)
            ]
        yield _results(chunks, check)
    except BrokenProcessPool as error:
        context.kill_all()
        pool.shutdown()  # only then all exit codes are known
        check()
        raise OSError(context.why_broken()) from error
    except BaseException:
        context.kill_all()  # rather than wait for what they are at
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Context(SpawnContext):
    """Starts processes under a name of ours, and knows them."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[SpawnProcess] = []

    def Process(self, *args: Any, **options: Any) -> SpawnProcess:  # type: ignore[override] # noqa: N802
        process = SpawnProcess(*args, **options)
        process.name = f"{POOL}-{len(self._started) + 1}"
        self._started.append(process)
        return process

    def kill_all(self) -> None:
        """End all at once; they ignore milder signals."""
        for process in self._started:
            if process.pid is not None:
                process.kill()

    def why_broken(self) -> str:
        """Why the pool is broken, when all have ended."""
        if any(process.exitcode == UNGUARDED for process in self._started):
            return f"{ADVICE}; --workers 0 starts none"
        return "a decoding process died; --workers 0 decodes without such processes"


def _unreadable_script() -> str | None:
    """Where the running script comes from, if no file that another process could run."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or main.__spec__ is not None or os.path.exists(path):
        return None
    return "standard input" if path == "<stdin>" else path


def _results(chunks: "list[Future[list[Result]]]", check: Callable[[], None]) -> Iterator[Result]:
    chunks.reverse()
    while chunks:  # taken out one by one, so that a result is not kept once it is used
        chunk = chunks.pop()
        while not wait([chunk], _POLL_SECONDS).done:
            check()
        yield from chunk.result()
        del chunk


def _call_each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _start_worker() -> None:
    ignore_signals()

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
