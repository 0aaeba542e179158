"""The command as a function, and one output folder for each kind of calibration."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conformal_helpers import RUNS, Answer, drawn

from chestxray.conformal.__main__ import main
from chestxray.scores import write_scores


@pytest.fixture
def command(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command as a function of its words, in a folder where s.csv lies.

    Unless it is typed otherwise a calibration draws its plots as PNG alone and makes 50 cuts: a PDF
    costs as much again, and 1,000 cuts more than all the rest.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100000")  # sentences on one line each
    write_scores(Path("s.csv"), drawn())

    def call(*words: object) -> Answer:
        capsys.readouterr()
        calibrates = "--alpha" in words and "--apply" not in words and "--select" not in words
        if calibrates and "--format" not in words:
            words += ("--format", "png")
        if calibrates and "--resplits" not in words:
            words += ("--resplits", "50")
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The output folder of each of RUNS; made once, when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")
    write_scores(folder / "s.csv", drawn())

    def of(name: str) -> Path:
        if not (folder / name).is_dir():
            words = [folder / "s.csv", *RUNS[name], "--resplits", 5, "--out", folder / name]
            assert main([str(word) for word in words]) == 0
        return folder / name

    return of
