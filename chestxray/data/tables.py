"""Label tables in every dialect of the NIH set -> one DataFrame, one row per image.

These are `Data_Entry_2017.csv` of 2017 and of 2020, Kaggle's `sample_labels.csv`, and your own
tables with the same columns; plain or .gz. Columns are found by name, never by position: the
2017 header ends in a stray comma and its unquoted `OriginalImage[Width,Height]` is two columns.
"""

import csv
import gzip
import hashlib
import io
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from chestxray.labels import CLASSES, canonical, encode, split_labels
from chestxray.runtime.text import is_harmless, join_limited, plural

# Names of each column, in lower case, everything but letters and digits as one space.
_COLUMNS = {
    "image": ("image index", "image", "image name", "file name", "filename"),
    "labels": ("finding labels", "labels"),
    "patient": ("patient id", "patientid", "patient"),
    "age": ("patient age", "age"),
    "sex": ("patient gender", "patient sex", "gender", "sex"),
    "view": ("view position", "view"),
}
_NEEDED = ("image", "labels")
# A file with such a name is a label table; another CSV may be anything (BBox_List_2017).
_TABLE_NAME = re.compile(r"data_entry|sample_labels", re.IGNORECASE)
_OLDEST = 120  # years; the 2017 release has ages up to 414, which are typing errors
_YEARS = {"Y": 1.0, "": 1.0, "M": 1 / 12, "D": 1 / 365.25}


@dataclass(frozen=True)
class Table:
    """One label table, or the union of several.

    Attributes:
        rows: columns image, patient (text, NIH's with eight digits), age (years, NaN unknown), sex,
            view (text, "" unknown), and the 15 classes (uint8); one row per image.
        fingerprint: SHA-256 of each file's unpacked bytes, by file name.
        notes: for the user.
    """

    rows: pd.DataFrame
    fingerprint: dict[str, str]
    notes: list[str] = field(default_factory=list)


def find_tables(folder: Path) -> list[Path]:
    """Find the label tables in a folder or, only if it has none, one level below.

    Raises:
        FileNotFoundError: there are none.
    """
    for level in ([folder], folders_below(folder)):
        files = sorted(path for parent in level for path in parent.iterdir() if _is_csv(path))
        tables = [path for path in files if _is_table(path)]
        if tables:
            return tables
    raise FileNotFoundError(
        f"there is no label table (Data_Entry_2017.csv, for example) in {folder} or one level below"
    )


def folders_below(folder: Path) -> list[Path]:
    """The folders in a folder, except those that systems and editors leave behind."""
    names = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in names if not path.name.startswith((".", "__MACOSX"))]


def read_tables(paths: list[Path]) -> Table:
    """Read the union of several tables by image; where two differ, the one with more rows wins."""
    tables = sorted((read_table(path) for path in paths), key=lambda t: -len(t.rows))
    rows = tables[0].rows
    notes = [note for table in tables for note in table.notes]
    for table in tables[1:]:
        known = table.rows.set_index("image")[list(CLASSES)]
        ours = rows[rows["image"].isin(known.index)]
        theirs = known.loc[ours["image"]].to_numpy()
        differing = int((ours[list(CLASSES)].to_numpy() != theirs).any(axis=1).sum())
        if differing:
            notes.append(
                f"{plural(differing, 'image')} labelled differently in "
                f"{join_limited(table.fingerprint)} and in a table with more rows, which is used"
            )
        rows = pd.concat([rows, table.rows[~table.rows["image"].isin(rows["image"])]])
    return Table(rows.reset_index(drop=True), _joint_fingerprint(tables), notes)


def _joint_fingerprint(tables: list[Table]) -> dict[str, str]:
    """The digests of several tables; equal names of different files get a number."""
    fingerprint: dict[str, str] = {}
    for number, table in enumerate(tables, start=1):
        for name, digest in table.fingerprint.items():
            clash = fingerprint.get(name, digest) != digest
            fingerprint[f"{name} ({number})" if clash else name] = digest
    return fingerprint


