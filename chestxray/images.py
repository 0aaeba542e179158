"""Picture files -> one uint8 array (n, size, size), decoded once and kept in the cache folder.

One rule for every picture: grey (colour by the ITU-R 601 weights, alpha dropped, 16 bits divided by
257), as stored (EXIF's rotation is not looked at), padded with black to a centred square, resized
bilinearly with antialiasing.

python -m chestxray.images DIR decodes a data folder ahead of time.
"""

import errno
import hashlib
import io
import multiprocessing
import os
import shutil
import stat
import struct
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from chestxray import formats
from chestxray.arguments import Parser, answer, number
from chestxray.files import folder_lock, whole_file
from chestxray.interrupt import StopRequest, held_back, leave_signals_to_parent
from chestxray.progress import Progress
from chestxray.wording import counted, listed

DECODER_VERSION = 2  # part of the cache's name: raise it when read_picture takes other files
MOST_PIXELS = 64_000_000
_MOST_BYTES = 8 * MOST_PIXELS + 100_000_000  # four channels of 16 bits, and notes beside
_SECONDS_BETWEEN_SAVES = 60.0
_BLOCK = 4096  # bytes that a file may take beyond its length
_WAYS_OUT = "--cache-dir DIR names another, and main.py --no-cache keeps them in memory"
_SMALL = 32  # pictures: below, starting a process costs more than it saves
# What Pillow raises on broken files; not all of them are OSErrors.
_FAULTS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the picture


@dataclass
class Pictures:
    """Decoded pictures.

    Attributes:
        pixels: (slots, size, size) uint8, in memory or mapped read-only from the cache.
        slots: (n,) where each asked picture lies in `pixels`; -1 where it could not be read.
        broken: path -> what is wrong with it.
    """

    pixels: np.ndarray
    slots: np.ndarray
    broken: dict[str, str]


def read_picture(path: str | Path, size: int) -> np.ndarray:
    """Decode one PNG or JPEG of any mode and shape.

    Returns:
        (size, size) uint8.

    Raises:
        ValueError: no such picture, broken, or above 64 million pixels as a square.
    """
    content = b""
    try:
        content = _content(path)
        with warnings.catch_warnings():
            # Of sizes below our limit, and of broken notes beside the pixels.
            warnings.simplefilter("ignore")
            grey = _decoded_grey(content)
    except _FAULTS as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise
        raise ValueError(_reason(content, error)) from error
    side = max(grey.size)
    if grey.width != grey.height:
        square = Image.new("L", (side, side))
        square.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
        grey = square
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


def _content(path: str | Path) -> bytes:
    """The bytes of a file, read once: what is checked is what is decoded."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ValueError("no file but a folder, pipe or device")
    if status.st_size > _MOST_BYTES:
        raise ValueError(f"{status.st_size / 1e9:.1f} GB are more than 64 million pixels take")
    return Path(path).read_bytes()


def _decoded_grey(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
        if max(image.size) ** 2 > MOST_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} is above 64 million pixels, made square"
            )
        image.verify()  # load() does not look at a PNG's checksums
    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
        image.load()
        grey = _grey(image)
        interlaced = bool(image.info.get("interlace"))
    if not formats.is_png(content):
        formats.check_end(content)
        return grey
    formats.check_palette(content)
    last_row = grey.crop((0, grey.height - 1, grey.width, grey.height))
    if interlaced or last_row.getbbox() is None:  # black is also what missing rows become
        formats.check_rows(content)
    return grey


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which convert("L") would clip to white
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode == "P":
        image.info.pop("transparency", None)  # alpha is dropped
        image = image.convert("RGB")
    return image.convert("L")


def _reason(content: bytes, error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        start = content[:12]
        return f"not a PNG or JPEG picture (starts with {start!r})" if start else "an empty file"
    if isinstance(error, FileNotFoundError):
        return "not there any more"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which is said beside
    return str(error) or type(error).__name__


def load_pictures(
    paths: list[str],
    size: int,
    source: Path,
    cache_dir: Path | None,
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Pictures:
    """Decode pictures, or take them from the cache where their name, size and time are the same.

    Args:
        paths: the picture files.
        size: side of the decoded pictures.
        source: the data folder; each has a cache file of its own.
        cache_dir: where decoded pictures are kept; None keeps them in memory only.
        workers: decoding processes; 0 decodes in this one.
        check: called between pictures; an exception from it ends the decoding, and the cache keeps
            what is done.

    Raises:
        OSError: the cache cannot be written; a decoding process died.
    """
    if cache_dir is None:
        pixels = np.empty((len(paths), size, size), dtype=np.uint8)
        slots, broken = np.full(len(paths), -1), {}
        for index, result in _decoded(paths, size, workers, check):
            if isinstance(result, str):
                broken[paths[index]] = result
            else:
                pixels[index], slots[index] = result, index
        return Pictures(pixels, slots, broken)
    cache = _Cache(cache_dir, size, source)
    keys, broken = _keys(paths)
    slots = cache.find(keys)
    missing = [i for i in np.flatnonzero(slots < 0) if paths[i] not in broken]
    if missing:
        with ExitStack() as stack:
            _stand_in_line(stack, cache_dir, check)
            slots = cache.find(keys)  # another run may have decoded them meanwhile
            missing = [i for i in missing if slots[i] < 0]
            results = _decoded([paths[i] for i in missing], size, workers, check)
            faults = cache.append([keys[i] for i in missing], results)
            broken |= {paths[missing[index]]: reason for index, reason in faults.items()}
        slots = cache.find(keys)
    return Pictures(cache.pixels(), slots, broken)


def fit_on_device(pictures: int, size: int, free: int) -> bool:
    """Whether so many decoded pictures take at most half of `free` bytes of a device's memory."""
    return pictures * size**2 <= free / 2


