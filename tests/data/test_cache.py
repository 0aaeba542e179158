"""The cache of decoded images: complete, shared, and never half written."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import BROKEN, ROOT, never, noise_image
from PIL import Image

from chestxray.data import cache
from chestxray.data.cache import DecodedImages, describe_broken, describe_notes, load_images
from chestxray.data.decoding import NEARLY_BLACK, decode
from chestxray.runtime.files import folder_lock

SIZE = 24


def folder_of(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Paths of `count` different images below a new folder."""
    folder.mkdir()
    paths = [str(folder / f"{number:08d}_000.png") for number in range(count)]
    for number, path in enumerate(paths):
        noise_image(seed + number).save(path)
    return paths


def decoded(images: DecodedImages) -> np.ndarray:
    return np.array(images.pixels[images.cache_index])


class Counter:
    """Counts the decoded images; raises after `most` of them."""

    def __init__(self, most: int | None = None) -> None:
        self.count, self.most = 0, most

    def __call__(self) -> None:
        if self.count == self.most:
            raise InterruptedError("enough")
        self.count += 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cached", [True, False])
def test_all_broken_images_are_named_at_once(tmp_path: Path, cached: bool, workers: int) -> None:
    paths = folder_of(tmp_path / "data", 36)
    whole = Path(paths[0]).read_bytes()
    reasons = {}
    for path, (damage, reason) in zip(paths[5::3], BROKEN.values(), strict=False):
        Path(path).write_bytes(damage(whole))
        reasons[path] = reason
    os.unlink(paths[3])
    reasons[paths[3]] = "no longer exists"
    images = load_images(
        paths, SIZE, tmp_path / "data", tmp_path / "cache" if cached else None, workers
    )
    assert set(images.broken) == set(reasons)
    for path, index in zip(paths, images.cache_index, strict=True):
        if path in reasons:
            assert index == -1
            assert re.search(reasons[path], images.broken[path])
        else:
            np.testing.assert_array_equal(images.pixels[index], decode(path, SIZE).pixels)
    text = describe_broken(images.broken)
    assert text.startswith(f"{len(reasons)} images cannot be read; --skip-bad-images")
    assert f"{paths[3]}: it no longer exists" in text


def test_an_image_that_was_broken_is_tried_again(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 4)
    whole = Path(paths[2]).read_bytes()
    Path(paths[2]).write_bytes(whole[:100])
    words = (paths, SIZE, tmp_path / "data", tmp_path / "cache")
    assert list(load_images(*words).broken) == [paths[2]]
    assert list(load_images(*words).broken) == [paths[2]]
    Path(paths[2]).write_bytes(whole)
    mended = load_images(*words)
    assert not mended.broken
    np.testing.assert_array_equal(decoded(mended)[2], decode(paths[2], SIZE).pixels)


def test_cache_memory_and_worker_processes_give_the_same_pixels(
    drawn: Path, tmp_path: Path
) -> None:
    paths = sorted(map(str, (drawn / "images").iterdir()))
    cache = tmp_path / "cache"
    in_memory = load_images(paths, SIZE, drawn, None)
    np.testing.assert_array_equal(decoded(in_memory)[7], decode(paths[7], SIZE).pixels)
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
    noise_image(0).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(decoded(load_images(*words))[0], decode(path, SIZE).pixels)


def test_a_stopped_load_is_completed_by_the_next(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 10)
    words = (paths, SIZE, tmp_path / "data", tmp_path / "cache")
    with pytest.raises(InterruptedError):
        load_images(*words, check=Counter(most=6))
    remaining = Counter()
    images = load_images(*words, check=remaining)
    assert 4 <= remaining.count <= 5  # the one under way at the stop may be lost
    expected = decoded(load_images(paths, SIZE, tmp_path / "data", None))
    np.testing.assert_array_equal(decoded(images), expected)


