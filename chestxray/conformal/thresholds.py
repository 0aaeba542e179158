"""thresholds.json: every option, the thresholds, and counts to compare later rows with."""

import json
import math
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import chestxray
from chestxray.conformal.certificate import Certificate, Counted, Part, Start
from chestxray.conformal.groups import Column
from chestxray.conformal.options import Config
from chestxray.conformal.overlap import shown_patients
from chestxray.conformal.risks import RISKS
from chestxray.conformal.shift import patient_counts
from chestxray.runtime.files import file_digest
from chestxray.scores import ScoredBy, Scores, scored_by


@dataclass(frozen=True)
class StoredThresholds:
    """The content of a thresholds.json.

    Attributes:
        config: of the calibration.
        classes: K names.
        certificates: one for each level; at least one has a threshold.
        images: names of the images that calibrated.
        patients: G names of theirs; None where the scores file named none.
        counts: (G, 1 + K), see shift.patient_counts; a row for each image if patients is None.
        digest: SHA-256 of the scores file.
        scored_by: the checkpoint that gave the scores; None where nothing told.
    """

    config: Config
    classes: tuple[str, ...]
    certificates: list[Certificate]
    images: list[str]
    patients: list[str] | None
    counts: np.ndarray
    digest: str
    scored_by: ScoredBy | None


@dataclass(frozen=True)
class StartedBy:
    """Who chose where the tests start.

    Attributes:
        file, sha256: of the scores of --tune; None where it was a part of those that calibrate.
        patients: their names; images where patients are not known.
    """

    file: str | None
    sha256: str | None
    patients: list[str]


def text(
    source: Path,
    cal: Scores,
    certificates: list[Certificate],
    config: Config,
    started_by: StartedBy | None = None,
) -> str:
    """The content of thresholds.json.

    Args:
        source: the scores CSV.
        cal: the rows that calibrated, at least one.
        certificates: one for each level.
        config: all options.
        started_by: who chose where the tests start; None where nobody did.
    """
    checkpoint = scored_by(source)
    head = {
        "choices": config.to_json(),
        "classes": list(cal.classes),
        "levels": [
            certificate.to_json() | {"alpha": _numbers(certificate)} for certificate in certificates
        ],
        "started_by": None if started_by is None else vars(started_by),
        "scores": source.name,
        "sha256": file_digest(source),
        "scored_by": None if checkpoint is None else asdict(checkpoint),
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


def _numbers(certificate: Certificate) -> float | list[float]:
    """The level; of several risks a list of theirs."""
    first, *others = certificate.alphas
    return [first, *others] if others else first


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
    found = [_certificate(level, classes, config) for level in stored["levels"]]
    if not any(certificate.certified for certificate in found):
        raise ValueError("it has no threshold")
    by = stored["scored_by"]
    return StoredThresholds(
        config,
        classes,
        found,
        images,
        patients,
        counts,
        stored["sha256"],
        None if by is None else ScoredBy(**by),
    )


def _check(config: Config) -> None:
    """Refuse options that the command would not have written."""
    allowed = {
        "method": ("crc", "rcps", "ltt"),
        "unit": ("patient", "image"),
        "no_positive": ("drop", "zero", "error"),
        "empty": ("0", "1", "drop"),
        "fwer": ("fst", "holm"),
        "pvalue": ("wsr", "hb"),
        "per_class": (True, False),
        "untouched": (True, False),
        "include_no_finding": (True, False),
    }
    if not config.risk or not set(config.risk) <= set(RISKS):
        raise ValueError(f"risk is {list(config.risk)!r}")
    if config.by is not None:
        Column.parse(config.by)
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise ValueError(f"{name} is {getattr(config, name)!r}")
    if not 0 < config.delta < 1:
        raise ValueError(f"delta is {config.delta}")
    if not (isinstance(config.seed, int) and config.seed >= 0):
        raise ValueError(f"seed is {config.seed!r}")


def _certificate(level: dict[str, Any], classes: tuple[str, ...], config: Config) -> Certificate:
    stored, units = level["threshold"], level["units_of_each"]
    start, each = level["start"], level["n_of_each"]
    alphas = level["alpha"] if isinstance(level["alpha"], list) else [level["alpha"]]
    alpha = " ".join(map(str, alphas))
    if len(alphas) != len(config.risk) or not all(0 < value < 1 for value in alphas):
        raise ValueError(f"alpha is {alpha}")
    if config.per_class and set(stored) != set(classes):
        raise ValueError(f"alpha {alpha} has no threshold for each of its classes")
    named = stored if config.in_parts else {"the threshold": stored}
    for name, value in named.items():
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
            raise ValueError(f"alpha {alpha}: {name} is {value!r}, not in [0, 1]")
    return Certificate(
        alpha=alpha,
        n_images=int(level["n_images"]),
        n_units=int(level["n_units"]),
        threshold=None if config.in_parts else stored,
        parts={name: Part(value, int(units[name])) for name, value in named.items()}
        if config.in_parts
        else None,
        bound=None if level["bound"] is None else float(level["bound"]),
        n_of_each=None if each is None else {name: Counted(**n) for name, n in each.items()},
        start=None if start is None else Start(**start),
        reason=level["reason"],
    )
