"""Files that are whole or not there, second names, and the lock on a folder."""

import fcntl
import os
import platform
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from chestxray.runtime.files import check_room, folder_lock, link_or_copy, whole_file

HOLD = """
import sys, time
from pathlib import Path
from chestxray.runtime.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[3]).touch()
"""


def held(folder: Path, seconds: float, left: Path) -> subprocess.Popen:
    """Another process that holds the folder, and makes the file `left` just before it lets go."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds), str(left)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file.txt"
    with whole_file(path) as file:
        file.write("é\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    with open(path, "rb") as reader:
        with whole_file(path, "wb") as file:
            file.write(b"new\r\n")
            file.flush()
            assert path.read_bytes() == "é\n".encode()
        assert reader.read() == "é\n".encode()  # who reads the old file keeps it
    assert path.read_bytes() == b"new\r\n"
    assert names(path.parent) == {"file.txt"}


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_leaves_only_the_old_file(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(fault), whole_file(path) as file:
        file.write("new")
        raise fault
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_a_process_killed_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    program = """
import os, signal, sys
from pathlib import Path
from chestxray.runtime.files import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write("new")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "file.txt") as file:
            file.write("new")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


def without_links(*_: object) -> None:
    raise OSError("this file system has no hard links")


@pytest.mark.parametrize("links", [True, False])
def test_a_finished_file_gets_a_second_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    source, target = tmp_path / "epoch.pth", tmp_path / "last.pth"
    source.write_bytes(bytes(range(256)))
    target.write_text("what bore the name before")
    for _ in range(2):  # the second time it bears the name already
        link_or_copy(source, target)
        assert target.read_bytes() == bytes(range(256))
        assert target.samefile(source) == links
        assert names(tmp_path) == {"epoch.pth", "last.pth"}
    with whole_file(source) as file:
        file.write("next epoch")
    assert target.read_bytes() == bytes(range(256))


def test_the_next_holder_sweeps_the_files_of_a_killed_writer(
    tmp_path: Path,
) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from chestxray.runtime.files import whole_file
with whole_file(Path(sys.argv[1])) as file:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "file.txt")], cwd=ROOT)
    (left,) = tmp_path.glob(".file.txt.*.tmp")
    elsewhere = tmp_path / re.sub(r"\.txt\..*?\.", ".txt.another-machine.", left.name)
    elsewhere.touch()
    (tmp_path / ".mine.tmp").touch()
    with whole_file(tmp_path / "mine.txt"):  # one that is being written
        with folder_lock(tmp_path):
            assert not left.exists()
            assert elsewhere.exists() and (tmp_path / ".mine.tmp").exists()
            assert len(list(tmp_path.glob(".mine.txt.*.tmp"))) == 1
    assert (tmp_path / "mine.txt").exists()


def test_a_full_disk_is_reported_with_needed_and_free_space(small_disk: Path) -> None:
    path = small_disk / "file.bin"
    with whole_file(path, "wb") as file:
        file.write(bytes(20_000))
    for write in (lambda f: f.write(bytes(80_000)), lambda f: torch.save(torch.ones(50_000), f)):
        with pytest.raises(
            OSError, match="cannot be written .No space left on device.; nothing was replaced"
        ):
            with whole_file(path, "wb") as file:
                write(file)
        assert path.read_bytes() == bytes(20_000)
        assert names(small_disk) == {"file.bin"}


def test_a_fault_that_is_none_of_writing_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="^a slip$"), whole_file(tmp_path / "file.txt"):
        raise RuntimeError("a slip")


def test_a_file_that_is_not_there_gets_no_second_name(tmp_path: Path) -> None:
    (tmp_path / "last.pth").write_text("old")
    with pytest.raises(FileNotFoundError, match="epoch.pth"):
        link_or_copy(tmp_path / "epoch.pth", tmp_path / "last.pth")
    assert (tmp_path / "last.pth").read_text() == "old"
    assert names(tmp_path) == {"last.pth"}


def test_a_second_holder_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    first = held(folder, seconds=60, left=tmp_path / "left")
    try:
        holder = rf"in use by process {first.pid} on {platform.node()} since \d{{4}}-"
        with pytest.raises(BlockingIOError, match=holder):
            with folder_lock(folder):
                pass
    finally:
        first.kill()
        first.wait()
    with folder_lock(folder):
        assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} ")
    assert (folder / ".lock").read_text() == ""


def test_a_holder_that_has_not_said_who_it_is_is_waited_for(tmp_path: Path) -> None:
    with open(tmp_path / ".lock", "w") as file, ThreadPoolExecutor(1) as other:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = other.submit(folder_lock(tmp_path).__enter__)
        time.sleep(0.2)
        assert not refused.done()
        file.write("process 4711 on there")
        file.flush()
        with pytest.raises(BlockingIOError, match="in use by process 4711 on there; wait"):
            refused.result()


def test_an_exception_in_the_block_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError), folder_lock(tmp_path):
        raise ValueError
    with folder_lock(tmp_path):
        pass


def test_several_may_ask_for_room_in_one_folder_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: check_room(tmp_path, needed=1), range(200)))
    assert not list(tmp_path.iterdir())
