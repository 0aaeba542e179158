"""A DICOM file -> a grey radiograph of 8 bits, by what its header says of the display.

The NIH's PNGs were made with the window of the DICOM header, so that window is used here, too: the
values go through the modality LUT, then through the VOI LUT or the window, and the output range of
that, not the darkest and brightest pixel, becomes 0 to 255. MONOCHROME1 is inverted last.

Nothing that is said of a file quotes its header, where the patient's name and numbers are: only
values out of the standard's own lists, and numbers of pixels.

pydicom, and for compressed pixels gdcm, are an extra; they are imported where they are used.
"""

import importlib.util
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chestxray.data import codestream
from chestxray.runtime import extras
from chestxray.runtime.text import is_missing, plural, size_text

if TYPE_CHECKING:
    from pydicom import Dataset

READING = (
    "modality LUT, then the VOI LUT or the first window of the header, whose output range becomes "
    "0 to 255; without a usable window by the extremes of the pixels that are not padding; "
    "MONOCHROME1 inverted"
)

LATERAL = "a lateral view; the network has learned frontal ones"
OTHER_PART = "another part of the body than the chest, by its header"
FOR_PROCESSING = "made for processing, not for display, by its header"
BURNED_IN = "text is burned into the pixels, by its header: it may name the patient"
SEVERAL_WINDOWS = "several windows, of which the first was used"
BLANK = "a single grey level: nothing is to be seen"
NO_WINDOW = "no usable window: scaled by its darkest and brightest pixel, not as the NIH's images"

_PREFIX = 128  # bytes before the four that make a DICOM file
_MARK = b"DICM"
_RADIOGRAPHS = ("CR", "DX", "RG", "XC")
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_BITS = (8, 16)  # allocated for a value
_HEADER_BYTES = 100_000_000  # at most, beside the pixels of a file that is packed
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_NOBODY = {"ANON", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "UNKNOWN", "NO ID", "NOID", "0"}
# Out of the standard's lists (PS3.3 C.7.3.1.1.1, C.7.6.3.1.2), so that nobody is named by them.
_MODALITIES = {
    *("AU", "BI", "CT", "DOC", "ECG", "EPS", "ES", "GM", "HC", "IO", "IVOCT", "IVUS", "KO", "LS"),
    *("M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPT", "OT", "PR", "PT", "PX", "REG", "RF"),
    *("RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SEG", "SM", "SR", "US", "XA"),
}
_PHOTOMETRIC = {
    *("PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422"),
    *("YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"),
}
_CHEST = {"CHEST", "THORAX", "LUNG", "LUNGS", "CHESTABDOMEN", "PORT CHEST", "RIB", "RIBS"}
_LATERAL = {"LL", "RL", "LATERAL", "LAT"}
# What pydicom and NumPy raise on damaged files, beside pydicom's own.
_FAULTS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class _Refused(ValueError):
    """A file that is not read, for a reason in our own words."""


@dataclass(frozen=True)
class Radiograph:
    """A radiograph out of a DICOM file.

    Attributes:
        grey: (h, w) uint8, 0 black and 255 white.
        notes: what its user should know.
    """

    grey: np.ndarray
    notes: tuple[str, ...]


def is_dicom(content: bytes) -> bool:
    """Return whether a file is DICOM, by its first 132 bytes and not by its name."""
    return content[_PREFIX : _PREFIX + len(_MARK)] == _MARK


def install_hint() -> str | None:
    """What keeps DICOM files from being read, and the way out; None where nothing does."""
    missing = extras.install_hint("dicom")
    if missing:
        return f"DICOM files are not read: {missing}"
    if importlib.util.find_spec("dl") is not None:  # gdcm, which pydicom imports, would take it
        return (
            "a file or folder called dl where Python looks for modules (the working directory?) "
            "keeps the extra for DICOM from loading: rename it, or start elsewhere"
        )
    return None


