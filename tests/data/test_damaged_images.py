"""Damaged image files: named, never a death by signal, never an image half white or black."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from chestxray.data import decoding
from chestxray.data.cache import load_images
from chestxray.data.decoding import decode

SIDE = 24


def grey(side: int = 40) -> Image.Image:
    y, x = np.mgrid[:side, :side]
    return Image.fromarray((118 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8))


def packed(image: Image.Image, kind: str, **words: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **words)
    return file.getvalue()


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return packed(grey(), "JPEG", exif=exif)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    side: int, depth: int, colour: int, pixels: bytes, *more: bytes, interlace: int = 0
) -> bytes:
    """A PNG whose checksums are right, whatever it holds."""
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlace)
    body = b"".join((chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def interlaced(side: int = 40, share: float = 1.0) -> bytes:
    """The grey image in seven passes, of which a share is there."""
    levels, raw = np.asarray(grey(side)), b""
    grid = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    for left, top, across, down in (*grid, (0, 1, 1, 2)):
        for row in levels[top::down, left::across]:
            raw += b"\0" + row.tobytes()
    return png(side, 8, 0, zlib.compress(raw[: int(share * len(raw))]), interlace=1)


def deep() -> Image.Image:
    return Image.fromarray(np.asarray(grey()).astype(np.uint16) * 257)


PNGS = {
    "grey": packed(grey(), "PNG"),
    "16 bits": packed(deep(), "PNG"),
    "palette": packed(grey().convert("P"), "PNG"),
    "grey and alpha": packed(grey().convert("LA"), "PNG"),
    "colour": packed(grey().convert("RGB"), "PNG"),
    "colour and alpha": packed(grey().convert("RGBA"), "PNG"),
    "one bit": packed(grey().convert("1"), "PNG"),
    "interlaced": interlaced(),
}
JPEGS = {
    "grey": packed(grey(), "JPEG"),
    "colour": packed(grey().convert("RGB"), "JPEG"),
    "CMYK": packed(grey().convert("CMYK"), "JPEG"),
    "progressive": packed(grey(), "JPEG", progressive=True),
    "turned by EXIF": rotated_by_exif(),
    "restart marks": packed(grey(), "JPEG", restart_marker_blocks=3),
}


@st.composite
def injury(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few flips, or a cut, an insertion, a removal, a hole."""
    kind = draw(st.sampled_from(["flip", "cut", "insert", "remove", "hole"]))
    where = draw(st.floats(0, 1, exclude_max=True))
    length = draw(st.integers(1, 40))
    more = draw(st.binary(min_size=1, max_size=20))
    bits = draw(
        st.lists(
            st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=3
        )
    )

    def damage(whole: bytes) -> bytes:
        at = int(where * len(whole))
        if kind == "flip":
            flipped = bytearray(whole)
            for place, bit in bits:
                flipped[int(place * len(whole))] ^= 1 << bit
            return bytes(flipped)
        return {
            "cut": whole[:at],
            "insert": whole[:at] + more + whole[at:],
            "remove": whole[:at] + whole[at + length :],
            "hole": whole[:at] + bytes(min(length, len(whole) - at)) + whole[at + length :],
        }[kind]

    return damage


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("injured") / "image.png"


def decoded(place: Path, content: bytes) -> np.ndarray:
    place.write_bytes(content)
    return decode(place, SIDE).pixels


def test_what_is_injured_below_is_readable_before(place: Path) -> None:
    for whole in (*PNGS.values(), *JPEGS.values()):
        assert np.ptp(decoded(place, whole)) > 100
    np.testing.assert_array_equal(decoded(place, PNGS["interlaced"]), decoded(place, PNGS["grey"]))
    np.testing.assert_array_equal(  # as stored: EXIF's rotation is not looked at
        decoded(place, JPEGS["turned by EXIF"]), decoded(place, JPEGS["grey"])
    )


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(sorted(PNGS)), damage=injury())
def test_an_injured_png_is_refused_or_has_its_pixels(
    place: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    whole = decoded(place, PNGS[name])
    try:
        found = decoded(place, damage(PNGS[name]))
    except ValueError as refused:
        assert str(refused)
        return
    np.testing.assert_array_equal(found, whole)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(sorted(JPEGS)), damage=injury())
