"""Files that are complete or absent, and the lock on a folder."""

import errno
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from chestxray.runtime.text import size_text

# The name of a file that is being written has its machine and process.
_MACHINE = re.sub(r"\W", "-", platform.node())
_TEMPORARY = re.compile(r"\..+\.([\w-]*)\.(\d+)\.[0-9a-f]{8}\.tmp")
# How file systems say that they lack a service. EPERM is what FAT says of hard links, and what
# some containers and network mounts say of other services; ENODEV is of mmap, ENOLCK of locks.
_NOT_OFFERED = frozenset(
    getattr(errno, name)
    for name in ("EINVAL", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EPERM", "ENODEV", "ENOLCK")
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that gets its final name only when the block ends without an exception.

    The bytes go to a temporary name in the same folder, are flushed to the disk, and replace the
    previous file in one step.

    Args:
        path: the final name; its folder is made when missing.
        mode: "w" (UTF-8, line ends as written) or "wb".

    Raises:
        OSError: it cannot be written, and the previous file is unchanged; or the new one is in its
            place and may not survive a power cut. The message says which.
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
            sync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError, in whose context the reason is.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise OSError(_unwritten(path, temporary, reason)) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()
    _sync_folder_of(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name, replacing that file: a hard link, else a copy."""
    temporary = _temporary(target)
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno == errno.EIO:
            raise OSError(_unwritten(target, temporary, error, "hard link: ")) from error
        # A file system without hard links, or with too many of this file.
        with open(source, "rb") as original, whole_file(target, "wb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
        return
    try:
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(_unwritten(target, temporary, error)) from error
    finally:
        temporary.unlink(missing_ok=True)  # also after replacing a link to the same file
    _sync_folder_of(target)


def is_not_offered(error: OSError) -> bool:
    """Tell a file system that lacks a service, or refuses it to all, from a fault."""
    return error.errno in _NOT_OFFERED


def is_no_space(error: OSError) -> bool:
    """Tell a disk, a quota or a limit that is reached from other faults."""
    return error.errno in _NO_SPACE


def sync(handle: int) -> None:
    """Flush an open file or folder to its disk, where the file system offers that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_not_offered(error):
            raise


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
            f"no space: {folder} needs {size_text(needed)} and its disk has {size_text(free)} "
            "free; make room, or name another folder"
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
def folder_lock(folder: Path, name: str = "", required: bool = False) -> Iterator[None]:
    """Lock a folder for this process; the kernel unlocks it when the process dies.

    The lock file says who holds it. Unfinished files of dead processes are removed. Where the file
    system offers no locks, a line on stderr says so.

    Args:
        folder: made when missing.
        name: of the lock, so that a folder can have two.
        required: a file system without locks is an error.

    Raises:
        BlockingIOError: another process has it; the message says which and since when.
        OSError: it cannot be written or locked.
    """
    path = folder / f".{name}lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        _lock(handle, path, required)
        try:
            sweep(folder)
            _write_holder(handle)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)  # which unlocks


def _lock(handle: int, path: Path, required: bool) -> None:
    """Lock the open lock file of a folder; errors as in folder_lock."""
    try:
        _lock_or_name_holder(handle, path.parent)
    except BlockingIOError:
        raise
    except OSError as error:
        if not is_not_offered(error):
            raise OSError(
                f"{path} cannot be locked ({error.strerror}); nothing was written; check the disk "
                "or its connection, or name a folder elsewhere"
            ) from error
        missing = f"the file system of {path.parent} offers no locks ({error.strerror})"
        if required:
            raise OSError(f"{missing}, without which two processes may mix their files") from error
        print(f"{missing}: start no second run in this folder", file=sys.stderr)


def _lock_or_name_holder(handle: int, folder: Path) -> None:
    holder = ""
    for _ in range(20):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        holder = os.pread(handle, 200, 0).decode("utf-8", "replace")
        if holder:
            break
        time.sleep(0.05)  # it is about to say who it is, or to let go
    raise BlockingIOError(
        f"{folder} is in use by {holder or 'another process'}; wait for it, or name another folder"
    )


def _write_holder(handle: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"process {os.getpid()} on {platform.node()} since {since}"
    os.ftruncate(handle, 0)
    os.write(handle, holder.encode("utf-8", "replace"))


def _unwritable(folder: Path, error: OSError) -> OSError:
    return OSError(
        f"the folder {folder} cannot be written ({error.strerror or error}); name another"
    )


def _temporary(path: Path) -> Path:
    """A name of this process alone, in the same folder, since a rename needs one file system."""
    own = f"{_MACHINE}.{os.getpid()}.{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{own}.tmp")


def _unwritten(path: Path, temporary: Path, error: OSError, service: str = "") -> str:
    """Describe why a file cannot be written."""
    text = f"{path} cannot be written ({service}{error.strerror or error}); nothing was replaced"
    if error.errno == errno.EIO:
        text += "; check the disk or its connection, or name a folder elsewhere"
    if is_no_space(error) and temporary.exists():
        free = shutil.disk_usage(path.parent).free
        text += (
            f"; it needs more than {size_text(temporary.stat().st_size)}, and its disk has only "
            f"{size_text(free)} more"
        )
    return text


def _sync_folder_of(path: Path) -> None:
    """Make a file's new name survive a power cut, where the file system offers that."""
    try:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            sync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # EACCES: a folder that may be written and not read; or one that cannot be opened at all.
        if error.errno == errno.EACCES or is_not_offered(error):
            return
        raise OSError(
            f"{path} is complete and in its place, but the fsync of its folder failed "
            f"({error.strerror}): after a power cut the file from before, or none, may bear that "
            "name; check the disk or its connection"
        ) from error