def describe_broken(broken: dict[str, str]) -> str:
    """The pictures that cannot be read, in two lines for an error."""
    return (
        f"{counted(len(broken), 'picture')} cannot be read; --skip-bad-images leaves them out\n"
        + listed([f"{path}: {reason}" for path, reason in sorted(broken.items())])
    )


def describe_skipped(broken: dict[str, str]) -> list[str]:
    """The pictures that cannot be read and are left out, one a line."""
    return [
        f"{counted(len(broken), 'picture')} cannot be read and left out:",
        *(f"  {path}: {reason}" for path, reason in sorted(broken.items())),
    ]


def _stand_in_line(
    stack: ExitStack, folder: Path, check: Callable[[], None], seconds: float = 0.5
) -> None:
    """Hold the folder as soon as no other process does; `check` can end the waiting."""
    waiting = False
    while True:
        try:
            stack.enter_context(folder_lock(folder, "cache."))
            return
        except BlockingIOError as busy:
            if not waiting:
                print(f"waiting: {busy}", file=sys.stderr)
            waiting = True
        except OSError as error:
            reason = getattr(error.__cause__, "strerror", None) or error
            raise OSError(
                f"the cache folder {folder} cannot be written ({reason}); {_WAYS_OUT}"
            ) from error
        check()
        time.sleep(seconds)


def cache_file(folder: Path, size: int, source: Path) -> Path:
    """Where the decoded pictures of a data folder lie; their keys lie beside it, in .index."""
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:8]
    return folder / f"pictures-{size}-v{DECODER_VERSION}-{digest}.u8"


class _Cache:
    """A file of decoded pictures that only grows, and an index: line k is the key of slot k.

    What the index names is on the disk; what lies beyond are rests of an interrupted run. A slot
    is never written twice, so another run may have the file mapped.
    """

    def __init__(self, folder: Path, size: int, source: Path) -> None:
        self.size = size
        self.data = cache_file(folder, size, source)
        self.index = self.data.with_suffix(".index")

    def keys(self) -> list[str]:
        if not self.index.exists():
            return []
        keys = self.index.read_text(encoding="utf-8").split("\n")[:-1]
        whole = self.data.exists() and self.data.stat().st_size >= len(keys) * self.size**2
        return keys if whole else []

    def find(self, keys: list[str]) -> np.ndarray:
        """(n,) slot of each key, -1 where it is not in the cache."""
        slot = {key: number for number, key in enumerate(self.keys())}
        return np.array([slot.get(key, -1) for key in keys], dtype=np.int64)

    def pixels(self) -> np.ndarray:
        count = len(self.keys())
        if count == 0:  # an empty file cannot be mapped
            return np.empty((0, self.size, self.size), dtype=np.uint8)
        return np.memmap(self.data, np.uint8, mode="r", shape=(count, self.size, self.size))

    def append(
        self, keys: list[str], results: Iterator[tuple[int, np.ndarray | str]]
    ) -> dict[int, str]:
        """Write results behind what is there; returns the reasons of those that are none."""
        stored, faults = self.keys(), {}
        handle = os.open(self.data, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._allocate(handle, stored, keys)
            saved = time.monotonic()
            try:
                for index, result in results:
                    if isinstance(result, str):
                        faults[index] = result
                        continue
                    written = os.pwrite(handle, result.tobytes(), len(stored) * self.size**2)
                    if written < self.size**2:  # cut short at the end of a disk
                        raise OSError(f"{self.data} cannot be written any further; {_WAYS_OUT}")
                    stored.append(keys[index])
                    if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                        self._save(handle, stored)
                        saved = time.monotonic()
            finally:
                os.ftruncate(handle, len(stored) * self.size**2)
                self._save(handle, stored)
        finally:
            os.close(handle)
        return faults

    def _allocate(self, handle: int, stored: list[str], more: list[str]) -> None:
        # On a full disk a write into a hole fails late, or as a signal: take the space first.
        used, needed = len(stored) * self.size**2, len(more) * self.size**2
        index = 2 * (_BLOCK + sum(len(os.fsencode(key)) + 1 for key in [*stored, *more]))  # and old
        os.ftruncate(handle, used)  # what a killed run had taken
        free = shutil.disk_usage(self.data.parent).free
        try:
            if needed and needed + index > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if needed and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, used, needed)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            os.ftruncate(handle, used)
            raise OSError(
                f"the cache folder {self.data.parent} needs {(needed + index) / 1e9:.2f} GB and "
                f"its disk has {free / 1e9:.2f} GB free ({error.strerror}); {_WAYS_OUT}"
            ) from error

    def _save(self, handle: int, keys: list[str]) -> None:
        os.fsync(handle)
        with whole_file(self.index) as file:
            file.write("".join(f"{key}\n" for key in keys))


