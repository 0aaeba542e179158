"""thresholds.json: every option, the thresholds, and counts to compare later rows with."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import chestxray
from chestxray.conformal.calibrate import Certificate
from chestxray.conformal.options import Config
from chestxray.conformal.risks import RISKS
from chestxray.conformal.shift import patient_counts
from chestxray.runtime.files import file_digest
from chestxray.scores import Scores


@dataclass(frozen=True)
class StoredThresholds:
    """The content of a thresholds.json.

    Attributes:
        config: of the calibration.
        classes: K names.
        certificates: one for each alpha; at least one has a threshold.
        images: names of the images that calibrated.
        patients: G names of theirs; None where the scores file named none.
        counts: (G, 1 + K), see shift.patient_counts; a row for each image if patients is None.
        digest: SHA-256 of the scores file.
    """

    config: Config
    classes: tuple[str, ...]
    certificates: list[Certificate]
    images: list[str]
    patients: list[str] | None
    counts: np.ndarray
    digest: str


def text(source: Path, cal: Scores, certificates: list[Certificate], config: Config) -> str:
    """The content of thresholds.json.

    Args:
        source: the scores CSV.
        cal: the rows that calibrated, at least one.
        certificates: one for each alpha.
        config: all options.
    """
    head = {
        "choices": config.to_json(),
        "classes": list(cal.classes),
        "levels": [c.to_json(cal.classes) | {"alpha": float(c.alpha)} for c in certificates],
        "scores": source.name,
        "sha256": file_digest(source),
        "versions": {
            "chestxray": chestxray.__version__,
            **{name: metadata.version(name) for name in ("numpy", "scipy")},
        },
    }
    keys = cal.patient_keys
    names, counts = patient_counts(cal.targets, cal.image_names if keys is None else keys)
    calibration = {
        "patients": None if keys is None else shown_patients(cal, names),
        "images_and_positives_of_each": counts.tolist(),
        "images": cal.image_names.tolist(),
    }
    # Thousands of names and numbers go on one line, so that the rest can be read.
    readable = json.dumps(head, indent=2).removesuffix("\n}")
    compact = json.dumps(calibration, separators=(",", ":"))
    return f'{readable},\n  "calibration": {compact}\n}}\n'


def shown_patients(table: Scores, keys: Iterable[str]) -> list[str]:
    """Patients, named by their keys, as the file spells them."""
    assert table.patients is not None and table.patient_keys is not None
    spelling = dict(zip(table.patient_keys, table.patients, strict=True))
    return [spelling[key] for key in keys]


def read(path: Path) -> StoredThresholds:
    """Read a thresholds.json, and refuse what was cut short or edited into nonsense.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not one; says why.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the thresholds.json in it")
    content = path.read_bytes()
    try:
        stored = json.loads(content.decode(), parse_constant=_refuse_constant)
        return _parsed(stored)
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else "a part is missing"
        raise ValueError(f"{path} is not a thresholds.json of this version: {missing}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a thresholds.json: {error}") from error


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _parsed(stored: dict[str, Any]) -> StoredThresholds:
    config, classes = Config.from_json(stored["choices"]), tuple(stored["classes"])
    _check(config)
    calibration = stored["calibration"]
    images = [str(name) for name in calibration["images"]]
    named = calibration["patients"]
    patients = None if named is None else [str(name) for name in named]
    counts = np.array(calibration["images_and_positives_of_each"], dtype=np.int64)
    owners = len(images if patients is None else patients)
    if counts.shape != (owners, 1 + len(classes)) or not (counts[:, 0] > 0).all():
        raise ValueError("the counts of the calibration do not fit its patients and classes")
    found = [_certificate(level, classes, config.per_class) for level in stored["levels"]]
    if not any(certificate.certified for certificate in found):
        raise ValueError("it has no threshold")
    return StoredThresholds(config, classes, found, images, patients, counts, stored["sha256"])


def _check(config: Config) -> None:
    """Refuse options that the command would not have written."""
    allowed = {
        "risk": tuple(RISKS),
        "method": ("crc", "rcps", "ltt"),
        "unit": ("patient", "image"),
        "no_positive": ("drop", "zero", "error"),
        "empty": (0, 1),
        "fwer": ("fst", "holm"),
        "per_class": (True, False),
        "untouched": (True, False),
        "include_no_finding": (True, False),
    }
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise ValueError(f"{name} is {getattr(config, name)!r}")
    if not 0 < config.delta < 1:
        raise ValueError(f"delta is {config.delta}")
    if not (isinstance(config.seed, int) and config.seed >= 0):
        raise ValueError(f"seed is {config.seed!r}")


def _certificate(level: dict[str, Any], classes: tuple[str, ...], per_class: bool) -> Certificate:
    stored = level["threshold"]
    alpha = f"{level['alpha']:g}"
    if not 0 < level["alpha"] < 1:
        raise ValueError(f"alpha is {alpha}")
    if per_class and set(stored) != set(classes):
        raise ValueError(f"alpha {alpha} has no threshold for each of its classes")
    for name, value in stored.items() if per_class else [("the threshold", stored)]:
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
            raise ValueError(f"alpha {alpha}: {name} is {value!r}, not in [0, 1]")
    units = level["units_by_class"]
    return Certificate(
        alpha=str(level["alpha"]),
        n_images=int(level["n_images"]),
        n_units=int(level["n_units"]),
        threshold=None if per_class else stored,
        thresholds=tuple(stored[name] for name in classes) if per_class else None,
        units_by_class=tuple(units[name] for name in classes) if per_class else None,
        bound=None if level["bound"] is None else float(level["bound"]),
        reason=level["reason"],
    )
