"""Image files that no table names: found by what they hold, named by their path."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chestxray.data.decoding import kind_of
from chestxray.data.entries import DICOM_SUFFIXES, IMAGE_SUFFIXES
from chestxray.runtime.text import is_harmless, join_limited, plural, shown

_LITTER = ("thumbs.db", "desktop.ini", "dicomdir")  # what systems and exports lay beside images


@dataclass(frozen=True)
class UnlabelledImages:
    """Images that nothing is known of but their files.

    Attributes:
        rows: columns image (name, each once), path and kind (of decoding.READING, "" where a file
            is none of them); sorted by image.
        source: the folder that all lie below.
        others: names of files of the folders that are no images.
        again: how many files were met more than once, and count once.
    """

    rows: pd.DataFrame
    source: Path
    others: list[str]
    again: int

    def counts(self) -> dict[str, int]:
        """Images by kind, those that can be read."""
        found = self.rows["kind"][self.rows["kind"] != ""].value_counts()
        return {str(kind): int(count) for kind, count in sorted(found.items())}

    def describe(self) -> list[str]:
        """What was found, in lines for people."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.counts().items())
        lines = [f"{plural(len(self.rows), 'image')}" + (f": {kinds}" if kinds else "")]
        if self.again:
            lines.append(f"{plural(self.again, 'file')} met more than once, scored once")
        if self.others:
            names = join_limited(map(shown, self.others), most=3)
            lines.append(f"{plural(len(self.others), 'other file')} left out ({names})")
        return lines


def find_unlabelled(typed: Iterable[Path]) -> UnlabelledImages:
    """Find the images in folders and among files.

    In a folder every PNG, JPEG and DICOM file counts, at any depth and whatever it is called, and
    any other that bears the name of one, so that it is not missed in silence. Hidden files and
    what systems leave behind are passed over. An image is called by its path below its folder, a
    typed file by its name.

    Raises:
        FileNotFoundError: a path does not exist.
        OSError: a folder or file that cannot be read.
        ValueError: there are no images; two would have the same name; a name cannot be written.
    """
    paths: dict[str, Path] = {}
    others: list[str] = []
    seen: set[str] = set()
    again = 0
    for root in typed:
        for path, name in _files(root):
            real = os.path.realpath(path)
            if real in seen:  # typed twice, or behind a link
                again += 1
                continue
            seen.add(real)
            if path != root and not _is_image(path):
                others.append(name)
            elif name in paths:
                raise ValueError(
                    f"{paths[name]} and {path} would both be called {shown(name)}: name a folder "
                    "that holds both"
                )
            else:
                paths[name] = path
    names = sorted(paths)
    if not names:
        there = f"; other files are there: {join_limited(map(shown, others), 3)}" if others else ""
        raise ValueError(f"no PNG, JPEG or DICOM file in {join_limited(typed)}{there}")
    _check_names(names)
    files = [str(paths[name]) for name in names]
    rows = pd.DataFrame({"image": names, "path": files}, dtype=object)
    rows["kind"] = [_kind(file) for file in files]
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return UnlabelledImages(rows, Path(folder), others, again)


def _files(root: Path) -> list[tuple[Path, str]]:
    """The files that a typed path stands for, with the names of their images."""
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    if not root.is_dir():
        return [(root, root.name)]
    found, seen = [], set()
    for place, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in files:
            if name[0] != "." and name.lower() not in _LITTER:
                path = Path(place, name)
                found.append((path, path.relative_to(root).as_posix()))
    return found


def _raise(error: OSError) -> None:
    raise error


def _is_image(path: Path) -> bool:
    """True also for what cannot be read: it may be one, and decoding it will say why."""
    try:
        is_called_one = path.name.lower().endswith((*IMAGE_SUFFIXES, *DICOM_SUFFIXES))
        return is_called_one or kind_of(path) is not None
    except OSError:
        return True


def _kind(path: str) -> str:
    try:
        return kind_of(path) or ""
    except OSError:
        return ""


def _check_names(names: list[str]) -> None:
    """Refuse names that a scores CSV cannot hold."""
    odd = [name for name in names if not is_harmless(name)]
    if odd:
        raise ValueError(
            f"{plural(len(odd), 'image')} with a name that no CSV can hold safely (a control or "
            "undecodable character, or the beginning of a formula with - = + or @), to be renamed: "
            f"{join_limited(map(shown, odd), 3)}"
        )
