"""Decoding of images, and the cache of decoded ones."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from chestxray.data import cache, prepare
from chestxray.data.cache import DecodedImages, describe_broken, load_images
from chestxray.data.decoding import read_image
from chestxray.data.entries import read_entries
from chestxray.phantom import draw_dataset
from chestxray.runtime.files import folder_lock

SIZE = 24


def wave(side: int = 40) -> Image.Image:
    """A smooth grey image that uses most of the 256 levels."""
    y, x = np.mgrid[:side, :side]
    return Image.fromarray((118 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8))


def noise(seed: int, side: int = 40) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(256, size=(side, side), dtype=np.uint8))


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def folder_of(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Paths of `count` different images below a new folder."""
    folder.mkdir()
    paths = [str(folder / f"{number:08d}_000.png") for number in range(count)]
    for number, path in enumerate(paths):
        noise(seed + number).save(path)
    return paths


def decoded(images: DecodedImages) -> np.ndarray:
    return np.array(images.pixels[images.cache_index])


def never() -> None:
    pytest.fail("a image was decoded that lies in the cache")


class Counter:
    """Counts the decoded images; raises after `most` of them."""

    def __init__(self, most: int | None = None) -> None:
        self.count, self.most = 0, most

    def __call__(self) -> None:
        if self.count == self.most:
            raise InterruptedError("enough")
        self.count += 1


def with_alpha(mode: str) -> Image.Image:
    grey = wave()
    return Image.merge(mode, [grey] * (len(mode) - 1) + [noise(5)])


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
    grey = read_image(tmp_path / "grey.png", SIZE).astype(int)
    twin = read_image(tmp_path / f"twin.{suffix}", SIZE).astype(int)
    assert np.ptp(grey) > 100
    assert np.abs(twin - grey).max() <= (1 if suffix == "jpg" else 0)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    black_or_white = wave().point(lambda level: 255 * (level > 118))
    black_or_white.save(tmp_path / "grey.png")
    black_or_white.convert("1").save(tmp_path / "bit.png")
    assert mode_of(tmp_path / "bit.png") == "1"
    bit, grey = (read_image(tmp_path / name, SIZE) for name in ("bit.png", "grey.png"))
    np.testing.assert_array_equal(bit, grey)


def test_sixteen_bits_are_divided_by_257_and_never_clipped(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert mode_of(tmp_path / "deep.png") == "I;16"
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", 64), np.round(levels / 257))


def test_colour_is_weighed_by_itu_r_601(tmp_path: Path) -> None:
    colour = (200, 100, 50)
    Image.new("RGB", (8, 8), colour).save(tmp_path / "colour.png")
    grey = read_image(tmp_path / "colour.png", 8)
    assert np.abs(grey - np.dot(colour, (0.299, 0.587, 0.114))).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(40, 20, 0, 10), (20, 40, 10, 0), (40, 35, 0, 2)]
)
def test_a_image_is_padded_with_black_to_a_centred_square(
    tmp_path: Path, width: int, height: int, left: int, top: int
) -> None:
    grey = np.asarray(wave())[:height, :width]
    Image.fromarray(grey).save(tmp_path / "oblong.png")
    square = np.zeros((40, 40), dtype=np.uint8)
    square[top : top + height, left : left + width] = grey
    np.testing.assert_array_equal(read_image(tmp_path / "oblong.png", 40), square)


def test_a_image_of_one_pixel_fills_the_square(tmp_path: Path) -> None:
    Image.new("L", (1, 1), 77).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_image(tmp_path / "one.png", SIZE), np.full((24, 24), 77))


def test_resizing_is_bilinear_with_antialiasing(tmp_path: Path) -> None:
    noise(0, side=100).save(tmp_path / "noise.png")
    expected = noise(0, side=100).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_image(tmp_path / "noise.png", SIZE), expected)

    checkerboard = 255 * (np.indices((192, 192)).sum(0) % 2).astype(np.uint8)
    Image.fromarray(checkerboard).save(tmp_path / "checkerboard.png")
    assert np.abs(read_image(tmp_path / "checkerboard.png", SIZE) - 127.5).max() < 8


