"""Label tables in every dialect of the NIH set -> one DataFrame, one row per image.

These are `Data_Entry_2017.csv` of 2017 and of 2020, Kaggle's `sample_labels.csv`, and your own
tables with the same columns; plain or .gz. Columns are found by name, never by position: the
2017 header ends in a stray comma and its unquoted `OriginalImage[Width,Height]` is two columns.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from chestxray.csv_files import check_form, header_of, read_texts, unpacked
from chestxray.labels import CLASSES, UNLABELLED, canonical, decode, encode, split_labels
from chestxray.patients import Patients, is_no_id, read_patients, rounded_fault
from chestxray.runtime.text import is_harmless, is_missing, join_limited, plural

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
# Both releases of NIH have these columns. Ages are 058Y in that of 2017 and 58 in that of 2020, of
# which some copies say Patient Sex. Neither the file's name nor the form of the ids tells: copies
# of the later one bear the name of the first, and programs that save a table drop the zeros.
_OF_NIH = {"follow up", "patient id", "patient age", "view position"}
_OLD_AGE, _NEW_AGE = r"\d{3}[YMD]", r"\d{1,3}"


@dataclass(frozen=True)
class Table:
    """One label table, or the union of several.

    Attributes:
        rows: columns image, patient (text, NIH's with eight digits, others as first spelled), age
            (years, NaN unknown), sex, view (text, "" unknown), and the 15 classes (uint8); one row
            per image.
        fingerprint: SHA-256 of each file's unpacked bytes, by file name.
        notes: for the user.
        release: year of NIH's release that it is a copy of; None where it is another table, or
            several.
    """

    rows: pd.DataFrame
    fingerprint: dict[str, str]
    notes: list[str] = field(default_factory=list)
    release: int | None = None

    @property
    def name(self) -> str:
        return join_limited(self.fingerprint)


def find_tables(folder: Path) -> list[Path]:
    """Find the label tables in a folder or, only if it has none, one level below.

    Raises:
        FileNotFoundError: there are none.
    """
    others = []
    for level in ([folder], folders_below(folder)):
        files = sorted(path for parent in level for path in parent.iterdir() if _is_csv(path))
        tables = [path for path in files if _is_table(path)]
        if tables:
            return tables
        others += files
    found = f"; {_fault_of_header(others[0]) if others else UNLABELLED}"
    raise FileNotFoundError(
        f"there is no label table (Data_Entry_2017.csv, for example) in {folder} or one level "
        f"below{found}"
    )


def folders_below(folder: Path) -> list[Path]:
    """The folders in a folder, except those that systems and editors leave behind."""
    names = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in names if not path.name.startswith((".", "__MACOSX"))]


def read_tables(paths: list[Path]) -> Table:
    """Read the union of several tables by image.

    Where two label an image differently, the one with more rows is used; of two with as many, the
    later release of NIH.

    Raises:
        ValueError: see read_table; two tables differ, and nothing says which of them to use.
    """
    tables = sorted(map(read_table, paths), key=lambda t: (-len(t.rows), -(t.release or 0)))
    notes = [note for table in tables for note in table.notes]
    used: list[pd.DataFrame] = []  # of each table
    for table in tables:
        for first, rows in zip(tables, used, strict=False):
            notes += _compare(first, rows, table)
        known = {name for rows in used for name in rows["image"]}
        used.append(table.rows[~table.rows["image"].isin(known)])
    rows = pd.concat(used, ignore_index=True)
    found = read_patients(rows["patient"])
    rows["patient"] = _shown(found)
    if found.respelled:
        notes.append(f"the tables spell {plural(found.respelled, 'patient')} differently")
    return Table(rows, _joint_fingerprint(tables), notes)


def _compare(first: Table, used: pd.DataFrame, table: Table) -> list[str]:
    """Say how many images a table labels differently than an earlier one, and why that is used.

    Raises:
        ValueError: nothing says which of the two to use.
    """
    known = table.rows.set_index("image")[list(CLASSES)]
    ours = used[used["image"].isin(known.index)].set_index("image")[list(CLASSES)]
    theirs = known.loc[ours.index]
    differing = ours.index[(ours.to_numpy() != theirs.to_numpy()).any(axis=1)]
    if differing.empty:
        return []
    count = f"{plural(len(differing), 'image')} labelled differently in {table.name} and in"
    if len(first.rows) > len(table.rows):
        return [f"{count} {first.name}, which has more rows and is used"]
    if first.release and table.release and first.release > table.release:
        return [
            f"{count} {first.name}, which is used: it has the form of NIH's release of "
            f"{first.release}, and {table.name} that of {table.release}"
        ]
    image = differing[0]
    labels = [decode(each.loc[image].to_numpy()) for each in (theirs, ours)]
    raise ValueError(
        f"{count} {first.name}, {image} for example: {labels[0]} and {labels[1]}; nothing says "
        f"which is newer, and both have {plural(len(table.rows), 'row')}: remove one of them"
    )


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
        ValueError: rows whose name, labels, patient, sex or view cannot be used, all of a kind
            together with their line numbers; missing columns; a file that is not a CSV.
    """
    content = unpacked(path)
    text = _read_columns(path, content)
    check_names(path, text["image"])
    targets, notes = _encode_column(path, text["labels"], text["image"])
    patients, more = _read_patients(path, text)
    notes += more
    rows = pd.DataFrame({"image": text["image"], "patient": patients})
    rows["age"] = _ages(text["age"]) if "age" in text else np.nan
    rows["sex"] = _read_words(path, text["sex"]) if "sex" in text else ""
    rows["view"] = _read_words(path, text["view"]) if "view" in text else ""
    rows[list(CLASSES)] = pd.DataFrame(targets, index=rows.index, columns=list(CLASSES))
    rows, repeated = _drop_repeats(path, rows)
    if repeated:
        notes.append(
            f"{path.name}: {plural(repeated, 'row')} repeated with equal labels, read once"
        )
    digest = hashlib.sha256(content).hexdigest()
    return Table(rows, {path.name: digest}, notes, _release(header_of(content), text))


def _read_columns(path: Path, content: bytes) -> pd.DataFrame:
    """The columns that we know, as texts under our names; a row's index gives its line."""
    columns = _columns(path, content)
    text = read_texts(path, content, "label table", list(columns.values()))
    text = text.rename(columns={theirs: ours for ours, theirs in columns.items()})
    text = text.apply(lambda column: column.str.strip())
    return text[(text["image"] != "") | (text["labels"] != "")]  # no blank lines


def _release(header: list[str], text: pd.DataFrame) -> int | None:
    """Year of NIH's release that a table is a copy of; None where it is none."""
    names = {_plain(name) for name in header}
    if text.empty or not _OF_NIH <= names:
        return None
    if "patient sex" in names or text["age"].str.fullmatch(_NEW_AGE).all():
        return 2020
    return 2017 if text["age"].str.fullmatch(_OLD_AGE).all() else None


def _is_csv(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith((".csv", ".csv.gz")) and not name.startswith(".") and path.is_file()


def _is_table(path: Path) -> bool:
    # Of a file with such a name, reading it tells what is wrong with it.
    return bool(_TABLE_NAME.search(path.name)) or not _fault_of_header(path)


def _fault_of_header(path: Path) -> str:
    """Why a file is not a label table, as far as its first line tells; "" where it may be one."""
    try:
        _columns(path, unpacked(path, most=1 << 16))
    except ValueError as error:
        return str(error)
    return ""


def named_columns(header: list[str]) -> dict[str, str]:
    """Our names of the columns that a header has -> its own."""
    known = {_plain(name): name for name in reversed(header)}
    return {
        ours: known[alias]
        for ours, aliases in _COLUMNS.items()
        for alias in reversed(aliases)
        if alias in known
    }


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.casefold()).strip()


def _columns(path: Path, content: bytes) -> dict[str, str]:
    header = header_of(content)
    columns = named_columns(header)
    if all(name in columns for name in _NEEDED):
        return columns
    check_form(path, content, "label table")
    raise ValueError(
        f"{path} is not a label table: it needs columns Image Index and Finding Labels and has "
        f"{join_limited(header) or 'none'} (docs/data.md says more; {UNLABELLED})"
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
            f"{path}: {plural(len(faults), 'row')} with unusable labels{_way_out(texts)}\n"
            + join_limited(faults)
        )
    targets = np.array(vectors, dtype=np.uint8).reshape(-1, len(CLASSES))[codes]
    read_as = [f"{theirs} as {ours}" for theirs, ours in sorted(spellings.items())]
    return targets, [f"{path.name}: labels read: {join_limited(read_as)}"] if read_as else []


def _way_out(texts: pd.Series) -> str:
    """Where rows have no label at all, what scores their images; nobody is to make one up."""
    return f" ({UNLABELLED})" if (texts.str.strip(" |") == "").any() else ""


def _read_patients(path: Path, text: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Each row's patient under one spelling, and a note where several met.

    The eight digits that an NIH name begins with stand for an id that is missing.
    """
    spelled = text["image"].str.extract(r"^(\d{8})_", expand=False).fillna("")
    if "patient" in text:
        spelled = text["patient"].where(~text["patient"].map(is_no_id).astype(bool), spelled)
    _check_patients(path, spelled)
    found = read_patients(spelled)
    notes = []
    if found.respelled:
        several = plural(found.respelled, "patient")
        notes.append(f"{path.name}: {several} spelled in several ways, read as one")
    return pd.Series(_shown(found), index=text.index, dtype=str), notes


def _shown(found: Patients) -> np.ndarray:
    """The spelling of each row's patient: NIH's with eight digits, others as they are met first."""
    keys = pd.Series(found.keys, dtype=str)
    return np.where(keys.str.fullmatch(r"[0-9]{1,8}"), keys.str.zfill(8), found.shown)


def _check_patients(path: Path, spelled: pd.Series) -> None:
    """Refuse ids that are missing, that a spreadsheet has rounded, or that it would run."""
    texts = pd.Series(spelled.unique(), dtype=str)
    fault = rounded_fault(spelled)
    if fault:
        raise ValueError(f"{path}: {fault}")
    bare = texts.str.lstrip(" '")
    unsafe = spelled.isin(texts[~bare.map(is_harmless).astype(bool)])
    if unsafe.any():
        raise ValueError(
            f"{path}: {plural(int(unsafe.sum()), 'patient key')} with a control character, or "
            f"beginning like a formula with - = + or @: lines {join_limited(_lines(unsafe))}"
        )
    unknown = spelled.map(is_no_id).astype(bool)
    if unknown.any():
        raise ValueError(
            f"{path}: {plural(int(unknown.sum()), 'row')} without a patient (lines "
            f"{join_limited(_lines(unknown))}); a split by patient needs a Patient ID column, or "
            "names that begin with eight digits and an underscore"
        )


def _ages(texts: pd.Series) -> pd.Series:
    """`058Y`, `013M`, `001D`, `58`, `58.0` in years; NaN for other texts and above 120."""
    parts = texts.str.upper().str.extract(r"^(\d{1,4})(?:\.0)?([YMD]?)$")
    years = pd.to_numeric(parts[0]) * parts[1].map(_YEARS)
    return years.where(years <= _OLDEST)


def _read_words(path: Path, texts: pd.Series) -> pd.Series:
    """Sex or view, "" where there is none; refuses what a spreadsheet would run."""
    different = texts.unique()
    unsafe = texts.isin([text for text in different if not is_harmless(text)])
    if unsafe.any():
        raise ValueError(
            f"{path}: {plural(int(unsafe.sum()), 'row')} whose {texts.name} has a control "
            "character, or begins like a formula with - = + or @: lines "
            f"{join_limited(_lines(unsafe))}; leave the cell empty where it is not known"
        )
    return texts.mask(texts.isin([text for text in different if is_missing(text)]), "")


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