def read_radiograph(content: bytes, most_pixels: int) -> Radiograph:
    """Read a chest radiograph.

    Args:
        content: the bytes of the file.
        most_pixels: of the image made square; checked, like the rest, before pixels are decoded.

    Raises:
        ValueError: the extra is not installed; it is another kind of image, or damaged.
    """
    hint = install_hint()
    if hint:
        raise _Refused(hint)
    with _silenced():
        try:
            _check_unpacked_size(content, 2 * most_pixels + _HEADER_BYTES)
            header = _read_header(content)
            _refuse_others(header, most_pixels)
            stored, notes = _stored_values(header), _notes(header)
        except _Refused:
            raise
        except _faults():  # whose texts quote the header
            raise _Refused("a DICOM file that is damaged or cut off") from None
        try:
            grey, noted = _grey(stored, header)
        except _faults():
            raise _Refused("a DICOM file whose rescale, LUT or window cannot be used") from None
    blank = (BLANK,) if grey.min() == grey.max() else ()
    return Radiograph(grey, (*notes, *noted, *blank))


def read_patient_id(path: str | Path) -> str:
    """An id to tell patients apart and never to be shown; "" where the file has none.

    Raises:
        OSError: the file cannot be read.
    """
    from pydicom import dcmread

    content = Path(path).read_bytes()
    names = ["PatientID", "IssuerOfPatientID"]
    with _silenced():
        try:
            header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=names)
            patient, issuer = (str(header.get(name) or "").strip() for name in names)
        except _faults():
            return ""
    nobody = is_missing(patient) or patient.upper() in _NOBODY
    return "" if nobody else f"{issuer}\n{patient}"


