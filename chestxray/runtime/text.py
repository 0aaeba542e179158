"""Counts and lists in sentences for people, and which texts are harmless."""

from collections.abc import Iterable


def plural(number: int, noun: str) -> str:
    """ "1 image", "1,642 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_limited(items: Iterable[object], most: int = 10) -> str:
    """The first items, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def is_harmless(text: str) -> bool:
    """Whether a text holds no control character and does not begin as a spreadsheet's formula."""
    return text.isprintable() and not text.startswith(tuple("-=+@"))
