"""Command lines: their options, and wrong usage, faults and stops as messages and exit codes."""

import argparse
import difflib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from chestxray.runtime.distributed import describe_lost_peer, report_once
from chestxray.runtime.guard import refuse_unguarded_script
from chestxray.runtime.signals import Stopped, StopRequest, catch_signals


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that distinguishes typed options from defaults.

    Args:
        elsewhere: what other programs call a flag -> its name here, both without dashes before.
    """

    def __init__(self, elsewhere: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._elsewhere = elsewhere or {}

    def error(self, message: str) -> NoReturn:
        report_once(f"{self.prog}: error: {message} (--help shows all flags)")
        sys.exit(2)

    def parse(self, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """Parse all options, and separately those that were typed."""
        spelled = {name.replace("_", "-"): name for name in self._option_string_actions}
        argv = [self._respell(word, spelled) for word in argv]
        args, unknown = self.parse_known_args(argv)
        if unknown:
            word = unknown[0].partition("=")[0]
            self.error(f"unknown argument {word}{self._guess(word, list(spelled))}")
        self.set_defaults(**dict.fromkeys(vars(args)))
        typed = {name: v for name, v in vars(self.parse_args(argv)).items() if v is not None}
        return args, typed

    def _guess(self, word: str, flags: list[str]) -> str:
        """The flag that an unknown word comes near to; "" where it is far from all."""
        if not word.startswith("--"):
            return ""
        names = [flag.removeprefix("--") for flag in flags if flag.startswith("--")]
        name = word.removeprefix("--").replace("_", "-")
        near = difflib.get_close_matches(name, [*self._elsewhere, *names], n=1, cutoff=0.65)
        return f"; did you mean --{self._elsewhere.get(near[0], near[0])}?" if near else ""

    @staticmethod
    def _respell(word: str, spelled: dict[str, str]) -> str:
        flag, equals, value = word.partition("=")
        return spelled.get(flag.replace("_", "-"), flag) + equals + value


def number(kind: type, low: float, high: float, text: str) -> Any:
    """A type for argparse: a number from `low` to `high`, both included."""

    def convert(word: str) -> Any:
        try:
            value = kind(word)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{word!r} is not {text}")
        return value

    return convert


def run_command(work: Callable[[StopRequest], int], debug: bool = False) -> int:
    """Do the work of a command, report faults and stops, and return the exit code.

    Args:
        work: gets the stop request of signals, and returns an exit code.
        debug: let faults through, for their traceback.
    """
    refuse_unguarded_script()
    with PipeSafeStreams(), catch_signals() as stop:
        try:
            return _report_faults(lambda: work(stop), debug)
        except Stopped as stopped:
            report_once(str(stopped))
            return 128 + stopped.signum


def run_uninterrupted(work: Callable[[], int]) -> int:
    """As run_command, for work without a place to stop: Ctrl-C ends it at once."""
    refuse_unguarded_script()
    with PipeSafeStreams():
        try:
            return _report_faults(work)
        except KeyboardInterrupt:
            report_once(str(Stopped(signal.SIGINT)))
            return 128 + signal.SIGINT


def _report_faults(work: Callable[[], int], debug: bool = False) -> int:
    try:
        return work()
    except (OSError, ValueError, FloatingPointError, MemoryError, RuntimeError) as error:
        lost = describe_lost_peer(error)
        known = lost or _is_about_memory(error) or not isinstance(error, RuntimeError)
        if debug or not known:
            raise
        report_once(f"error: {lost or _text(error) + _way_out(error)}")
        return 1


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # without its number
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)


def _is_about_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text


def _way_out(error: Exception) -> str:
    if _is_about_memory(error) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "\nthe memory does not suffice: a smaller --bs takes less, and so does --workers 0"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "\n--workers 0 opens fewer files; `ulimit -n` shows how many can be open"
    return ""


class PipeSafeStreams:
    """Standard streams that do not end the work when they can no longer be written.

    The reader of a pipe may be gone (`| head`), or the terminal (as a HUP says), or a log's disk
    may be full: the stream goes silent, since the files are the work. Characters that its encoding
    lacks are written as escapes.
    """

    def __enter__(self) -> None:
        for number in range(3):  # else the next file that is opened would get a closed one's number
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = map(_pipe_safe, self._streams)

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._streams


def _pipe_safe(stream: Any) -> Any:
    # A notebook, or who collects the output, has streams of their own; None: closed at the start.
    return _PipeSafe(stream) if isinstance(stream, io.TextIOWrapper) else stream


class _PipeSafe:
    def __init__(self, stream: Any) -> None:
        # By lines: what cannot be written is known in write(), and flush() has nothing left to do.
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._stream.fileno())  # also for what the buffer still holds
            os.close(devnull)
            return len(text)


def say(*lines: str | None) -> None:
    """Print lines for people at once; None prints nothing."""
    for line in lines:
        if line is not None:
            print(line, flush=True)
