"""Disks that lack a service, or fail in it: the work is done, or one true sentence says why not."""

import errno
import fcntl
import mmap
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import checkpoint_of, noise_image

from chestxray.checkpoints import checkpoint
from chestxray.data import decoding
from chestxray.data.cache import load_images
from chestxray.runtime.cli import run_command
from chestxray.runtime.files import folder_lock
from chestxray.runtime.signals import StopRequest
from chestxray.training.run import Validation, new_run
from chestxray.training.run_folder import RunFolder

SIZE = 24
SERVICES: dict[str, tuple[Any, str]] = {
    "fsync of a folder": (os, "fsync"),
    "posix_fallocate": (os, "posix_fallocate"),
    "mmap": (mmap, "mmap"),
    "hard link": (os, "link"),
    "lock": (fcntl, "flock"),
}
LACKS = ("EINVAL", "ENOSYS", "EOPNOTSUPP", "EPERM")  # how a file system says that it has none
# What is said of a service that is lacking, and of one that fails; None: nothing, and all is done.
ANSWERS: dict[str, tuple[str | None, str]] = {
    "fsync of a folder": (
        None,
        "images.* is complete and in its place, but the fsync of its folder",
    ),
    "posix_fallocate": (
        None,
        "u8 cannot be allocated .*; the images that .*index names stay there",
    ),
    "mmap": (
        "cannot be mapped .*: 5 images, 2.88 kB, are read into memory",
        "u8 cannot be mapped into memory",
    ),
    "hard link": (
        None,
        r"best.pth cannot be written \(hard link: .* nothing was replaced; check the disk",
    ),
    "lock": ("offers no locks .*--cache-dir DIR names another", ".lock cannot be locked"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder with five images in `data`."""
    (tmp_path / "data").mkdir()
    for number in range(5):
        noise_image(number).save(tmp_path / "data" / f"{number}.png")
    return tmp_path


def without(patch: pytest.MonkeyPatch, service: str, number: int) -> None:
    """Let a service of every file system fail with an error."""
    module, name = SERVICES[service]
    plain: Callable[..., Any] = getattr(module, name)

    def call(*words: Any, **more: Any) -> Any:
        if name == "fsync" and not stat.S_ISDIR(os.fstat(words[0]).st_mode):
            return plain(*words)
        raise OSError(number, os.strerror(number))

    patch.setattr(module, name, call)


def work(disk: Path, stop: StopRequest) -> int:
    """Decode the images twice, then save an epoch, as training does; checks what is there."""
    paths = sorted(map(str, (disk / "data").iterdir()))
    for _ in range(2):
        images = load_images(paths, SIZE, disk / "data", disk / "cache", check=stop.check)
        for path, row in zip(paths, images.cache_index, strict=True):
            np.testing.assert_array_equal(images.pixels[row], decoding.decode(path, SIZE).pixels)
    model = torch.nn.Linear(1, 1)
    run = new_run(1e-4, 1)
    run.loss_sum = 8.0
    run.finish_epoch(16, Validation(0.1, 0.5, 14))
    with folder_lock(disk / "out"):
        folder = RunFolder(disk / "out", checkpoint_of(history=[]))
        folder.save_epoch(run, model, torch.optim.Adam(model.parameters()))
    for name in ("stage1_0001_01.pth", "last.pth", "best.pth"):
        assert checkpoint.load(disk / "out" / name).epochs_done == 1
    return 0


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", [*LACKS, "EIO"])
def test_a_service_that_a_disk_lacks_or_fails_in(
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: str,
    name: str,
) -> None:
    number = getattr(errno, name)
    with monkeypatch.context() as patch:
        without(patch, service, number)
        code = run_command(lambda stop: work(disk, stop))
    said = capsys.readouterr().err.replace(f"{disk}/", "").strip()
    lacking, failing = ANSWERS[service]
    expected = failing if name == "EIO" else lacking
    refused = name == "EIO" or service == "lock"
    assert code == refused, said
    assert said.startswith("error: ") == refused and "Traceback" not in said
    assert len(said.splitlines()) <= 2
    if expected is None:
        assert said == ""
    else:
        assert re.search(f"(?s){expected}", said) and f"{os.strerror(number)})" in said
    if (
        refused
    ):  # what is said to stay or to be in place does, and a disk in order finishes the work
        indexed = [path.read_text().splitlines() for path in (disk / "cache").glob("*.index")]
        assert indexed == ([] if service in ("lock", "posix_fallocate") else [indexed[0]])
        assert all(len(lines) == 5 for lines in indexed)
        assert work(disk, StopRequest()) == 0
    assert not list(disk.rglob(".*.tmp"))
    print(f"| {service} | {name} | {code} | {' '.join(said.split()) or 'nothing: done'} |")


@pytest.mark.parametrize("name", LACKS)
def test_where_there_are_no_locks_a_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """But for the cache, where two processes at once would mix their images."""
    without(monkeypatch, "lock", getattr(errno, name))
    with folder_lock(tmp_path):
        assert "offers no locks" in capsys.readouterr().err
