"""CSV files that other programs wrote: unpacked, read as texts, their faults in plain words."""

import csv
import gzip
import io
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; save it as CSV",
    b"BZh": "packed by bzip2; unpack it, or pack it as .gz",
    b"\xfd7zXZ": "packed by xz; unpack it, or pack it as .gz",
    b"\x1f\x8b": "packed by gzip; give its name the ending .gz",
    b"\xff\xfe": "text in UTF-16; save it as CSV in UTF-8",
    b"\xfe\xff": "text in UTF-16; save it as CSV in UTF-8",
}
_SEPARATORS = {";": "semicolons", "\t": "tabs"}
_DECIMAL_COMMA = re.compile(rb"[;\t]-?[0-9]+,[0-9]")
_MANY_FIELDS = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_OPEN_QUOTE = re.compile(r"EOF inside string starting at row (\d+)")


def unpacked(path: Path, most: int = -1) -> bytes:
    """Read the bytes of a file, unpacked where its name ends in .gz.

    Args:
        path: the file.
        most: bytes to read; -1 reads all.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is a folder, or no whole gzip file.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"the file {path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}") from error


def header_of(content: bytes) -> list[str]:
    """The column names in the first line; none where that line is too long for a header."""
    first = re.split(rb"[\r\n]", content, maxsplit=1)[0].decode("utf-8-sig", errors="replace")
    try:
        return next(csv.reader([first]), [])
    except csv.Error:
        return []


def check_form(path: Path, content: bytes, kind: str) -> None:
    """Explain a header that lacks columns by the form of the file.

    Raises:
        ValueError: it is no text, or separated by something else than commas.
    """
    line = ",".join(header_of(content))
    other = _other_kind(content)
    if other or not line.replace("\t", " ").isprintable() or "\ufffd" in line:
        raise ValueError(f"{path} is not a {kind}: it is {other or 'not text in UTF-8'}")
    for separator, name in _SEPARATORS.items():
        if line.count(separator) > line.count(","):
            decimal = _DECIMAL_COMMA.search(content)
            raise ValueError(
                f"{path} is separated by {name}; save it with commas"
                + (" between the columns and points in the numbers" if decimal else "")
            )


def read_texts(path: Path, content: bytes, kind: str, columns: list[str] | None) -> pd.DataFrame:
    """Read cells as texts, "" where a row ends early; a row's index + 2 is its line.

    Args:
        path: named in errors.
        content: of the file, unpacked.
        kind: what the file should be, for errors: "label table".
        columns: to read; None reads all, and then no row may have more fields than the header.

    Raises:
        ValueError: the content is no CSV.
    """
    how: dict[str, Any] = {"index_col": False}  # else a field too many on every row shifts all
    how |= {"dtype": str, "keep_default_na": False}  # else the texts NA and None become NaN
    how |= {"encoding": "utf-8-sig", "skip_blank_lines": False}  # which the line numbers need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # fields that would be dropped
            texts = pd.read_csv(io.BytesIO(content), usecols=columns, **how)
    except (ValueError, pd.errors.ParserWarning) as error:  # ParserError, UnicodeDecodeError, ...
        raise ValueError(f"{path} is not a {kind}: {_in_words(error, content)}") from error
    texts = texts.fillna("")
    blank = texts.index[texts.iloc[:, 0] == ""]
    return texts.drop(blank[(texts.loc[blank] == "").all(axis=1)])


def _other_kind(content: bytes) -> str:
    """What a file is by its first bytes, where that is no CSV in UTF-8."""
    return next((k for start, k in _OTHER_KINDS.items() if content.startswith(start)), "")


def _in_words(error: Exception, content: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is {_other_kind(content) or 'not text in UTF-8'}"
    if not content.strip():
        return "it is empty"
    if fields := _MANY_FIELDS.search(str(error)):
        return f"line {fields[2]} has {fields[3]} fields, and the header {fields[1]}"
    if isinstance(error, pd.errors.ParserWarning):
        return "its rows have more fields than its header (a comma in the numbers?)"
    if quote := _OPEN_QUOTE.search(str(error)):
        return f"a quote that opens in line {int(quote[1]) + 1} is never closed"
    return "it is no CSV"
