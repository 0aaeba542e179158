"""Signals -> "stop after this batch"."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType

from chestxray.runtime.distributed import UNDER_TORCHRUN

# A batch system sends the last two some time before it ends a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(BaseException):
    """The work ended early because a signal asked for it; `signum` says which.

    No Exception, as KeyboardInterrupt is none: libraries catch those when they are imported.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopRequest:
    """A signal's request to this process to stop; true once there is one.

    Until somebody first looks for one there is nothing that a stop could lose, and a signal ends
    the process at once: imports, downloads and large tables take long, and none of them looks.
    Under torchrun the processes stop together, where all look.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.is_looked_for = UNDER_TORCHRUN

    def __bool__(self) -> bool:
        return self.signum is not None

    def look(self) -> int | None:
        """The signal that has asked for a stop, if one has."""
        self.is_looked_for = True
        return self.signum

    def check(self) -> None:
        """Raise Stopped if there is one; called where stopping loses nothing."""
        signum = self.look()
        if signum is not None:
            raise Stopped(signum)


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Turn the first signal in the block into a request; a second INT ends the process at once.

    In another thread than the main one, which alone hears signals, no request will come.
    """
    request = StopRequest()
    if not _in_main_thread():
        yield request
        return
    _start_tracker()

    def handle(signum: int, frame: FrameType | None) -> None:
        if request:
            if signum == signal.SIGINT:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        request.signum = signum
        if not request.is_looked_for:
            _end_at_once(signum)
        if signum == signal.SIGINT and not UNDER_TORCHRUN:
            _write("stopping in order; a second Ctrl-C ends at once")

    before = {
        number: signal.signal(number, handle)
        for number in SIGNALS
        # As nohup leaves HUP; None is a handler that another library has set past Python.
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        yield request
    finally:
        request.look()  # the caller's process goes on
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once(signum: int) -> None:
    """End the process with a line; in an interactive session raise Stopped for Ctrl-C, instead.

    To raise is not safe elsewhere: torch, while it is imported, swallows it or aborts.
    """
    if signum == signal.SIGINT and hasattr(sys, "ps1"):
        raise Stopped(signum)
    _write(str(Stopped(signum)))
    os._exit(128 + signum)


def _write(line: str) -> None:
    with suppress(OSError):  # and not with print, which a signal may have interrupted
        os.write(2, f"{line}\n".encode())


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
    if not _in_main_thread():  # there Ctrl-C raises nothing
        yield
        return
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
    """Start the process in which multiprocessing tracks its semaphores, and let it ignore signals.

    It ignores INT and TERM by itself. Libraries start it when they are imported, and another signal
    to the whole group would end it, with a warning and a traceback.
    """
    others = set(SIGNALS) - {signal.SIGINT, signal.SIGTERM}
    before = {
        n: signal.signal(n, signal.SIG_IGN) for n in others if signal.getsignal(n) is not None
    }
    resource_tracker.ensure_running()
    for number, handler in before.items():
        signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def ignore_signals() -> None:
    """Ignore signals to the whole group, in worker processes: their parent ends them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
