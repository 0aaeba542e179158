"""Signals -> "stop after this batch"."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stopped(Exception):
    """The work ended early because a signal asked for it; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopRequest:
    """A signal's request to this process to stop; true once there is one."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None

    def check(self) -> None:
        """Raise Stopped if there is one; called where stopping loses nothing."""
        if self.signum is not None:
            raise Stopped(self.signum)


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Turn the first INT, TERM or HUP in the block into a request; a second INT ends at once."""
    request = StopRequest()
    _start_tracker()

    def handle(signum: int, frame: FrameType | None) -> None:
        if request and signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        request.signum = request.signum or signum

    before = {
        number: signal.signal(number, handle)
        for number in SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN  # as nohup leaves HUP
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def block_signals() -> Iterator[None]:
    """Hold signals back during the block; processes that are started in it never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def delay_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt only after the block.

    Blocking the signal would not do: a library's thread may take it, and Python act on it at once.
    """
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda signum, _: came.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _start_tracker() -> None:
    """Start the process in which multiprocessing tracks its semaphores, and let it ignore HUP.

    It ignores INT and TERM by itself. Libraries start it when they are imported, and a HUP to the
    whole group would end it, with a warning and a traceback.
    """
    if hasattr(signal, "SIGHUP"):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        resource_tracker.ensure_running()
        signal.signal(signal.SIGHUP, before)


def ignore_signals() -> None:
    """Ignore signals to the whole group, in worker processes: their parent ends them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
