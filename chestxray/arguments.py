"""Reading a command line: errors in one line, near flags named, dashes and underscores alike."""

import argparse
import difflib
from typing import Any, NoReturn


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
