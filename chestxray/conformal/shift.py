"""Shift of prevalence between the rows of a calibration and those a threshold is applied to."""

import numpy as np

from chestxray.bootstrap import percentile_interval, resampled_sums

POINTS = 0.02  # a difference of prevalence below this is not worth a warning
_LEVEL = 0.99  # of the interval
_RESAMPLES = 2000


def patient_counts(targets: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count images and positives by patient, for the bootstrap.

    Args:
        targets: (N, K), 0 or 1.
        patients: (N,) keys.

    Returns:
        (G,) sorted keys and (G, 1 + K) whole numbers: images, and positives of each class.
    """
    names, codes = np.unique(patients, return_inverse=True)
    counts = np.zeros((len(names), 1 + targets.shape[1]), dtype=np.int64)
    np.add.at(counts, codes, np.column_stack([np.ones(len(targets), dtype=np.int64), targets]))
    return names, counts


def describe_shift(
    classes: tuple[str, ...], before: np.ndarray, now: np.ndarray, seed: int = 0
) -> list[str]:
    """Describe classes whose prevalence differs by over two points and more than chance explains.

    The 99 % percentile interval of the difference, by a bootstrap over the patients of each side,
    must exclude 0. A side with hardly any positives has a bootstrap without spread, so the
    difference must also lie outside 99 % of draws of both sides from all patients together.

    Args:
        classes: K names.
        before, now: (G, 1 + K) of patient_counts, the patients of either side.
        seed: of the bootstrap.

    Returns:
        A sentence for each class that differs, with both prevalences and the interval.
    """
    rng = np.random.default_rng([seed, 3])
    shares = _shares(before.sum(axis=0)), _shares(now.sum(axis=0))
    difference = shares[1] - shares[0]
    differs = np.abs(difference) > POINTS
    if not differs.any():  # most files: nothing needs to be drawn
        return []
    sizes = len(before), len(now)
    low, high = _interval(before, now, sizes, rng)
    differs &= (low > 0) | (high < 0)
    if differs.any():
        pooled = np.vstack([before, now])
        least, most = _interval(pooled, pooled, sizes, rng)
        differs &= (difference < least) | (difference > most)
    return [
        f"{classes[k]}: prevalence {shares[0][k]:.1%} where it was calibrated, {shares[1][k]:.1%} "
        f"here (99 % interval of the difference {low[k]:+.1%} to {high[k]:+.1%})"
        for k in np.flatnonzero(differs)
    ]


def _interval(
    before: np.ndarray, now: np.ndarray, sizes: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """(2, K) ends of the 99 % interval of the difference of prevalences."""
    first, second = (
        _shares(resampled_sums(counts, _RESAMPLES, rng, size))
        for counts, size in zip((before, now), sizes, strict=True)
    )
    return percentile_interval(second - first, _LEVEL)


def _shares(sums: np.ndarray) -> np.ndarray:
    return sums[..., 1:] / sums[..., :1]
