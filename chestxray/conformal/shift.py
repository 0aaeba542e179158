"""Are the rows that a threshold is applied to like those that it was calibrated on?"""

import numpy as np

POINTS = 0.02  # a difference of prevalence below this is not worth a warning
_RESAMPLES = 1000
_NORMAL_99 = 2.5758293035489004  # 99 % of a normal distribution lie within so many deviations


def prevalences(
    targets: np.ndarray, patients: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the pictures with each class, and its standard error by a bootstrap over patients.

    Args:
        targets: (N, K), 0 or 1.
        patients: (N,) keys.
        seed: of the bootstrap.

    Returns:
        (K,) shares and (K,) standard errors.
    """
    names, codes = np.unique(patients, return_inverse=True)
    pictures = np.bincount(codes)
    positives = np.stack([np.bincount(codes, weights=column) for column in targets.T], axis=1)
    rng = np.random.default_rng([seed, 3])
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    drawn = (times @ positives) / (times @ pictures)[:, None]
    return targets.mean(axis=0), drawn.std(axis=0)


def describe_shift(
    classes: tuple[str, ...],
    before: tuple[np.ndarray, np.ndarray],
    now: tuple[np.ndarray, np.ndarray],
) -> list[str]:
    """Classes whose prevalence differs by more than two points and more than chance explains."""
    difference = now[0] - before[0]
    spread = _NORMAL_99 * np.hypot(now[1], before[1])
    differing = (np.abs(difference) > POINTS) & (np.abs(difference) > spread)
    return [
        f"{classes[k]}: prevalence {before[0][k]:.1%} where it was calibrated, {now[0][k]:.1%} "
        f"here (99 % interval of the difference {difference[k] - spread[k]:+.1%} to "
        f"{difference[k] + spread[k]:+.1%}): the guarantee does not carry over"
        for k in np.flatnonzero(differing)
    ]