def test_a_long_thin_image_takes_no_memory_for_its_square(tmp_path: Path) -> None:
    Image.new("1", (60_000, 2)).save(tmp_path / "strip.png")  # its square has 3.6 Gpx
    program = """
import resource, sys
from chestxray.data.decoding import read_image
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    assert read_image(sys.argv[1], 24).shape == (24, 24)
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
        assert np.abs(read_image(original, 224) - small).mean() < 0.5, original.name
    assert modes == {"L", "RGBA"}  # 519 of the real images have an alpha channel


def of_header(whole: bytes, width: int, height: int) -> bytes:
    """A PNG's bytes with another width and height in its header."""
    header = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def with_wrong_checksum(whole: bytes) -> bytes:
    """The same pixels, but the checksum of the pixel data says that they are damaged."""
    checksum = len(whole) - 12 - 4  # before the 12 bytes of IEND
    return whole[:checksum] + bytes(4) + whole[checksum + 4 :]


# name -> the broken file made from the bytes of a good PNG, and what its reason says
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda whole: whole[: len(whole) // 2], "(?i)truncated"),
    "zero bytes": (lambda whole: b"", "empty file"),
    "a web page": (lambda whole: b"<html><body>404</body></html>", "starts with b'<html>"),
    "wrong checksum": (with_wrong_checksum, "checksum|broken|CRC"),
    "damaged pixels": (lambda whole: whole[:200] + bytes(50) + whole[250:], "broken|damaged"),
    "damaged header": (lambda whole: whole[:20] + b"????" + whole[24:], "PNG"),
    "81 million pixels": (lambda whole: of_header(whole, 9000, 9000), "64 million"),
    "900 million pixels": (lambda whole: of_header(whole, 30000, 30000), "pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    damage, reason = BROKEN[name]
    path = tmp_path / "broken.png"
    noise(0).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=reason):
        read_image(path, SIZE)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_another_format_under_the_name_png_is_refused(tmp_path: Path, kind: str) -> None:
    noise(0).save(tmp_path / "other.png", format=kind)
    with pytest.raises(ValueError, match="not a PNG or JPEG"):
        read_image(tmp_path / "other.png", SIZE)


def test_a_image_above_64_million_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="9000 x 9000 is above 64 million pixels"):
        read_image(tmp_path / "large.png", SIZE)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cached", [True, False])
def test_all_broken_images_are_named_at_once_and_the_good_ones_decoded(
    tmp_path: Path, cached: bool, workers: int
) -> None:
    paths = folder_of(tmp_path / "data", 36)
    whole = Path(paths[0]).read_bytes()
    reasons = {}
    for path, (damage, reason) in zip(paths[5::3], BROKEN.values(), strict=False):
        Path(path).write_bytes(damage(whole))
        reasons[path] = reason
    os.unlink(paths[3])
    reasons[paths[3]] = "not there"
    images = load_images(
        paths, SIZE, tmp_path / "data", tmp_path / "cache" if cached else None, workers
    )
    assert set(images.broken) == set(reasons)
    for path, slot in zip(paths, images.cache_index, strict=True):
        if path in reasons:
            assert slot == -1
            assert re.search(reasons[path], images.broken[path])
        else:
            np.testing.assert_array_equal(images.pixels[slot], read_image(path, SIZE))
    told = describe_broken(images.broken)
    assert told.startswith(f"{len(reasons)} images cannot be read; --skip-bad-images")
    assert f"{paths[3]}: not there any more" in told


def test_a_image_that_was_broken_is_tried_again(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 4)
    whole = Path(paths[2]).read_bytes()
    Path(paths[2]).write_bytes(whole[:100])
    words = (paths, SIZE, tmp_path / "data", tmp_path / "cache")
    assert list(load_images(*words).broken) == [paths[2]]
    assert list(load_images(*words).broken) == [paths[2]]
    Path(paths[2]).write_bytes(whole)
    mended = load_images(*words)
    assert not mended.broken
    np.testing.assert_array_equal(decoded(mended)[2], read_image(paths[2], SIZE))


