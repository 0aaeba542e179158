"""DICOM files that tests make; import it behind pytest.importorskip("pydicom")."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

NATIVE = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
COMPRESSED = {  # by gdcm's names
    "JPEG lossless": "JPEGLosslessProcess14_1",
    "JPEG-LS": "JPEGLSLossless",
    "JPEG 2000": "JPEG2000Lossless",
}
KINDS = (*NATIVE, "RLE", *COMPRESSED)
NAME, ID = "PLANTED^NAME", "PLANTED-4711"  # of every patient here


def make_dicom(pixels: np.ndarray, **tags: Any) -> Dataset:
    """A radiograph of (h, w) pixels of their type, without a window; None takes a tag away."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID = "1.2.3.4"
    header.PatientName, header.PatientID = NAME, ID
    header.AccessionNumber = header.OtherPatientIDs = header.StudyID = "PLANTED-1"
    header.InstitutionName = header.ReferringPhysicianName = "PLANTED"
    header.PatientBirthDate = header.StudyDate = "19010203"
    header.Modality, header.PhotometricInterpretation = "DX", "MONOCHROME2"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel = 1
    header.BitsAllocated = header.BitsStored = 8 * pixels.dtype.itemsize
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(header, name, value)
        if value is None:
            delattr(header, name)
    header.HighBit = header.BitsStored - 1
    header.PixelData = pixels.tobytes()
    header["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return header


def save(header: Dataset, path: Path, kind: str = "explicit") -> Path:
    """Write a file in a native or compressed kind of encoding."""
    if kind == "RLE":
        header.compress(RLELossless)
    if kind in NATIVE:
        header.file_meta.TransferSyntaxUID = NATIVE[kind]
    if kind == "big endian" and header.BitsAllocated == 16:
        header.PixelData = np.frombuffer(header.PixelData, np.uint16).byteswap().tobytes()
    header.save_as(path, enforce_file_format=True)
    if kind in COMPRESSED:
        _compress(path, kind)
    return path


def _compress(path: Path, kind: str) -> None:
    import gdcm

    reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    syntax = getattr(gdcm.TransferSyntax, COMPRESSED[kind])
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
