"""The risk of other calibrations: over cuts by patient, and over resamples of the units."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from chestxray.bootstrap import patient_resamples, percentile_interval
from chestxray.conformal.calibrate import Rows, betting_order, loss_curves, loss_table
from chestxray.conformal.control import largest_controlled, ltt_thresholds, rcps_threshold
from chestxray.conformal.options import Config
from chestxray.conformal.risks import GRID, GridLosses, LossCurves, unit_codes

LEVEL = 0.95  # of the spread of single calibrations
FEW = 4  # units that a calibration may lose, below which their spread is not known
_RESAMPLES = 1000


def cut_patients(n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool, a random share of n patients; with a share below 1, both sides have somebody."""
    count = n if fraction == 1 or n == 1 else min(max(round(fraction * n), 1), n - 1)
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[:count]] = True
    return chosen


def resplit(rows: Rows, alpha: str, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Calibrate one threshold and evaluate it, on as many cuts as chosen.

    Args:
        rows: all images, calibration and evaluation together.
        alpha: as in calibrate.
        config: with the number of cuts, the share that calibrates, and the seed.

    Returns:
        Risk on the units of the other side and threshold of each cut, (times,) both; NaN and not
        finite where a cut certifies nothing.
    """
    counting = rows.counting(config)
    codes = unit_codes(counting.units)[1]
    rng = np.random.default_rng([config.seed, 1])
    cuts = _cuts(counting, codes, counting.patients, config, rng)
    if not len(cuts):
        return np.full(config.resplits, np.nan), np.full(config.resplits, -np.inf)
    if config.method == "crc":
        curves = loss_curves(counting, config)
        thresholds = _crc_thresholds(curves, cuts, alpha)
        return _realised(curves, cuts, thresholds), thresholds
    losses = loss_table(counting, config)
    if config.method == "rcps":
        bets = betting_order(np.unique(counting.units))
        orders = (bets[cut[bets]] for cut in cuts)
        found = [rcps_threshold(losses, float(alpha), config.delta, order) for order in orders]
        thresholds = np.array(found)
    else:
        largest = np.zeros(len(losses))  # the best score of a unit: its sets are empty above it
        np.maximum.at(largest, codes, counting.scores.max(axis=1))
        thresholds = _ltt_thresholds(losses, largest, cuts, alpha, config)
    return _realised(GridLosses(losses), cuts, thresholds), thresholds


@dataclass(frozen=True)
class Spread:
    """The risk of single calibrations of this size, where CRC promises their average.

    Attributes:
        interval: LEVEL of them lie in it.
        above_alpha: the share that lies above alpha.
    """

    interval: tuple[float, float]
    above_alpha: float


def single_calibrations(curves: LossCurves, n: int, alpha: str, config: Config) -> Spread | None:
    """Spread of the risk over single CRC calibrations, by a bootstrap of the calibration units.

    Each resample of the units gives a threshold, whose risk is taken on the units themselves.

    Args:
        curves: the losses of the n units that calibrated.
        n: how many.
        alpha: as in calibrate.
        config: with the seed.

    Returns:
        None where n x alpha is below FEW: there the range would hold too few of them (0.87 of 500
        draws at n x alpha = 2.5, 0.64 at 1).
    """
    if n * float(alpha) < FEW:
        return None
    allowed = (n + 1) * Fraction(alpha) - 1
    rng = np.random.default_rng([config.seed, 4])
    blocks = patient_resamples(n, _RESAMPLES, rng)
    risks = np.hstack([curves.resampled_risks(times, allowed) for times in blocks])
    if np.isnan(risks).all():
        return None
    low, high = percentile_interval(risks[:, None], LEVEL)[:, 0]
    return Spread((float(low), float(high)), float((risks > float(alpha)).mean()))


def resplit_per_class(rows: Rows, alpha: str, config: Config) -> np.ndarray:
    """Risk of each class over the cuts, each with its own threshold.

    Args:
        rows, alpha, config: as in resplit; the cuts are of all patients.

    Returns:
        (times, K) mean losses of the other side's units with the class; 0 where too few
        calibrate, so that the class is in every set; NaN where no unit of the other side has it.
    """
    found = np.full((config.resplits, rows.targets.shape[1]), np.nan)
    for k in range(rows.targets.shape[1]):
        alone = rows.with_class(k)
        codes = unit_codes(alone.units)[1]
        rng = np.random.default_rng([config.seed, 1])  # the same cuts for every class
        cuts = _cuts(alone, codes, rows.patients, config, rng)
        if not len(cuts) or not len(codes):
            continue
        curves = loss_curves(alone, config)
        thresholds = _crc_thresholds(curves, cuts, alpha)
        found[:, k] = _realised(curves, cuts, thresholds)
        found[np.isneginf(thresholds) & ~cuts.all(axis=1), k] = 0.0
    return found


def _cuts(
    rows: Rows, codes: np.ndarray, patients: np.ndarray, config: Config, rng: np.random.Generator
) -> np.ndarray:
    """(times, G) bool: the units of `rows` that calibrate, by cuts of all `patients`.

    Empty where there are fewer than two patients to cut.
    """
    names = np.unique(patients)
    if len(names) < 2:
        return np.empty((0, 0), dtype=bool)
    first = np.unique(codes, return_index=True)[1]
    patient_of = np.searchsorted(names, rows.patients[first])
    fraction = config.cal_fraction
    drawn = (cut_patients(len(names), fraction, rng) for _ in range(config.resplits))
    return np.array([cut[patient_of] for cut in drawn]).reshape(config.resplits, len(first))


def _crc_thresholds(curves: LossCurves, cuts: np.ndarray, alpha: str) -> np.ndarray:
    return np.array([largest_controlled(curves, int(cut.sum()), alpha, cut) for cut in cuts])


def _ltt_thresholds(
    losses: np.ndarray, largest: np.ndarray, cuts: np.ndarray, alpha: str, config: Config
) -> np.ndarray:
    sizes = cuts.sum(axis=1)
    risks = (cuts.astype(float) @ losses) / sizes[:, None]
    strict_last = config.target_risk.strict_last
    thresholds = np.full(len(cuts), -np.inf)
    for number, (mean, n) in enumerate(zip(risks, sizes.tolist(), strict=True)):
        certified = np.flatnonzero(
            ltt_thresholds(mean, n, float(alpha), config.delta, config.fwer, strict_last)
        )
        if len(certified):
            threshold = GRID[certified[0] if strict_last else certified[-1]]
            if largest[cuts[number]].max() >= threshold:
                thresholds[number] = threshold
    return thresholds


def _realised(curves: LossCurves, cuts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(times,) risk of the other side of each cut; NaN without a threshold or another side."""
    found = np.full(len(cuts), np.nan)
    for number in np.flatnonzero(np.isfinite(thresholds) & ~cuts.all(axis=1)):
        found[number] = curves.risk(float(thresholds[number]), ~cuts[number])
    return found
