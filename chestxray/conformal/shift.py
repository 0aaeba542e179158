"""Are the rows that a threshold is applied to like those that it was calibrated on?"""

import numpy as np

POINTS = 0.02  # a difference of prevalence below this is not worth a warning
_TAILS = (0.005, 0.995)  # of the 99 % interval
_RESAMPLES, _AT_ONCE = 2000, 4_000_000  # bootstrap samples; numbers drawn at once


def patient_key(text: str) -> str:
    """What a patient is compared by: 13 and 00000013 are one."""
    return text.lstrip("0") or "0" if text.isdigit() else text


def patient_counts(targets: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the bootstrap over patients needs.

    Args:
        targets: (N, K), 0 or 1.
        patients: (N,) names.

    Returns:
        (G,) sorted names and (G, 1 + K) whole numbers: images, and positives of each class.
    """
    names, codes = np.unique(patients, return_inverse=True)
    counts = np.zeros((len(names), 1 + targets.shape[1]), dtype=np.int64)
    np.add.at(counts, codes, np.column_stack([np.ones(len(targets), dtype=np.int64), targets]))
    return names, counts


def describe_shift(
    classes: tuple[str, ...], before: np.ndarray, now: np.ndarray, seed: int = 0
) -> list[str]:
    """Classes whose prevalence differs by more than two points and more than chance explains.

    The 99 % percentile interval of the difference, by a bootstrap over the patients of each side,
    must exclude 0. A side with hardly a positive has a bootstrap without spread, so the difference
    must also be outside what 99 % of draws of both sides from all patients together show.

    Args:
        classes: K names.
        before, now: (G, 1 + K) of patient_counts, the patients of either side.
        seed: of the bootstrap.

    Returns:
        A sentence a class that differs, with both prevalences and the interval.
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
    drawn = [_resampled(counts, n, rng) for counts, n in zip((before, now), sizes, strict=True)]
    return np.quantile(_shares(drawn[1]) - _shares(drawn[0]), _TAILS, axis=0)


def _resampled(counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(B, 1 + K) sums over `size` patients drawn with replacement."""
    values, even = counts.astype(np.float64), np.full(len(counts), 1 / len(counts))
    block = max(1, _AT_ONCE // len(counts))
    return np.vstack(
        [
            rng.multinomial(size, even, size=min(block, _RESAMPLES - start)).astype(float) @ values
            for start in range(0, _RESAMPLES, block)
        ]
    )


def _shares(sums: np.ndarray) -> np.ndarray:
    return sums[..., 1:] / sums[..., :1]