def test_cache_memory_and_worker_processes_give_the_same_pixels(
    drawn: Path, tmp_path: Path
) -> None:
    paths = sorted(map(str, (drawn / "images").iterdir()))
    cache = tmp_path / "cache"
    in_memory = load_images(paths, SIZE, drawn, None)
    np.testing.assert_array_equal(decoded(in_memory)[7], read_image(paths[7], SIZE))
    in_processes = load_images(paths, SIZE, drawn, cache, workers=2)
    np.testing.assert_array_equal(decoded(in_processes), decoded(in_memory))
    again = load_images(paths, SIZE, drawn, cache, check=never)
    np.testing.assert_array_equal(decoded(again), decoded(in_memory))
    assert not again.pixels.flags.writeable


def test_the_cache_tells_files_by_name_size_and_time(tmp_path: Path) -> None:
    (path,) = paths = folder_of(tmp_path / "data", 1)
    Image.new("L", (8, 8), 10).save(path)
    words = (paths, SIZE, tmp_path / "data", tmp_path / "cache")
    first = decoded(load_images(*words))
    before = os.stat(path)
    Image.new("L", (8, 8), 20).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    np.testing.assert_array_equal(decoded(load_images(*words, check=never)), first)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    np.testing.assert_array_equal(decoded(load_images(*words)), first + 10)
    noise(0).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(decoded(load_images(*words))[0], read_image(path, SIZE))


def test_a_load_cut_short_keeps_what_is_done_and_the_next_completes_it(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 10)
    words = (paths, SIZE, tmp_path / "data", tmp_path / "cache")
    with pytest.raises(InterruptedError):
        load_images(*words, check=Counter(most=6))
    rest = Counter()
    images = load_images(*words, check=rest)
    assert 4 <= rest.count <= 5  # the one under way at the stop may be lost
    expected = decoded(load_images(paths, SIZE, tmp_path / "data", None))
    np.testing.assert_array_equal(decoded(images), expected)


def test_a_load_that_was_killed_leaves_a_cache_that_the_next_completes(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 10)
    program = """
import os, signal, sys
from pathlib import Path
from chestxray.data import cache
def check():
    check.calls += 1
    if check.calls == 6:
        os.kill(os.getpid(), signal.SIGKILL)
check.calls = 0
data, folder = map(Path, sys.argv[1:])
cache._SECONDS_BETWEEN_SAVES = 0.0
cache.load_images(sorted(map(str, data.iterdir())), 24, data, folder, check=check)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "data"), str(tmp_path / "cache")]
    assert subprocess.run(command, cwd=ROOT).returncode == -9
    rest = Counter()
    images = load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache", check=rest)
    assert rest.count == 5
    expected = decoded(load_images(paths, SIZE, tmp_path / "data", None))
    np.testing.assert_array_equal(decoded(images), expected)


def test_a_data_file_shorter_than_its_index_is_rebuilt(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 5)
    words = (paths, SIZE, tmp_path / "data", tmp_path / "cache")
    first = decoded(load_images(*words))
    (data,) = (tmp_path / "cache").glob("*.u8")
    os.truncate(data, data.stat().st_size - 1)
    rebuilt = Counter()
    np.testing.assert_array_equal(decoded(load_images(*words, check=rebuilt)), first)
    assert rebuilt.count == 5
    load_images(*words, check=never)


def test_two_data_folders_do_not_share_images_of_one_name(tmp_path: Path) -> None:
    shades = {"one": 10, "two": 20}
    for name, shade in shades.items():
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), shade).save(tmp_path / name / "same.png")
        os.utime(tmp_path / name / "same.png", ns=(0, 0))
    for name, shade in shades.items():
        path = str(tmp_path / name / "same.png")
        images = load_images([path], SIZE, tmp_path / name, tmp_path / "cache")
        np.testing.assert_array_equal(decoded(images), np.full((1, 24, 24), shade))


def test_each_size_has_its_own_cache_file(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 3)
    for side in (16, 24):
        images = load_images(paths, side, tmp_path / "data", tmp_path / "cache")
        np.testing.assert_array_equal(decoded(images)[1], read_image(paths[1], side))
    for side in (16, 24):
        images = load_images(paths, side, tmp_path / "data", tmp_path / "cache", check=never)
        np.testing.assert_array_equal(decoded(images)[1], read_image(paths[1], side))


def test_the_whole_set_reuses_what_a_subset_decoded(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 9)
    load_images(paths[4:7], SIZE, tmp_path / "data", tmp_path / "cache")
    rest = Counter()
    whole = load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache", check=rest)
    assert rest.count == 6
    expected = decoded(load_images(paths, SIZE, tmp_path / "data", None))
    np.testing.assert_array_equal(decoded(whole), expected)
    shuffled = load_images(paths[::-2], SIZE, tmp_path / "data", tmp_path / "cache", check=never)
    np.testing.assert_array_equal(decoded(shuffled), expected[::-2])


def test_two_processes_that_load_into_one_cache_both_get_the_right_pixels(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 10)
    program = """
