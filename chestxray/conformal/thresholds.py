"""thresholds.json: every choice, the thresholds, and what later rows are compared with."""

import hashlib
import json
import math
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import chestxray
from chestxray.conformal.calibrate import Config, Level
from chestxray.conformal.shift import patient_counts
from chestxray.scores import Scores

_ALLOWED: dict[str, tuple] = {
    "risk": ("fnr", "fdr"),
    "method": ("crc", "rcps", "ltt"),
    "unit": ("patient", "image"),
    "no_positive": ("drop", "zero", "error"),
    "empty": (0, 1),
    "fwer": ("fst", "holm"),
    "per_class": (True, False),
}


@dataclass
class StoredThresholds:
    """What a thresholds.json holds.

    Attributes:
        choices: of the calibration.
        classes: K names.
        levels: one for each alpha; at least one is certified.
        images: names of the images that calibrated.
        patients: G names of theirs; None where the scores file named none.
        counts: (G, 1 + K), see shift.patient_counts; a row a image where patients is None.
        sha256: of the scores file.
    """

    choices: Config
    classes: tuple[str, ...]
    levels: list[Level]
    images: list[str]
    patients: list[str] | None
    counts: np.ndarray
    sha256: str


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def text(source: Path, cal: Scores, levels: list[dict[str, Any]], choices: Config) -> str:
    """The content of thresholds.json.

    Args:
        source: the scores CSV.
        cal: the rows that calibrated, at least one.
        levels: as report.json has them.
        choices: all of them.
    """
    kept = ("alpha", "threshold", "n_images", "n_units", "units_by_class", "bound", "reason")
    held = {
        "choices": choices.plain(),
        "classes": list(cal.classes),
        "levels": [
            {k: level[k] for k in kept} | {"alpha": float(level["alpha"])} for level in levels
        ],
        "scores": source.name,
        "sha256": sha256(source),
        "versions": {
            "chestxray": chestxray.__version__,
            **{name: metadata.version(name) for name in ("numpy", "scipy")},
        },
    }
    names, counts = patient_counts(
        cal.targets, cal.image_names if cal.patients is None else cal.patients
    )
    calibration = {
        "patients": None if cal.patients is None else names.tolist(),
        "images_and_positives_of_each": counts.tolist(),
        "images": cal.image_names.tolist(),
    }
    # Thousands of names and numbers go on one line, so that the rest can be read.
    head = json.dumps(held, indent=2).removesuffix("\n}")
    return f'{head},\n  "calibration": {json.dumps(calibration, separators=(",", ":"))}\n}}\n'


def read(path: Path) -> StoredThresholds:
    """Read a thresholds.json, and refuse what was cut short or edited into nonsense.

    Raises:
        ValueError: it is none; says why.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        found = _parsed(held)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else "something of it is missing"
        raise ValueError(f"{path} is no thresholds.json of this version: {what}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no thresholds.json: {error}") from error
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _parsed(held: dict[str, Any]) -> StoredThresholds:
    choices, classes = Config.of(held["choices"]), tuple(held["classes"])
    for name, allowed in _ALLOWED.items():
        if held["choices"][name] not in allowed:
            raise ValueError(f"{name} is {held['choices'][name]!r}")
    if not 0 < choices.delta < 1:
        raise ValueError(f"delta is {choices.delta}")
    if not (isinstance(choices.seed, int) and choices.seed >= 0):
        raise ValueError(f"seed is {choices.seed!r}")
    calibration = held["calibration"]
    images = [str(name) for name in calibration["images"]]
    named = calibration["patients"]
    patients = None if named is None else [str(name) for name in named]
    counts = np.array(calibration["images_and_positives_of_each"], dtype=np.int64)
    owners = len(images if patients is None else patients)
    if counts.shape != (owners, 1 + len(classes)) or not (counts[:, 0] > 0).all():
        raise ValueError("the counts of the calibration do not fit its patients and classes")
    levels = [_level(entry, classes, choices.per_class) for entry in held["levels"]]
    if not any(level.certified for level in levels):
        raise ValueError("it has no threshold")
    return StoredThresholds(choices, classes, levels, images, patients, counts, held["sha256"])


def _level(entry: dict[str, Any], classes: tuple[str, ...], per_class: bool) -> Level:
    stored = entry["threshold"]
    alpha = f"{entry['alpha']:g}"
    if not 0 < entry["alpha"] < 1:
        raise ValueError(f"alpha is {alpha}")
    if per_class and set(stored) != set(classes):
        raise ValueError(f"alpha {alpha} has no threshold for each of its classes")
    for name, value in stored.items() if per_class else [("the threshold", stored)]:
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
            raise ValueError(f"alpha {alpha}: {name} is {value!r}, not in [0, 1]")
    return Level(
        alpha=str(entry["alpha"]),
        threshold=None if per_class else stored,
        n_images=int(entry["n_images"]),
        n_units=int(entry["n_units"]),
        bound=None if entry["bound"] is None else float(entry["bound"]),
        reason=entry["reason"],
        thresholds=[stored[name] for name in classes] if per_class else None,
        units_by_class=[entry["units_by_class"][name] for name in classes] if per_class else None,
    )
