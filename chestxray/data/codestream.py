"""What the header of a JPEG, JPEG-LS or JPEG 2000 stream says of its image.

A decoder that is given another size than it is told of may write beyond its memory.
"""

import struct
from dataclasses import dataclass

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"  # of all three
# The markers with a size, of every process of JPEG (but DHT, JPG, DAC among them), and of JPEG-LS.
_SIZED = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
_SCAN = 0xDA
_SEGMENTS = _SIZED | {0xC4, 0xCC, _SCAN, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xF8, 0xFE}


@dataclass(frozen=True)
class Codestream:
    """The image of a stream: its size in pixels, its channels, the bits of a value."""

    rows: int
    columns: int
    channels: int
    bits: int


def is_complete(stream: bytes) -> bool:
    """Return whether a stream has its end; decoders fill with grey what is missing."""
    return stream.rstrip(b"\0\xff").endswith(_END)


def read_header(stream: bytes) -> Codestream:
    """Read the header of a stream.

    Raises:
        ValueError: it has none, or it is damaged.
        struct.error: it is cut off.
    """
    if stream.startswith(_JPEG_2000):
        return _of_jpeg_2000(stream)
    if stream.startswith(_JPEG):
        return _of_jpeg(stream)
    raise ValueError("no JPEG, JPEG-LS or JPEG 2000 stream")


def _of_jpeg_2000(stream: bytes) -> Codestream:
    right, lower, left, upper, *tile, channels = struct.unpack(">8IH", stream[8:42])
    bits, across, down = struct.unpack(">3B", stream[42:45])
    width, height = right - left, lower - upper
    tiles = -(-width // tile[0] if tile[0] else 0) * -(-height // tile[1] if tile[1] else 0)
    if not 1 <= tiles <= 65535 or (across, down) != (1, 1):
        raise ValueError("a size that no image has")
    return Codestream(height, width, channels, (bits & 0x7F) + 1)


def _of_jpeg(stream: bytes) -> Codestream:
    """All segments up to the pixels are walked: decoders search behind one that is damaged."""
    place, found = len(_JPEG), []
    while True:
        while stream[place + 1 : place + 2] == b"\xff":  # markers may be filled up
            place += 1
        mark, marker, length = struct.unpack(">BBH", stream[place : place + 4])
        if mark != 0xFF or marker not in _SEGMENTS or length < 2:
            raise ValueError("no segment where one belongs")
        if marker in _SIZED:
            bits, rows, columns, channels = struct.unpack(">BHHB", stream[place + 4 : place + 10])
            found.append(Codestream(rows, columns, channels, bits))
        if marker == _SCAN:
            break
        place += 2 + length
    if len(found) != 1:
        raise ValueError("no size, or several")
    return found[0]