import sys
from pathlib import Path
import numpy as np
from chestxray.data.cache import load_images
data, cache, result = map(Path, sys.argv[1:])
images = load_images(sorted(map(str, data.iterdir())), 24, data, cache)
np.save(result, images.pixels[images.cache_index])
"""
    data, cache = tmp_path / "data", tmp_path / "cache"
    results = [tmp_path / "one.npy", tmp_path / "two.npy"]
    with folder_lock(cache, "cache."):  # both find nothing decoded, and stand in line
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(data), str(cache), str(result)],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for result in results
        ]
        for process in processes:
            assert process.stderr is not None
            assert f"in use by process {os.getpid()}" in process.stderr.readline()
    faults = [process.communicate(timeout=60)[1] for process in processes]
    assert faults == ["", ""]
    expected = decoded(load_images(paths, SIZE, data, None))
    for result in results:
        np.testing.assert_array_equal(np.load(result), expected)
    (pixels,) = cache.glob("*.u8")
    assert pixels.stat().st_size == 10 * SIZE**2  # each image was decoded once


def test_a_run_that_waits_for_anothers_cache_can_be_stopped(tmp_path: Path) -> None:
    def refuse() -> None:
        raise InterruptedError

    paths = folder_of(tmp_path / "data", 3)
    with folder_lock(tmp_path / "cache", "cache."), pytest.raises(InterruptedError):
        load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache", check=refuse)


def test_the_data_folder_stays_as_it_is(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 3)
    shutil.copytree(tmp_path / "data", tmp_path / "before")
    load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache")
    load_images(paths, SIZE, tmp_path / "data", None)
    now = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert now == {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}


def test_a_cache_that_cannot_be_written_is_named_with_the_ways_out(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 3)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="cache folder .*file.* cannot be written .*--no-cache"):
        load_images(paths, SIZE, tmp_path / "data", tmp_path / "file")


def test_a_full_disk_is_told_before_anything_is_decoded(tmp_path: Path, small_disk: Path) -> None:
    paths = folder_of(tmp_path / "data", 20)
    few = load_images(paths[:2], 100, tmp_path / "data", small_disk)
    with pytest.raises(
        OSError, match=r"needs 0.00 GB and its disk has 0.00 GB free .*; --cache-dir"
    ):
        load_images(paths, 100, tmp_path / "data", small_disk, check=never)
    kept = load_images(paths[:2], 100, tmp_path / "data", small_disk, check=never)
    np.testing.assert_array_equal(decoded(kept), decoded(few))
    load_images(paths[:4], 100, tmp_path / "data", small_disk)  # what does fit goes on


def test_a_complete_cache_is_read_where_it_cannot_be_written(
    tmp_path: Path, small_disk: Path
) -> None:
    paths = folder_of(tmp_path / "data", 3)
    written = load_images(paths, SIZE, tmp_path / "data", small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError):
        (small_disk / "probe").touch()
    read = load_images(paths, SIZE, tmp_path / "data", small_disk, check=never)
    np.testing.assert_array_equal(decoded(read), decoded(written))
    more = [*paths, *folder_of(tmp_path / "more", 1)]
    with pytest.raises(OSError, match="Read-only file system.*--cache-dir DIR names another"):
        load_images(more, SIZE, tmp_path / "data", small_disk)


def test_a_folder_decoded_ahead_of_time_is_ready_for_every_run(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(drawn), "--size", "32", "--cache-dir", str(tmp_path / "cache"), "--workers", "0"]
    assert prepare.main(words) == 0
    assert "60 images of 32 pixels a side ready" in capsys.readouterr().out
    paths = read_entries(drawn).rows["path"].tolist()
    images = load_images(paths, 32, drawn, tmp_path / "cache", check=never)
    np.testing.assert_array_equal(images.pixels[images.cache_index[7]], read_image(paths[7], 32))


def test_decoding_ahead_names_broken_images_and_leaves_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_dataset(tmp_path / "data", n=5, size=32, seed=0)
    broken = sorted((tmp_path / "data").rglob("*.png"))[2]
    broken.write_bytes(b"<html>not found</html>")
    words = [str(tmp_path / "data"), "--cache-dir", str(tmp_path / "cache"), "-j", "0"]
    assert prepare.main(words) == 1
    shown = capsys.readouterr()
    assert "4 images of 224" in shown.out
    assert str(broken) in shown.err and "<html" in shown.err
    assert prepare.main([str(tmp_path / "absent")]) == 1
    assert "is not there" in capsys.readouterr().err


def test_images_go_to_the_device_when_they_take_at_most_half_of_its_memory() -> None:
    assert cache.fit_on_device(7, 10, free=1400)
    assert not cache.fit_on_device(7, 10, free=1399)


def test_a_killed_runs_space_is_not_counted_twice_and_the_index_is_counted(
    tmp_path: Path, small_disk: Path
) -> None:
    """On 64 kB: 5 images of 100 x 100 fit with their index, and no sixth."""
    paths = folder_of(tmp_path / "data", 6)
    program = """
