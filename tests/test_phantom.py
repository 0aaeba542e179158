"""Drawn images: the NIH layout, every finding visible, the label nowhere but in the pixels."""

import csv
import gzip
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, wait_until
from PIL import Image

from chestxray.data.decoding import decode
from chestxray.data.entries import read_entries
from chestxray.labels import CLASSES, FINDINGS, NO_FINDING
from chestxray.phantom import draw_dataset, draw_image, draw_labels, draw_patients, main
from chestxray.runtime.signals import Stopped


def rows_of(folder: Path) -> list[list[str]]:
    with open(folder / "Data_Entry_2017.csv", newline="") as file:
        return list(csv.reader(file))[1:]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def drawn_labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patients = draw_patients(1600, rng)
    return patients, draw_labels(patients, rng)


def coarse(finding: str, seed: int) -> np.ndarray:
    """One drawn image with one finding, averaged over blocks of 4 x 4 against the grain."""
    target = np.array([name == finding for name in CLASSES], dtype=np.uint8)
    return draw_image(target, 64, 3, seed).reshape(16, 4, 16, 4).mean((1, 3)).ravel()


def change(finding: str, seed: int) -> float:
    """The largest change that a finding makes, in standard deviations of the image without it.

    Both images show the same body in the same pose; their exposures differ and are fitted out.
    """
    without, with_it = coarse(NO_FINDING, seed), coarse(finding, seed)
    gain, offset = np.polyfit(without, with_it, 1)
    return np.abs((with_it - offset) / gain - without).max() / without.std()


def test_the_table_has_the_form_of_the_2017_release(drawn: Path) -> None:
    header, *rows = (drawn / "Data_Entry_2017.csv").read_bytes().decode().split("\r\n")[:-1]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    assert len(rows) == 60
    for row in rows:
        assert re.fullmatch(
            r"(\d{8})_(\d{3})\.png,[A-Z][A-Za-z_ |]+,\2,\1,0[1-8]\dY,[MF],(PA|AP),"
            r"64,64,0\.143,0\.143",
            row,
        )


def test_header_and_number_of_fields_are_those_of_the_real_table(
    drawn: Path, nih_tables: Path
) -> None:
    with gzip.open(nih_tables / "Data_Entry_2017.csv.gz", "rt") as file:
        real = [next(file).rstrip(), next(file).rstrip()]
    ours = (drawn / "Data_Entry_2017.csv").read_text().splitlines()
    assert ours[0] == real[0]
    assert ours[1].count(",") == real[1].count(",")


def test_every_row_has_an_image_and_every_image_a_row(drawn: Path) -> None:
    assert {row[0] for row in rows_of(drawn)} == {p.name for p in (drawn / "images").iterdir()}
    assert len(rows_of(drawn)) == 60


def test_the_lists_part_the_names_by_patient(drawn: Path) -> None:
    lists = [(drawn / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt")]
    assert sorted(sum(lists, [])) == sorted(row[0] for row in rows_of(drawn))
    train_val, test = ({name[:8] for name in names} for names in lists)
    assert train_val and test
    assert not train_val & test


def test_patients_have_several_images_and_keep_age_and_sex(drawn: Path) -> None:
    rows = rows_of(drawn)
    people = {(row[3], row[4], row[5]) for row in rows}
    patients = {row[3] for row in rows}
    assert len(people) == len(patients) < len(rows) / 1.5


def test_the_program_reads_what_was_drawn(drawn: Path) -> None:
    entries = read_entries(drawn)
    by_name = {row[0]: set(row[1].split("|")) for row in rows_of(drawn)}
    assert len(entries.rows) == 60
    for _, row in entries.rows.iterrows():
        assert {name for name in CLASSES if row[name]} == by_name[row["image"]]
    assert entries.lists is not None


@pytest.mark.parametrize("seed", range(3))
def test_each_finding_is_on_three_per_cent_of_the_images_or_more(seed: int) -> None:
    _, targets = drawn_labels(seed)
    assert targets.shape == (1600, len(CLASSES))
    assert targets.mean(axis=0).min() >= 0.03


@pytest.mark.parametrize("seed", range(3))
def test_no_finding_stands_alone_and_no_row_is_empty(seed: int) -> None:
    _, targets = drawn_labels(seed)
    healthy = targets[:, CLASSES.index(NO_FINDING)] == 1
    assert 0.4 < healthy.mean() < 0.6
    assert (targets[healthy].sum(axis=1) == 1).all()
    assert (targets[~healthy].sum(axis=1) >= 1).all()
    assert (targets[~healthy].sum(axis=1) >= 2).mean() > 0.2  # findings come together


def test_findings_come_back_in_the_next_image_of_a_patient() -> None:
    patients, targets = drawn_labels(0)
    same = patients[1:] == patients[:-1]
    shared = (targets[1:] & targets[:-1]).any(axis=1)
    assert shared[same].mean() > shared[~same].mean() + 0.2


def test_same_seed_same_bytes_other_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        draw_dataset(tmp_path / name, n=6, size=32, seed=seed)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    images = {name for name in one if name.endswith(".png")}
    assert len(images) == 6
    assert all(one[name] != other.get(name) for name in images)


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_image(finding: str) -> None:
    # 0.09 when no sign is drawn: grain alone
    assert np.mean([change(finding, seed) for seed in range(12)]) > 0.25


@pytest.mark.parametrize("finding", ["Cardiomegaly", "Consolidation", "Edema", "Emphysema"])
def test_the_strength_of_a_finding_varies(finding: str) -> None:
    changes = [change(finding, seed) for seed in range(12)]
    assert max(changes) > 1.8 * min(changes)  # 1.6 and less at a fixed strength


def test_nothing_but_the_pixels_tells_the_label(drawn: Path) -> None:
    for path in (drawn / "images").iterdir():
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size, image.info) == ("PNG", "L", (64, 64), {})
    seen: dict[str, int] = {}
    for row in rows_of(drawn):  # names count patients and their images, and hold no more
        patient, number = row[0].removesuffix(".png").split("_")
        assert int(number) == seen.get(patient, 0)
        seen[patient] = int(number) + 1
    assert [int(patient) for patient in seen] == list(range(1, len(seen) + 1))


def test_a_folder_with_a_table_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "Data_Entry_2017.csv").write_text("someone's real table")
    with pytest.raises(FileExistsError, match="Data_Entry_2017.csv exists"):
        draw_dataset(tmp_path, n=2, size=16)
    assert contents(tmp_path) == {"Data_Entry_2017.csv": b"someone's real table"}


