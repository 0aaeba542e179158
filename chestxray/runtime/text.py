"""Counts, sizes and lists in sentences for people; texts that are safe to write into a CSV."""

from collections.abc import Iterable


def plural(number: int, noun: str) -> str:
    """A count with its noun: "1 image", "1,642 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_text(number_of_bytes: int) -> str:
    """A size in the largest unit of which there is one: "0 B", "64.0 kB", "188 MB", "5.61 GB"."""
    value, unit = float(number_of_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:  # what rounds to 1,000 is 1.00 of the next
            break
        value, unit = value / 1000, larger
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {unit}"


def join_limited(items: Iterable[object], most: int = 10) -> str:
    """The first items, and the number of the others."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def is_missing(text: str) -> bool:
    """Return whether a cell is how programs write that there is no value: "", "NaN", "NA"."""
    return text.strip().casefold() in ("", "nan", "na", "n/a", "<na>", "none", "null")


def is_harmless(text: str) -> bool:
    """Return whether a text has no control character and does not begin like a formula."""
    return text.isprintable() and not text.startswith(tuple("-=+@"))


def shown(name: str) -> str:
    """A name that a terminal can show: as it is, or with escapes where it has odd characters."""
    return name if name.isprintable() else ascii(name)
