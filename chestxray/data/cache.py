"""Decoded images, kept in a file of the cache folder that only grows."""

import errno
import hashlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from chestxray.data.decoding import DECODER_VERSION, DEEP, Decoded, decode_all, describe_fault
from chestxray.runtime.files import folder_lock, is_no_space, is_not_offered, sync, whole_file
from chestxray.runtime.guard import refuse_unguarded_script
from chestxray.runtime.text import join_limited, plural, size_text

_SECONDS_BETWEEN_SAVES = 60.0
_KEY_FIELDS = 3  # name, size and time; the notes on the image follow them, also behind tabs
_BLOCK = 4096  # bytes that a file may take beyond its length
_WAYS_OUT = "--cache-dir DIR names another, and main.py --no-cache keeps them in memory"


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images.

    Attributes:
        pixels: (M, size, size) uint8, in memory or mapped read-only from the cache.
        cache_index: (N,) the row of each image in `pixels`; -1 where it could not be read.
        broken: path -> why it cannot be read.
        notes: path -> what its user should know, where there is anything.
    """

    pixels: np.ndarray
    cache_index: np.ndarray
    broken: dict[str, str]
    notes: dict[str, tuple[str, ...]]


def load_images(
    paths: list[str],
    size: int,
    source: Path,
    cache_dir: Path | None,
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
    bits: int = DEEP,
) -> DecodedImages:
    """Decode images, or take them from the cache where their name, size and time are the same.

    Args:
        paths: the image files.
        size: side of the decoded images.
        source: the data folder; each has its own cache file.
        cache_dir: where decoded images are kept; None keeps them in memory only.
        workers: decoding processes; 0 decodes in this one.
        check: called between images; an exception from it ends the decoding, and the cache keeps
            the images that are done.
        bits: of the values of images with 16 bits; see decoding.decode.

    Raises:
        OSError: the cache cannot be written or locked; a decoding process died.
    """
    refuse_unguarded_script()  # which would wait for the lock of the process that has started it
    if cache_dir is None:
        return _decode_into_memory(paths, size, workers, check, bits)
    cache = _Cache(cache_dir, size, source, bits)
    keys, broken = _keys(paths, source)
    cache_index = cache.find(keys)
    if any(
        index < 0 and path not in broken for index, path in zip(cache_index, paths, strict=True)
    ):
        with ExitStack() as stack:
            _wait_for_lock(stack, cache_dir, check)
            cache_index = cache.find(keys)  # another run may have decoded them meanwhile
            missing = [i for i in np.flatnonzero(cache_index < 0) if paths[i] not in broken]
            results = stack.enter_context(  # a fault of the disk ends the decoding, too
                closing(decode_all([paths[i] for i in missing], size, workers, check, bits))
            )
            faults = cache.append([keys[i] for i in missing], results)
            broken |= {paths[missing[number]]: reason for number, reason in faults.items()}
        cache_index = cache.find(keys)
    noted = cache.notes()
    notes = {path: noted[key] for path, key in zip(paths, keys, strict=True) if key in noted}
    return DecodedImages(*cache.rows(cache_index), broken, notes)


def _decode_into_memory(
    paths: list[str], size: int, workers: int, check: Callable[[], None], bits: int
) -> DecodedImages:
    pixels = np.empty((len(paths), size, size), dtype=np.uint8)
    cache_index, broken = np.full(len(paths), -1), {}
    notes: dict[str, tuple[str, ...]] = {}
    for index, result in decode_all(paths, size, workers, check, bits):
        if isinstance(result, str):
            broken[paths[index]] = result
        else:
            pixels[index], cache_index[index] = result.pixels, index
            notes |= {paths[index]: result.notes} if result.notes else {}
    return DecodedImages(pixels, cache_index, broken, notes)


def fit_on_device(images: int, size: int, free: int) -> bool:
    """Return whether decoded images take at most half of the `free` bytes of a device."""
    return images * size**2 <= free / 2


def describe_broken(broken: dict[str, str]) -> str:
    """The images that cannot be read, in two lines for an error."""
    return (
        f"{plural(len(broken), 'image')} cannot be read; --skip-bad-images leaves them out\n"
        + join_limited([f"{path}: {reason}" for path, reason in sorted(broken.items())])
    )


def describe_skipped(broken: dict[str, str]) -> list[str]:
    """The images that cannot be read and are left out, one per line."""
    return [
        f"{plural(len(broken), 'image')} cannot be read and are left out:",
        *(f"  {path}: {reason}" for path, reason in sorted(broken.items())),
    ]


def describe_notes(notes: Mapping[str, tuple[str, ...]]) -> list[str]:
    """What users should know of their images, a warning for each note."""
    images: dict[str, list[str]] = {}
    for path in sorted(notes):
        for note in notes[path]:
            images.setdefault(note, []).append(os.path.basename(path))
    return [
        f"warning: {plural(len(names), 'image')} ({join_limited(names, most=3)}): {note}"
        for note, names in images.items()
    ]


def _wait_for_lock(
    stack: ExitStack, folder: Path, check: Callable[[], None], seconds: float = 0.5
) -> None:
    """Lock the folder as soon as no other process has it; `check` can end the waiting."""
    waiting = False
    while True:
        try:
            stack.enter_context(folder_lock(folder, "cache.", required=True))
            return
        except BlockingIOError as busy:
            if not waiting:
                print(f"waiting: {busy}", file=sys.stderr)
            waiting = True
        except OSError as error:
            raise OSError(f"{error}\n{_WAYS_OUT}") from error
        check()
        time.sleep(seconds)


def cache_file(folder: Path, size: int, source: Path, bits: int = DEEP) -> Path:
    """The file of the decoded images of a data folder; its .index beside it has their keys."""
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:8]
    depth = "" if bits == DEEP else f"-{bits}bit"
    return folder / f"images-{size}{depth}-v{DECODER_VERSION}-{digest}.u8"


class _Cache:
    """A file of decoded images that only grows, and an index: line k has the key of row k, notes.

    Every row that the index names is on the disk; any others are left from an interrupted run. A
    row that the index names is never written again, so another run may have the file mapped.
    """

    def __init__(self, folder: Path, size: int, source: Path, bits: int) -> None:
        self.size = size
        self.data = cache_file(folder, size, source, bits)
        self.index = self.data.with_suffix(".index")

    def lines(self) -> list[str]:
        if not self.index.exists():
            return []
        lines = self.index.read_text(encoding="utf-8").split("\n")[:-1]
        whole = self.data.exists() and self.data.stat().st_size >= len(lines) * self.size**2
        return lines if whole else []

    def find(self, keys: list[str]) -> np.ndarray:
        """(N,) row of each key, -1 where it is not in the cache."""
        row_of = {_split_notes(line)[0]: row for row, line in enumerate(self.lines())}
        return np.array([row_of.get(key, -1) for key in keys], dtype=np.int64)

    def notes(self) -> dict[str, tuple[str, ...]]:
        """The notes by the key of their image, where there are any."""
        return {key: notes for key, notes in map(_split_notes, self.lines()) if notes}

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images of some rows, mapped from the file or, where it cannot be, read.

        Args:
            index: (N,) rows; -1 for none.

        Returns:
            (M, size, size) uint8, and (N,) where in them each image lies.
        """
        count = len(self.lines())
        if count == 0:  # an empty file cannot be mapped
            return np.empty((0, self.size, self.size), dtype=np.uint8), index
        try:
            shape = (count, self.size, self.size)
            return np.memmap(self.data, np.uint8, mode="r", shape=shape), index
        except OSError as error:
            if not is_not_offered(error):
                raise self._fault("mapped into memory", error) from error
            needed, place = np.unique(index[index >= 0], return_inverse=True)
            print(
                f"{self.data} cannot be mapped ({error.strerror}): {plural(len(needed), 'image')}, "
                f"{size_text(len(needed) * self.size**2)}, are read into memory",
                file=sys.stderr,
            )
        found = index.copy()
        found[index >= 0] = place
        return self._read(needed), found

    def _read(self, rows: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(rows), self.size, self.size), dtype=np.uint8)
        try:
            with open(self.data, "rb") as file:
                for image, row in zip(pixels, rows, strict=True):
                    self._read_row(file, int(row), image)
        except OSError as error:
            raise self._fault("read", error) from error
        return pixels

    def _read_row(self, file: io.BufferedReader, row: int, image: np.ndarray) -> None:
        file.seek(row * self.size**2)
        if file.readinto(image.data) < self.size**2:
            raise OSError(errno.EIO, "it ends too early")

    def append(
        self, keys: list[str], results: Iterator[tuple[int, Decoded | str]]
    ) -> dict[int, str]:
        """Write results behind the rows that exist; returns the reasons of those without image."""
        stored = self.lines()
        with self._named_faults():
            handle = os.open(self.data, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._allocate(handle, stored, keys)
            try:
                return self._write(handle, stored, keys, results)
            finally:
                with self._named_faults():
                    os.ftruncate(handle, len(stored) * self.size**2)
                self._save(handle, stored)
        finally:
            os.close(handle)

    def _write(
        self,
        handle: int,
        stored: list[str],
        keys: list[str],
        results: Iterator[tuple[int, Decoded | str]],
    ) -> dict[int, str]:
        """Write images one by one; `stored` gets the key of each."""
        faults, saved = {}, time.monotonic()
        for index, result in results:
            if isinstance(result, str):
                faults[index] = result
                continue
            with self._named_faults():
                written = os.pwrite(handle, result.pixels.tobytes(), len(stored) * self.size**2)
            if written < self.size**2:  # cut short at the end of a disk
                raise OSError(f"{self.data} cannot be written any further; {_WAYS_OUT}")
            stored.append("\t".join([keys[index], *result.notes]))
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                self._save(handle, stored)
                saved = time.monotonic()
        return faults

    def _allocate(self, handle: int, stored: list[str], more: list[str]) -> None:
        # On a full disk a write into a hole fails late, or as a signal: allocate first.
        used, needed = len(stored) * self.size**2, len(more) * self.size**2
        index = 2 * (_BLOCK + sum(len(os.fsencode(key)) + 1 for key in [*stored, *more]))  # and old
        with self._named_faults():
            os.ftruncate(handle, used)  # left from a killed run
        free = shutil.disk_usage(self.data.parent).free
        try:
            if needed and needed + index > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if needed and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, used, needed)
        except OSError as error:
            if is_not_offered(error):  # then a write may fail late, and what was saved is kept
                return
            if not is_no_space(error):
                raise self._fault("allocated", error) from error
            os.ftruncate(handle, used)
            raise OSError(
                f"no space: the cache folder {self.data.parent} needs {size_text(needed + index)} "
                f"and its disk has {size_text(free)} free ({error.strerror}); {_WAYS_OUT}"
            ) from error

    def _save(self, handle: int, keys: list[str]) -> None:
        with self._named_faults():
            sync(handle)
        with whole_file(self.index) as file:
            file.write("".join(f"{key}\n" for key in keys))

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._fault("written", error) from error

    def _fault(self, what: str, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"{self.data} cannot be {what} ({error.strerror or error}); the images that "
            f"{self.index.name} names stay there; {_WAYS_OUT}",
        )


def _split_notes(line: str) -> tuple[str, tuple[str, ...]]:
    """The key and the notes of a line of the index."""
    parts = line.split("\t")
    return "\t".join(parts[:_KEY_FIELDS]), tuple(parts[_KEY_FIELDS:])


def _keys(paths: list[str], source: Path) -> tuple[list[str], dict[str, str]]:
    """A key for the content of each file, and the files that are missing.

    Archives give files of equal names and sizes equal times, hence the path below the folder.
    """
    below = os.path.join(os.path.abspath(source), "")
    keys, missing = [], {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            missing[path] = describe_fault(b"", error)
            keys.append("")
            continue
        name = quote(os.fsencode(os.path.abspath(path).removeprefix(below)))  # no tab, no newline
        keys.append(f"{name}\t{status.st_size}\t{status.st_mtime_ns}")
    return keys, missing
