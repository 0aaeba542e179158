"""Config and rows -> a certificate for each alpha, and the smallest alpha that has a threshold."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from chestxray.conformal.bounds import hoeffding_bentkus_p_values, wsr_bound
from chestxray.conformal.control import (
    corrected_risk,
    largest_controlled,
    ltt_thresholds,
    rcps_threshold,
)
from chestxray.conformal.options import Config
from chestxray.conformal.risks import GRID, LossCurves, unit_codes
from chestxray.runtime.text import plural
from chestxray.scores import Scores

_DIGITS = 3  # of a printed smallest alpha
BOUNDS = {"crc": "corrected risk", "rcps": "upper bound", "ltt": "p-value"}
_TRIVIALLY_MET = "even empty sets meet it: any threshold does, and none is needed"


@dataclass(frozen=True)
class Rows:
    """Images to calibrate on or to evaluate.

    Attributes:
        targets: (N, K) uint8, 0 or 1.
        scores: (N, K) float64, in [0, 1].
        units: (N,) keys of what the guarantee is for: patients or images.
        patients: (N,) keys, whose image it is; the image names where patients are not known.
        cut_by: "patient"; "image" where patients are not known.
    """

    targets: np.ndarray
    scores: np.ndarray
    units: np.ndarray
    patients: np.ndarray
    cut_by: str = "patient"

    @classmethod
    def from_scores(cls, table: Scores, unit: str) -> "Rows":
        """The rows of a scores file; without labels, no class is positive."""
        keys = table.patient_keys
        patients = table.image_names if keys is None else keys
        labelled = table.targets.shape[1] > 0
        targets = table.targets if labelled else np.zeros(table.scores.shape, dtype=np.uint8)
        units = patients if unit == "patient" else table.image_names
        cut_by = "image" if keys is None else "patient"
        return cls(targets, table.scores.astype(np.float64, copy=False), units, patients, cut_by)

    def take(self, mask: np.ndarray) -> "Rows":
        names = ("targets", "scores", "units", "patients")
        return replace(self, **{name: getattr(self, name)[mask] for name in names})

    def counting(self, config: Config) -> "Rows":
        """The images that the chosen risk counts."""
        return self.take(config.target_risk.counts(self.targets))

    def with_class(self, k: int) -> "Rows":
        """The images that have class k, with its column alone."""
        own = self.take(self.targets[:, k] == 1)
        return replace(own, targets=own.targets[:, [k]], scores=own.scores[:, [k]])


@dataclass(frozen=True)
class Certificate:
    """The answer for one alpha.

    Attributes:
        alpha: as typed.
        n_images, n_units: that calibrated.
        threshold: for p >= t; None where nothing is certified.
        thresholds: with a threshold for each class: by class number, None where the class is
            always in the set.
        units_by_class: with them: units that have the class.
        bound: at the threshold: see BOUNDS.
        reason: why nothing is certified.
        trivially_met: nothing is certified because even empty sets would do.
    """

    alpha: str
    n_images: int
    n_units: int
    threshold: float | None = None
    thresholds: tuple[float | None, ...] | None = None
    units_by_class: tuple[int, ...] | None = None
    bound: float | None = None
    reason: str | None = None
    trivially_met: bool = False

    @property
    def certified(self) -> bool:
        found = (self.threshold,) if self.thresholds is None else self.thresholds
        return any(threshold is not None for threshold in found)

    def thresholds_by_name(self, classes: tuple[str, ...]) -> dict[str, float | None] | None:
        """The threshold of each class; None where all classes share one."""
        named = self.thresholds
        return None if named is None else dict(zip(classes, named, strict=True))

    def units_by_name(self, classes: tuple[str, ...]) -> dict[str, int] | None:
        """The number of units with each class; None where all classes share a threshold."""
        named = self.units_by_class
        return None if named is None else dict(zip(classes, named, strict=True))

    def to_json(self, classes: tuple[str, ...]) -> dict[str, object]:
        return {
            "alpha": self.alpha,
            "threshold": self.thresholds_by_name(classes) or self.threshold,
            "n_images": self.n_images,
            "n_units": self.n_units,
            "units_by_class": self.units_by_name(classes),
            "bound": self.bound,
            "reason": self.reason,
        }


def calibrate(
    rows: Rows, alpha: str, config: Config, losses: np.ndarray | None = None
) -> Certificate:
    """Find the threshold for one alpha, or one for each class.

    Args:
        rows: the calibration images.
        alpha: in (0, 1), as text, so that it is taken exactly.
        config: risk, method and conventions.
        losses: risk_table of these rows where it is known already.
    """
    if config.per_class:
        return _per_class(rows, alpha, config)
    counting = rows.counting(config)
    blank = Certificate(alpha, len(counting.units), len(np.unique(counting.units)))
    if not blank.n_images:
        return replace(blank, reason=_nobody(config))
    if config.method == "crc":
        return _crc(blank, counting, loss_curves(counting, config), config)
    if losses is None:
        losses = loss_table(counting, config)
    return {"rcps": _rcps, "ltt": _ltt}[config.method](blank, counting, losses, config)


def smallest_alpha(rows: Rows, config: Config) -> str | None:
    """The smallest alpha for which these rows certify anything, rounded up, as to be typed.

    The corrected risk or the betting bound at the smallest threshold for CRC and RCPS, to three
    digits; for LTT by bisection, to 0.001. None where no alpha below 1 does.
    """
    losses = risk_table(rows, config)
    if config.method == "crc":
        found = _rounded_up(_least_of_crc(rows, config))
    elif config.method == "rcps" and losses is not None:
        first = losses[betting_order(np.unique(rows.counting(config).units)), 0]
        found = _rounded_up(Fraction(wsr_bound(first, config.delta)))
    else:
        found = _bisected(lambda alpha: calibrate(rows, alpha, config, losses))
    holds = Fraction(found) < 1 and calibrate(rows, found, config, losses).certified
    return found if holds else None


def _least_of_crc(rows: Rows, config: Config) -> Fraction:
    """The corrected risk at the smallest threshold, of the most frequent class if by class."""
    if config.per_class:
        return Fraction(1, max(units_by_class(rows)) + 1)
    counting = rows.counting(config)
    if not len(counting.units):
        return Fraction(1)
    least = loss_curves(counting, config).least
    return (least + 1) / (len(np.unique(counting.units)) + 1)


def _rounded_up(alpha: Fraction) -> str:
    """The next decimal of three digits at or above alpha, in (0, 1]."""
    places = _DIGITS - 1 - math.floor(math.log10(alpha))
    return f"{math.ceil(alpha * 10**places) / 10**places:.{places}f}".rstrip("0")


def _bisected(calibrated: Callable[[str], Certificate]) -> str:
    """The first of 0.001, ... 0.999 that is certified or trivially met; "1" where none is."""
    low, high = 0, 1000
    while high - low > 1:
        middle = (low + high) // 2
        answer = calibrated(str(middle / 1000))
        met = answer.certified or answer.trivially_met
        low, high = (low, middle) if met else (middle, high)
    return f"{high / 1000:g}"


def units_by_class(rows: Rows) -> tuple[int, ...]:
    """The number of units that have each class."""
    return tuple(len(np.unique(rows.units[column == 1])) for column in rows.targets.T)


def risk_table(rows: Rows, config: Config) -> np.ndarray | None:
    """loss_table of the images that count; None where the method needs none or nothing counts."""
    counting = rows.counting(config)
    if config.method == "crc" or not len(counting.units):
        return None
    return loss_table(counting, config)


def loss_table(rows: Rows, config: Config) -> np.ndarray:
    """(G, T) loss of each unit at each threshold of the grid; `rows` are those that count."""
    return config.target_risk.losses(rows.targets, rows.scores, unit_codes(rows.units)[1])


def loss_curves(rows: Rows, config: Config) -> LossCurves:
    """The same as functions of the threshold, exactly where the risk allows it."""
    return config.target_risk.curves(rows.targets, rows.scores, unit_codes(rows.units)[1])


def _per_class(rows: Rows, alpha: str, config: Config) -> Certificate:
    """CRC on each column alone: the risk of each class by itself; positives only."""
    units = units_by_class(rows)
    thresholds = tuple(
        _class_threshold(rows.with_class(k), n, alpha, config) for k, n in enumerate(units)
    )
    n_units = len(np.unique(rows.units))
    answer = Certificate(
        alpha, len(rows.units), n_units, thresholds=thresholds, units_by_class=units
    )
    if not rows.targets.any():
        return replace(answer, reason=_nobody(config))
    if not answer.certified:
        reason = f"of the most frequent class, {_too_few(max(units), alpha, config)}"
        return replace(answer, reason=reason)
    return answer


def _class_threshold(rows: Rows, n: int, alpha: str, config: Config) -> float | None:
    if not n:
        return None
    found = largest_controlled(loss_curves(rows, config), n, alpha)
    return float(found) if np.isfinite(found) else None


def _nobody(config: Config) -> str:
    return f"there is no image {config.target_risk.counted or 'with a positive class'}"


def _too_few(n: int, alpha: str, config: Config) -> str:
    needed = 1 / float(alpha) - 1
    return f"{plural(n, config.unit)} calibrated, fewer than 1/alpha - 1 = {needed:.1f}"


def _crc(blank: Certificate, rows: Rows, curves: LossCurves, config: Config) -> Certificate:
    n = blank.n_units
    found = largest_controlled(curves, n, blank.alpha)
    if found == -np.inf:
        few = (n + 1) * Fraction(blank.alpha) < 1
        above = "the corrected risk is above it at the smallest threshold"
        return replace(blank, reason=_too_few(n, blank.alpha, config) if few else above)
    if not (rows.scores >= found).any():
        return replace(blank, reason=_TRIVIALLY_MET, trivially_met=True)
    risk = curves.risk(found, np.ones(n, dtype=bool))
    return replace(blank, threshold=found, bound=float(corrected_risk(np.array(risk), n)))


def _rcps(blank: Certificate, rows: Rows, losses: np.ndarray, config: Config) -> Certificate:
    order, alpha = betting_order(np.unique(rows.units)), float(blank.alpha)
    found = rcps_threshold(losses, alpha, config.delta, order)
    if found == -np.inf:
        return replace(blank, reason="the bound is above it at the smallest threshold")
    if not (rows.scores >= found).any():
        return replace(blank, reason=_TRIVIALLY_MET, trivially_met=True)
    bound = wsr_bound(losses[order, int(np.searchsorted(GRID, found))], config.delta)
    # The bound is found to 1e-6 from above; that it is below alpha is certain.
    return replace(blank, threshold=found, bound=min(bound, alpha))


def betting_order(units: np.ndarray) -> np.ndarray:
    """The order in which RCPS bets on units: it knows no labels, and nobody can choose it.

    An order drawn by a seed could be shopped for: the best of ten seeds breaks the promise in a
    third of all draws at delta 0.1.

    Args:
        units: (n,) keys, sorted.
    """
    digests = [hashlib.sha256(f"chestxray bets on {key}".encode()).digest() for key in units]
    return np.array(sorted(range(len(units)), key=digests.__getitem__), dtype=np.intp)


def _ltt(blank: Certificate, rows: Rows, losses: np.ndarray, config: Config) -> Certificate:
    risks, n, alpha = losses.mean(axis=0), blank.n_units, float(blank.alpha)
    strict_last = config.target_risk.strict_last
    certified = np.flatnonzero(
        ltt_thresholds(risks, n, alpha, config.delta, config.fwer, strict_last)
    )
    if not len(certified):
        return replace(blank, reason="no threshold is certified")
    place = int(certified[0] if strict_last else certified[-1])
    if not (rows.scores >= GRID[place]).any():
        # With empty sets at the strict end, a larger alpha certifies sets that are not empty.
        reason = "no calibration set is non-empty where it is certified"
        return replace(blank, reason=reason, trivially_met=not strict_last)
    bound = float(hoeffding_bentkus_p_values(risks[place], n, alpha))
    return replace(blank, threshold=float(GRID[place]), bound=bound)