def _keys(paths: list[str]) -> tuple[list[str], dict[str, str]]:
    """What identifies the content of each file, and the files that are gone."""
    keys, gone = [], {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            gone[path] = _reason(b"", error)
            keys.append("")
            continue
        keys.append(f"{os.path.basename(path)}\t{status.st_size}\t{status.st_mtime_ns}")
    return keys, gone


def _decoded(
    paths: list[str], size: int, workers: int, check: Callable[[], None]
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Each path's number with its picture, or with the reason why there is none."""
    decode = partial(_decode_or_reason, size=size)
    with ExitStack() as stack:
        progress = stack.enter_context(Progress("decoding", len(paths)))
        if workers == 0 or len(paths) < _SMALL:
            results: Iterator[np.ndarray | str] = map(decode, paths)
        else:
            pool = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_start_worker
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            with held_back():  # a process that starts is deaf only after its first imports
                results = pool.map(decode, paths, chunksize=8)
        try:
            for index, result in enumerate(results):
                check()
                yield index, result
                progress.advance(1)
        except BrokenProcessPool as error:
            check()
            raise OSError("a decoding process died; --workers 0 decodes without one") from error


def _decode_or_reason(path: str, size: int) -> np.ndarray | str:
    try:
        return read_picture(path, size)
    except ValueError as error:
        return str(error)


def _start_worker() -> None:
    leave_signals_to_parent()

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def main(argv: list[str] | None = None) -> int:
    """Decode a data folder ahead of time, so that runs begin at once."""
    parser = Parser(
        prog="python -m chestxray.images",
        allow_abbrev=False,
        description="Decode the pictures of a data folder ahead of time, for every later run.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="as main.py's --data_path")
    parser.add_argument(
        "--size",
        metavar="N",
        type=number(int, 32, 4096, "a side in pixels, 32 to 4096"),
        default=224,
        help="side of the decoded pictures, in pixels (default: 224)",
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", type=Path, default=Path(".cache"), help="(default: .cache)"
    )
    parser.add_argument(
        "--workers",
        "-j",
        metavar="N",
        type=number(int, 0, 1024, "a number of processes, 0 to 1024"),
        default=os.cpu_count() or 1,
        help="decoding processes; 0 works (default: as many as cores)",
    )
    args, _ = parser.parse(sys.argv[1:] if argv is None else argv)

    def work(stop: StopRequest) -> int:
        from chestxray.entries import read_entries  # with pandas, which decoding processes spare

        found = read_entries(args.folder)
        for note in found.notes:
            print(note)
        paths = found.rows["path"].tolist()
        pictures = load_pictures(
            paths, args.size, args.folder, args.cache_dir, args.workers, stop.check
        )
        ready = len(paths) - len(pictures.broken)
        print(f"{counted(ready, 'picture')} of {args.size} pixels a side ready in {args.cache_dir}")
        if pictures.broken:
            print(*describe_skipped(pictures.broken), sep="\n", file=sys.stderr)
        return 1 if pictures.broken else 0

    return answer(work)


if __name__ == "__main__":
    sys.exit(main())
