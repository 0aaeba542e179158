"""A command's line and its answer: wrong usage, faults and stops in a line or two, exit codes."""

import argparse
import contextlib
import difflib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from chestxray.interrupt import Stopped, StopRequest, listen


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that tells what was typed from what is a default."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help shows all flags)\n")

    def parse(self, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """All options, and those of them that were typed."""
        spelled = {name.replace("_", "-"): name for name in self._option_string_actions}
        argv = [self._respell(word, spelled) for word in argv]
        args, unknown = self.parse_known_args(argv)
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], spelled, n=1)
            self.error(
                f"unknown argument {unknown[0]}" + (f"; did you mean {near[0]}?" if near else "")
            )
        self.set_defaults(**dict.fromkeys(vars(args)))
        typed = {name: v for name, v in vars(self.parse_args(argv)).items() if v is not None}
        return args, typed

    @staticmethod
    def _respell(word: str, spelled: dict[str, str]) -> str:
        flag, equals, value = word.partition("=")
        return spelled.get(flag.replace("_", "-"), flag) + equals + value


def number(kind: type, low: float, high: float, text: str) -> Any:
    """A type for argparse: a finite number above or at `low` and below or at `high`."""

    def convert(word: str) -> Any:
        try:
            value = kind(word)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{word!r} is not {text}")
        return value

    return convert


def answer(work: Callable[[StopRequest], int], debug: bool = False) -> int:
    """Do a command's work; returns its exit code, after saying what went wrong.

    Args:
        work: is told whether a signal has asked to stop, and returns an exit code.
        debug: let faults through, for their traceback.
    """
    with listen() as stop:
        try:
            return work(stop)
        except Stopped as stopped:
            with contextlib.suppress(OSError):  # the terminal may be gone: a HUP says just that
                print(stopped, file=sys.stderr)
            return 128 + stopped.signum
        except (OSError, ValueError, FloatingPointError) as error:
            if debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1
