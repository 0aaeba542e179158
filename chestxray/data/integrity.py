"""What the pixels of a PNG or JPEG are decoded from, and checks that no part of it is missing.

Notes (texts, profiles, EXIF) are taken off, so that nothing about them can stop an image: neither
their size nor a wrong checksum, nor what unpacks to more. A PNG has a checksum in every chunk; a
writer that stopped early with right checksums leaves rows out, which the decoder fills with black.
A JPEG has no checksums: only its end and its markers can be checked.
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
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")

# In the pixels of a JPEG, 0xFF is followed by 0 (a pixel byte), a restart mark, or another 0xFF.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FILL = re.compile(rb"(?:\xff(?=\xff))*")
# The beginning of a scan, with the length that it has for 1 to 4 components.
_LATER_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_END, _SCAN, _REMARK = 0xD9, 0xDA, 0xFE
# JFIF (0xE0) and Adobe (0xEE) say what the numbers of a pixel mean; the others are notes.
_SEGMENT_NOTES = {_REMARK, *range(0xE1, 0xF0)} - {0xEE}
_BETWEEN_SCANS = {0xC4, _SCAN, 0xDB, 0xDC, 0xDD, _REMARK, *range(0xE0, 0xF0)}


def is_png(content: bytes) -> bool:
    """Return whether a file begins as a PNG."""
    return content.startswith(_SIGNATURE)


def is_jpeg(content: bytes) -> bool:
    """Return whether a file begins as a JPEG."""
    return content.startswith(b"\xff\xd8\xff")


def without_notes(content: bytes) -> bytes:
    """Return a PNG or JPEG without its notes, and anything else as it is; nothing is unpacked.

    Raises:
        ValueError: a PNG with a wrong checksum, notes excepted, or without its end; a JPEG with
            damaged segments before its pixels.
    """
    if is_png(content):
        return b"".join([_SIGNATURE, *_needed_chunks(content)])
    return b"".join(_needed_segments(content)) if is_jpeg(content) else content


def _needed_chunks(content: bytes) -> Iterator[memoryview]:
    """Yield the whole chunks of a PNG that its pixels depend on."""
    position, kind, view = len(_SIGNATURE), b"", memoryview(content)
    while kind != b"IEND":
        stop = position + 12 + int.from_bytes(view[position : position + 4])
        if stop > len(content):
            raise ValueError("truncated PNG file: its end is missing")
        kind = content[position + 4 : position + 8]
        if not kind.isalpha():
            raise ValueError("broken PNG file: something that is no chunk lies between its chunks")
        checksum = int.from_bytes(view[stop - 4 : stop])
        if not _is_note(kind) and zlib.crc32(view[position + 4 : stop - 4]) != checksum:
            raise ValueError(f"broken PNG file: wrong checksum of its {kind.decode()}")
        if (kind == b"IHDR") != (position == len(_SIGNATURE)):
            raise ValueError("broken PNG file: its header is not its first chunk, or there are two")
        if kind[:1].isupper():
            yield view[position:stop]
        position = stop


def _is_note(kind: bytes) -> bool:
    """Whether a chunk lies beside the pixels and cannot be one of theirs with a damaged name."""
    return kind[:1].islower() and all(
        sum(ours != theirs for ours, theirs in zip(kind, needed, strict=True)) > 1
        for needed in _NEEDED
    )


def _needed_segments(content: bytes) -> Iterator[memoryview]:
    """Yield the parts of a JPEG that its pixels depend on, and all from its first scan on."""
    view, done = memoryview(content), 2
    yield view[:done]
    for marker, start, stop in _segments(content, done):
        if marker not in _SEGMENT_NOTES:
            yield view[start:stop]
        done = stop
    yield view[done:]


def bit_depth(content: bytes) -> int:
    """Return the bits of a PNG's grey value, colour or place in the palette."""
    return content[24]


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


def jpeg_end(content: bytes) -> int:
    """Return where the file of a JPEG could end: the place behind its end mark.

    Raises:
        ValueError: it has none, or its markers are damaged.
    """
    position = 2
    while True:
        for _, _, stop in _segments(content, position):
            position = stop
        position = _skip_fill(content, position)
        if content[position + 1] == _END:
            return position + 2
        found = _MARKER.search(content, position + 2 + _length(content, position))
        if found is None:
            raise ValueError("truncated: its end is missing")
        position = found.start()
        if content[position + 1] != _END and content[position + 1] not in _BETWEEN_SCANS:
            raise ValueError("its pixels are damaged")


def may_be_pixels(remainder: bytes) -> bool:
    """Return whether what follows the end mark of a JPEG could be pixels: it is no padding."""
    return bool(remainder.lstrip(b"\x00\xff\r\n"))


def continued(content: bytes, end: int) -> Iterator[bytes]:
    """Yield a JPEG continued in two ways with other numbers before its end mark.

    Where its pixels are complete these are skipped. Where the end mark came too early, and what
    lies behind it are pixels, they become pixels.

    Raises:
        ValueError: a further scan follows the end mark.
    """
    second_image = content.find(b"\xff\xd8\xff", end)
    if _LATER_SCAN.search(content, end, second_image if second_image > 0 else len(content)):
        raise ValueError("damaged: its end comes before its last pixels")
    pixels = content[: end - 2].rstrip(b"\xff")  # fill bytes may come before the mark
    marks = _RESTART.findall(pixels, pixels.rindex(b"\xff\xda"))
    last = marks[-1][1] if marks else 0xD7
    numbers = bytes(range(1, 0xFF))
    for filler in (numbers, numbers[::-1]):
        # With the restart marks for which a decoder may wait, in their order.
        rows = (filler + bytes([0xFF, 0xD0 + (last + row) % 8]) for row in range(1, 9))
        yield b"".join([pixels, *rows, filler, content[end - 2 : end]])


def _segments(content: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and stop of the segments of a JPEG, up to the next scan or the end."""
    while True:
        start, position = position, _skip_fill(content, position)
        marker = content[position + 1]
        if marker in (_SCAN, _END):
            return
        position += 2 + _length(content, position)
        yield marker, start, position


def _skip_fill(content: bytes, position: int) -> int:
    """The place of the next marker, behind bytes that may come before it."""
    position += len(_FILL.match(content, position)[0])  # type: ignore[index]  # it matches anything
    if position + 2 > len(content):
        raise ValueError("truncated: its end is missing")
    if content[position] != 0xFF:
        raise ValueError("its segments are damaged")
    return position


def _length(content: bytes, position: int) -> int:
    """The length of the segment whose marker is there, without the marker."""
    if position + 4 > len(content):
        raise ValueError("truncated: its end is missing")
    return int.from_bytes(content[position + 2 : position + 4])


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and data of each chunk of a PNG."""
    position, view = len(_SIGNATURE), memoryview(content)
    while position + 12 <= len(content):
        (length,) = struct.unpack(">I", view[position : position + 4])
        yield content[position + 4 : position + 8], view[position + 8 : position + 8 + length]
        position += 12 + length
