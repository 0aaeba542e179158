"""Patients, each under one key however it is spelled: `00000013`, `13`, `13.0`, `'13` are one.

Spreadsheets and libraries rewrite ids. Blanks around an id and an apostrophe before it go; of an id
that is all digits, a trailing `.0` (or `,0`) and leading zeros go too.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chestxray.runtime.text import is_missing, join_limited, plural

_NUMBER = re.compile(r"0*([0-9]+)(?:[.,]0*)?")
_BEFORE = re.compile(r"^[\s'‘’]+")
# 1.3E+01, and 1,000, which is one thousand here and one there.
_ROUNDED = re.compile(r"[0-9]+(?:[.,][0-9]+)?[eE]\+[0-9]+|[0-9]{1,3}(?:[.,][0-9]{3})*[.,]000")


def patient_key(text: str) -> str:
    """Return the key by which a patient is compared, counted and ordered.

    Raises:
        ValueError: a number that a spreadsheet has rounded or grouped, such as 1.3E+01, 1,000.
    """
    bare = _bare(text)
    if is_rounded(text):
        raise ValueError(f"patient {text!r} is a number that a spreadsheet has rounded or grouped")
    number = _NUMBER.fullmatch(bare)
    return number[1] if number else bare


def is_rounded(text: str) -> bool:
    """Return whether an id is a number that a spreadsheet has rounded or grouped."""
    return _ROUNDED.fullmatch(_bare(text)) is not None


def rounded_fault(texts: pd.Series) -> str:
    """Say which ids of a column a spreadsheet has rounded or grouped; "" where it has none.

    Args:
        texts: by the number of their row, 0 for line 2.
    """
    odd = {text for text in texts.unique() if is_rounded(text)}
    rows = texts[texts.isin(odd)]
    if not odd:
        return ""
    return (
        f"{plural(len(rows), 'patient id')} that a spreadsheet has rounded or grouped, "
        f"{rows.iloc[0]} for example: lines {join_limited(rows.index + 2)}; save the original "
        "again with that column as text"
    )


def is_no_id(text: str) -> bool:
    """Return whether a text names no patient: it is empty, or says so, as NaN does."""
    return _bare(text) == ""


def nih_spelling(key: str) -> str:
    """A key as NIH spells it: numbers with eight digits. By it patients have an order."""
    return key.zfill(8) if _NUMBER.fullmatch(key) else key


def number_patients(ids: Iterable[str]) -> list[str]:
    """Call patients p0001, p0002 and so on, in the order in which their ids appear."""
    numbers: dict[str, int] = {}
    return [f"p{numbers.setdefault(text, len(numbers) + 1):04d}" for text in ids]


@dataclass(frozen=True)
class Patients:
    """The patients of N rows.

    Attributes:
        keys: (N,) text, "" where a row names none.
        shown: (N,) text, the first spelling of each key.
        respelled: how many patients are spelled in several ways.
    """

    keys: np.ndarray
    shown: np.ndarray
    respelled: int


def read_patients(texts: Iterable[str]) -> Patients:
    """Give rows of one patient one key and one spelling.

    Args:
        texts: N ids as a file spells them; the first spelling met is shown, without blanks and
            apostrophe.

    Raises:
        ValueError: see patient_key.
    """
    codes, spellings = pd.factorize(np.array(list(texts), dtype=object))
    keys = np.array([patient_key(text) for text in spellings], dtype=object)
    frame = pd.DataFrame({"key": keys, "shown": [_bare(text) for text in spellings]})
    first = frame.groupby("key", sort=False)["shown"].transform("first").to_numpy(dtype=object)
    several = frame["key"].duplicated() & (frame["key"] != "")
    return Patients(keys[codes], first[codes], frame["key"][several].nunique())


def _bare(text: str) -> str:
    bare = _BEFORE.sub("", text).strip()
    return "" if is_missing(bare) else bare
