"""Images of every mode and shape become grey squares; broken files are refused."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import BROKEN, ROOT, noise_image
from PIL import Image

from chestxray.data.decoding import NEARLY_BLACK, decode

SIZE = 24


def wave(side: int = 40) -> Image.Image:
    """A smooth grey image that uses most of the 256 levels."""
    y, x = np.mgrid[:side, :side]
    return Image.fromarray((118 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8))


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def with_alpha(mode: str) -> Image.Image:
    grey = wave()
    return Image.merge(mode, [grey] * (len(mode) - 1) + [noise_image(5)])


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(wave()).astype(np.uint16) * 257)


# name -> the image that holds the grey of wave(), file suffix, words for save
TWINS: dict[str, tuple[Callable[[], Image.Image], str, dict]] = {
    "LA": (lambda: with_alpha("LA"), "png", {}),
    "RGB": (lambda: wave().convert("RGB"), "png", {}),
    "RGBA": (lambda: with_alpha("RGBA"), "png", {}),
    "P": (lambda: wave().convert("P"), "png", {}),
    "P, one clear colour": (lambda: wave().convert("P"), "png", {"transparency": 118}),
    "P, alpha per colour": (
        lambda: wave().convert("P"),
        "png",
        {"transparency": bytes(range(256))},
    ),
    "L, one clear level": (wave, "png", {"transparency": 118}),
    "RGB, one clear colour": (
        lambda: wave().convert("RGB"),
        "png",
        {"transparency": (118, 118, 118)},
    ),
    "I;16": (sixteen_bits, "png", {}),
    "L jpg": (wave, "jpg", {"quality": 100}),
    "RGB jpg": (lambda: wave().convert("RGB"), "jpg", {"quality": 100}),
    "CMYK jpg": (lambda: wave().convert("CMYK"), "jpg", {"quality": 100}),
}


@pytest.mark.parametrize("name", TWINS)
def test_every_mode_gives_the_grey_of_its_L_twin(tmp_path: Path, name: str) -> None:
    make, suffix, words = TWINS[name]
    wave().save(tmp_path / "grey.png")
    make().save(tmp_path / f"twin.{suffix}", **words)
    grey = decode(tmp_path / "grey.png", SIZE).pixels.astype(int)
    twin = decode(tmp_path / f"twin.{suffix}", SIZE).pixels.astype(int)
    assert np.ptp(grey) > 100
    assert np.abs(twin - grey).max() <= (1 if suffix == "jpg" else 0)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    black_or_white = wave().point(lambda level: 255 * (level > 118))
    black_or_white.save(tmp_path / "grey.png")
    black_or_white.convert("1").save(tmp_path / "bit.png")
    assert mode_of(tmp_path / "bit.png") == "1"
    bit, grey = (decode(tmp_path / name, SIZE).pixels for name in ("bit.png", "grey.png"))
    np.testing.assert_array_equal(bit, grey)


def test_sixteen_bits_are_divided_by_257_and_never_clipped(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert mode_of(tmp_path / "deep.png") == "I;16"
    np.testing.assert_array_equal(decode(tmp_path / "deep.png", 64).pixels, np.round(levels / 257))


@pytest.mark.parametrize("bits", range(8, 17))
def test_fewer_bits_than_16_have_their_own_white(tmp_path: Path, bits: int) -> None:
    white = 2**bits - 1
    levels = np.linspace(0, white, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    expected = np.round(levels / (white / 255))
    assert expected.max() == 255
    np.testing.assert_array_equal(decode(tmp_path / "deep.png", 64, bits).pixels, expected)
    if bits < 16:
        levels[5, 5] = white + 1
        Image.fromarray(levels).save(tmp_path / "deep.png")
        with pytest.raises(ValueError, match=f"{white + 1:,} is above {white:,}, --bits {bits}"):
            decode(tmp_path / "deep.png", 64, bits)


def test_bits_change_nothing_about_images_of_8_bits(tmp_path: Path) -> None:
    for name, (make, suffix, words) in TWINS.items():
        if name != "I;16":
            make().save(tmp_path / f"image.{suffix}", **words)
            plain, other = (decode(tmp_path / f"image.{suffix}", SIZE, b).pixels for b in (16, 12))
            np.testing.assert_array_equal(plain, other)


def deep_colour(path: Path, highest: int) -> None:
    """A PNG of 16 bits a colour, all of one value, with alpha above it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 16, 6, 0, 0, 0)
    rows = 8 * (b"\0" + 8 * struct.pack(">HHHH", 0, 0, highest, 65535))
    chunks = (header, b"IDAT" + zlib.compress(rows), b"IEND")
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
        )
    )


