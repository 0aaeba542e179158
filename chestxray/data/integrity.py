"""Checks that no part of a PNG or JPEG is missing, which decoders do not make.

A PNG has a checksum in every chunk, which Pillow's verify() compares; a writer that stopped early
with right checksums leaves rows out, which the decoder fills with black. A JPEG has no checksums:
only its end and its markers can be checked.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PALETTE = 3  # the colour type
# First column, first row, step between columns, step between rows, of each interlacing pass.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)

# In the pixels of a JPEG, 0xFF is followed by 0 (a pixel byte), a restart mark, or another 0xFF.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FILL = re.compile(rb"(?:\xff(?=\xff))*")
_END, _SCAN = 0xD9, 0xDA
_BETWEEN_SCANS = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}


def is_png(content: bytes) -> bool:
    """Return whether a file begins as a PNG."""
    return content.startswith(_SIGNATURE)


def check_palette(content: bytes) -> None:
    """Raise ValueError where a PNG's pixels refer to a palette that is missing."""
    if content[25] == _PALETTE and b"PLTE" not in (kind for kind, _ in _chunks(content)):
        raise ValueError("its palette is missing")


def check_rows(content: bytes) -> None:
    """Raise ValueError where a PNG holds fewer pixels than its header says."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    needed = _pixel_bytes(width, height, depth * _CHANNELS[colour], passes)
    inflate, found = zlib.decompressobj(), 0
    for kind, data in _chunks(content):
        if kind == b"IDAT" and found < needed:
            found += len(inflate.decompress(data, needed - found))
    if found < needed:
        raise ValueError(f"truncated: {found:,} of {needed:,} bytes of pixels")


def _pixel_bytes(
    width: int, height: int, bits: int, passes: tuple[tuple[int, int, int, int], ...]
) -> int:
    """Bytes of a PNG's inflated pixels, at so many bits each."""
    needed = 0
    for left, top, across, down in passes:
        columns, rows = math.ceil((width - left) / across), math.ceil((height - top) / down)
        if columns > 0 and rows > 0:
            needed += rows * (1 + math.ceil(columns * bits / 8))  # 1: the filter of the row
    return needed


def check_end(content: bytes) -> None:
    """Raise ValueError where the end of a JPEG is missing, or is not the end of the file."""
    position = 2
    while True:
        position += len(_FILL.match(content, position)[0])  # type: ignore[index]  # it matches anything
        marker = _marker(content, position)
        if marker == _END:
            break
        if position + 4 > len(content):
            raise ValueError("truncated: its end is missing")
        (length,) = struct.unpack(">H", content[position + 2 : position + 4])
        position += 2 + length
        if marker == _SCAN:
            found = _MARKER.search(content, position)
            if found is None:
                raise ValueError("truncated: its end is missing")
            position = found.start()
            if content[position + 1] != _END and content[position + 1] not in _BETWEEN_SCANS:
                raise ValueError("its pixels are damaged")
    remainder = content[position + 2 :].lstrip(b"\x00\xff\r\n")
    if remainder and not remainder.startswith(b"\xd8\xff"):  # a second image, as some cameras add
        raise ValueError(f"damaged: {len(remainder):,} bytes follow its end")


def _marker(content: bytes, position: int) -> int:
    if position + 2 > len(content):
        raise ValueError("truncated: its end is missing")
    if content[position] != 0xFF:
        raise ValueError("its segments are damaged")
    return content[position + 1]


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and data of each chunk of a PNG."""
    position, view = len(_SIGNATURE), memoryview(content)
    while position + 12 <= len(content):
        (length,) = struct.unpack(">I", view[position : position + 4])
        yield content[position + 4 : position + 8], view[position + 8 : position + 8 + length]
        position += 12 + length
