"""Image files -> one uint8 array (n, size, size), by a pool of processes.

One rule for every image: grey (colour by the ITU-R 601 weights, alpha dropped, 16 bits divided by
257), as stored (EXIF's rotation is ignored), padded with black to a centred square, resized
bilinearly with antialiasing.
"""

import errno
import io
import multiprocessing
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from chestxray.data import integrity
from chestxray.runtime.progress import Progress
from chestxray.runtime.signals import block_signals, ignore_signals

DECODER_VERSION = 2  # part of the cache's name: increase it when read_image changes
MOST_PIXELS = 64_000_000
_MOST_BYTES = 8 * MOST_PIXELS + 100_000_000  # four channels of 16 bits, and metadata
_SMALL = 32  # images: below, starting a process costs more than it saves
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
_MACHINE_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # not the fault of an image


def read_image(path: str | Path, size: int) -> np.ndarray:
    """Decode one PNG or JPEG of any mode and shape.

    Returns:
        (size, size) uint8.

    Raises:
        ValueError: the image is missing, broken, or above 64 million pixels as a square.
    """
    content = b""
    try:
        content = _content(path)
        with warnings.catch_warnings():
            # About sizes below our limit, and broken metadata.
            warnings.simplefilter("ignore")
            grey = _decoded_grey(content)
    except _FAULTS as error:
        if isinstance(error, OSError) and error.errno in _MACHINE_FAULTS:
            raise
        raise ValueError(describe_fault(content, error)) from error
    side = max(grey.size)
    if grey.width != grey.height:
        square = Image.new("L", (side, side))
        square.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
        grey = square
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


def _content(path: str | Path) -> bytes:
    """The bytes of a file, read once: what is checked is what is decoded."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
        raise ValueError("not a file but a folder, pipe or device")
    if status.st_size > _MOST_BYTES:
        raise ValueError(f"{status.st_size / 1e9:.1f} GB is more than 64 million pixels take")
    return Path(path).read_bytes()


def _decoded_grey(content: bytes) -> Image.Image:
    needed = integrity.without_notes(content)
    grey, interlaced = _opened_grey(needed)
    if integrity.is_jpeg(needed):
        _check_end(needed, grey)
        return grey
    integrity.check_palette(needed)
    last_row = grey.crop((0, grey.height - 1, grey.width, grey.height))
    if interlaced or last_row.getbbox() is None:  # black is also what missing rows become
        integrity.check_rows(needed)
    return grey


def _opened_grey(content: bytes) -> tuple[Image.Image, bool]:
    """The grey image of a file's bytes, and whether its rows are interlaced."""
    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
        if max(image.size) ** 2 > MOST_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} is above 64 million pixels, made square"
            )
        image.load()
        return _grey(image), bool(image.info.get("interlace"))


def _check_end(content: bytes, grey: Image.Image) -> None:
    """Raise ValueError where the end of a JPEG is missing, or comes before its last pixels."""
    end = integrity.jpeg_end(content)
    if not integrity.may_be_pixels(content[end:]):
        return
    for other in integrity.continued(content, end):
        if _opened_grey(other)[0].tobytes() != grey.tobytes():
            raise ValueError("damaged: its end comes before its last pixels")


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which convert("L") would clip to white
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode == "P":
        image.info.pop("transparency", None)  # alpha is dropped
        image = image.convert("RGB")
    return image.convert("L")


def describe_fault(content: bytes, error: Exception) -> str:
    """Why an image cannot be read, for people."""
    if isinstance(error, Image.UnidentifiedImageError):
        start = content[:12]
        return f"not a PNG or JPEG image (starts with {start!r})" if start else "an empty file"
    if isinstance(error, FileNotFoundError):
        return "it no longer exists"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which is beside it
    return str(error) or type(error).__name__


def decode_all(
    paths: list[str], size: int, workers: int, check: Callable[[], None]
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Yield the number of each path with its image, or with the reason why it has none."""
    with Progress("decoding", len(paths)) as progress, _decoder(paths, size, workers) as results:
        try:
            for index, result in enumerate(results):
                check()
                yield index, result
                progress.advance(1)
        except BrokenProcessPool as error:
            check()
            raise OSError(
                "a decoding process died; --workers 0 decodes without such processes"
            ) from error


@contextmanager
def _decoder(paths: list[str], size: int, workers: int) -> Iterator[Iterator[np.ndarray | str]]:
    """The images or reasons of all paths, in order, from a pool of processes if it pays."""
    decode = partial(_decode_or_reason, size=size)
    if workers == 0 or len(paths) < _SMALL:
        yield map(decode, paths)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        with block_signals():  # a new process ignores them only after its first imports
            results = pool.map(decode, paths, chunksize=8)
        yield results
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_or_reason(path: str, size: int) -> np.ndarray | str:
    try:
        return read_image(path, size)
    except ValueError as error:
        return str(error)


def _start_worker() -> None:
    ignore_signals()

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
