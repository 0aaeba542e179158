"""Counts and lists in sentences for people; texts that are safe to write into a CSV."""

from collections.abc import Iterable


def plural(number: int, noun: str) -> str:
    """A count with its noun: "1 image", "1,642 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_limited(items: Iterable[object], most: int = 10) -> str:
    """The first items, and the number of the others."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def is_harmless(text: str) -> bool:
    """Return whether a text has no control character and does not begin like a formula."""
    return text.isprintable() and not text.startswith(tuple("-=+@"))
