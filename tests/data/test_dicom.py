"""Radiographs out of DICOM files: what is read and how, what is refused, and what is never said."""

import io
import itertools
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("gdcm", reason="the extra dicom is not installed")

from dicom_files import ID, KINDS, NAME, make_dicom, save  # noqa: E402

from chestxray.data import dicom  # noqa: E402
from chestxray.data.decoding import MOST_PIXELS, decode, kind_of  # noqa: E402

FULL = {"WindowCenter": 128, "WindowWidth": 256}  # every level of eight bits as it is


def picture(bits: int = 8, signed: bool = False, shape: tuple[int, int] = (60, 50)) -> np.ndarray:
    """Levels of so many bits, all over their range."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    levels = (37 * x + 91 * y) * 2**bits // 5000 % 2**bits
    if signed:
        levels = levels - 2 ** (bits - 1)
    return levels.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def read(header: Any) -> dicom.Radiograph:
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return dicom.read_radiograph(file.getvalue(), MOST_PIXELS)


@pytest.mark.parametrize("bits", [8, 16])
def test_every_kind_of_encoding_gives_the_same_image(tmp_path: Path, bits: int) -> None:
    pixels = picture(bits)
    window = FULL if bits == 8 else {"WindowCenter": 32768, "WindowWidth": 65536}
    found = [
        dicom.read_radiograph(
            save(make_dicom(pixels, **window), tmp_path / "a.dcm", kind).read_bytes(), MOST_PIXELS
        )
        for kind in KINDS
    ]
    inverted = make_dicom(2**bits - 1 - pixels, PhotometricInterpretation="MONOCHROME1", **window)
    expected = pixels if bits == 8 else np.rint(pixels / 257).astype(np.uint8)
    for radiograph in (*found, read(inverted)):
        np.testing.assert_array_equal(radiograph.grey, expected)
        assert radiograph.notes == ()


def test_a_dicom_file_is_decoded_like_the_png_of_its_pixels(tmp_path: Path) -> None:
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for name in ("a.dcm", "b.png", "IM0001"):  # whatever it is called
        path = save(make_dicom(pixels, **FULL), tmp_path / name)
        assert kind_of(path) == "DICOM"
        expected = decode(tmp_path / "a.png", 32).pixels
        np.testing.assert_array_equal(decode(path, 32).pixels, expected)


def reference(
    stored: np.ndarray, slope: float, intercept: float, function: str | None
) -> np.ndarray:
    """Grey levels by the formulas of PS3.3 C.11.2.1, with center 40 and width 80 in their unit."""
    x = stored.astype(np.float64) * slope + intercept
    spread = np.ptp(stored.astype(np.float64)) * slope
    center, width = intercept + slope * int(stored.min()) + 0.4 * spread, 0.8 * spread
    if function is None:
        y = (x - x.min()) / (x.max() - x.min())
    elif function == "LINEAR":
        y = (x - (center - 0.5)) / (width - 1) + 0.5
    elif function == "LINEAR_EXACT":
        y = (x - center) / width + 0.5
    else:
        y = 1 / (1 + np.exp(-4 * (x - center) / width))
    return 255 * np.clip(y, 0, 1)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("bits", "signed"), list(itertools.product((8, 10, 12, 16), (False, True)))
)
def test_windows_are_those_of_the_standard(bits: int, signed: bool, function: str | None) -> None:
    pixels = picture(bits, signed)
    for slope, intercept in ((None, None), (1, -1024), (2.5, 7)):
        tags: dict[str, Any] = {"BitsStored": bits}
        if slope is not None:
            tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
        a, b = (1, 0) if slope is None else (slope, intercept)
        spread = np.ptp(pixels.astype(np.float64)) * a
        if function:
            tags |= {"WindowCenter": b + a * int(pixels.min()) + 0.4 * spread}
            tags |= {"WindowWidth": 0.8 * spread, "VOILUTFunction": function}
        for inverted in (False, True):
            tags["PhotometricInterpretation"] = f"MONOCHROME{1 if inverted else 2}"
            found = read(make_dicom(pixels, **tags))
            expected = reference(pixels, a, b, function)
            expected = 255 - expected if inverted else expected
            assert np.abs(found.grey - expected).max() <= 1
            assert found.notes == (() if function else (dicom.NO_WINDOW,))


def lut(values: np.ndarray, first: int, bits: int) -> Any:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(values), first, bits])
    item.add_new("LUTData", "US", values.tolist())
    return pydicom.Sequence([item])


@pytest.mark.parametrize(("signed", "first"), [(False, 0), (False, 300), (True, -1500)])
@pytest.mark.parametrize("rescale", [None, (1, 0), (1, -100)])
def test_a_voi_lut_is_used_before_a_window(
    signed: bool, first: int, rescale: tuple[int, int] | None
) -> None:
    pixels = picture(12, signed)
    values = np.rint(1023 * np.linspace(0, 1, 2000) ** 0.5).astype(int)
    tags: dict[str, Any] = {"BitsStored": 12, "VOILUTSequence": lut(values, first, 10), **FULL}
    slope, intercept = rescale or (1, 0)
    if rescale:
        tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    x = pixels.astype(int) * slope + intercept
    expected = values[np.clip(x - first, 0, 1999)] * 255 / 1023
    found = read(make_dicom(pixels, **tags))
    assert np.abs(found.grey - expected).max() <= 1 and found.notes == ()


def test_a_lut_that_cannot_be_used_is_refused() -> None:
    header = make_dicom(picture(8), VOILUTSequence=lut(np.arange(256), 0, 9))
    with pytest.raises(ValueError, match="modality or VOI LUT cannot be used"):
        read(header)


def test_a_modality_lut_comes_first() -> None:
    pixels, values = picture(8), np.arange(255, -1, -1)
    header = make_dicom(pixels, ModalityLUTSequence=lut(values, 0, 8), **FULL)
    header.ModalityLUTSequence[0].ModalityLUTType = "US"
    np.testing.assert_array_equal(read(header).grey, 255 - pixels)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"WindowCenter": 128, "WindowWidth": 0},
        {"WindowCenter": 128, "WindowWidth": -5},
        {"WindowCenter": 128},
        {"WindowWidth": 128},
        {"WindowCenter": 128, "WindowWidth": 256, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_without_a_usable_window_the_extremes_that_are_no_padding_count(tags: dict) -> None:
    pixels = np.clip(picture(8), 50, 149)
    pixels[:5], pixels[5:7] = 0, 10
    tags |= {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 10}
    found = read(make_dicom(pixels, **tags))
    assert found.notes == (dicom.NO_WINDOW,)
    expected = np.clip((pixels.astype(float) - 50) / 99, 0, 1) * 255
    assert np.abs(found.grey - expected).max() <= 0.51
    whole = read(make_dicom(np.full((9, 8), 7, np.uint8), PixelPaddingValue=7))
    assert (whole.grey == 0).all()


def test_a_window_that_is_no_number_is_none() -> None:
    header = make_dicom(picture(8))
    file = io.BytesIO()
    header.WindowCenter, header.WindowWidth = "1280", "2560"
    header.save_as(file, enforce_file_format=True)
    content = file.getvalue().replace(b"1280", b"12x0")
    assert dicom.read_radiograph(content, MOST_PIXELS).notes == (dicom.NO_WINDOW,)


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"ViewPosition": "LL"}, dicom.LATERAL),
        ({"BodyPartExamined": "HAND"}, dicom.OTHER_PART),
        ({"BodyPartExamined": "CHEST"}, None),
        ({"ViewPosition": "PA"}, None),
        ({"PresentationIntentType": "FOR PROCESSING"}, dicom.FOR_PROCESSING),
        ({"BurnedInAnnotation": "YES"}, dicom.BURNED_IN),
        ({"WindowCenter": [128, 90], "WindowWidth": [256, 50]}, dicom.SEVERAL_WINDOWS),
    ],
)
def test_what_the_header_says_against_an_image_is_noted(tags: dict, note: str | None) -> None:
    found = read(make_dicom(picture(8), **FULL | tags))
    assert found.notes == ((note,) if note else ())
    np.testing.assert_array_equal(found.grey, picture(8))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT .CT Image Storage."),
        ({"Modality": "DOC", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "Encapsulated PDF"),
        ({"Modality": "SMITH"}, "modality unknown"),
        ({"Modality": None}, "without modality"),
        ({"NumberOfFrames": 3}, "3 frames, not a single image"),
        ({"SamplesPerPixel": 3}, "3 samples a pixel: colour"),
        ({"PhotometricInterpretation": "RGB"}, "photometric interpretation RGB, not MONOCHROME1"),
        ({"PhotometricInterpretation": "SMITH"}, "photometric interpretation unknown"),
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 is above 64 million pixels"),
        ({"Rows": 0}, "does not say how large"),
        ({"Rows": None}, "does not say how large"),
        ({"Rows": 61}, "cannot be decoded: damaged, cut off, .*Explicit VR Little Endian"),
        ({"BitsAllocated": 12}, "12 bits allocated"),
        ({"BitsStored": 40}, "cannot be decoded"),
    ],
)
def test_what_is_no_plain_radiograph_is_refused_by_name(tags: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(make_dicom(picture(8), **FULL | tags))


def test_without_pixels_or_encoding_a_file_is_refused(tmp_path: Path) -> None:
    header = make_dicom(picture(8))
    del header.PixelData
    with pytest.raises(ValueError, match="without pixel data"):
        read(header)
    path = save(make_dicom(picture(8)), tmp_path / "a.dcm")
    content = path.read_bytes()
    element = content.index(b"\x02\x00\x10\x00UI")  # TransferSyntaxUID, as another tag
    broken = content[:element] + b"\x02\x00\x11\x00" + content[element + 4 :]
    with pytest.raises(ValueError, match="how its data are encoded"):
        dicom.read_radiograph(broken, MOST_PIXELS)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_and_damaged_files_are_refused_or_harmless(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    """Any beginning of a file is refused, and no damage gives more than a sentence."""
    pixels = picture(8, shape=(24, 20))
    whole = save(make_dicom(pixels, **FULL), tmp_path / "a.dcm", kind).read_bytes()
    rng = np.random.default_rng(0)
    contents = [whole[:end] for end in range(132, len(whole), 7)]
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(132, len(whole), 3):
            damaged[place] = rng.integers(256)
        contents.append(bytes(damaged))
    caplog.set_level(logging.DEBUG)
    for number, content in enumerate(contents):
        try:
            found = dicom.read_radiograph(content, MOST_PIXELS)
        except ValueError as error:
            said = str(error)
            assert "\n" not in said and "PLANTED" not in said and len(said) < 200
            continue
        if number < len(contents) - 150:  # only what is no part of the image was cut off
            np.testing.assert_array_equal(found.grey, pixels)
    said = capfd.readouterr()
    assert said.out == caplog.text == "" and "PLANTED" not in said.err


def test_pydicoms_own_files_are_read_or_refused_in_a_sentence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As they are, and declared to be radiographs, which makes many be decoded."""
    read_files = 0
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        if not path.is_file() or kind_of(path) != "DICOM":
            continue
        for modality in (None, "DX"):
            content = path.read_bytes()
            if modality:
                content = declared(content, modality)
            try:
                grey = dicom.read_radiograph(content, MOST_PIXELS).grey
                assert grey.dtype == np.uint8 and grey.ndim == 2
                read_files += 1
            except ValueError as error:
                assert str(error) and "\n" not in str(error)
    assert read_files > 30
    assert capfd.readouterr().out == ""


def declared(content: bytes, modality: str) -> bytes:
    """The same file with another modality; as it is where pydicom cannot write it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(io.BytesIO(content))
            header.Modality = modality
            file = io.BytesIO()
            header.save_as(file)
    except (ValueError, AttributeError, KeyError, NotImplementedError, TypeError):
        return content
    return file.getvalue()


def test_the_id_of_a_patient_is_read_for_telling_them_apart(tmp_path: Path) -> None:
    path = save(make_dicom(picture(8)), tmp_path / "a.dcm")
    assert dicom.read_patient_id(path) == ID
    save(make_dicom(picture(8), PatientID=None), path)
    assert dicom.read_patient_id(path) == ""
    path.write_bytes(bytes(128) + b"DICM" + b"nothing")
    assert dicom.read_patient_id(path) == ""


def test_a_folder_called_dl_is_named_as_what_keeps_dicom_from_loading(tmp_path: Path) -> None:
    path = save(make_dicom(picture(8), **FULL), tmp_path / "a.dcm")
    (tmp_path / "dl").mkdir()
    code = (
        "from chestxray.data.decoding import decode\n"
        f"try: decode({str(path)!r}, 32)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "a file or folder called dl" in done.stdout, done.stderr
    assert NAME not in done.stdout
