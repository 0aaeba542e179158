"""Training, validation and test images: split by patient, drawn once for a lineage of runs."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from chestxray.data.entries import PARTS, Entries
from chestxray.labels import CLASSES
from chestxray.patients import nih_spelling, patient_key
from chestxray.runtime.text import join_limited, plural

VAL_SHARE, TEST_SHARE = 0.1, 0.2  # of the patients
_WAY_OUT = "bring them back, or resume from the checkpoint of a finished epoch with --ckpt"


@dataclass(frozen=True)
class Split:
    """The split of a lineage, as its checkpoints store it.

    Attributes:
        seed: of the draw.
        official: drawn with the official lists.
        image_names: by part of the split.
        patients: by part of the split, one for each of its images, as they were spelled then.
    """

    seed: int
    official: bool
    image_names: dict[str, list[str]]
    patients: dict[str, list[str]]

    @classmethod
    def empty(cls) -> "Split":
        """The split of weights that do not say which images they were trained on."""
        nobody: dict[str, list[str]] = {part: [] for part in PARTS}
        return cls(0, False, nobody, nobody)

    @classmethod
    def from_rows(cls, rows: pd.DataFrame, seed: int, official: bool) -> "Split":
        """The split of rows with the columns image, patient and split."""
        chosen = {part: rows[rows["split"] == part] for part in PARTS}
        return cls(
            seed,
            official,
            {part: chosen[part]["image"].tolist() for part in PARTS},
            {part: chosen[part]["patient"].tolist() for part in PARTS},
        )

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Split":
        """The inverse of to_plain."""
        return cls(
            plain["seed"],
            plain["official"],
            {part: _lines(plain[part]["images"]) for part in PARTS},
            {part: _lines(plain[part]["patients"]) for part in PARTS},
        )

    def to_plain(self) -> dict[str, Any]:
        """Plain values for a checkpoint, the names of a part as one text, which loads fast."""
        return {"seed": self.seed, "official": self.official} | {
            part: {
                "images": "\n".join(self.image_names[part]),
                "patients": "\n".join(self.patients[part]),
            }
            for part in PARTS
        }

    @property
    def is_empty(self) -> bool:
        """Return whether it has no images."""
        return not any(self.image_names.values())

    def rows(self) -> pd.DataFrame:
        """The images as rows with the columns image, patient and split."""
        return pd.concat(
            pd.DataFrame(
                {"image": self.image_names[part], "patient": self.patients[part], "split": part},
                dtype=str,
            )
            for part in PARTS
        )


def draw_split(rows: pd.DataFrame, lists: dict[str, set[str]] | None, seed: int) -> np.ndarray:
    """Assign every image to a part of the split.

    With the official lists, the images on the test list are the test part, and 10 % of the other
    patients are for validation. Without them, 20 % of the patients are for test, 10 % for
    validation.

    Args:
        rows: columns image and patient.
        lists: "test" -> names on the official test list, or None.
        seed: of the draw; the same patients and seed give the same parts.

    Returns:
        (N,) text, "train", "val" or "test".

    Raises:
        ValueError: a patient on both sides of the official lists; no image left for training.
    """
    in_test = rows["image"].isin(lists["test"]).to_numpy() if lists else np.zeros(len(rows), bool)
    parts = np.where(in_test, "test", "train").astype(object)
    keys = _keys(rows["patient"])
    patients = np.random.default_rng(seed).permutation(np.unique(keys[~in_test]))
    n_val, n_test = round(VAL_SHARE * len(patients)), round(TEST_SHARE * len(patients))
    parts[~in_test & keys.isin(patients[:n_val])] = "val"
    if lists is None:
        parts[keys.isin(patients[n_val : n_val + n_test])] = "test"
    check_patients(rows["patient"], parts)
    if not (parts == "train").any():
        raise ValueError(
            f"no image is left for training: {plural(len(rows), 'image')}, "
            f"{int((parts == 'val').sum())} for validation, {int((parts == 'test').sum())} for test"
        )
    return parts


def check_patients(patients: pd.Series, parts: np.ndarray) -> None:
    """Raise ValueError where a patient is in two parts; images with the part "" do not count."""
    assigned = pd.DataFrame(
        {"patient": patients.to_numpy(), "key": _keys(patients).to_numpy(), "part": parts}
    )
    assigned = assigned[assigned["part"] != ""].drop_duplicates(["key", "part"])
    several = assigned[assigned.duplicated("key", keep=False)]
    shared = several.drop_duplicates("key")["patient"]
    if len(shared):
        raise ValueError(
            f"{plural(len(shared), 'patient')} in more than one part of the split (do the "
            f"official lists belong to this table?): {join_limited(shared, most=3)}"
        )


def assign_splits(
    entries: Entries, stored: Split | None, seed: int, test: bool, same_patients: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Add the column split to the rows of a data folder, and drop the rows that are in no part.

    Args:
        entries: of the data folder.
        stored: the split of the checkpoint; None draws one.
        seed: of the draw.
        test: images that the stored split does not know may be scored; training leaves them out.
        same_patients: of a test: an id means the patient whom it means in the stored split, also
            where the data folder names none of its images.

    Returns:
        The rows, and notes for the user.
    """
    if stored is None:
        parts, notes = _draw_with_notes(entries, seed)
    elif test:
        parts, notes = _restore_for_test(entries, stored, same_patients)
    else:
        parts, notes = restore_split(entries.rows, stored)
        notes.insert(0, "split: the checkpoint's")
    check_patients(entries.rows["patient"], parts)
    notes[0] += "; 0 patients shared"
    if not (parts != "").any():
        raise ValueError(
            "none of the images is in the checkpoint's split: is this its data folder?"
        )
    return entries.rows.assign(split=parts)[parts != ""], notes


