"""What the bytes of a PNG or JPEG must show, and decoders do not ask: that no part is missing.

A PNG has a checksum in every chunk, which Pillow's verify() compares; a writer that stopped early
and still summed up right leaves rows out, which the decoder fills with black. A JPEG has no
checksums: that its end is there, and nothing strange before, is all that can be asked.
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
    return content.startswith(_SIGNATURE)


def check_palette(content: bytes) -> None:
    """Raise ValueError where a PNG's pixels are numbers of colours that it does not hold."""
    if content[25] == _PALETTE and b"PLTE" not in (kind for kind, _ in _chunks(content)):
        raise ValueError("its palette is missing")


def check_rows(content: bytes) -> None:
    """Raise ValueError where a PNG holds fewer pixels than its header says."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * _CHANNELS[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    needed = 0
    for left, top, across, down in passes:
        columns, rows = math.ceil((width - left) / across), math.ceil((height - top) / down)
        if columns > 0 and rows > 0:
            needed += rows * (1 + math.ceil(columns * bits / 8))  # 1: the filter of the row
    inflate, found = zlib.decompressobj(), 0
    for kind, data in _chunks(content):
        if kind == b"IDAT" and found < needed:
            found += len(inflate.decompress(data, needed - found))
    if found < needed:
        raise ValueError(f"truncated: {found:,} of {needed:,} bytes of pixels")


def check_end(content: bytes) -> None:
    """Raise ValueError where a JPEG does not end, or not where the file does."""
    place = 2
    while True:
        place += len(_FILL.match(content, place)[0])  # type: ignore[index]  # it matches anything
        marker = _marker(content, place)
        if marker == _END:
            break
        if place + 4 > len(content):
            raise ValueError("truncated: its end is missing")
        (length,) = struct.unpack(">H", content[place + 2 : place + 4])
        place += 2 + length
        if marker == _SCAN:
            found = _MARKER.search(content, place)
            if found is None:
                raise ValueError("truncated: its end is missing")
            place = found.start()
            if content[place + 1] != _END and content[place + 1] not in _BETWEEN_SCANS:
                raise ValueError("its pixels are damaged")
    rest = content[place + 2 :].lstrip(b"\x00\xff\r\n")
    if rest and not rest.startswith(b"\xd8\xff"):  # a second image, as some cameras add
        raise ValueError(f"damaged: {len(rest):,} bytes lie behind its end")


def _marker(content: bytes, place: int) -> int:
    if place + 2 > len(content):
        raise ValueError("truncated: its end is missing")
    if content[place] != 0xFF:
        raise ValueError("its segments are damaged")
    return content[place + 1]


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and data of each chunk of a PNG."""
    place, view = len(_SIGNATURE), memoryview(content)
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", view[place : place + 4])
        yield content[place + 4 : place + 8], view[place + 8 : place + 8 + length]
        place += 12 + length