def test_the_command_says_that_its_images_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "with space"
    words = [str(folder), "--n", "3", "--size", "16", "--seed", "4"]
    assert main(words) == 0
    assert "3 drawn images (no X-rays)" in capsys.readouterr().out
    assert "drawn" in (folder / "DRAWN.txt").read_text()
    draw_dataset(tmp_path / "direct", n=3, size=16, seed=4)
    assert contents(folder) == contents(tmp_path / "direct")

    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and str(folder) in err and len(err.splitlines()) == 1


def test_a_stopped_drawing_is_resumed(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "straight", n=12, size=32, seed=7)
    calls = iter(range(12))

    def stop_at_five() -> None:
        if next(calls) == 5:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        draw_dataset(tmp_path / "stopped", n=12, size=32, seed=7, check=stop_at_five)
    first = contents(tmp_path / "stopped")
    assert "Data_Entry_2017.csv" not in first
    assert len([name for name in first if name.endswith(".png")]) == 5
    dead = tmp_path / f"stopped/images/.x.png.{platform.node()}.99999999.0123abcd.tmp"
    dead.write_bytes(b"half a file of a killed process")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped/images").glob("*.png")}
    draw_dataset(tmp_path / "stopped", n=12, size=32, seed=7)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())  # drawn once


@pytest.mark.parametrize("change", [{"n": 13}, {"size": 33}, {"seed": 8}])
def test_a_folder_begun_with_other_arguments_is_refused(
    tmp_path: Path, change: dict[str, int]
) -> None:
    def stop() -> None:
        raise Stopped(signal.SIGTERM)

    begun = {"n": 12, "size": 32, "seed": 7}
    with pytest.raises(Stopped):
        draw_dataset(tmp_path, **begun, check=stop)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="DIR --n 12 --size 32 --seed 7\nrepeat"):
        draw_dataset(tmp_path, **begun | change)
    assert contents(tmp_path) == before


def test_a_folder_with_other_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000001_000.png").write_text("someone's real image")
    with pytest.raises(FileExistsError, match="images is not empty"):
        draw_dataset(tmp_path, n=2, size=16)
    assert contents(tmp_path) == {"images/00000001_000.png": b"someone's real image"}


def test_a_stopped_command_says_that_it_can_be_repeated(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "chestxray.phantom", str(tmp_path / "d"), "--n", "9999"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, text=True, **pipes) as process:
        wait_until(lambda: list(tmp_path.glob("d/images/*.png")))
        process.terminate()
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command resumes" in out and "stopped by SIGTERM" in err
    assert not list(tmp_path.glob("d/images/.*")) and not list(tmp_path.glob("d/*.csv"))


def in_the_way(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("a file")
    return tmp_path / "file"


@pytest.mark.parametrize("place", [in_the_way, lambda tmp_path: in_the_way(tmp_path) / "below"])
def test_a_folder_that_cannot_be_made_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: Callable[[Path], Path]
) -> None:
    assert main([str(place(tmp_path)), "--n", "2", "--size", "16"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["DIR", "--n", "0"],
        ["DIR", "--n", "many"],
        ["DIR", "--size", "15"],
        ["DIR", "--seed", "-1"],
        ["DIR", "--colour"],
    ],
)
def test_wrong_usage_exits_2_and_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    assert not list(tmp_path.iterdir())


def test_images_alone_have_neither_table_nor_lists_and_some_are_dicom(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    words = ["--n", "4", "--size", "32", "--images-only", "--dicom", "2"]
    contents = []
    for name in ("a", "b"):
        assert main([str(tmp_path / name), *words]) == 0
        paths = sorted((tmp_path / name).rglob("*.*"))
        contents.append({path.name: path.read_bytes() for path in paths})
    assert contents[0] == contents[1]
    assert sorted(Path(name).suffix for name in contents[0]) == [
        *(".dcm", ".dcm", ".png", ".png", ".txt")
    ]
    assert main([str(tmp_path / "a"), "--n", "4", "--size", "32"]) == 1  # of another drawing
    draw_dataset(tmp_path / "png", 4, 32)
    for path in (tmp_path / "a").rglob("*.dcm"):
        theirs = tmp_path / "png" / "images" / f"{path.stem}.png"
        ours, theirs_decoded = (decode(each, 32) for each in (path, theirs))
        np.testing.assert_array_equal(ours.pixels, theirs_decoded.pixels)
        assert ours.notes == ()
