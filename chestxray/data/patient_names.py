"""Who the patients of unlabelled images are: by a table, or by the ids in their DICOM files."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd

from chestxray.csv_files import check_form, header_of, read_texts, unpacked
from chestxray.data.dicom import read_patient_id
from chestxray.data.tables import named_columns
from chestxray.data.workset import Workset
from chestxray.patients import (
    is_no_id,
    nih_spelling,
    number_patients,
    patient_key,
    read_patients,
    rounded_fault,
)
from chestxray.runtime.text import is_harmless, join_limited, plural

_KIND = "table of patients"


def with_patients(images: Workset, table: Path | None) -> tuple[Workset, str]:
    """Say who the patients are, and number those of DICOM files where no table has named them.

    An id in a file never leaves it: its patients are called p0001, p0002 and so on, in the order
    in which they appear. A hash would not hide them, since short ids can be enumerated.

    Args:
        images: of find_unlabelled; with the column patient where a table has named them.
        table: by which; None where none has.

    Returns:
        The images, without a column patient where those of some are not known; and who named the
        patients, in a line for people.
    """
    rows = images.rows
    if table is not None:
        return images, f"{plural(rows['patient'].nunique(), 'patient')}, named by {table.name}"
    ids = [
        read_patient_id(path) if kind == "DICOM" else ""
        for path, kind in zip(rows["path"], rows["kind"], strict=True)
    ]
    if "" in ids:
        return images, "no patients are named (--patients CSV): an image stands for itself"
    rows = rows.assign(patient=number_patients(ids))
    count = plural(rows["patient"].nunique(), "patient")
    said = f"{count}, numbered from {rows['patient'].iloc[0]} in order of appearance"
    return replace(images, rows=rows), said


def read_patient_table(path: Path, images: pd.Series) -> pd.Series:
    """The patients that a CSV names for images, by name or, where it is unique, without folders.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no such CSV; an image without patient or with two; ids that a spreadsheet has
            rounded or would run.
    """
    frame = _read(path)
    named: dict[str, str] = {}
    for image, patient in zip(frame["image"], frame["patient"], strict=True):
        if not is_no_id(patient) and named.setdefault(image, patient) != patient:
            raise ValueError(f"{path} names two patients for {image}")
    files = images.str.rpartition("/")[2]
    times = Counter(files)
    found = [
        named.get(image) or (named.get(file, "") if times[file] == 1 else "")
        for image, file in zip(images, files, strict=True)
    ]
    patients = pd.Series(found, index=images.index, dtype=object)
    if (patients == "").any():
        unnamed = images[patients == ""]
        raise ValueError(
            f"{path} names no patient for {plural(len(unnamed), 'image')}: "
            f"{join_limited(unnamed, 3)}"
        )
    return patients


def _read(path: Path) -> pd.DataFrame:
    """The columns image and patient of a CSV, each patient in one spelling."""
    content = unpacked(path)
    header = header_of(content)
    columns = named_columns(header)
    if not {"image", "patient"} <= columns.keys():
        check_form(path, content, _KIND)
        raise ValueError(
            f"{path} is not a {_KIND}: it needs the columns image and patient and has "
            f"{join_limited(header) or 'none'}"
        )
    frame = read_texts(path, content, _KIND, None)
    frame = frame[[columns["image"], columns["patient"]]].set_axis(["image", "patient"], axis=1)
    fault = rounded_fault(frame["patient"])
    if fault:
        raise ValueError(f"{path}: {fault}")
    shown = [nih_spelling(patient_key(text)) for text in read_patients(frame["patient"]).shown]
    unsafe = sorted({patient for patient in shown if not is_harmless(patient)})
    if unsafe:
        raise ValueError(
            f"{path}: patients with a control character, or beginning like a formula with - = + or "
            f"@: {join_limited(map(repr, unsafe))}"
        )
    return frame.assign(image=frame["image"].str.strip(), patient=shown)
