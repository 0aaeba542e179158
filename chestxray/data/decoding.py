"""Image files -> one uint8 array (n, size, size), by a pool of processes.

One rule for every image: grey (colour by the ITU-R 601 weights, alpha dropped, 16 bits divided by
257), as stored (EXIF's rotation is ignored), padded with black to a centred square, resized
bilinearly with antialiasing.
"""

import errno
import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Generator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from chestxray.data import integrity
from chestxray.runtime.pool import pool_map
from chestxray.runtime.progress import Progress

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
    if not integrity.is_png(content):
        integrity.check_end(content)
        return grey
    integrity.check_palette(content)
    last_row = grey.crop((0, grey.height - 1, grey.width, grey.height))
    if interlaced or last_row.getbbox() is None:  # black is also what missing rows become
        integrity.check_rows(content)
    return grey


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
) -> Generator[tuple[int, np.ndarray | str], None, None]:
    """Yield the number of each path with its image, or with the reason why it has none."""
    decode = partial(_decode_or_reason, size=size)
    alone = workers == 0 or len(paths) < _SMALL
    pool = nullcontext(map(decode, paths)) if alone else pool_map(decode, paths, workers, check)
    with Progress("decoding", len(paths)) as progress, pool as results:
        for index, result in enumerate(results):
            check()
            yield index, result
            progress.advance(1)


def _decode_or_reason(path: str, size: int) -> np.ndarray | str:
    try:
        return read_image(path, size)
    except ValueError as error:
        return str(error)
