"""Files that are complete or absent, and the lock on a folder."""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import filelock
import psutil

# The name of a file that is being written has its machine and process.
_MACHINE = re.sub(r"\W", "-", platform.node())
_TEMPORARY = re.compile(r"\..+\.([\w-]*)\.(\d+)\.[0-9a-f]{8}\.tmp")


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that gets its final name only when the block ends without an exception.

    The bytes go to a temporary name in the same folder, are flushed to the disk, and replace the
    previous file in one step.

    Args:
        path: the final name; its folder is made when missing.
        mode: "w" (UTF-8, line ends as written) or "wb".

    Raises:
        OSError: it cannot be written; the previous file is unchanged.
    """
    path = Path(path)
    temporary = _temporary(path)
    binary = "b" in mode
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError, in whose context the reason is.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise OSError(_unwritten(path, temporary, reason)) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name, replacing that file: a hard link, else a copy."""
    temporary = _temporary(target)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        with open(source, "rb") as original, whole_file(target, "wb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
        return
    try:
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise OSError(_unwritten(target, temporary, error)) from error
    finally:
        temporary.unlink(missing_ok=True)  # also after replacing a link to the same file


def check_room(folder: Path, needed: int) -> None:
    """Check that a folder can be written and that its disk has the bytes needed.

    Raises:
        OSError: it cannot be written (tried, since root ignores permissions), or is full.
    """
    probe = folder / ".probe"
    with whole_file(probe) as file:
        file.write("x")
    probe.unlink(missing_ok=True)  # a test beside may have removed it
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder} needs {needed / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB free; "
            "make room, or name another folder"
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Remove the unfinished files of dead writers on this machine from a folder."""
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and found[1] == _MACHINE and not psutil.pid_exists(int(found[2])):
            path.unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: Path, name: str = "") -> Iterator[None]:
    """Lock a folder for this process; the kernel unlocks it when the process dies.

    Unfinished files of dead processes are removed.

    Args:
        folder: made when missing.
        name: of the lock, so that a folder can have two.

    Raises:
        BlockingIOError: another process has it; the message says which and since when.
        OSError: it cannot be written.
    """
    holder = folder / f".{name}holder"
    lock = filelock.FileLock(folder / f".{name}lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        try:
            who = holder.read_text(encoding="utf-8")
        except FileNotFoundError:  # it is just starting or ending
            who = "another process"
        raise BlockingIOError(
            f"{folder} is in use by {who}; wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise OSError(
            f"the folder {folder} cannot be written ({error.strerror or error}); name another"
        ) from error
    try:
        sweep(folder)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with whole_file(holder) as file:
            file.write(f"process {os.getpid()} since {since}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _temporary(path: Path) -> Path:
    """A name of this process alone, in the same folder, since a rename needs one file system."""
    own = f"{_MACHINE}.{os.getpid()}.{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{own}.tmp")


def _unwritten(path: Path, temporary: Path, error: OSError) -> str:
    """Describe why a file cannot be written."""
    text = f"{path} cannot be written ({error.strerror or error}); nothing was replaced"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and temporary.exists():
        free = shutil.disk_usage(path.parent).free
        text += (
            f"; it needs more than {temporary.stat().st_size / 1e6:,.1f} MB, and its disk has only "
            f"{free / 1e6:,.1f} MB more"
        )
    return text


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut (a no-op where folders cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