def test_sixteen_bits_with_the_values_of_twelve_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    for highest, shallow in ((0, True), (3000, True), (4095, True), (4096, False), (65535, False)):
        levels = np.zeros((9, 7), dtype=np.uint16)
        levels[3, 3] = highest
        Image.fromarray(levels).save(path)
        assert decode(path, SIZE).notes == ((NEARLY_BLACK,) if shallow else ())
        deep_colour(path, highest)
        assert decode(path, SIZE).notes == ((NEARLY_BLACK,) if shallow else ())
    with pytest.raises(ValueError, match="16 bits a colour cannot be read with --bits 12; convert"):
        decode(path, SIZE, 12)
    Image.fromarray(np.ones((9, 7), dtype=np.uint8)).save(path)  # dark, and of 8 bits
    assert not decode(path, SIZE).notes
    Image.fromarray(np.full((9, 7), 4095, dtype=np.uint16)).save(path)
    assert not decode(path, SIZE, 12).notes  # nothing to say where bits were typed


def test_colour_is_weighed_by_itu_r_601(tmp_path: Path) -> None:
    colour = (200, 100, 50)
    Image.new("RGB", (8, 8), colour).save(tmp_path / "colour.png")
    grey = decode(tmp_path / "colour.png", 8).pixels
    assert np.abs(grey - np.dot(colour, (0.299, 0.587, 0.114))).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(40, 20, 0, 10), (20, 40, 10, 0), (40, 35, 0, 2)]
)
def test_an_image_is_padded_with_black_to_a_centred_square(
    tmp_path: Path, width: int, height: int, left: int, top: int
) -> None:
    grey = np.asarray(wave())[:height, :width]
    Image.fromarray(grey).save(tmp_path / "oblong.png")
    square = np.zeros((40, 40), dtype=np.uint8)
    square[top : top + height, left : left + width] = grey
    np.testing.assert_array_equal(decode(tmp_path / "oblong.png", 40).pixels, square)


def test_an_image_of_one_pixel_fills_the_square(tmp_path: Path) -> None:
    Image.new("L", (1, 1), 77).save(tmp_path / "one.png")
    np.testing.assert_array_equal(decode(tmp_path / "one.png", SIZE).pixels, np.full((24, 24), 77))


def test_resizing_is_bilinear_with_antialiasing(tmp_path: Path) -> None:
    noise_image(0, side=100).save(tmp_path / "noise.png")
    expected = noise_image(0, side=100).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode(tmp_path / "noise.png", SIZE).pixels, expected)

    checkerboard = 255 * (np.indices((192, 192)).sum(0) % 2).astype(np.uint8)
    Image.fromarray(checkerboard).save(tmp_path / "checkerboard.png")
    assert np.abs(decode(tmp_path / "checkerboard.png", SIZE).pixels - 127.5).max() < 8


def test_a_long_thin_image_takes_no_memory_for_its_square(tmp_path: Path) -> None:
    Image.new("1", (60_000, 2)).save(tmp_path / "strip.png")  # its square has 3.6 Gpx
    program = """
import resource, sys
from chestxray.data.decoding import NEARLY_BLACK, decode
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    assert decode(sys.argv[1], 24).pixels.shape == (24, 24)
except ValueError as refused:
    print(refused)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "strip.png")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_an_original_becomes_the_image_of_its_small_copy(nih: Path, nih_originals: Path) -> None:
    modes = set()
    for original in sorted(nih_originals.glob("*.png")):
        modes.add(mode_of(original))
        small = np.asarray(Image.open(nih / "images" / original.name)).astype(int)
        assert np.abs(decode(original, 224).pixels - small).mean() < 0.5, original.name
    assert modes == {"L", "RGBA"}  # 519 of the real images have an alpha channel


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    damage, reason = BROKEN[name]
    path = tmp_path / "broken.png"
    noise_image(0).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=reason):
        decode(path, SIZE)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_another_format_under_the_name_png_is_refused(tmp_path: Path, kind: str) -> None:
    noise_image(0).save(tmp_path / "other.png", format=kind)
    with pytest.raises(ValueError, match="not a PNG, JPEG or DICOM"):
        decode(tmp_path / "other.png", SIZE)


def test_an_image_above_64_million_pixels_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="9000 x 9000 is above 64 million pixels"):
        decode(tmp_path / "large.png", SIZE)


def test_a_lack_of_file_handles_is_not_the_fault_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise_image(0).save(tmp_path / "a.png")

    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        decode(tmp_path / "a.png", SIZE)


@pytest.mark.parametrize("module", ["data.decoding", "data.prepare", "phantom"])
def test_decoding_processes_load_neither_torch_nor_pandas(module: str) -> None:
    """Each loads the module that started it; seconds and hundreds of megabytes would add up."""
    program = (
        f"import sys, chestxray.{module}\n"
        "print({'torch', 'torchvision', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
