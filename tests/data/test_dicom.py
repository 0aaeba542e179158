"""Radiographs out of DICOM files: what is read and how, what is refused, and what is never said."""

import io
import itertools
import logging
import os
import subprocess
import sys
import warnings
import zlib
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


@pytest.mark.parametrize(("bits", "signed"), list(itertools.product((8, 10, 12, 16), (0, 1))))
@pytest.mark.parametrize("kind", ["explicit", "implicit", "big endian"])
def test_a_voi_lut_is_used_before_a_window_whatever_its_signs(
    tmp_path: Path, bits: int, signed: int, kind: str
) -> None:
    """The sign of its first value is that of the rescaled ones, however it is written."""
    pixels = picture(bits, bool(signed))
    depth = min(max(bits, 8), 16)
    values = np.rint((2**depth - 1) * np.linspace(0, 1, 200) ** 0.5).astype(int)
    for slope, intercept in ((None, None), (1, -1024), (2, 3)):
        tags: dict[str, Any] = {"BitsStored": bits, **FULL}
        if slope:
            tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
        x = pixels.astype(int) * (slope or 1) + (intercept or 0)
        for first in (max(int(x.min()) + 20, -32768), int(np.median(x))):
            tags["VOILUTSequence"] = lut(values, first, depth)
            found = dicom.read_radiograph(
                save(make_dicom(pixels, **tags), tmp_path / "a.dcm", kind).read_bytes(),
                MOST_PIXELS,
            )
            expected = values[np.clip(x - first, 0, 199)] * 255 / (2**depth - 1)
            assert np.abs(found.grey - expected).max() <= 1 and found.notes == ()


def test_the_sign_of_a_lut_does_not_depend_on_the_image(tmp_path: Path) -> None:
    """Of 16 unsigned bits and an intercept of -1024, 64,512 is written for -1,024."""
    pixels = np.array([[2000, 2100], [2200, 2300]], dtype=np.uint16)  # none of them below 0
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    values = np.linspace(0, 255, 3000).astype(int)
    header = make_dicom(pixels, VOILUTSequence=lut(values, 64512, 8), **tags)
    expected = values[pixels.astype(int)]
    assert np.abs(read(header).grey - expected).max() <= 1


def test_a_modality_lut_comes_first_for_signed_values_too() -> None:
    ramp = np.arange(256)
    for pixels, first in ((picture(8), 0), (picture(8, signed=True), -128)):
        header = make_dicom(pixels, ModalityLUTSequence=lut(255 - ramp, first, 8), **FULL)
        np.testing.assert_array_equal(read(header).grey, 127 - pixels.astype(int) + 128 + first)
    wide = np.array([[-32768, -29000], [5000, 32767]], dtype=np.int16)
    values = np.linspace(0, 4095, 65536).astype(np.uint16)
    tags = {"WindowCenter": 2048, "WindowWidth": 4096}
    header = make_dicom(wide, ModalityLUTSequence=lut(np.arange(9), -32768, 12), **tags)
    header.ModalityLUTSequence[0].LUTDescriptor = [0, -32768, 12]  # 0 stands for 65,536
    header.ModalityLUTSequence[0].add_new("LUTData", "OW", values.tobytes())
    expected = values[wide.astype(int) + 32768] / 4095 * 255
    assert np.abs(read(header).grey - expected).max() <= 1


def test_an_empty_rescale_is_none_and_a_slope_alone_counts() -> None:
    pixels = picture(8)
    empty = make_dicom(pixels, RescaleSlope="", RescaleIntercept="", **FULL)
    np.testing.assert_array_equal(read(empty).grey, pixels)
    alone = make_dicom(pixels, RescaleSlope=2, WindowCenter=255.5, WindowWidth=511)
    assert np.abs(read(alone).grey.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 5000, "WindowWidth": 10},
        {"WindowCenter": -50, "WindowWidth": 1e-30, "VOILUTFunction": "LINEAR_EXACT"},
    ],
)
def test_an_image_of_a_single_level_is_noted(tags: dict) -> None:
    assert read(make_dicom(picture(8), **tags)).notes == (dicom.BLANK,)


def test_bits_that_are_not_the_lowest_are_refused() -> None:
    header = make_dicom(picture(16), BitsStored=12)
    header.HighBit = 15
    with pytest.raises(ValueError, match="12 of 16 bits stored, up to bit 15"):
        read(header)


def test_a_packed_file_that_unpacks_to_more_than_any_image_is_refused(tmp_path: Path) -> None:
    path = save(make_dicom(picture(8)), tmp_path / "a.dcm", "deflated")
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(packer.compress(bytes(10**7)) for _ in range(40)) + packer.flush()
    with pytest.raises(ValueError, match="a deflated DICOM file of more than 228 MB"):
        dicom.read_radiograph(content[:start] + bomb, MOST_PIXELS)


def test_a_lut_that_cannot_be_used_is_refused() -> None:
    for values, bits in ((np.arange(256), 17), (np.arange(255), 8)):
        header = make_dicom(picture(8), VOILUTSequence=lut(values, 0, bits))
        header.VOILUTSequence[0].LUTDescriptor = [256, 0, bits]
        with pytest.raises(ValueError, match="rescale, LUT or window cannot be used"):
            read(header)


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
    assert (whole.grey == 0).all() and whole.notes == (dicom.NO_WINDOW, dicom.BLANK)


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
        ({"BitsStored": 40}, "40 of 8 bits stored"),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "rescale, LUT or window cannot be used"),
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
    assert dicom.read_patient_id(path).endswith(ID)
    save(make_dicom(picture(8), IssuerOfPatientID="elsewhere"), path)
    assert dicom.read_patient_id(path) == f"elsewhere\n{ID}"
    for nobody in (None, "", "N/A", "Anonymous", "UNKNOWN"):
        save(make_dicom(picture(8), PatientID=nobody), path)
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
