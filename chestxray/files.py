"""Files that are whole or not there, and the lock on a folder."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import filelock


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that gets its final name only when the block ends without an exception.

    The bytes go to a temporary name in the same folder, are flushed to the disk, and replace what
    bore the name before in one step.

    Args:
        path: the final name; its folder is made when missing.
        mode: "w" (UTF-8, line ends as written) or "wb".
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    binary = "b" in mode
    try:
        with open(
            temporary,
            mode,
            encoding=None if binary else "utf-8",
            newline=None if binary else "",
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name, replacing what bore it: a hard link, else a copy."""
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            with open(source, "rb") as original, open(temporary, "wb") as copy:
                shutil.copyfileobj(original, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # also after replacing a link of the same file by itself
    _sync_folder(target.parent)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the kernel frees it when the process dies, however it dies.

    Args:
        folder: made when missing.

    Raises:
        BlockingIOError: another process holds it; the message says which and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".holder"
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        try:
            who = holder.read_text(encoding="utf-8")
        except FileNotFoundError:  # it is just coming or going
            who = "another process"
        raise BlockingIOError(
            f"{folder} is in use by {who}; wait for it, or name another folder"
        ) from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with whole_file(holder) as file:
            file.write(f"process {os.getpid()} since {since}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _temporary(path: Path) -> Path:
    """A name of this process alone, in the same folder: a rename works within one file system."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut (a no-op where folders cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
