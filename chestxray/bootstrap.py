"""Patients drawn with replacement: the bootstrap behind every interval.

Images of one patient depend on each other, so patients are drawn, and all images of one come along.
"""

from collections.abc import Iterator

import numpy as np

_AT_ONCE = 4_000_000  # numbers drawn at once


def patient_resamples(
    patients: int, resamples: int, rng: np.random.Generator, size: int | None = None
) -> Iterator[np.ndarray]:
    """Draw patients with replacement, in blocks that fit the memory.

    Args:
        patients: how many there are, at least 1.
        resamples: how many resamples, over all blocks.
        rng: the source of the draws; the blocks do not change them.
        size: patients in a resample; as many as there are where None.

    Yields:
        (B, patients) whole numbers: how often each patient is in each resample of a block.
    """
    even = np.full(patients, 1 / patients)
    block = max(1, _AT_ONCE // patients)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        yield rng.multinomial(patients if size is None else size, even, size=count)


def resampled_sums(
    values: np.ndarray, resamples: int, rng: np.random.Generator, size: int | None = None
) -> np.ndarray:
    """Sum per-patient values over resamples of the patients.

    Args:
        values: (G, C), a row for each patient.
        resamples, rng, size: as in patient_resamples.

    Returns:
        (resamples, C).
    """
    numbers = values.astype(np.float64, copy=False)
    blocks = patient_resamples(len(values), resamples, rng, size)
    return np.vstack([times.astype(np.float64) @ numbers for times in blocks])


def percentile_interval(values: np.ndarray, level: float) -> np.ndarray:
    """Return the percentile interval of each column of bootstrap values.

    Args:
        values: (resamples, C); NaN where a resample leaves the value undefined.
        level: the share of the defined values inside, 0.95 for 95 %.

    Returns:
        (2, C) lower and upper ends; NaN where no resample defines the value.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = np.full((2, values.shape[1]), np.nan)
    known = ~np.isnan(values).all(axis=0)
    if known.any():
        ends[:, known] = np.nanquantile(values[:, known], tails, axis=0)
    return ends
