"""Scores files of the same images: what they must agree in, what is left out, and their mean."""

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores


@dataclass(frozen=True)
class ScoresFile:
    """A scores file, read, under the name that the tables give it.

    Attributes:
        name: each file's own.
        path: of the file.
        digest: its SHA-256; None of a file that is not written yet.
        table: its rows.
    """

    name: str
    path: Path
    digest: str | None
    table: Scores


def same_files(files: list[ScoresFile]) -> list[str]:
    """Say which files are the same, byte for byte."""
    return [
        f"{one.name} and {other.name} are the same file (SHA-256)"
        for one, other in combinations(files, 2)
        if one.digest is not None and one.digest == other.digest
    ]


def paired(files: list[ScoresFile]) -> tuple[list[ScoresFile], list[str]]:
    """The images and classes that all files have, and a note on what is left out of each.

    Returns:
        The files with the same images in the same order, the same classes in the order of the first
        file, and the patients as the first file that names them spells them; and the notes.

    Raises:
        ValueError: no image or class is in all of them, or an image has other labels or another
            patient in another file.
    """
    images = set.intersection(*(set(file.table.image_names) for file in files))
    shared = set.intersection(*(set(file.table.classes) for file in files))
    names = join_limited((file.path for file in files), most=len(files))
    if not images:
        raise ValueError(f"no image is in all of {names}")
    if not shared:
        raise ValueError(f"no class is in all of {names}")
    classes = [name for name in files[0].table.classes if name in shared]
    chosen = [replace(file, table=_chosen(file.table, images, classes)) for file in files]
    _check_labels([file for file in chosen if file.table.targets.shape[1]])
    _check_patients([file for file in chosen if file.table.patients is not None])
    known = (f.table.patients for f in chosen if f.table.patients is not None)
    patients = next(known, None)
    together = [replace(f, table=replace(f.table, patients=patients)) for f in chosen]
    return together, [note for file in files for note in _left_out(file, images, shared)]


def _chosen(table: Scores, images: set[str], classes: list[str]) -> Scores:
    rows = np.array([name in images for name in table.image_names])
    return table.take(rows, [table.classes.index(name) for name in classes])


def _left_out(file: ScoresFile, images: set[str], classes: set[str]) -> list[str]:
    """What a file has and another one has not, or not among the rows that are used."""
    more = len(file.table.image_names) - len(images)
    others = [name for name in file.table.classes if name not in classes]
    said = []
    if more:
        said.append(
            f"{file.name}: {plural(more, 'image')} left out, not among the rows of every file"
        )
    if others:
        said.append(
            f"{file.name}: left out the classes that not every file has: {join_limited(others)}"
        )
    return said


def _check_labels(files: list[ScoresFile]) -> None:
    """Refuse an image whose labels differ between files."""
    for other in files[1:]:
        first = files[0].table
        differing = np.argwhere(first.targets != other.table.targets)
        if len(differing):
            row, k = differing[0]
            here, there = first.targets[row, k], other.table.targets[row, k]
            raise ValueError(
                f"{first.image_names[row]} has {first.classes[k]} {here} in {files[0].path} and "
                f"{there} in {other.path} ({plural(len(differing), 'such label')}): files are "
                "compared by the same labels"
            )


def _check_patients(files: list[ScoresFile]) -> None:
    """Refuse an image that is of different patients in different files."""
    for other in files[1:]:
        first = files[0].table
        assert first.patients is not None and other.table.patients is not None
        differing = np.flatnonzero(first.patient_keys != other.table.patient_keys)
        if len(differing):
            row = differing[0]
            raise ValueError(
                f"{first.image_names[row]} is of patient {first.patients[row]} in {files[0].path} "
                f"and of {other.table.patients[row]} in {other.path} "
                f"({plural(len(differing), 'such image')}): files are compared by the same patients"
            )


def mean_of(files: list[ScoresFile]) -> tuple[Scores, list[str]]:
    """The mean logit of the files and its sigmoid, as a scores file holds them; and notes.

    Labels and splits are the first file's, patients those of the first that names them. Rows whose
    image or patient is in several splits, over all files, are left out: a network may have been
    trained on them.

    Raises:
        ValueError: as of paired; a score of 0 or 1 in a file without logits; no row is left.
    """
    together, left_out = paired(files)
    notes = [f"for the mean, {note}" for note in left_out]
    logits = _as_written(np.mean([_logits(file) for file in together], axis=0))
    first = together[0].table
    mean = replace(first, logits=logits, scores=_as_written(expit(logits)), notes=(), excluded=())
    mixed = _in_several_splits(files, mean)
    if mixed.all():
        raise ValueError(f"every image or patient of {files[0].path} is in several splits")
    if mixed.any():
        notes.append(
            f"for the mean, {plural(int(mixed.sum()), 'image')} left out, since the image or its "
            "patient is in several splits over all files"
        )
    return mean.take(~mixed, list(range(len(mean.classes)))), notes


def _logits(file: ScoresFile) -> np.ndarray:
    """(N, K) logits, of the scores where the file has none."""
    table = file.table
    if table.logits is not None:
        return table.logits
    infinite = np.argwhere((table.scores == 0) | (table.scores == 1))
    if len(infinite):
        row, k = infinite[0]
        raise ValueError(
            f"{file.path}: p_{table.classes[k]} of {table.image_names[row]} is "
            f"{table.scores[row, k]:g} ({plural(len(infinite), 'such value')}), whose logit is "
            "infinite: a mean needs z_ columns or scores between 0 and 1"
        )
    return logit(table.scores)


def _as_written(values: np.ndarray) -> np.ndarray:
    """The numbers that are read back once these are written, with nine digits."""
    texts = [f"{value:.9g}" for value in values.ravel()]
    return np.array(texts, dtype=np.float64).reshape(values.shape)


def _in_several_splits(files: list[ScoresFile], table: Scores) -> np.ndarray:
    """(N,) bool, the rows whose image or patient is in several splits, over all files."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for own in (file.table for file in files):
        for kind, keys in (("image", own.image_names), ("patient", own.patient_keys)):
            if keys is not None and own.splits is not None:
                for key, split in zip(keys, own.splits, strict=True):
                    splits[kind, key].add(split)
    images, keys = table.image_names, table.patient_keys
    patients = images if keys is None else keys
    return np.array(
        [
            max(len(splits["image", image]), len(splits["patient", patient])) > 1
            for image, patient in zip(images, patients, strict=True)
        ]
    )