def _draw_with_notes(entries: Entries, seed: int) -> tuple[np.ndarray, list[str]]:
    parts = draw_split(entries.rows, entries.lists, seed)
    source = "official lists" if entries.lists else "no official lists, drawn"
    notes = [f"split: {source}, seed {seed}"]
    listed: set[str] = set().union(*(entries.lists or {}).values())
    unlisted = int((~entries.rows["image"].isin(listed)).sum())
    if entries.lists and unlisted:
        notes.append(f"{plural(unlisted, 'image')} on neither list: training or validation")
    return parts, notes


def _restore_for_test(
    entries: Entries, stored: Split, same_patients: bool
) -> tuple[np.ndarray, list[str]]:
    parts, notes = restore_split(entries.rows, stored)
    known = {name for names in stored.image_names.values() for name in names}
    others = known.isdisjoint({*entries.table_names, *entries.rows["image"]})
    if stored.is_empty or others:
        notes = [f"split: {'the official lists' if entries.lists else 'all test'}"]
    else:
        notes.insert(0, "split: the checkpoint's")
    if others and not stored.is_empty and not same_patients:
        notes.append(
            "the run's split has none of these images: their patients are taken for other people, "
            "equal ids or not (--same-patients says that equal ids are the same people)"
        )
        stored = Split.empty()
    parts, more = assign_unseen(entries.rows, parts, stored, entries.lists)
    return parts, notes + more


def check_training_part(image_names: np.ndarray, stored: Split, same_tables: bool) -> None:
    """Refuse to resume inside an epoch whose images are not the ones that it began with.

    Args:
        image_names: of the training images now.
        stored: the split of the checkpoint.
        same_tables: the label tables are those of the checkpoint.

    Raises:
        ValueError: images are missing or labels may differ, and with them the order of the epoch.
    """
    if not same_tables:
        raise ValueError(
            "the checkpoint lies inside an epoch, and the label tables are not the ones that it "
            f"began with; {_WAY_OUT}"
        )
    missing = sorted(set(stored.image_names["train"]) - set(image_names))
    if missing:
        raise ValueError(
            f"the checkpoint lies inside an epoch, and {plural(len(missing), 'image')} of that "
            f"epoch can no longer be used: {join_limited(missing, most=3)}; {_WAY_OUT}"
        )


def restore_split(rows: pd.DataFrame, stored: Split) -> tuple[np.ndarray, list[str]]:
    """Look up the parts of a stored split.

    Returns:
        (N,) parts, "" for images that it does not know; and notes on what has changed.
    """
    known = stored.rows().set_index("image")["split"]
    parts = rows["image"].map(known).astype(object).fillna("").to_numpy(dtype=object)
    missing, new = len(known) - int((parts != "").sum()), int((parts == "").sum())
    notes = []
    if missing:
        notes.append(f"{plural(missing, 'image')} of the run's split are missing")
    if new:
        notes.append(
            f"the data folder has {plural(new, 'image')} that the run's split does not know"
        )
    return parts, notes


def assign_unseen(
    rows: pd.DataFrame,
    parts: np.ndarray,
    stored: Split,
    lists: dict[str, set[str]] | None,
) -> tuple[np.ndarray, list[str]]:
    """Assign images that a stored split does not know to parts, for a test.

    They follow the folder's lists, or are all test where it has none. Images of a patient whom
    the stored split has in another part stay "" (in no part): their scores would not be those of
    an unseen patient.
    """
    new = parts == ""
    listed_test = (
        rows["image"].isin(lists["test"]).to_numpy() if lists else np.ones(len(rows), bool)
    )
    assigned = np.where(new, np.where(listed_test, "test", "train"), parts)
    there = stored.rows()
    try:
        there["patient"] = _keys(there["patient"])
    except ValueError as error:
        raise ValueError(
            f"the checkpoint's split cannot tell its patients apart: {error}; train anew with a "
            "table whose ids are whole"
        ) from error
    part_of = there.drop_duplicates("patient").set_index("patient")["split"]
    known = _keys(rows["patient"]).map(part_of).astype(object).fillna("").to_numpy(dtype=object)
    leaking = new & (known != "") & (known != assigned)
    assigned = np.where(leaking, "", assigned).astype(object)
    if not leaking.any():
        return assigned, []
    return assigned, [
        f"{plural(int(leaking.sum()), 'image')} left out: their patients are in another part of "
        "the run's split"
    ]


def rows_digest(rows: pd.DataFrame) -> str:
    """A short name of images, parts and labels, by which two machines compare theirs."""
    names = "\n".join(rows["image"] + "\t" + rows["split"]).encode()
    labels = rows[list(CLASSES)].to_numpy(dtype=np.uint8).tobytes()
    return f"{len(rows):,}, {hashlib.sha256(names + labels).hexdigest()[:16]}"


def count_seen(rows: pd.DataFrame, named: frozenset[str], seen: Split) -> int | None:
    """Count test patients whom weights have seen, and validation patients who trained them.

    Args:
        rows: columns image, patient and split.
        named: further images of the data folder.
        seen: of the weights.

    Returns:
        None where the folder has none of the weights' images: equal ids are other people.
    """
    if {name for names in seen.image_names.values() for name in names}.isdisjoint(
        named.union(rows["image"])
    ):
        return None
    train, val = ({patient_key(name) for name in seen.patients[p]} for p in ("train", "val"))
    before: dict[str, set[str]] = {"train": set(), "val": train, "test": train | val}
    pairs = rows[["patient", "split"]].drop_duplicates().itertuples(index=False)
    return sum(patient_key(patient) in before[part] for patient, part in pairs)


def _keys(patients: pd.Series) -> pd.Series:
    """What patients are compared and ordered by; NIH's eight digits keep the draw of a seed."""
    return patients.map({text: nih_spelling(patient_key(text)) for text in patients.unique()})


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []
