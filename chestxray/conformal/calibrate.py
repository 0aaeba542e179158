"""Choices and rows -> thresholds, one for each alpha, and the same over many re-splits."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from chestxray.conformal.bounds import hoeffding_bentkus_p_values, wsr_bound
from chestxray.conformal.losses import (
    GRID,
    counting_rows,
    false_discovery_rates,
    miss_rates,
    unit_codes,
)
from chestxray.conformal.search import Misses, crc_threshold, ltt_thresholds, rcps_threshold


@dataclass(frozen=True)
class Choices:
    """What is to be controlled, how, and for whom; the names are the command's flags."""

    risk: str = "fnr"
    method: str = "crc"
    delta: float = 0.1
    unit: str = "patient"
    no_positive: str = "drop"
    empty: float = 0.0
    fwer: str = "fst"
    seed: int = 0


@dataclass
class Rows:
    """Pictures to calibrate on or to be judged by.

    Attributes:
        targets: (N, K) uint8, 0 or 1.
        scores: (N, K) float64, in [0, 1].
        units: (N,) what the guarantee is for: patients or picture names.
        patients: (N,) whose picture it is; the picture names where patients are not known.
    """

    targets: np.ndarray
    scores: np.ndarray
    units: np.ndarray
    patients: np.ndarray

    def take(self, mask: np.ndarray) -> "Rows":
        return Rows(self.targets[mask], self.scores[mask], self.units[mask], self.patients[mask])

    def counting(self, choices: Choices) -> "Rows":
        """The pictures that the chosen risk counts."""
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


def calibrate(rows: Rows, alpha: str, choices: Choices, table: np.ndarray | None = None) -> Level:
    """The threshold for one alpha.

    Args:
        rows: the calibration pictures.
        alpha: in (0, 1), as text, so that it is taken exactly.
        choices: risk, method and conventions.
        table: the losses of these rows where they are known already.
    """
    counting = rows.counting(choices)
    names, codes = unit_codes(counting.units)
    level = Level(alpha, None, len(codes), len(names))
    if not len(codes):
        level.reason = "no picture counts"
        return level
    if choices.method == "crc":
        _crc(level, counting, codes)
        return level
    losses = loss_table(counting, codes, choices) if table is None else table
    {"rcps": _rcps, "ltt": _ltt}[choices.method](level, counting, losses, choices)
    return level


def calibrate_per_class(rows: Rows, alpha: str) -> Level:
    """CRC on each column alone: the miss rate of each class by itself; positives only."""
    thresholds: list[float | None] = []
    units: list[int] = []
    for k in range(rows.targets.shape[1]):
        alone = rows.take(rows.targets[:, k] == 1)
        names, codes = unit_codes(alone.units)
        found = crc_threshold(alone.targets[:, [k]], alone.scores[:, [k]], codes, alpha)
        thresholds.append(float(found) if np.isfinite(found) else None)
        units.append(len(names))
    level = Level(alpha, None, len(rows.units), len(np.unique(rows.units)))
    level.thresholds, level.units_by_class = thresholds, units
    if not level.certified:
        level.reason = f"{max(units)} units with a class are fewer than 1/alpha - 1"
    return level


def smallest_alpha(rows: Rows, choices: Choices, per_class: bool) -> float | None:
    """The smallest alpha, in steps of 0.01, for which these rows certify anything."""
    if not len(rows.counting(choices).units):
        return None
    table = None if per_class or choices.method == "crc" else risk_table(rows, choices)
    for percent in range(1, 100):
        alpha = str(percent / 100)
        level = (
            calibrate_per_class(rows, alpha)
            if per_class
            else calibrate(rows, alpha, choices, table)
        )
        if level.certified:
            return percent / 100
    return None


def risk_table(rows: Rows, choices: Choices) -> np.ndarray:
    """loss_table of the pictures that count, by their units."""
    counting = rows.counting(choices)
    return loss_table(counting, unit_codes(counting.units)[1], choices)


def loss_table(rows: Rows, codes: np.ndarray, choices: Choices) -> np.ndarray:
    """(G, T) loss of each unit at each threshold of the grid."""
    if choices.risk == "fnr":
        return miss_rates(rows.targets, rows.scores, codes)
    return false_discovery_rates(rows.targets, rows.scores, codes, choices.empty)


def _crc(level: Level, rows: Rows, codes: np.ndarray) -> None:
    found = crc_threshold(rows.targets, rows.scores, codes, level.alpha)
    if found == np.inf:
        level.reason = "even empty sets meet it: any threshold does, and none is needed"
        level.lax = True
    elif found == -np.inf:
        level.reason = (
            f"{level.n_units} units are fewer than 1/alpha - 1 = {1 / float(level.alpha) - 1:.1f}"
        )
    else:
        level.threshold = found
        missed = np.where(rows.targets == 1, rows.scores < found, False).sum(axis=1)
        share = missed / np.maximum(rows.targets.sum(axis=1), 1)
        risk = (np.bincount(codes, weights=share) / np.bincount(codes)).mean()
        level.bound = float((level.n_units * risk + 1) / (level.n_units + 1))