import os, signal, sys
from pathlib import Path
from chestxray.data.cache import load_images
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
load_images(sys.argv[3:], 100, Path(sys.argv[1]), Path(sys.argv[2]), check=kill)
"""
    command = [sys.executable, "-c", program, tmp_path / "data", small_disk, *paths[:5]]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    (data,) = small_disk.glob("*.u8")
    assert data.stat().st_size == 50_000  # taken, and nothing of it is in an index
    with pytest.raises(OSError, match="its disk has"):
        load_images(paths, 100, tmp_path / "data", small_disk, check=never)
    kept = load_images(paths[:5], 100, tmp_path / "data", small_disk)
    assert (kept.cache_index >= 0).all()


def test_a_lack_of_handles_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = folder_of(tmp_path / "data", 1)

    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(path, SIZE)


def test_the_cache_may_lie_in_a_folder_that_is_held_for_output(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 2)
    with folder_lock(tmp_path / "out"):
        kept = load_images(paths, SIZE, tmp_path / "data", tmp_path / "out")
    assert (kept.cache_index >= 0).all()


def test_a_write_that_is_cut_short_is_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = folder_of(tmp_path / "data", 3)
    plain, calls = os.pwrite, []

    def short(handle: int, content: bytes, place: int) -> int:
        calls.append(place)
        return plain(handle, content[:7] if len(calls) == 2 else content, place)

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(OSError, match="cannot be written any further"):
        load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache")
    monkeypatch.undo()
    (index,) = (tmp_path / "cache").glob("*.index")
    assert len(index.read_text().splitlines()) == 1
    whole = load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache")
    np.testing.assert_array_equal(
        decoded(whole), decoded(load_images(paths, SIZE, tmp_path / "data", None))
    )
