"""Image files -> one uint8 array (n, size, size), by a pool of processes.

PNG, JPEG and DICOM are known by their content. One rule for every image: grey (READING says how of
each kind), as stored (EXIF's rotation is ignored), padded with black to a centred square, resized
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from chestxray.data import dicom, integrity
from chestxray.runtime.pool import pool_map
from chestxray.runtime.progress import Progress

DECODER_VERSION = 4  # part of the cache's name: increase it when decode changes
DEEP = 16  # bits of a grey value, at most
MOST_PIXELS = 64_000_000
# How the values of each kind of file become 0 to 255; all are then resized in one way.
READING = {
    "PNG": "grey by the ITU-R 601 weights, alpha dropped; of 16 bits, 2**bits - 1 becomes 255",
    "JPEG": "grey by the ITU-R 601 weights; as stored, EXIF's rotation is ignored",
    "DICOM": dicom.READING,
}
RESIZING = "padded with black to a centred square, resized bilinearly with antialiasing"
_SHALLOW = 12  # bits that values of 16 bits often have, from X-ray machines
NEARLY_BLACK = (
    "nearly black: 16 bits, but no value above 4,095; if the values have 12 bits, --bits 12 makes "
    "4,095 white"
)
_MOST_BYTES = 8 * MOST_PIXELS + 100_000_000  # four channels of 16 bits, and metadata
_HEAD = 132  # bytes by which the kind of a file is known
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


@dataclass(frozen=True)
class Decoded:
    """An image that could be read.

    Attributes:
        pixels: (size, size) uint8.
        notes: what its user should know, each a text without tabs.
    """

    pixels: np.ndarray
    notes: tuple[str, ...]


def decode(path: str | Path, size: int, bits: int = DEEP) -> Decoded:
    """Decode one PNG, JPEG or DICOM file of any mode and shape.

    Args:
        size: side of the result, in pixels.
        bits: of the values of an image with 16 bits; 2**bits - 1 becomes white.

    Raises:
        ValueError: the image is missing, broken, or above 64 million pixels as a square; its values
            do not fit into the bits.
    """
    content = b""
    try:
        content = _content(path)
        with warnings.catch_warnings():
            # About sizes below our limit, and broken metadata.
            warnings.simplefilter("ignore")
            grey, notes = _decoded_grey(content, bits)
    except _FAULTS as error:
        if isinstance(error, OSError) and error.errno in _MACHINE_FAULTS:
            raise
        raise ValueError(describe_fault(content, error)) from error
    return Decoded(fit(grey, size), notes)


def fit(grey: Image.Image, size: int) -> np.ndarray:
    """Pad a grey image to a square and resize it: (size, size) uint8."""
    side = max(grey.size)
    if grey.width != grey.height:
        square = Image.new("L", (side, side))
        square.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
        grey = square
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


def kind_of(path: str | Path) -> str | None:
    """What a file is by its first bytes, a key of READING; None for any other.

    Raises:
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait forever
        return None
    with open(path, "rb") as file:
        start = file.read(_HEAD)
    if dicom.is_dicom(start):
        return "DICOM"
    if integrity.is_png(start):
        return "PNG"
    return "JPEG" if integrity.is_jpeg(start) else None


def _content(path: str | Path) -> bytes:
    """The bytes of a file, read once: what is checked is what is decoded."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
        raise ValueError("not a file but a folder, pipe or device")
    if status.st_size > _MOST_BYTES:
        raise ValueError(f"{status.st_size / 1e9:.1f} GB is more than 64 million pixels take")
    return Path(path).read_bytes()


def _decoded_grey(content: bytes, bits: int) -> tuple[Image.Image, tuple[str, ...]]:
    """The grey image of a file's bytes, and what its user should know."""
    if dicom.is_dicom(content):
        radiograph = dicom.read_radiograph(content, MOST_PIXELS)
        return Image.fromarray(radiograph.grey), radiograph.notes
    needed = integrity.without_notes(content)
    image = _loaded(needed)
    if integrity.is_jpeg(needed):
        _check_end(needed, image)
        return _grey(image), ()
    integrity.check_palette(needed)
    deep = integrity.bit_depth(needed) == DEEP
    grey = _scaled(image, bits) if deep else _grey(image)
    last_row = grey.crop((0, grey.height - 1, grey.width, grey.height))
    # Black is also what missing rows become.
    if image.info.get("interlace") or last_row.getbbox() is None:
        integrity.check_rows(needed)
    shallow = deep and bits == DEEP and _largest(image) < 2**_SHALLOW
    return grey, (NEARLY_BLACK,) if shallow else ()


def _loaded(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
        if max(image.size) ** 2 > MOST_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} is above 64 million pixels, made square"
            )
        image.load()
        return image


def _check_end(content: bytes, image: Image.Image) -> None:
    """Raise ValueError where the end of a JPEG is missing, or comes before its last pixels."""
    end = integrity.jpeg_end(content)
    if not integrity.may_be_pixels(content[end:]):
        return
    for other in integrity.continued(content, end):
        if _loaded(other).tobytes() != image.tobytes():
            raise ValueError("damaged: its end comes before its last pixels")


def _grey(image: Image.Image) -> Image.Image:
    if image.mode == "P":
        image.info.pop("transparency", None)  # alpha is dropped
        image = image.convert("RGB")
    return image.convert("L")


def _scaled(image: Image.Image, bits: int) -> Image.Image:
    """An image of 16 bits in grey, 2**bits - 1 as white."""
    white = 2**bits - 1
    if image.mode.startswith("I"):  # convert("L") would clip it to white
        levels = np.asarray(image)
        if levels.max() > white:
            raise ValueError(f"a value of {levels.max():,} is above {white:,}, --bits {bits}")
        return Image.fromarray(np.round(levels / (white / 255)).astype(np.uint8))
    if bits < DEEP:  # Pillow keeps the upper 8 of a colour's 16 bits
        raise ValueError(f"16 bits a colour cannot be read with --bits {bits}; convert it to grey")
    return _grey(image)


def _largest(image: Image.Image) -> int:
    """The largest value of an image of 16 bits; of a colour's, of which 8 are known, a bound."""
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    return 256 * int(np.asarray(image.convert("RGB")).max()) + 255


def describe_fault(content: bytes, error: Exception) -> str:
    """Why an image cannot be read, for people."""
    if isinstance(error, Image.UnidentifiedImageError):
        start = content[:12]
        kinds = "PNG, JPEG or DICOM image"
        return f"not a {kinds} (starts with {start!r})" if start else "an empty file"
    if isinstance(error, FileNotFoundError):
        return "it no longer exists"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which is beside it
    return str(error) or type(error).__name__


def decode_all(
    paths: list[str], size: int, workers: int, check: Callable[[], None], bits: int = DEEP
) -> Generator[tuple[int, Decoded | str], None, None]:
    """Yield the number of each path with its image, or with the reason why it has none."""
    work = partial(_decode_or_reason, size=size, bits=bits)
    alone = workers == 0 or len(paths) < _SMALL
    pool = nullcontext(map(work, paths)) if alone else pool_map(work, paths, workers, check)
    with Progress("decoding", len(paths)) as progress, pool as results:
        for index, result in enumerate(results):
            check()
            yield index, result
            progress.advance(1)


def _decode_or_reason(path: str, size: int, bits: int) -> Decoded | str:
    try:
        return decode(path, size, bits)
    except ValueError as error:
        return str(error)