def _rcps(level: Level, rows: Rows, losses: np.ndarray, choices: Choices) -> None:
    order = np.random.default_rng(choices.seed).permutation(len(losses))
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


def _ltt(level: Level, rows: Rows, losses: np.ndarray, choices: Choices) -> None:
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
        return
    level.threshold = float(GRID[place])
    level.bound = float(hoeffding_bentkus_p_values(risks[place], level.n_units, alpha))


def resplit(
    rows: Rows, alpha: str, choices: Choices, fraction: float, times: int
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrate and judge on many random cuts by patient.

    Args:
        rows: all pictures, calibration and evaluation together.
        alpha: as in calibrate.
        choices: their seed draws the cuts.
        fraction: of the patients that calibrate.
        times: cuts.

    Returns:
        Risk on the units of the other side and threshold of each cut, (times,) both; NaN and -inf
        where a cut certifies nothing.
    """
    counting = rows.counting(choices)
    names, codes = unit_codes(counting.units)
    first = np.unique(codes, return_index=True)[1]
    patients, patient_of = np.unique(counting.patients[first], return_inverse=True)
    rng = np.random.default_rng([choices.seed, 1])
    if len(patients) < 2:
        return np.full(times, np.nan), np.full(times, -np.inf)
    cuts = np.array([cut_patients(len(patients), fraction, rng)[patient_of] for _ in range(times)])
    run = {"crc": _resplit_crc, "rcps": _resplit_rcps, "ltt": _resplit_ltt}[choices.method]
    return run(counting, codes, cuts, alpha, choices, rng)


def cut_patients(n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool, a random share of n patients; with a share below 1, both sides have somebody."""
    count = n if fraction == 1 or n == 1 else min(max(round(fraction * n), 1), n - 1)
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[:count]] = True
    return chosen


def _resplit_crc(
    rows: Rows,
    codes: np.ndarray,
    cuts: np.ndarray,
    alpha: str,
    choices: Choices,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    misses = Misses(rows.targets, rows.scores, codes)
    risks, thresholds = np.full(len(cuts), np.nan), np.full(len(cuts), -np.inf)
    for number, cut in enumerate(cuts):
        allowed = (int(cut.sum()) + 1) * Fraction(alpha) - 1
        if allowed < 0:
            continue
        thresholds[number] = misses.largest_threshold(allowed, cut)
        outside = ~cut[misses.units]
        below = outside & (misses.scores < thresholds[number])
        risks[number] = misses.weights[below].sum() / (~cut).sum()
    return risks, thresholds


def _resplit_rcps(
    rows: Rows,
    codes: np.ndarray,
    cuts: np.ndarray,
    alpha: str,
    choices: Choices,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    losses = loss_table(rows, codes, choices)
    thresholds = np.array(
        [
            rcps_threshold(
                losses, float(alpha), choices.delta, rng.permutation(np.flatnonzero(cut))
            )
            for cut in cuts
        ]
    )
    return _judge(losses, cuts, thresholds), thresholds


def _resplit_ltt(
    rows: Rows,
    codes: np.ndarray,
    cuts: np.ndarray,
    alpha: str,
    choices: Choices,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    losses = loss_table(rows, codes, choices)
    sizes = cuts.sum(axis=1)
    risks = (cuts.astype(float) @ losses) / sizes[:, None]
    strict_last = choices.risk == "fdr"
    largest = np.zeros(len(losses))  # the best score of a unit: a set is empty above it
    np.maximum.at(largest, codes, rows.scores.max(axis=1))
    thresholds = np.full(len(cuts), -np.inf)
    for number, cut in enumerate(cuts):
        certified = np.flatnonzero(
            ltt_thresholds(
                risks[number],
                int(sizes[number]),
                float(alpha),
                choices.delta,
                choices.fwer,
                strict_last,
            )
        )
        if len(certified):
            place = certified[0] if strict_last else certified[-1]
            if largest[cut].max() >= GRID[place]:
                thresholds[number] = GRID[place]
    return _judge(losses, cuts, thresholds), thresholds


def _judge(losses: np.ndarray, cuts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    risks = np.full(len(cuts), np.nan)
    for number in np.flatnonzero(np.isfinite(thresholds)):
        place = int(np.searchsorted(GRID, thresholds[number]))
        risks[number] = losses[~cuts[number], place].mean()
    return risks