def test_an_injured_jpeg_is_refused_or_some_image(
    place: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    # Its pixels have no checksum: other pixels may pass, anything but ValueError may not.
    try:
        assert decoded(place, damage(JPEGS[name])).shape == (SIDE, SIDE)
    except ValueError as refused:
        assert str(refused)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    start=st.sampled_from([b"", PNGS["grey"][:33], PNGS["grey"][:8], JPEGS["grey"][:20]]),
    rest=st.binary(max_size=300),
)
def test_any_bytes_are_refused_with_a_reason(place: Path, start: bytes, rest: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        decoded(place, start + rest)


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_anywhere_is_refused_whatever_follows(place: Path, name: str) -> None:
    whole = JPEGS[name]
    for cut in range(0, len(whole) - 2, 7):
        for tail in (b"", bytes(5000), b"\xff" * 5000):  # as a disk leaves what it did not write
            with pytest.raises(ValueError):
                decoded(place, whole[:cut] + tail)


# The pixels of each scan: up to the next marker that is no restart mark.
SCAN = re.compile(rb"\xff\xda\0.(.*?)\xff[^\0\xd0-\xd7]", re.DOTALL)


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("behind", [b"", b"notes of a phone" * 40])
def test_a_jpeg_whose_end_comes_too_early_is_refused(place: Path, name: str, behind: bytes) -> None:
    whole = JPEGS[name]
    scans = [range(found.start(1) + 12, found.end(1)) for found in SCAN.finditer(whole)]
    places = [at for scan in scans for at in scan if at < len(whole) - 20]
    assert len(places) > 100
    for at in places[::3]:
        with pytest.raises(ValueError):
            decoded(place, whole[:at] + b"\xff\xd9" + whole[at + 2 :] + behind)


TAILS = {
    "padding": b"\0" * 9,
    "a line end": b"\r\n",
    "a second image": JPEGS["colour"],
    "notes": b"notes that a camera appends",
    "numbers": bytes(range(256)) * 9,
    "a note with an end mark": b"SEFT\xff\xd9\xff\xd9",
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("behind", TAILS)
def test_what_lies_behind_the_end_of_a_jpeg_does_no_harm(
    place: Path, name: str, behind: str
) -> None:
    whole = decoded(place, JPEGS[name])
    np.testing.assert_array_equal(decoded(place, JPEGS[name] + TAILS[behind]), whole)


NOTES = ("tEXt", "zTXt", "iTXt", "iCCP", "eXIf", "tIME", "pHYs", "gAMA", "acTL", "fdAT", "bKGD")
BOMB = zlib.compress(bytes(3_000_000))  # more than Pillow unpacks of a note


@st.composite
def png_note(draw: st.DrawFn) -> bytes:
    """A chunk beside the pixels: its data anything, or a text that unpacks to 3 MB."""
    kind = draw(st.sampled_from([*NOTES, "prVt"])).encode()
    start = draw(st.sampled_from([b"", b"Comment\0\0", b"XML:com.adobe.xmp\0\1\0\0\0"]))
    data = start + draw(st.one_of(st.binary(max_size=60), st.just(BOMB), st.just(bytes(900_000))))
    whole = chunk(kind, data)
    return whole[:-4] + bytes(4) if draw(st.booleans()) else whole


def boundaries(whole: bytes) -> list[int]:
    """Where a further chunk of a PNG may be put: behind its header, up to its end."""
    found = [33]
    while whole[found[-1] + 4 : found[-1] + 8] != b"IEND":
        found.append(found[-1] + 12 + int.from_bytes(whole[found[-1] : found[-1] + 4]))
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(sorted(PNGS)), notes=st.lists(st.tuples(st.floats(0, 1), png_note())))
def test_notes_in_a_png_change_no_pixel(
    place: Path, name: str, notes: list[tuple[float, bytes]]
) -> None:
    noted = PNGS[name]
    for where, note in notes:
        places = boundaries(noted)
        at = places[round(where * (len(places) - 1))]
        noted = noted[:at] + note + noted[at:]
    np.testing.assert_array_equal(decoded(place, noted), decoded(place, PNGS[name]))


@st.composite
def jpeg_note(draw: st.DrawFn) -> bytes:
    """A segment beside the pixels; neither JFIF nor Adobe, which say what they mean."""
    marker = draw(st.sampled_from([0xFE, *range(0xE1, 0xEE), 0xEF]))
    starts = [
        b"",
        b"Exif\0\0MM",
        b"ICC_PROFILE\0\1\2",
        b"MPF\0II",
        b"http://ns.adobe.com/xap/1.0/\0",
    ]
    data = draw(st.sampled_from(starts)) + draw(
        st.one_of(st.binary(max_size=60), st.just(bytes(65_000)))
    )
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(sorted(JPEGS)), notes=st.lists(jpeg_note()))
def test_notes_in_a_jpeg_change_no_pixel(place: Path, name: str, notes: list[bytes]) -> None:
    whole = JPEGS[name]
    noted = b"".join([whole[:2], *notes, whole[2:]])
    np.testing.assert_array_equal(decoded(place, noted), decoded(place, whole))


