"""Images that are decoded ahead of time."""

import contextlib
import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, SHARED, never
from PIL import Image

from chestxray.data import prepare
from chestxray.data.cache import load_images
from chestxray.data.decoding import decode
from chestxray.data.entries import read_entries
from chestxray.phantom import draw_dataset


def test_a_prepared_folder_needs_no_more_decoding(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(drawn), "--size", "32", "--cache-dir", str(tmp_path / "cache"), "--workers", "0"]
    assert prepare.main(words) == 0
    assert "60 images of 32 pixels a side ready" in capsys.readouterr().out
    paths = read_entries(drawn).rows["path"].tolist()
    images = load_images(paths, 32, drawn, tmp_path / "cache", check=never)
    np.testing.assert_array_equal(images.pixels[images.cache_index[7]], decode(paths[7], 32).pixels)


def test_prepare_warns_of_12_bits_in_16_and_keeps_bits_12_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_dataset(tmp_path / "data", n=5, size=32, seed=0)
    deep = sorted((tmp_path / "data").rglob("*.png"))[2]
    Image.fromarray(np.full((40, 40), 3000, dtype=np.uint16)).save(deep)
    words = [str(tmp_path / "data"), "--cache-dir", str(tmp_path / "cache"), "--size", "32"]
    for _ in range(2):
        assert prepare.main(words) == 0
        assert f"1 image ({deep.name}): nearly black" in capsys.readouterr().out
    assert prepare.main([*words, "--bits", "12"]) == 0
    assert "warning" not in capsys.readouterr().out
    paths = read_entries(tmp_path / "data").rows["path"].tolist()
    for bits, grey in ((16, 12), (12, 187)):
        images = load_images(
            paths, 32, tmp_path / "data", tmp_path / "cache", check=never, bits=bits
        )
        assert (images.pixels[images.cache_index[2]] == grey).all()
    assert prepare.main([*words, "--bits", "11"]) == 1
    assert "a value of 3,000 is above 2,047, --bits 11" in capsys.readouterr().err


def test_odd_but_whole_images_of_the_field_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (SHARED / "field").is_dir():
        pytest.skip("../shared/field is not here: no makers of odd images")
    maker = SHARED / "field" / "images.py"
    subprocess.run([sys.executable, maker, tmp_path / "data"], check=True)
    words = [str(tmp_path / "data"), "--cache-dir", str(tmp_path / "cache"), "--size", "64"]
    assert prepare.main(words) == 0
    said = capsys.readouterr().out
    assert "5 images of 64 pixels a side ready" in said and "(00000005_000.png)" in said


def test_prepare_names_broken_images_and_exits_with_1(
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
    assert "does not exist" in capsys.readouterr().err


def script(drawn: Path, cache: Path) -> str:
    """It decodes with two processes, and has no main guard."""
    words = [str(drawn), "--size", "32", "--cache-dir", str(cache), "--workers", "2"]
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    return f"{path}\nfrom chestxray.data.prepare import main\nprint('code', main({words}))\n"


def test_a_script_without_a_main_guard_ends_with_a_sentence(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script(drawn, tmp_path / "cache"))
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[1:] == ["code 1"]
    (said,) = done.stderr.splitlines()
    assert 'put it below `if __name__ == "__main__":`; --workers 0 starts none' in said
    assert (tmp_path / "cache" / ".cache.lock").read_text() == ""  # it was let go


@pytest.mark.parametrize("flags", [("-",), ("-i", "-q")], ids=["piped", "interactive"])
def test_a_script_from_standard_input_works(
    drawn: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    command = [sys.executable, *flags]
    typed = script(drawn, tmp_path)
    done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60)
    assert "60 images of 32 pixels a side ready" in done.stdout and "code 0" in done.stdout
    alone = "the script comes from standard input, which other processes cannot read: one works"
    assert done.stderr.count(alone) == (flags == ("-",))
    assert "Traceback" not in done.stderr


def test_a_thread_and_a_notebooks_streams_do(drawn: Path, tmp_path: Path) -> None:
    """Signals are heard in the main thread only; a notebook's streams are no files."""
    words = [str(drawn), "--size", "32", "--cache-dir", str(tmp_path), "--workers", "2"]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(prepare.main(words)))
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(shown):
        thread.start()
        thread.join()
    assert codes == [0] and "60 images of 32 pixels a side ready" in shown.getvalue()
