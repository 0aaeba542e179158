"""Functions in real processes that start at once: forked from a server that has imported torch.

A fresh interpreter takes seconds to import it. Tests of what a fresh one may do differently, with
its streams, its locale or its process group, start one.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import wait_until

# Imported by the server. All of them lie in site-packages: it does not know pytest's sys.path.
_LIBRARIES = ["torch", "torchvision.models", "pandas", "sklearn.metrics", "matplotlib.pyplot"]


class Ended(NamedTuple):
    returncode: int  # negative: the number of the signal that killed it
    stdout: str
    stderr: str


class Life:
    """A process at work in a folder, in a session of its own; it prints into two files there."""

    def __init__(self, process: ForkServerProcess, folder: Path) -> None:
        self._process, self._folder = process, folder
        assert process.pid is not None
        self.pid = process.pid

    def stdout(self) -> str:
        """What it has printed so far."""
        path = self._folder / "stdout.txt"
        return path.read_text() if path.exists() else ""

    def wait_for_line(self, part: str) -> None:
        wait_until(lambda: part in self.stdout() or not self.is_alive(), seconds=300)
        assert part in self.stdout(), "it ended before that"

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        os.kill(self.pid, signum)

    def end(self, seconds: float = 300) -> Ended:
        """Wait for the end."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"it has not ended after {seconds} seconds"
        return Ended(code, self.stdout(), (self._folder / "stderr.txt").read_text())


@contextlib.contextmanager
def forked(
    function: Callable[[list[str]], int],
    words: Sequence[object],
    folder: Path,
    limits: Mapping[int, int] | None = None,
    **environ: str,
) -> Iterator[Life]:
    """A process that exits with what the function returns; killed at the end of the block.

    Args:
        function: of a module on sys.path, since the process imports it by name.
        words: its argument.
        folder: where it works.
        limits: of resources, as for resource.setrlimit.
        environ: added to the environment.
    """
    for name in ("stdout.txt", "stderr.txt"):
        (folder / name).unlink(missing_ok=True)
    arguments = (function, [str(word) for word in words], folder, limits or {}, environ)
    process = _server().Process(target=_work, args=arguments)
    process.start()
    try:
        yield Life(process, folder)
    finally:
        process.kill()
        process.join()


def ran(
    function: Callable[[list[str]], int],
    words: Sequence[object],
    folder: Path,
    limits: Mapping[int, int] | None = None,
    **environ: str,
) -> Ended:
    """As `forked`, to its end."""
    with forked(function, words, folder, limits, **environ) as life:
        return life.end()


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # its threads start when it is imported
        forkserver.ensure_running()
    return context


def _work(
    function: Callable[[list[str]], int],
    words: list[str],
    folder: Path,
    limits: Mapping[int, int],
    environ: Mapping[str, str],
) -> None:
    os.setsid()
    os.chdir(folder)
    for stream, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
    os.environ.update(environ)
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    raise SystemExit(function(words))
