"""A drawn image as a DICOM file, for the demo; it takes the extra for DICOM."""

import io

import numpy as np


def dicom_bytes(pixels: np.ndarray, name: str, patient: str) -> bytes:
    """The content of a DICOM file; the same image gives the same bytes.

    Args:
        pixels: (h, w) uint8.
        name: of the image; its UIDs follow from it and from the pixels.
        patient: the PatientID. There is no name, and no date.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID = generate_uid(entropy_srcs=[name, pixels.tobytes().hex()])
    header.Modality, header.PatientID = "DX", patient
    header.PresentationIntentType, header.BodyPartExamined = "FOR PRESENTATION", "CHEST"
    header.ImageComments = "Drawn: no X-ray, and of no patient"
    header.PhotometricInterpretation, header.SamplesPerPixel = "MONOCHROME2", 1
    header.Rows, header.Columns = pixels.shape
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.WindowCenter, header.WindowWidth = 128, 256  # every level as it is
    header.PixelData = pixels.tobytes()
    header["PixelData"].VR = "OB"
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()
