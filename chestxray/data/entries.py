"""Label tables + images on disk -> one DataFrame, one row per image that is in both."""

import filecmp
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chestxray.csv_files import unpacked
from chestxray.data.tables import check_names, find_tables, folders_below, read_tables
from chestxray.labels import CLASSES, UNLABELLED
from chestxray.runtime.text import join_limited, plural

PARTS = ("train", "val", "test")  # of the split
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DICOM_SUFFIXES = (".dcm", ".dicom")
TRAIN_VAL_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"
_LABEL_VECTOR = re.compile(r"(?:[\s,]+[01])+\s*$")  # behind the names in CheXNet's lists
WAYS_OUT = (
    "docs/data.md says where to get the NIH images (--data_path DIR names their folder); "
    "`make demo` runs everything on drawn ones"
)


@dataclass(frozen=True)
class Entries:
    """The rows, lists and tables of a data folder.

    Attributes:
        rows: columns image, patient, age, sex, view, path, and the 15 classes; sorted by image.
        lists: the official lists, "train_val" and "test" -> image names; None without lists.
        fingerprint: SHA-256 of each label table, by file name.
        notes: what was counted and left out, a sentence each.
        table_names: every image that the tables name, those without an image here included.
    """

    rows: pd.DataFrame
    lists: dict[str, set[str]] | None
    fingerprint: dict[str, str]
    notes: list[str]
    table_names: frozenset[str] = frozenset()

    def label_counts(self) -> dict[str, int]:
        """Images by class."""
        return {name: int(count) for name, count in self.rows[list(CLASSES)].sum().items()}


