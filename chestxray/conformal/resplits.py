"""The realised risk over many random cuts by patient into calibration and evaluation."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from chestxray.conformal.calibrate import Config, Rows, loss_table
from chestxray.conformal.control import Misses, ltt_thresholds, rcps_threshold
from chestxray.conformal.risks import GRID, unit_codes


def cut_patients(n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool, a random share of n patients; with a share below 1, both sides have somebody."""
    count = n if fraction == 1 or n == 1 else min(max(round(fraction * n), 1), n - 1)
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[:count]] = True
    return chosen


def resplit(rows: Rows, alpha: str, choices: Config) -> tuple[np.ndarray, np.ndarray]:
    """Calibrate one threshold and judge it, on as many cuts as chosen.

    Args:
        rows: all images, calibration and evaluation together.
        alpha: as in calibrate.
        choices: with the number of cuts, the share that calibrates, and the seed.

    Returns:
        Risk on the units of the other side and threshold of each cut, (times,) both; NaN and not
        finite where a cut certifies nothing.
    """
    counting = rows.counting(choices)
    codes = unit_codes(counting.units)[1]
    rng = np.random.default_rng([choices.seed, 1])
    cuts = _cuts(counting, codes, counting.patients, choices, rng)
    if not len(cuts):
        return np.full(choices.resplits, np.nan), np.full(choices.resplits, -np.inf)
    if choices.method == "crc":
        misses = Misses(counting.targets, counting.scores, codes)
        thresholds = _crc_thresholds(misses, cuts, alpha)
        return _judged(misses.risk, cuts, thresholds), thresholds
    losses = loss_table(counting, codes, choices)
    if choices.method == "rcps":
        orders = (rng.permutation(np.flatnonzero(cut)) for cut in cuts)
        found = [rcps_threshold(losses, float(alpha), choices.delta, order) for order in orders]
        thresholds = np.array(found)
    else:
        largest = np.zeros(len(losses))  # the best score of a unit: its sets are empty above it
        np.maximum.at(largest, codes, counting.scores.max(axis=1))
        thresholds = _ltt_thresholds(losses, largest, cuts, alpha, choices)

    def risk(threshold: float, others: np.ndarray) -> float:
        return float(losses[others, int(np.searchsorted(GRID, threshold))].mean())

    return _judged(risk, cuts, thresholds), thresholds


def resplit_per_class(rows: Rows, alpha: str, choices: Config) -> np.ndarray:
    """Miss rate of each class over the cuts, each with a threshold of its own.

    Args:
        rows, alpha, choices: as in resplit; the cuts are of all patients.

    Returns:
        (times, K) mean miss rates of the other side's units with the class; 0 where too few
        calibrate, so that the class is in every set; NaN where no unit of the other side has it.
    """
    found = np.full((choices.resplits, rows.targets.shape[1]), np.nan)
    for k in range(rows.targets.shape[1]):
        alone = rows.take(rows.targets[:, k] == 1)
        codes = unit_codes(alone.units)[1]
        rng = np.random.default_rng([choices.seed, 1])  # the same cuts for every class
        cuts = _cuts(alone, codes, rows.patients, choices, rng)
        if not len(cuts) or not len(codes):
            continue
        misses = Misses(alone.targets[:, [k]], alone.scores[:, [k]], codes)
        thresholds = _crc_thresholds(misses, cuts, alpha)
        found[:, k] = _judged(misses.risk, cuts, thresholds)
        found[np.isneginf(thresholds) & ~cuts.all(axis=1), k] = 0.0
    return found


def _cuts(
    rows: Rows, codes: np.ndarray, patients: np.ndarray, choices: Config, rng: np.random.Generator
) -> np.ndarray:
    """(times, G) bool: the units of `rows` that calibrate, by cuts of all `patients`.

    Empty where there are fewer than two patients to cut.
    """
    names = np.unique(patients)
    if len(names) < 2:
        return np.empty((0, 0), dtype=bool)
    first = np.unique(codes, return_index=True)[1]
    patient_of = np.searchsorted(names, rows.patients[first])
    fraction = choices.cal_fraction
    drawn = (cut_patients(len(names), fraction, rng) for _ in range(choices.resplits))
    return np.array([cut[patient_of] for cut in drawn]).reshape(choices.resplits, len(first))


def _crc_thresholds(misses: Misses, cuts: np.ndarray, alpha: str) -> np.ndarray:
    thresholds = np.full(len(cuts), -np.inf)
    for number, cut in enumerate(cuts):
        allowed = (int(cut.sum()) + 1) * Fraction(alpha) - 1
        if allowed >= 0:
            thresholds[number] = misses.largest_threshold(allowed, cut)
    return thresholds


def _ltt_thresholds(
    losses: np.ndarray, largest: np.ndarray, cuts: np.ndarray, alpha: str, choices: Config
) -> np.ndarray:
    sizes = cuts.sum(axis=1)
    risks = (cuts.astype(float) @ losses) / sizes[:, None]
    strict_last = choices.risk == "fdr"
    thresholds = np.full(len(cuts), -np.inf)
    for number, (mean, n) in enumerate(zip(risks, sizes.tolist(), strict=True)):
        certified = np.flatnonzero(
            ltt_thresholds(mean, n, float(alpha), choices.delta, choices.fwer, strict_last)
        )
        if len(certified):
            threshold = GRID[certified[0] if strict_last else certified[-1]]
            if largest[cuts[number]].max() >= threshold:
                thresholds[number] = threshold
    return thresholds


def _judged(
    risk: Callable[[float, np.ndarray], float], cuts: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """(times,) risk of the other side of each cut; NaN without a threshold or another side."""
    found = np.full(len(cuts), np.nan)
    for number in np.flatnonzero(np.isfinite(thresholds) & ~cuts.all(axis=1)):
        found[number] = risk(float(thresholds[number]), ~cuts[number])
    return found
