"""Images that are decoded ahead of time."""

from pathlib import Path

import numpy as np
import pytest
from helpers import never

from chestxray.data import prepare
from chestxray.data.cache import load_images
from chestxray.data.decoding import read_image
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
    np.testing.assert_array_equal(images.pixels[images.cache_index[7]], read_image(paths[7], 32))


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
