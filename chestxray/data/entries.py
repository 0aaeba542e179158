"""Label tables + pictures on disk -> one DataFrame, one row a picture that has both."""

import filecmp
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chestxray.data.tables import check_names, find_tables, folders_below, read_tables
from chestxray.labels import CLASSES
from chestxray.runtime.text import counted, listed

PARTS = ("train", "val", "test")  # of the split
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
TRAIN_VAL_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"
_LABEL_VECTOR = re.compile(r"(?:[\s,]+[01])+\s*$")  # behind the names in CheXNet's lists
WAYS_OUT = (
    "README.md says where to get the NIH pictures (--data_path DIR names their folder); "
    "`make demo` runs everything on drawn ones"
)


@dataclass
class Entries:
    """What a data folder holds.

    Attributes:
        rows: columns image, patient, age, sex, view, path, and the 15 classes; sorted by image.
        lists: the official lists, "train_val" and "test" -> picture names; None where none are.
        fingerprint: SHA-256 of each label table, by file name.
        notes: what was counted and left out, one sentence each.
    """

    rows: pd.DataFrame
    lists: dict[str, set[str]] | None
    fingerprint: dict[str, str]
    notes: list[str]

    def label_counts(self) -> dict[str, int]:
        """Pictures by class."""
        return {name: int(count) for name, count in self.rows[list(CLASSES)].sum().items()}