def _faults() -> tuple[type[Exception], ...]:
    """What is raised on damaged files."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*_FAULTS, BytesLengthException, InvalidDicomError)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep pydicom from warning and logging, which quotes the header."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_unpacked_size(content: bytes, most: int) -> None:
    """Refuse a deflated file that unpacks to more, before anything unpacks it whole."""
    if _DEFLATED not in content[: _PREFIX + 1000]:
        return
    (length,) = struct.unpack("<I", content[_PREFIX + 12 : _PREFIX + 16])  # of the first group
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacker.decompress(content[_PREFIX + 16 + length :], most)
    if unpacker.unconsumed_tail:
        raise _Refused(f"a deflated DICOM file of more than {size_text(most)}")


def _read_header(content: bytes) -> "Dataset":
    from pydicom import dcmread

    header = dcmread(io.BytesIO(content))
    if "TransferSyntaxUID" not in header.file_meta:
        raise _Refused("a DICOM file that does not say how its data are encoded")
    return header


def _refuse_others(header: "Dataset", most_pixels: int) -> None:
    """Raise ValueError for what is no plain chest radiograph, by name."""
    modality = _word(header, "Modality")
    photometric = _word(header, "PhotometricInterpretation")
    rows, columns = (_number(header, name) for name in ("Rows", "Columns"))
    frames, samples = (_number(header, name, 1) for name in ("NumberOfFrames", "SamplesPerPixel"))
    bits, stored = (_number(header, name) for name in ("BitsAllocated", "BitsStored"))
    high = _number(header, "HighBit", stored - 1)
    others = {
        f"{_kind(header)} and without pixels, perhaps cut off": (
            not modality and "PixelData" not in header
        ),
        f"{_kind(header)}, not a radiograph (CR, DX, RG, XC)": modality not in _RADIOGRAPHS,
        "a DICOM file without pixel data": "PixelData" not in header,
        f"{plural(frames, 'frame')}, not a single image": frames != 1,
        f"{plural(samples, 'sample')} a pixel: colour, not a grey image": samples != 1,
        f"photometric interpretation {photometric if photometric in _PHOTOMETRIC else 'unknown'}, "
        f"not {' or '.join(_MONOCHROME)}": photometric not in _MONOCHROME,
        "a DICOM file that does not say how large its image is": rows < 1 or columns < 1,
        f"{columns} x {rows} is above {most_pixels / 1e6:g} million pixels, made square": (
            max(rows, columns) ** 2 > most_pixels
        ),
        f"{bits} bits allocated a pixel, not 8 or 16": bits not in _BITS,
        f"{stored} of {bits} bits stored, up to bit {high}: not the lowest of them": (
            not 1 <= stored <= bits or high != stored - 1
        ),
    }
    for reason, is_so in others.items():
        if is_so:
            raise _Refused(reason)
    header.PhotometricInterpretation = photometric  # without blanks, in capitals


def _kind(header: "Dataset") -> str:
    """What a file is, in the words of the standard."""
    from pydicom.uid import UID_dictionary

    modality = _word(header, "Modality")
    named = f"of modality {modality if modality in _MODALITIES else 'unknown'}" if modality else ""
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")
    known = UID_dictionary.get(str(uid))
    parts = ("a DICOM file", named or "without modality", f"({known[0]})" if known else "")
    return " ".join(filter(None, parts))


def _word(header: "Dataset", name: str) -> str:
    """A code out of the header, "" where there is none."""
    return str(header.get(name) or "").strip().upper()


def _number(header: "Dataset", name: str, default: int = 0) -> int:
    """A whole number out of the header."""
    value = header.get(name)
    return default if value in (None, "") else int(value)


def _stored_values(header: "Dataset") -> np.ndarray:
    """The pixel values (h, w) as stored."""
    from pydicom.uid import RLELossless, UID_dictionary

    syntax = header.file_meta.TransferSyntaxUID
    known = UID_dictionary.get(str(syntax))
    if known is None:
        raise _Refused("a DICOM file whose pixels are encoded in a way that the standard lacks")
    name = known[0]
    compressed = syntax.is_encapsulated and syntax != RLELossless
    if compressed:
        _quieten_gdcm()
        _check_stream(header, name)
    from pydicom.pixels import pixel_array

    try:
        values = pixel_array(header, decoding_plugin="gdcm" if compressed else "pydicom")
    except _faults():
        raise _Refused(
            "a DICOM file whose pixels cannot be decoded: damaged, cut off, or of a kind that is "
            f"not read ({name})"
        ) from None
    if values.shape != (header.Rows, header.Columns):
        raise _Refused(f"a DICOM file whose pixels are not as its header says ({name})")
    return values


def _quieten_gdcm() -> None:
    """Keep gdcm from printing."""
    import gdcm

    for switch in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
        switch()


def _check_stream(header: "Dataset", name: str) -> None:
    """Refuse a compressed image that is cut off, or of another size than the file says."""
    from pydicom.encaps import generate_frames

    stream = next(generate_frames(header.PixelData, number_of_frames=1), b"")
    if not codestream.is_complete(stream):
        raise _Refused(f"a DICOM file whose compressed pixels are cut off ({name})")
    found = codestream.read_header(stream)
    size = (found.rows, found.columns, found.channels)
    if size != (header.Rows, header.Columns, 1) or found.bits > header.BitsAllocated:
        raise _Refused(f"a DICOM file whose pixels are not as its header says ({name})")


def _grey(stored: np.ndarray, header: "Dataset") -> tuple[np.ndarray, tuple[str, ...]]:
    """The grey levels (h, w) uint8 of stored values; and a note on the way there.

    Each value that occurs is looked up once, in a table of at most 65,536.
    """
    first = int(stored.min())
    values = _modality(np.arange(first, int(stored.max()) + 1), header)
    lut = _lut(header, "VOILUTSequence", signed=_modality(_ends(header), header).min() < 0)
    count = _usable_windows(header)
    noted: tuple[str, ...] = ()
    if lut is not None:
        shown = lut.look_up(values) / (2**lut.bits - 1)
    elif count:
        shown = _windowed(values, header)
        noted = (SEVERAL_WINDOWS,) if count > 1 else ()
    else:
        seen = np.unique(stored[~_is_padding(stored, header)]).astype(np.int32) - first
        seen = values[seen] if len(seen) else values
        shown = (values - seen.min()) / ((seen.max() - seen.min()) or 1)
        noted = (NO_WINDOW,)
    levels = np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)
    if header.PhotometricInterpretation == "MONOCHROME1":
        levels = 255 - levels
    return levels[stored.astype(np.int32) - first], noted


def _modality(stored: np.ndarray, header: "Dataset") -> np.ndarray:
    """Stored values after the modality LUT or the rescale, float64."""
    lut = _lut(header, "ModalityLUTSequence", signed=header.PixelRepresentation == 1)
    if lut is not None:
        return lut.look_up(stored).astype(np.float64)
    slope, intercept = (header.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = float(1 if slope in (None, "") else slope), float(intercept or 0)
    if not (np.isfinite([slope, intercept]).all() and slope):
        raise ValueError("a rescale that makes all values one")
    return stored * slope + intercept


def _ends(header: "Dataset") -> np.ndarray:
    """The lowest and the highest value that could be stored."""
    low = -(2 ** (header.BitsStored - 1)) if header.PixelRepresentation == 1 else 0
    return np.array([low, low + 2**header.BitsStored - 1])


@dataclass(frozen=True)
class _Lut:
    """A look-up table: what the values from `first` on become, in so many bits."""

    levels: np.ndarray
    first: int
    bits: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Values beyond the ends of the table get its ends."""
        places = np.rint(values).astype(np.int64) - self.first
        return self.levels[np.clip(places, 0, len(self.levels) - 1)]