def read_table(path: Path) -> Table:
    """Read one label table.

    Raises:
        ValueError: rows whose name, labels or patient cannot be used, all of a kind together with
            their line numbers; missing columns; a file that is not a CSV.
    """
    content = _unpacked(path)
    text = _read_texts(path, content)
    check_names(path, text["image"])
    targets, notes = _encode_column(path, text["labels"], text["image"])
    rows = pd.DataFrame({"image": text["image"], "patient": _patients(path, text)})
    rows["age"] = _ages(text["age"]) if "age" in text else np.nan
    rows["sex"] = text["sex"] if "sex" in text else ""
    rows["view"] = text["view"] if "view" in text else ""
    rows[list(CLASSES)] = pd.DataFrame(targets, index=rows.index, columns=list(CLASSES))
    rows, repeated = _drop_repeats(path, rows)
    if repeated:
        notes.append(
            f"{path.name}: {plural(repeated, 'row')} repeated with equal labels, read once"
        )
    return Table(rows, {path.name: hashlib.sha256(content).hexdigest()}, notes)


def _read_texts(path: Path, content: bytes) -> pd.DataFrame:
    """The columns that we know, as texts under our names; a row's index gives its line."""
    columns = _columns(path, content)
    try:
        text = pd.read_csv(
            io.BytesIO(content),
            usecols=list(columns.values()),
            dtype=str,
            keep_default_na=False,  # else the texts NA and None become NaN
            index_col=False,  # else a field too many on every row shifts the columns
            encoding="utf-8-sig",
            skip_blank_lines=False,  # so that a row's index gives its line
        )
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    text = text.fillna("").rename(columns={theirs: ours for ours, theirs in columns.items()})
    text = text.apply(lambda column: column.str.strip())
    return text[(text["image"] != "") | (text["labels"] != "")]  # no blank lines


def _is_csv(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith((".csv", ".csv.gz")) and not name.startswith(".") and path.is_file()


def _is_table(path: Path) -> bool:
    if _TABLE_NAME.search(path.name):
        return True  # reading it tells what is wrong with it
    try:
        header = _header(_unpacked(path, most=1 << 16))
    except ValueError:  # a damaged archive of something else
        return False
    return all(name in _named_columns(header) for name in _NEEDED)


def _unpacked(path: Path, most: int = -1) -> bytes:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            return file.read(most)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}") from error


def _header(content: bytes) -> list[str]:
    first = re.split(rb"[\r\n]", content, maxsplit=1)[0].decode("utf-8-sig", errors="replace")
    try:
        return next(csv.reader([first]), [])
    except csv.Error:  # a line too long for a header
        return []


def _named_columns(header: list[str]) -> dict[str, str]:
    """Our names of the columns that a header has -> its own."""
    known = {re.sub(r"[^a-z0-9]+", " ", name.casefold()).strip(): name for name in reversed(header)}
    return {
        ours: known[alias]
        for ours, aliases in _COLUMNS.items()
        for alias in reversed(aliases)
        if alias in known
    }


def _columns(path: Path, content: bytes) -> dict[str, str]:
    header = _header(content)
    columns = _named_columns(header)
    if all(name in columns for name in _NEEDED):
        return columns
    line = ",".join(header)
    for separator, name in ((";", "semicolon"), ("\t", "tab")):
        if line.count(separator) > line.count(","):
            raise ValueError(f"{path} is separated by {name}s; save it with commas")
    raise ValueError(
        f"{path} is not a label table: it needs columns Image Index and Finding Labels and has "
        f"{join_limited(header) or 'none'}"
    )


def _lines(mask: pd.Series) -> list[int]:
    """Line numbers in the file of the rows where a mask is true (the header is line 1)."""
    return (mask.index[mask] + 2).tolist()


