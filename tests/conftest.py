"""Data that the tests share: drawn images, real ones where they are at hand, main.py to call."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import SHARED

from chestxray.phantom import draw_dataset


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 60 drawn images of 64 px, with table and both lists."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, n=60, size=64, seed=1)
    return folder


@pytest.fixture(scope="session")
def nih() -> Path:
    """The real images; tests that need them skip where they are not."""
    return _shared("nih")


@pytest.fixture(scope="session")
def nih_originals() -> Path:
    return _shared("nih-originals")


@pytest.fixture(scope="session")
def nih_tables() -> Path:
    return _shared("nih-tables")


def _shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"../shared/{name} is not here: no real images or tables")
    return SHARED / name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, stderr=subprocess.PIPE).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def chest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """main.py as a function of its words, in an empty working folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> int:
        import main

        try:
            return main.main([str(word) for word in words])
        except SystemExit as leaving:
            return int(leaving.code or 0)

    return call
