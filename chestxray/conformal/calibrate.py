"""Config and rows -> thresholds, one for each alpha, and the smallest alpha that has one."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from chestxray.conformal.bounds import hoeffding_bentkus_p_values, wsr_bound
from chestxray.conformal.control import (
    Misses,
    corrected_risk,
    crc_threshold,
    ltt_thresholds,
    rcps_threshold,
)
from chestxray.conformal.risks import (
    GRID,
    counting_rows,
    false_discovery_rates,
    miss_rates,
    unit_codes,
)
from chestxray.runtime.text import plural
from chestxray.scores import Scores

_DIGITS = 3  # of a printed smallest alpha


@dataclass(frozen=True)
class Config:
    """What is to be controlled, how, and for whom; the names are the command's flags.

    `split` is --from: None where all rows are used.
    """

    risk: str = "fnr"
    method: str = "crc"
    delta: float = 0.1
    unit: str = "patient"
    no_positive: str = "drop"
    empty: float = 0.0
    fwer: str = "fst"
    per_class: bool = False
    split: str | None = None
    exclude: tuple[str, ...] = ()
    cal_fraction: float = 0.5
    resplits: int = 1000
    seed: int = 0

    def plain(self) -> dict[str, Any]:
        """All choices by their flags, as JSON has them."""
        held = asdict(self) | {"exclude": list(self.exclude)}
        return {"from" if name == "split" else name: value for name, value in held.items()}

    @classmethod
    def of(cls, held: dict[str, Any]) -> "Config":
        """Back from `plain`."""
        named = {"split" if name == "from" else name: value for name, value in held.items()}
        return cls(**named | {"exclude": tuple(held["exclude"])})


@dataclass
class Rows:
    """Images to calibrate on or to be judged by.

    Attributes:
        targets: (N, K) uint8, 0 or 1.
        scores: (N, K) float64, in [0, 1].
        units: (N,) what the guarantee is for: patients or image names.
        patients: (N,) whose image it is; the image names where patients are not known.
    """

    targets: np.ndarray
    scores: np.ndarray
    units: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, table: Scores, unit: str) -> "Rows":
        """The rows of a scores file; without labels, no class is positive."""
        patients = table.image_names if table.patients is None else table.patients
        labelled = table.targets.shape[1] > 0
        targets = table.targets if labelled else np.zeros(table.scores.shape, dtype=np.uint8)
        units = patients if unit == "patient" else table.image_names
        return cls(targets, table.scores.astype(np.float64, copy=False), units, patients)

    def take(self, mask: np.ndarray) -> "Rows":
        return Rows(self.targets[mask], self.scores[mask], self.units[mask], self.patients[mask])

    def counting(self, choices: Config) -> "Rows":
        """The images that the chosen risk counts."""
        if choices.risk == "fdr":
            return self
        return self.take(counting_rows(self.targets, choices.no_positive))


@dataclass
class Level:
    """The answer for one alpha.

    Attributes:
        alpha: as typed.
        threshold: for p >= t; None where nothing is certified.
        thresholds: with a threshold a class: by class number, None where the class is always in.
        units_by_class: with them: units that have the class.
        lax: nothing is certified because even empty sets would do.
        n_images, n_units: that calibrated.
        bound: the upper bound (RCPS), p-value (LTT) or corrected risk (CRC) at the threshold.
        reason: why nothing is certified.
    """

    alpha: str
    threshold: float | None
    n_images: int
    n_units: int
    bound: float | None = None
    reason: str | None = None
    thresholds: list[float | None] | None = None
    units_by_class: list[int] | None = None
    lax: bool = False

    @property
    def certified(self) -> bool:
        found = [self.threshold] if self.thresholds is None else self.thresholds
        return any(threshold is not None for threshold in found)


def calibrate(rows: Rows, alpha: str, choices: Config, table: np.ndarray | None = None) -> Level:
    """The threshold for one alpha, or one a class.

    Args:
        rows: the calibration images.
        alpha: in (0, 1), as text, so that it is taken exactly.
        choices: risk, method and conventions.
        table: the losses of these rows where they are known already.
    """
    if choices.per_class:
        return _per_class(rows, alpha)
    counting = rows.counting(choices)
    names, codes = unit_codes(counting.units)
    level = Level(alpha, None, len(codes), len(names))
    if not len(codes):
        level.reason = _NO_POSITIVE
    elif choices.method == "crc":
        _crc(level, counting, codes)
    else:
        losses = loss_table(counting, codes, choices) if table is None else table
        {"rcps": _rcps, "ltt": _ltt}[choices.method](level, counting, losses, choices)
    return level


_NO_POSITIVE = "no image here has a positive class"


def smallest_alpha(rows: Rows, choices: Config) -> str | None:
    """The smallest alpha for which these rows certify anything, rounded up, as to be typed.

    1/(n + 1) for CRC, the betting bound at the smallest threshold for RCPS, both to three digits;
    for LTT by bisection, to 0.001. None where no alpha below 1 does.
    """
    counting = rows.counting(choices)
    if not counting.targets.any() and choices.risk == "fnr":
        return None
    table = risk_table(rows, choices)
    if choices.method == "crc":
        n = max(units_by_class(rows)) if choices.per_class else len(np.unique(counting.units))
        found = _rounded_up(Fraction(1, n + 1))
    elif choices.method == "rcps" and table is not None:
        found = _rounded_up(
            Fraction(wsr_bound(table[shuffled(len(table), choices), 0], choices.delta))
        )
    else:
        found = _bisected(lambda alpha: calibrate(rows, alpha, choices, table))
    holds = Fraction(found) < 1 and calibrate(rows, found, choices, table).certified
    return found if holds else None


def _rounded_up(alpha: Fraction) -> str:
    """The next decimal of three digits at or above alpha, in (0, 1]."""
    places = _DIGITS - 1 - math.floor(math.log10(alpha))
    return f"{math.ceil(alpha * 10**places) / 10**places:.{places}f}".rstrip("0")


def _bisected(calibrated: Callable[[str], Level]) -> str:
    """The first of 0.001, 0.002, ... 0.999 that is certified or lax; "1" where none is."""
    low, high = 0, 1000
    while high - low > 1:
        middle = (low + high) // 2
        level = calibrated(str(middle / 1000))
        low, high = (low, middle) if level.certified or level.lax else (middle, high)
    return f"{high / 1000:g}"


def units_by_class(rows: Rows) -> list[int]:
    """How many units have each class."""
    return [len(np.unique(rows.units[column == 1])) for column in rows.targets.T]


def risk_table(rows: Rows, choices: Config) -> np.ndarray | None:
    """loss_table of the images that count; None where the method needs none or nothing counts."""
    counting = rows.counting(choices)
    if choices.method == "crc" or not len(counting.units):
        return None
    return loss_table(counting, unit_codes(counting.units)[1], choices)


def loss_table(rows: Rows, codes: np.ndarray, choices: Config) -> np.ndarray:
    """(G, T) loss of each unit at each threshold of the grid."""
    if choices.risk == "fnr":
        return miss_rates(rows.targets, rows.scores, codes)
    return false_discovery_rates(rows.targets, rows.scores, codes, choices.empty)


def _per_class(rows: Rows, alpha: str) -> Level:
    """CRC on each column alone: the miss rate of each class by itself; positives only."""
    thresholds: list[float | None] = []
    for k in range(rows.targets.shape[1]):
        alone = rows.take(rows.targets[:, k] == 1)
        codes = unit_codes(alone.units)[1]
        found = crc_threshold(alone.targets[:, [k]], alone.scores[:, [k]], codes, alpha)
        thresholds.append(float(found) if np.isfinite(found) else None)
    level = Level(alpha, None, len(rows.units), len(np.unique(rows.units)))
    level.thresholds, level.units_by_class = thresholds, units_by_class(rows)
    if not rows.targets.any():
        level.reason = _NO_POSITIVE
    elif not level.certified:
        level.reason = f"of the most frequent class, {_too_few(max(level.units_by_class), alpha)}"
    return level


def _too_few(n: int, alpha: str) -> str:
    return f"{plural(n, 'unit')} calibrated, fewer than 1/alpha - 1 = {1 / float(alpha) - 1:.1f}"


def _crc(level: Level, rows: Rows, codes: np.ndarray) -> None:
    found = crc_threshold(rows.targets, rows.scores, codes, level.alpha)
    if found == np.inf:
        level.reason = "even empty sets meet it: any threshold does, and none is needed"
        level.lax = True
    elif found == -np.inf:
        level.reason = _too_few(level.n_units, level.alpha)
    else:
        level.threshold = found
        every = np.ones(level.n_units, dtype=bool)
        risk = Misses(rows.targets, rows.scores, codes).risk(found, every)
        level.bound = float(corrected_risk(np.array(risk), level.n_units))


def _rcps(level: Level, rows: Rows, losses: np.ndarray, choices: Config) -> None:
    order = shuffled(len(losses), choices)
    found = rcps_threshold(losses, float(level.alpha), choices.delta, order)
    if found == -np.inf:
        level.reason = "the bound is above it at the smallest threshold"
        return
    if not (rows.scores >= found).any():
        level.reason = "even empty sets meet it: any threshold does, and none is needed"
        level.lax = True
        return
    level.threshold = found
    place = int(np.searchsorted(GRID, found))
    # The bound is found to 1e-6 from above; that it is below alpha is certain.
    level.bound = min(wsr_bound(losses[order, place], choices.delta), float(level.alpha))


def shuffled(n: int, choices: Config) -> np.ndarray:
    """The order in which RCPS bets on n units: it knows no labels."""
    return np.random.default_rng(choices.seed).permutation(n)


def _ltt(level: Level, rows: Rows, losses: np.ndarray, choices: Config) -> None:
    risks = losses.mean(axis=0)
    strict_last = choices.risk == "fdr"
    alpha = float(level.alpha)
    certified = np.flatnonzero(
        ltt_thresholds(risks, level.n_units, alpha, choices.delta, choices.fwer, strict_last)
    )
    if not len(certified):
        level.reason = "no threshold is certified"
        return
    place = int(certified[0] if strict_last else certified[-1])
    if not (rows.scores >= GRID[place]).any():
        level.reason = "no calibration set is non-empty where it is certified"
        level.lax = choices.risk == "fnr"  # FDR: a larger alpha certifies sets that are not empty
        return
    level.threshold = float(GRID[place])
    level.bound = float(hoeffding_bentkus_p_values(risks[place], level.n_units, alpha))