def test_notes_are_never_unpacked(tmp_path: Path) -> None:
    """600 MB in a text, in a process that may have 500 of them."""
    bomb = zlib.compressobj()
    packed_up = b"".join(bomb.compress(bytes(10_000_000)) for _ in range(60)) + bomb.flush()
    whole = PNGS["grey"]
    note = chunk(b"zTXt", b"a\0\0" + packed_up) + chunk(b"iCCP", b"a\0\0" + packed_up)
    (tmp_path / "bomb.png").write_bytes(whole[:33] + note + whole[33:])
    program = """
import resource, sys
from chestxray.data.decoding import decode
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
print(decode(sys.argv[1], 24).pixels.shape)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "bomb.png")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "(24, 24)\n"), ran.stderr


def split_pixels(whole: bytes, parts: int = 5) -> bytes:
    """The same PNG with its pixels in several chunks."""
    start = whole.index(b"IDAT") - 4
    length = int.from_bytes(whole[start : start + 4])
    data, step = whole[start + 8 : start + 8 + length], length // parts + 1
    pieces = [chunk(b"IDAT", data[at : at + step]) for at in range(0, length, step)]
    return b"".join([whole[:start], *pieces, whole[start + 12 + length :]])


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_wrong_checksum_or_name_of_pixels_is_a_fault(place: Path, kind: bytes) -> None:
    whole = split_pixels(PNGS["palette"])
    expected = decoded(place, PNGS["palette"])
    np.testing.assert_array_equal(decoded(place, whole), expected)
    name = whole.rindex(kind)
    end = name + 4 + int.from_bytes(whole[name - 4 : name])
    with pytest.raises(ValueError, match=f"wrong checksum of its {kind.decode()}"):
        decoded(place, whole[:end] + b"\0\0\0\0" + whole[end + 4 :])
    for bit in range(32):  # with one of its bits turned, a chunk of pixels does not become a note
        renamed = bytearray(whole)
        renamed[name + bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="broken PNG file"):
            decoded(place, bytes(renamed))


FLAT = b"".join(b"\0" + b"\xc8" * 40 for _ in range(40))
# Right checksums around what does not hold together -> the reason
LYING = {
    "half the rows": (png(40, 8, 0, zlib.compress(FLAT[:820])), "truncated: 820 of 1,640 bytes"),
    "half the passes": (interlaced(share=0.6), "truncated"),
    "no pixels": (png(40, 8, 0, b""), "."),
    "no pixel chunk": (PNGS["grey"][:33] + chunk(b"IEND", b""), "."),
    "no palette": (png(40, 8, 3, zlib.compress(FLAT)), "its palette is missing"),
    "a huge image": (png(30_000, 1, 0, zlib.compress(b"\0")), "pixels"),
    "a small image of many bytes": (png(1, 8, 0, zlib.compress(bytes(9_000_000))), None),
}


@pytest.mark.parametrize("name", LYING)
def test_a_png_that_lies_with_right_checksums_is_found_out(place: Path, name: str) -> None:
    content, reason = LYING[name]
    if reason is None:  # what lies behind the pixels is never unpacked
        assert decoded(place, content).max() == 0
        return
    with pytest.raises(ValueError, match=reason):
        decoded(place, content)


def test_a_whole_image_with_a_black_last_row_is_read(place: Path) -> None:
    for mode in ("L", "LA", "RGB", "RGBA", "P", "1"):
        black = Image.new(mode, (33, 7))
        assert decoded(place, packed(black, "PNG")).max() == 0


def test_pipes_folders_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "nowhere.png").symlink_to("absent")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "empty.png").touch()
    reasons = {
        "pipe.png": "not a file but a folder, pipe or device",
        "folder.png": "not a file but a folder, pipe or device",
        "loop.png": "symbolic links",
        "nowhere.png": "it no longer exists",
        "device.png": "not a file but a folder, pipe or device",
        "empty.png": "an empty file",
    }
    paths = [str(tmp_path / name) for name in reasons]
    for cache in (None, tmp_path / "cache"):
        broken = load_images(paths, SIDE, tmp_path, cache).broken
        for path, reason in zip(paths, reasons.values(), strict=True):
            assert reason in broken[path]


def test_a_file_too_large_for_any_image_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match=r"1000\.0 GB is more than 64 million pixels take"):
        decode(tmp_path / "large.png", SIDE)


def test_an_image_that_changes_is_read_whole_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "changing.png"
    path.write_bytes(PNGS["grey"])
    plain_open, seen = Image.open, []

    def open_and_injure(*words: object, **more: object) -> Image.Image:
        seen.append(path.write_bytes(PNGS["grey"][: len(PNGS["grey"]) // 2]))
        return plain_open(*words, **more)

    expected = decode(path, SIDE).pixels
    monkeypatch.setattr(decoding.Image, "open", open_and_injure)
    np.testing.assert_array_equal(decode(path, SIDE).pixels, expected)
    assert seen
    with pytest.raises(ValueError, match="(?i)truncated"):
        decode(path, SIDE)


def test_broken_metadata_beside_the_pixels_is_ignored(tmp_path: Path) -> None:
    whole = JPEGS["turned by EXIF"]
    at = whole.index(b"Exif\0\0") + 14
    broken = whole[:at] + b"\xff\xff" + whole[at + 2 :]
    (tmp_path / "notes.jpg").write_bytes(broken)
    program = (
        "import sys\nfrom chestxray.data.decoding import decode\ndecode(sys.argv[1], 24).pixels"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path / "notes.jpg")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_png_with_two_headers_is_a_fault(tmp_path: Path) -> None:
    """The checks read the first, and the decoder the last."""
    file = io.BytesIO()
    grey().save(file, "PNG")
    content = file.getvalue()
    header = content[8:33]
    deep = header[:16] + bytes([16]) + header[17:21]
    deep = deep[:21] + struct.pack(">I", zlib.crc32(deep[4:21]))
    path = tmp_path / "a.png"
    path.write_bytes(content[:33] + deep + content[33:])
    with pytest.raises(ValueError, match="its header is not its first chunk, or there are two"):
        decode(path, SIDE)