def test_a_killed_load_is_completed_by_the_next(tmp_path: Path) -> None:
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
    remaining = Counter()
    images = load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache", check=remaining)
    assert remaining.count == 5
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
        np.testing.assert_array_equal(decoded(images)[1], decode(paths[1], side).pixels)
    for side in (16, 24):
        images = load_images(paths, side, tmp_path / "data", tmp_path / "cache", check=never)
        np.testing.assert_array_equal(decoded(images)[1], decode(paths[1], side).pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_notes_on_images_are_known_from_the_cache_too(tmp_path: Path, workers: int) -> None:
    paths = folder_of(tmp_path / "data", 36)
    dark = [paths[20], paths[3]]
    for path in dark:
        Image.fromarray(np.full((30, 30), 4000, dtype=np.uint16)).save(path)
    data, folder = tmp_path / "data", tmp_path / "cache"
    for known, place in ((Counter(), folder), (never, folder), (Counter(), None)):
        images = load_images(paths, SIZE, data, place, workers, check=known)
        assert images.notes == dict.fromkeys(dark, (NEARLY_BLACK,))
        assert load_images(paths[:9], SIZE, data, place).notes.keys() == {paths[3]}
    (said,) = describe_notes(images.notes)
    assert said.startswith("warning: 2 images (00000003_000.png, 00000020_000.png): nearly black")
    assert "no value above 4,095" in said and "--bits 12" in said
    assert describe_notes({}) == []


def test_files_of_one_name_size_and_time_in_two_folders_are_two(tmp_path: Path) -> None:
    paths = []
    for number, folder in enumerate(("a", "b")):
        path = tmp_path / "data" / folder / "IM0001.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((9, 9), 100 + number, dtype=np.uint8)).save(path)
        os.utime(path, ns=(0, 0))
        paths.append(str(path))
    assert len({os.stat(path).st_size for path in paths}) == 1
    for _ in range(2):
        images = load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache")
        assert [int(image[0, 0]) for image in decoded(images)] == [100, 101]


@pytest.mark.parametrize("odd", ["tab\tin", "line\nin", "b\udcff"])
def test_folders_may_have_any_name(tmp_path: Path, odd: str) -> None:
    (tmp_path / "data").mkdir()
    paths = folder_of(tmp_path / "data" / odd, 3)
    for _ in range(2):
        images = load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache")
        np.testing.assert_array_equal(decoded(images)[2], decode(paths[2], SIZE).pixels)
        assert len(decoded(images)) == 3 and images.broken == {} and images.notes == {}


def test_each_number_of_bits_has_its_own_cache_file(tmp_path: Path) -> None:
    (path,) = paths = folder_of(tmp_path / "data", 1)
    Image.fromarray(np.full((30, 30), 4000, dtype=np.uint16)).save(path)
    words = (paths, SIZE, tmp_path / "data", tmp_path / "cache")
    for grey, bits in ((16, 16), (249, 12)):
        for check in (Counter(), never):
            images = load_images(*words, check=check, bits=bits)
            assert (decoded(images) == grey).all()
            assert list(images.notes) == ([path] if bits == 16 else [])


def test_the_whole_set_reuses_what_a_subset_decoded(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 9)
    load_images(paths[4:7], SIZE, tmp_path / "data", tmp_path / "cache")
    remaining = Counter()
    whole = load_images(paths, SIZE, tmp_path / "data", tmp_path / "cache", check=remaining)
    assert remaining.count == 6
    expected = decoded(load_images(paths, SIZE, tmp_path / "data", None))
    np.testing.assert_array_equal(decoded(whole), expected)
    shuffled = load_images(paths[::-2], SIZE, tmp_path / "data", tmp_path / "cache", check=never)
    np.testing.assert_array_equal(decoded(shuffled), expected[::-2])


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
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
    with folder_lock(cache, "cache."):  # both find nothing decoded, and wait
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


def test_waiting_for_the_cache_of_another_run_can_be_stopped(tmp_path: Path) -> None:
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


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 3)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="(?s)the folder .*file cannot be written .*--no-cache"):
        load_images(paths, SIZE, tmp_path / "data", tmp_path / "file")


def test_a_full_disk_is_refused_before_anything_is_decoded(
    tmp_path: Path, small_disk: Path
) -> None:
    paths = folder_of(tmp_path / "data", 20)
    few = load_images(paths[:2], 100, tmp_path / "data", small_disk)
    with pytest.raises(
        OSError,
        match=r"no space: .* needs 190 kB and its disk has \d\d\.\d kB free .*; --cache-dir",
    ):
        load_images(paths, 100, tmp_path / "data", small_disk, check=never)
    kept = load_images(paths[:2], 100, tmp_path / "data", small_disk, check=never)
    np.testing.assert_array_equal(decoded(kept), decoded(few))
    load_images(paths[:4], 100, tmp_path / "data", small_disk)  # what fits is decoded


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
    with pytest.raises(OSError, match="(?s)Read-only file system.*--cache-dir DIR names another"):
        load_images(more, SIZE, tmp_path / "data", small_disk)


def test_images_fit_on_a_device_in_half_of_its_memory() -> None:
    assert cache.fit_on_device(7, 10, free=1400)
    assert not cache.fit_on_device(7, 10, free=1399)


def test_the_space_of_a_killed_run_is_not_counted_twice(tmp_path: Path, small_disk: Path) -> None:
    """On 64 kB, 5 images of 100 x 100 fit with their index, a sixth does not."""
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
    assert data.stat().st_size == 50_000  # allocated, and not in the index
    with pytest.raises(OSError, match="its disk has"):
        load_images(paths, 100, tmp_path / "data", small_disk, check=never)
    kept = load_images(paths[:5], 100, tmp_path / "data", small_disk)
    assert (kept.cache_index >= 0).all()


def test_the_cache_may_lie_in_the_output_folder(tmp_path: Path) -> None:
    paths = folder_of(tmp_path / "data", 2)
    with folder_lock(tmp_path / "out"):
        kept = load_images(paths, SIZE, tmp_path / "data", tmp_path / "out")
    assert (kept.cache_index >= 0).all()


def test_a_write_that_was_cut_short_is_not_an_image(
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