def read_entries(folder: Path, subset: Path | None = None) -> Entries:
    """Find tables, lists and images in a folder of any NIH layout, and put them together.

    Args:
        folder: the data folder; images may lie anywhere below.
        subset: a file of image names, one per line; only these are used.

    Raises:
        FileNotFoundError: no folder, table, image or subset file.
        ValueError: rows, lists or images that contradict themselves or each other.
    """
    if folder.is_file():
        raise ValueError(f"the data folder {folder} is a file; name the folder that holds it")
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} does not exist\n{WAYS_OUT}")
    try:
        table = read_tables(find_tables(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\n{WAYS_OUT}") from None
    rows, notes = match_images(table.rows, find_images(folder), folder)
    if subset is not None:
        rows, note = _keep_subset(rows, subset)
        notes.append(note)
    lists = read_lists(folder, rows["image"])
    rows = rows.sort_values("image", kind="stable").reset_index(drop=True)
    names = frozenset(table.rows["image"])
    return Entries(rows, lists, table.fingerprint, [*table.notes, *notes], names)


def find_images(folder: Path) -> pd.DataFrame:
    """Find every PNG and JPEG below a folder (columns name, path), but not hidden files.

    A DICOM file that bears the name of an image that is not there is found in its place; so is a
    folder, which cannot be read and is named with the reason.
    """
    names: list[str] = []
    paths: list[str] = []
    others: list[tuple[str, str]] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(d for d in folders if not d.startswith((".", "__MACOSX")))
        found = [f for f in files if f.lower().endswith(IMAGE_SUFFIXES) and f[0] != "."]
        names += found
        paths += [os.path.join(root, f) for f in found]
        bearing = [d for d in folders if d.lower().endswith(IMAGE_SUFFIXES)]
        bearing += [f for f in files if f.lower().endswith(DICOM_SUFFIXES) and f[0] != "."]
        others += [(name, os.path.join(root, name)) for name in bearing]
    stems = {name.rpartition(".")[0] for name in names}
    for name, path in others:
        if name.rpartition(".")[0] not in stems:
            names.append(name)
            paths.append(path)
    return pd.DataFrame({"name": names, "path": paths}, dtype=str)


def match_images(
    table: pd.DataFrame, images: pd.DataFrame, folder: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Add the paths of the images to the rows of the table, without the rows that have none.

    An image belongs to the row of its name or, where no name fits, to the only row of its stem
    (`.jpg` files for a table that says `.png`).

    Returns:
        The rows, and notes on what was left out.

    Raises:
        ValueError: the same name twice with different bytes; or no row has an image.
    """
    images = _with_row_names(images.sort_values("path", kind="stable"), table["image"])
    matched = images.dropna(subset="image")
    repeats = matched[matched.duplicated("image", keep=False)]
    _check_same_bytes(repeats)
    matched = matched.drop_duplicates("image")
    rows = table.merge(matched[["image", "path"]], on="image")
    if rows.empty:
        raise ValueError(_describe_mismatch(table, images, folder))
    notes = [f"{len(rows):,} of {plural(len(table), 'row')} have an image"]
    if len(repeats):
        notes.append(
            f"{plural(repeats['image'].nunique(), 'image')} found more than once in {folder} "
            "with equal bytes, used once"
        )
    renamed = matched["name"][~matched["name"].isin(table["image"])]
    if len(renamed):
        notes.append(
            f"{plural(len(renamed), 'image')} matched by name without suffix ({renamed.iloc[0]}, "
            "for example)"
        )
    unmatched = int(images["image"].isna().sum())
    if unmatched:
        notes.append(f"{plural(unmatched, 'image')} without a row, left out")
    return rows, notes


def _with_row_names(images: pd.DataFrame, wanted: pd.Series) -> pd.DataFrame:
    """Add the column image: the name in the table of each file, NaN where it has none."""
    named = images["name"].isin(wanted)
    stems = wanted.str.rsplit(".", n=1).str[0]
    unique = ~stems.duplicated(keep=False) & ~wanted.isin(images["name"])
    by_stem = pd.Series(wanted[unique].to_numpy(), index=stems[unique])
    renamed = images["name"].str.rsplit(".", n=1).str[0].map(by_stem)
    return images.assign(image=images["name"].where(named, renamed))


def _describe_mismatch(table: pd.DataFrame, images: pd.DataFrame, folder: Path) -> str:
    """Why no row has an image, for an error."""
    if table.empty:
        return f"the label table in {folder} has no rows\n{WAYS_OUT}"
    found = f"{images['name'].iloc[0]} was found" if len(images) else "there are no images"
    return (
        f"no row of the label table has an image below {folder}: {table['image'].iloc[0]} was "
        f"expected, for example, and {found}; {UNLABELLED}\n{WAYS_OUT}"
    )


def read_names(path: Path) -> list[str]:
    """Image names of a list file, one per line, without folders before and labels behind.

    Raises:
        FileNotFoundError, ValueError: no file, not a text, or names that cannot be file names.
    """
    try:
        text = unpacked(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file in UTF-8; it needs image names, one a line"
        ) from error
    lines = pd.Series(text.split("\n"), dtype=str).map(lambda s: _LABEL_VECTOR.sub("", s).strip())
    lines.index -= 1  # without a header
    names = lines[lines != ""].map(lambda line: line.replace("\\", "/").rsplit("/", 1)[-1])
    check_names(path, names)
    return names.tolist()


def read_lists(folder: Path, images: pd.Series) -> dict[str, set[str]] | None:
    """Read the official lists of a folder or, only if it has none, one level below.

    Raises:
        ValueError: a name on both lists; a train_val list without a test list; lists that name none
            of the images.
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
            f"{found['train_val'][0]} has no {TEST_LIST} beside it; keep both or neither"
        )
    lists = {part: {n for p in paths for n in read_names(p)} for part, paths in found.items()}
    both = sorted(lists["train_val"] & lists["test"])
    if both:
        raise ValueError(
            f"{plural(len(both), 'name')} on both {TRAIN_VAL_LIST} and {TEST_LIST} of {folder}: "
            f"{join_limited(both, most=3)}"
        )
    if not images.isin(lists["train_val"] | lists["test"]).any():
        raise ValueError(
            f"the lists in {folder} name none of its images: {images.iloc[0]}, for example, is on "
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
            f"{plural(len(differing), 'image')} found twice with different content; "
            f"remove one of each\n{join_limited(differing)}"
        )


def _keep_subset(rows: pd.DataFrame, subset: Path) -> tuple[pd.DataFrame, str]:
    if not subset.exists():
        raise FileNotFoundError(
            f"the subset file {subset} does not exist; --subset FILE names another"
        )
    names = set(read_names(subset))
    kept = rows[rows["image"].isin(names)]
    if kept.empty:
        raise ValueError(
            f"{subset} names none of the images: it names {min(names, default='nothing')}, and "
            f"the folder has {rows['image'].iloc[0]}, for example"
        )
    missing = len(names) - len(kept)
    note = f"subset {subset}: {plural(len(kept), 'image')}"
    return kept, note + (f"; {plural(missing, 'name')} on it not found" if missing else "")