def read_entries(folder: Path, subset: Path | None = None) -> Entries:
    """Find tables, lists and pictures in a folder of any NIH layout, and put them together.

    Args:
        folder: the data folder; pictures may lie anywhere below.
        subset: a file of picture names, one a line; only these are used.

    Raises:
        FileNotFoundError: no folder, table, picture or subset file.
        ValueError: rows, lists or pictures that contradict themselves or each other.
    """
    if folder.is_file():
        raise ValueError(f"the data folder {folder} is a file; name the folder that it lies in")
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} is not there\n{WAYS_OUT}")
    try:
        table = read_tables(find_tables(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\n{WAYS_OUT}") from None
    rows, notes = match_pictures(table.rows, find_pictures(folder), folder)
    if subset is not None:
        rows, note = _only(rows, subset)
        notes.append(note)
    lists = read_lists(folder, rows["image"])
    rows = rows.sort_values("image", kind="stable").reset_index(drop=True)
    return Entries(rows, lists, table.fingerprint, [*table.notes, *notes])


def find_pictures(folder: Path) -> pd.DataFrame:
    """Every PNG and JPEG below a folder (columns name, path); litter of other systems left out."""
    names: list[str] = []
    paths: list[str] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(d for d in folders if not d.startswith((".", "__MACOSX")))
        found = [f for f in files if f.lower().endswith(PICTURE_SUFFIXES) and f[0] != "."]
        names += found
        paths += [os.path.join(root, f) for f in found]
    return pd.DataFrame({"name": names, "path": paths}, dtype=str)


def match_pictures(
    table: pd.DataFrame, pictures: pd.DataFrame, folder: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the table that have a picture, with its path; and what was left out.

    A picture belongs to the row of its name or, where no name fits, to the only row of its stem
    (`.jpg` files for a table that says `.png`).

    Raises:
        ValueError: the same name twice with different bytes; or no row has a picture.
    """
    pictures = pictures.sort_values("path", kind="stable")
    named = pictures["name"].isin(table["image"])
    stems = table["image"].str.rsplit(".", n=1).str[0]
    unique = ~stems.duplicated(keep=False) & ~table["image"].isin(pictures["name"])
    by_stem = pd.Series(table["image"][unique].to_numpy(), index=stems[unique])
    renamed = pictures["name"].str.rsplit(".", n=1).str[0].map(by_stem)
    pictures = pictures.assign(image=pictures["name"].where(named, renamed))
    matched = pictures.dropna(subset="image")
    unmatched = len(pictures) - len(matched)

    notes = []
    repeats = matched[matched.duplicated("image", keep=False)]
    if len(repeats):
        _check_same_bytes(repeats)
        notes.append(
            f"{counted(repeats['image'].nunique(), 'picture')} more than once in {folder} "
            "with equal bytes, used once"
        )
    matched = matched.drop_duplicates("image")
    rows = table.merge(matched[["image", "path"]], on="image")
    if rows.empty:
        found = (
            f"and {pictures['name'].iloc[0]} was found"
            if len(pictures)
            else "and no picture is there"
        )
        raise ValueError(
            f"no row of the label table has a picture below {folder}: {table['image'].iloc[0]} is "
            f"expected, for one, {found}\n{WAYS_OUT}"
            if len(table)
            else f"the label table in {folder} has no rows\n{WAYS_OUT}"
        )
    other_suffix = int((~matched["name"].isin(table["image"])).sum())
    if other_suffix:
        notes.append(
            f"{counted(other_suffix, 'picture')} matched by name without suffix, such as "
            f"{matched['name'][~matched['name'].isin(table['image'])].iloc[0]}"
        )
    notes.insert(0, f"{len(rows):,} of {counted(len(table), 'row')} have a picture")
    if unmatched:
        notes.append(f"{counted(unmatched, 'picture')} without a row, left out")
    return rows, notes


def read_names(path: Path) -> list[str]:
    """Picture names of a list file, one a line: folders before and a label vector behind go."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file in UTF-8: {error}") from error
    lines = pd.Series(text.split("\n"), dtype=str).map(lambda s: _LABEL_VECTOR.sub("", s).strip())
    lines.index -= 1  # without a header
    names = lines[lines != ""].map(lambda line: line.replace("\\", "/").rsplit("/", 1)[-1])
    check_names(path, names)
    return names.tolist()


def read_lists(folder: Path, images: pd.Series) -> dict[str, set[str]] | None:
    """The official lists of a folder or, only if it has none, one level below.

    Raises:
        ValueError: a name on both lists; a train_val list without a test list; lists that know none
            of the pictures.
    """
    for level in ([folder], folders_below(folder)):
        found = {
            "train_val": [p / TRAIN_VAL_LIST for p in level if (p / TRAIN_VAL_LIST).is_file()],
            "test": [p / TEST_LIST for p in level if (p / TEST_LIST).is_file()],
        }
        if any(found.values()):
            break
    else:
        return None
    if not found["test"]:
        raise ValueError(
            f"{found['train_val'][0]} has no {TEST_LIST} beside it; put both there, or none"
        )
    lists = {part: {n for p in paths for n in read_names(p)} for part, paths in found.items()}
    both = sorted(lists["train_val"] & lists["test"])
    if both:
        raise ValueError(
            f"{counted(len(both), 'name')} on {TRAIN_VAL_LIST} and on {TEST_LIST} of {folder}: "
            f"{listed(both, most=3)}"
        )
    if not images.isin(lists["train_val"] | lists["test"]).any():
        raise ValueError(
            f"the lists in {folder} name none of its pictures: {images.iloc[0]} is there and on "
            "neither; remove the lists to have a split drawn"
        )
    return lists


def _check_same_bytes(repeats: pd.DataFrame) -> None:
    firsts = repeats.groupby("image")["path"].transform("first")
    later = repeats[repeats.duplicated("image")]
    differing = [
        f"{path} and {first}"
        for path, first in zip(later["path"], firsts[later.index], strict=True)
        if not filecmp.cmp(path, first, shallow=False)
    ]
    if differing:
        raise ValueError(
            f"{counted(len(differing), 'picture')} there twice with different content; "
            f"remove one of each\n{listed(differing)}"
        )


def _only(rows: pd.DataFrame, subset: Path) -> tuple[pd.DataFrame, str]:
    if not subset.is_file():
        raise FileNotFoundError(f"the subset file {subset} is not there")
    names = set(read_names(subset))
    kept = rows[rows["image"].isin(names)]
    if kept.empty:
        raise ValueError(
            f"{subset} names none of the pictures: {rows['image'].iloc[0]} is there, for one, and "
            f"{min(names, default='nothing')} is asked for"
        )
    missing = len(names) - len(kept)
    note = f"subset {subset}: {counted(len(kept), 'picture')}"
    return kept, note + (f"; {counted(missing, 'name')} of it not found" if missing else "")