def check_names(path: Path, names: pd.Series) -> None:
    """Refuse names that are not bare file names.

    A name is later looked for below the data folder, kept in files of one name per line, and
    written into a CSV: it must not be a path on any system, nor a formula.

    Args:
        path: the file that lists them.
        names: by the number of their row, 0 for line 2.

    Raises:
        ValueError: names that cannot be used, with their lines.
    """
    good = names.map(is_harmless).astype(bool) & names.str.fullmatch(r"(?![A-Za-z]:)[^/\\]+")
    if not good.all():
        faults = [
            f"line {line}: {name!r}" for line, name in zip(_lines(~good), names[~good], strict=True)
        ]
        raise ValueError(
            f"{path}: {plural(len(faults), 'name')} that cannot be a file name\n"
            + join_limited(faults)
        )


def _encode_column(path: Path, texts: pd.Series, names: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Targets (N, 15) of a label column, and a note on other spellings."""
    codes, unique = pd.factorize(texts)  # 836 different texts in 112,120 rows
    vectors, reasons, spellings = [], {}, {}
    for code, text in enumerate(unique):
        try:
            vectors.append(encode(text))
        except ValueError as error:
            reasons[code] = str(error)
            continue
        spellings.update({s: canonical(s) for s in split_labels(text) if s not in CLASSES})
    if reasons:
        bad = pd.Series(np.isin(codes, list(reasons)), index=names.index)
        faults = [
            f"line {line} ({name}): {reasons[code]}"
            for line, name, code in zip(_lines(bad), names[bad], codes[bad], strict=True)
        ]
        raise ValueError(
            f"{path}: {plural(len(faults), 'row')} with unusable labels\n{join_limited(faults)}"
        )
    targets = np.array(vectors, dtype=np.uint8).reshape(-1, len(CLASSES))[codes]
    read_as = [f"{theirs} as {ours}" for theirs, ours in sorted(spellings.items())]
    return targets, [f"{path.name}: labels read: {join_limited(read_as)}"] if read_as else []


def _patients(path: Path, text: pd.DataFrame) -> pd.Series:
    """One key per patient: `00000013`, `13` and the first digits of an NIH image name agree."""
    from_name = text["image"].str.extract(r"^(\d{8})_", expand=False).fillna("")
    if "patient" in text:
        number = text["patient"].str.extract(r"^(\d{1,8})(?:\.0)?$", expand=False)
        patients = number.str.zfill(8).fillna(text["patient"])
        patients = patients.where(patients != "", from_name)
    else:
        patients = from_name
    unsafe = ~patients.map(is_harmless).astype(bool)
    if unsafe.any():
        raise ValueError(
            f"{path}: {plural(int(unsafe.sum()), 'patient key')} with a control character, or "
            f"beginning like a formula with - = + or @: lines {join_limited(_lines(unsafe))}"
        )
    unknown = patients == ""
    if unknown.any():
        raise ValueError(
            f"{path}: {plural(int(unknown.sum()), 'row')} without a patient (lines "
            f"{join_limited(_lines(unknown))}); a split by patient needs a Patient ID column, or "
            "names that begin with eight digits and an underscore"
        )
    return patients


def _ages(texts: pd.Series) -> pd.Series:
    """`058Y`, `013M`, `001D`, `58`, `58.0` in years; NaN for other texts and above 120."""
    parts = texts.str.upper().str.extract(r"^(\d{1,4})(?:\.0)?([YMD]?)$")
    years = pd.to_numeric(parts[0]) * parts[1].map(_YEARS)
    return years.where(years <= _OLDEST)


def _drop_repeats(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Rows without the repeats of an image, and how many those were."""
    repeats = rows.duplicated("image")
    if not repeats.any():
        return rows, 0
    unequal = rows.drop_duplicates(["image", "patient", *CLASSES]).loc[
        lambda r: r.duplicated("image", keep=False)
    ]
    if len(unequal):
        faults = [f"line {index + 2}: {name}" for index, name in unequal["image"].items()]
        raise ValueError(
            f"{path}: {plural(unequal['image'].nunique(), 'image')} listed twice with different "
            f"labels or patients\n{join_limited(faults)}"
        )
    return rows[~repeats].reset_index(drop=True), int(repeats.sum())
