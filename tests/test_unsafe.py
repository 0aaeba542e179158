"""Unsafe calls that .ci/run refuses to have in the program."""

import subprocess
from pathlib import Path

import pytest
from helpers import ROOT


def refused(*places: object) -> bool:
    done = subprocess.run([ROOT / ".ci" / "unsafe", *places], capture_output=True, text=True)
    assert ("refused: " in done.stdout) == bool(done.returncode)
    return bool(done.returncode)


def test_the_program_has_nothing_that_runs_code_out_of_a_file() -> None:
    assert not refused(ROOT / "main.py", ROOT / "chestxray", ROOT / "benchmarks")


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only = False)",
        "pickle.load(file)",
        "x = pickle.loads(data)",
        "class Safe(pickle.Unpickler):",
        "from pickle import UnpicklingError, loads",
        "eval(text)",
        "    y = eval(text)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_each_way_of_running_code_out_of_a_file_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "module.py").write_text(f"import torch\n{line}\n")
    assert refused(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["model.eval()", "from pickle import UnpicklingError", "weights_only=True", "re_eval(x)"],
)
def test_what_only_looks_like_it_is_not_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "module.py").write_text(f"{line}\n")
    assert not refused(tmp_path)