def _lut(header: "Dataset", name: str, signed: bool) -> _Lut | None:
    """The first LUT of a sequence; None where there is none.

    Its first value has the sign of what is looked up in it (PS3.3 C.11.1.1.1, C.11.2.1.1),
    whatever the header's encoding made of it.
    """
    sequence = header.get(name)
    if not sequence or None in (sequence[0].get("LUTDescriptor"), sequence[0].get("LUTData")):
        return None
    entries, first, bits = (int(value) % 65536 for value in sequence[0].LUTDescriptor)
    first -= 65536 if signed and first >= 32768 else 0
    levels = sequence[0].LUTData
    if isinstance(levels, bytes):
        little = header.file_meta.TransferSyntaxUID.is_little_endian
        packed = bits <= 8 and len(levels) < 2 * (entries or 65536)
        levels = np.frombuffer(levels, np.uint8 if packed else "<u2" if little else ">u2")
    levels = np.atleast_1d(np.asarray(levels, dtype=np.int64))[: entries or 65536]
    if len(levels) != (entries or 65536) or not 8 <= bits <= 16:
        raise ValueError("another LUT than its descriptor says")
    return _Lut(levels, first, bits)


def _windowed(values: np.ndarray, header: "Dataset") -> np.ndarray:
    """Values as the first window shows them, 0 to 1 over its output range."""
    from pydicom.pixels import apply_windowing

    with np.errstate(over="ignore"):  # a sigmoid far from its centre
        low, high = apply_windowing(np.array([-np.inf, np.inf]), header)
        return (apply_windowing(values, header) - low) / (high - low)


def _usable_windows(header: "Dataset") -> int:
    """How many windows there are; 0 where the first cannot be used."""
    try:
        centers, widths = (
            np.atleast_1d(np.array(header.get(name), dtype=np.float64))
            for name in ("WindowCenter", "WindowWidth")
        )
    except (TypeError, ValueError):  # none, or no numbers
        return 0
    function = _word(header, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or not (len(centers) and len(widths)):
        return 0
    narrow = widths[0] < 1 if function == "LINEAR" else widths[0] <= 0
    usable = np.isfinite(centers[0]) and np.isfinite(widths[0]) and not narrow
    return min(len(centers), len(widths)) if usable else 0


def _is_padding(stored: np.ndarray, header: "Dataset") -> np.ndarray:
    """(h, w) bool, the pixels that are no part of the image."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= low) & (stored <= high)


def _notes(header: "Dataset") -> list[str]:
    """What the header says against taking the image for a frontal chest radiograph."""
    part = _word(header, "BodyPartExamined")
    noted = {
        LATERAL: _word(header, "ViewPosition") in _LATERAL,
        OTHER_PART: part not in ("", *_CHEST),
        FOR_PROCESSING: _word(header, "PresentationIntentType") == "FOR PROCESSING",
        BURNED_IN: _word(header, "BurnedInAnnotation") == "YES",
    }
    return [note for note, is_so in noted.items() if is_so]
