"""The 15 class names in their one fixed order, and "A|B" as zeros and ones.

Labels: Wang et al. 2017, arXiv:1705.02315. The order is alphabetical; it is written into every
checkpoint and scores file and compared wherever two of them meet.
"""

import difflib
import re

import numpy as np

CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "No Finding",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
NO_FINDING = "No Finding"
UNLABELLED = "python -m chestxray.predict FOLDER --ckpt FILE scores images that have no labels"
HERNIA = "Hernia"  # the rarest finding: 227 of 112,120 images, never held back by the cap
FINDINGS = tuple(name for name in CLASSES if name != NO_FINDING)


def _key(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()


# Spellings that public files use beside the canonical one; case, spaces and underscores are free.
_CANONICAL = {_key(name): name for name in CLASSES} | {
    "no findings": NO_FINDING,
    "infiltrate": "Infiltration",  # BBox_List_2017.csv
}


def canonical(label: str) -> str:
    """The class that a spelling means.

    Raises:
        ValueError: the label is not one of the 15; the message names the nearest one.
    """
    name = _CANONICAL.get(_key(label))
    if name is None:
        near = difflib.get_close_matches(_key(label), _CANONICAL, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown label {label!r}; the nearest valid one is {_CANONICAL[near[0]]!r}"
        )
    return name


def is_no_finding(name: str) -> bool:
    """Return whether a class is No Finding, in any spelling: "no_finding", "NoFindings"."""
    return re.sub(r"[\W_]", "", name).casefold() in ("nofinding", "nofindings")


def split_labels(text: str) -> list[str]:
    """The labels of one cell as written: "A| B|" gives ["A", "B"]."""
    return [part.strip() for part in text.split("|") if part.strip()]


def encode(text: str) -> np.ndarray:
    """One cell of the label column as a multi-hot vector.

    Args:
        text: names joined by "|" ("Effusion|Mass"); repeats and a trailing "|" are harmless.

    Returns:
        (15,) uint8, 0 or 1, in the order of CLASSES.

    Raises:
        ValueError: no label, an unknown label, or No Finding beside a finding.
    """
    names = {canonical(label) for label in split_labels(text)}
    if not names:
        raise ValueError("no label")
    if NO_FINDING in names and len(names) > 1:
        raise ValueError(f"{text!r} contradicts itself: {NO_FINDING} beside a finding")
    return np.array([name in names for name in CLASSES], dtype=np.uint8)


def decode(target: np.ndarray) -> str:
    """The inverse of encode: (15,) zeros and ones to "A|B"."""
    return "|".join(name for name, value in zip(CLASSES, target, strict=True) if value)
