"""Which image is for training, validation or test: by patient, drawn once for a line of runs."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from chestxray.data.entries import PARTS, Entries
from chestxray.labels import CLASSES
from chestxray.runtime.text import join_limited, plural

VAL_SHARE, TEST_SHARE = 0.1, 0.2  # of the patients
# The split of weights that do not say which images they were trained on; see pack.
EMPTY: dict[str, Any] = {
    "seed": 0,
    "official": False,
    **{part: {"images": "", "patients": ""} for part in PARTS},
}


def draw_split(rows: pd.DataFrame, lists: dict[str, set[str]] | None, seed: int) -> np.ndarray:
    """Give every image its part.

    With the official lists: the images on the test list are the test, 10 % of the other patients
    the validation. Without: 20 % of the patients the test, 10 % the validation.

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
    patients = np.random.default_rng(seed).permutation(np.unique(rows["patient"][~in_test]))
    n_val, n_test = round(VAL_SHARE * len(patients)), round(TEST_SHARE * len(patients))
    parts[~in_test & rows["patient"].isin(patients[:n_val])] = "val"
    if lists is None:
        parts[rows["patient"].isin(patients[n_val : n_val + n_test])] = "test"
    check_patients(rows["patient"], parts)
    if not (parts == "train").any():
        raise ValueError(
            f"no image is left for training: {plural(len(rows), 'image')}, "
            f"{int((parts == 'val').sum())} for validation, {int((parts == 'test').sum())} for test"
        )
    return parts


def check_patients(patients: pd.Series, parts: np.ndarray) -> None:
    """Raise ValueError where a patient is in two parts; "" is no part."""
    placed = pd.DataFrame({"patient": patients.to_numpy(), "part": parts})
    placed = placed[placed["part"] != ""].drop_duplicates()
    shared = placed[placed["patient"].duplicated()]["patient"].unique()
    if len(shared):
        raise ValueError(
            f"{plural(len(shared), 'patient')} in more than one part of the split (are the "
            f"official lists those of this table?): {join_limited(shared, most=3)}"
        )


def assign_splits(
    entries: Entries, packed: dict[str, Any] | None, seed: int, test: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Rows with the column split, those in no part left out; and what a user should know of it.

    Args:
        entries: of the data folder.
        packed: the split of the checkpoint; None draws one.
        seed: of the draw.
        test: images that the stored split does not know may be scored; training leaves them out.
    """
    rows, lists = entries.rows, entries.lists
    if packed is None:
        parts = draw_split(rows, lists, seed)
        source = "official lists" if lists else "no official lists, drawn"
        notes = [f"split: {source}, seed {seed}"]
        neither = int((~rows["image"].isin(set().union(*(lists or {}).values()))).sum())
        if lists and neither:
            notes.append(f"{plural(neither, 'image')} on neither list: training or validation")
    else:
        parts, notes = restore_split(rows, packed)
        notes.insert(0, "split: the checkpoint's")
        if packed is EMPTY:
            notes = [f"split: {'the official lists' if lists else 'all test'}"]
        if test:
            parts, more = assign_unseen(rows, parts, packed, lists)
            notes += more
    check_patients(rows["patient"], parts)
    notes[0] += "; 0 patients shared"
    if not (parts != "").any():
        raise ValueError(
            "none of the images is in the checkpoint's split: is this its data folder?"
        )
    return rows.assign(split=parts)[parts != ""], notes


def check_training_part(images: np.ndarray, packed: dict[str, Any], same_tables: bool) -> None:
    """Refuse to go on inside an epoch whose images are not the ones that it began with.

    Args:
        images: names of the training images now.
        packed: the split of the checkpoint.
        same_tables: the label tables are those of the checkpoint.

    Raises:
        ValueError: images are gone or labels may differ, and with them the order of the epoch.
    """
    if not same_tables:
        raise ValueError(
            "the checkpoint lies inside an epoch, and the label tables are not those that it began "
            "with; bring them back, or go on from the checkpoint of a finished epoch with --ckpt"
        )
    gone = sorted(set(_lines(packed["train"]["images"])) - set(images))
    if gone:
        raise ValueError(
            f"the checkpoint lies inside an epoch, and {plural(len(gone), 'image')} of it "
            f"cannot be had any more: {join_limited(gone, most=3)}; bring them back, or go on from "
            "the checkpoint of a finished epoch with --ckpt"
        )


def pack(rows: pd.DataFrame, seed: int, lists: dict[str, set[str]] | None) -> dict[str, Any]:
    """A split as plain values for a checkpoint, the names as one text (so that it loads fast)."""
    packed: dict[str, Any] = {"seed": seed, "official": lists is not None}
    for part in PARTS:
        chosen = rows[rows["split"] == part]
        packed[part] = {
            "images": "\n".join(chosen["image"]),
            "patients": "\n".join(chosen["patient"]),
        }
    return packed


def unpack(packed: dict[str, Any]) -> pd.DataFrame:
    """The inverse of pack: columns image, patient, split."""
    return pd.concat(
        pd.DataFrame(
            {
                "image": _lines(packed[part]["images"]),
                "patient": _lines(packed[part]["patients"]),
                "split": part,
            },
            dtype=str,
        )
        for part in PARTS
    )


def restore_split(rows: pd.DataFrame, packed: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """The parts of a stored split; "" for images that it does not know; and what has changed."""
    stored = unpack(packed).set_index("image")["split"]
    parts = rows["image"].map(stored).astype(object).fillna("").to_numpy(dtype=object)
    gone, new = len(stored) - int((parts != "").sum()), int((parts == "").sum())
    notes = []
    if gone:
        notes.append(f"{plural(gone, 'image')} of the run's split are not here any more")
    if new:
        notes.append(
            f"the data folder has {plural(new, 'image')} that the run's split does not know"
        )
    return parts, notes


def assign_unseen(
    rows: pd.DataFrame,
    parts: np.ndarray,
    packed: dict[str, Any],
    lists: dict[str, set[str]] | None,
) -> tuple[np.ndarray, list[str]]:
    """Parts for a test on images that a stored split does not know.

    They follow the folder's lists, or are all test where it has none. Images of a patient whom
    the stored split has in another part stay "" (in no part): their scores would not be those of
    an unseen patient.
    """
    new = parts == ""
    listed_test = (
        rows["image"].isin(lists["test"]).to_numpy() if lists else np.ones(len(rows), bool)
    )
    placed = np.where(new, np.where(listed_test, "test", "train"), parts)
    home = unpack(packed).drop_duplicates("patient").set_index("patient")["split"]
    known = rows["patient"].map(home).astype(object).fillna("").to_numpy(dtype=object)
    leaking = new & (known != "") & (known != placed)
    placed = np.where(leaking, "", placed).astype(object)
    if not leaking.any():
        return placed, []
    return placed, [
        f"{plural(int(leaking.sum()), 'image')} left out: their patients are in another part of "
        "the run's split"
    ]


def rows_digest(rows: pd.DataFrame) -> str:
    """A short name of images, parts and labels, by which two machines compare theirs."""
    names = "\n".join(rows["image"] + "\t" + rows["split"]).encode()
    labels = rows[list(CLASSES)].to_numpy(dtype=np.uint8).tobytes()
    return f"{len(rows):,}, {hashlib.sha256(names + labels).hexdigest()[:16]}"


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []
