"""Helpers of the tests of the conformal command: scores, calibrations, readers of its files."""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chestxray.scores import Scores

CLASSES = ("Effusion", "No Finding", "Mass", "Hernia")
FILES = {  # of every calibration; resplits.csv goes with re-splits
    *("thresholds.json", "sets.csv", "report.json", "report.md"),
    *("summary.csv", "summary.tex"),
}
COUNTED = ("Effusion", "Mass", "Hernia")  # No Finding takes no part unless it is asked for


def plots(*alphas: object, formats: Iterable[str] = ("png", "pdf")) -> set[str]:
    """The names of all plots of some alphas, and of them together where there are several."""
    stems = {f"{kind}_{a}" for kind in ("risk", "resplits", "sizes", "classes") for a in alphas}
    stems |= {"levels"} if len(alphas) > 1 else set()
    return {f"{stem}.{ending}" for stem in stems for ending in formats}


class Answer(NamedTuple):
    """The answer of the command: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def drawn(patients: int = 200, seed: int = 0, shift: float = 0.0, first: int = 0) -> Scores:
    """Scores of 1 to 5 images per patient, all of the test split; some without a positive class.

    Args:
        patients: how many.
        seed: of the draw.
        shift: makes every class more frequent.
        first: number of the first patient.
    """
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), rng.integers(1, 6, size=patients))
    n = len(whose)
    logits = rng.normal([-1, 0, -1.5, -5], 1.5, size=(n, 4)) + shift
    logits += rng.normal(size=(patients, 4))[whose]
    targets = (rng.uniform(size=(n, 4)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    seen = (logits + rng.normal(size=(n, 4))).astype(np.float32)
    return Scores(
        image_names=np.array([f"{first + p:08d}_{i:04d}.png" for i, p in enumerate(whose)], object),
        patients=np.array([f"{first + p:08d}" for p in whose], dtype=object),
        splits=np.full(n, "test", dtype=object),
        classes=CLASSES,
        targets=targets,
        logits=seen,
        scores=1 / (1 + np.exp(-seen)),
    )


def strict_json(path: Path) -> Any:
    """Parsed JSON without NaN or infinity, which JSON does not have."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path.name} holds {word}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def chosen(row: dict[str, str], column: str = "set") -> set[str]:
    return set(filter(None, row[column].split("|")))


RUNS = {
    "crc": ("--alpha", 0.1, 0.2),
    "crc-zero": ("--alpha", 0.15, "--no-positive", "zero", "--exclude", "Mass"),
    "crc-image": ("--alpha", 0.2, "--unit", "image"),
    "rcps": ("--method", "rcps", "--alpha", 0.25, 0.3, "--delta", 0.2),
    "fst": ("--risk", "fdr", "--alpha", 0.5),
    "holm": ("--risk", "fdr", "--alpha", 0.8, "--fwer", "holm", "--empty", 1, "--delta", 0.3),
    "ltt-fnr": ("--method", "ltt", "--alpha", 0.3),
    "per-class": ("--per-class", "--alpha", 0.25),
    "no-finding": ("--alpha", 0.2, "--include-no-finding"),
}
ALPHAS = {name: tuple(w for w in words if isinstance(w, float)) for name, words in RUNS.items()}
ALPHAS |= {"rcps": (0.25, 0.3), "holm": (0.8,)}  # without delta


def averaged(values: list[tuple[str, float]], by: str) -> float | None:
    """The mean over images, or over patients of the mean over their images."""
    if not values:
        return None
    if by == "image":
        return sum(value for _, value in values) / len(values)
    own = defaultdict(list)
    for patient, value in values:
        own[patient].append(value)
    return sum(sum(v) / len(v) for v in own.values()) / len(own)


def without_labels(path: Path, to: Path) -> None:
    rows = rows_of(path)
    kept = [name for name in rows[0] if not name.startswith("y_")]
    lines = [",".join(kept), *(",".join(row[name] for name in kept) for row in rows)]
    to.write_text("\n".join(lines) + "\n", encoding="utf-8")
