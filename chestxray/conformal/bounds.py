"""Concentration: p-values and upper bounds of the mean of i.i.d. losses in [0, 1]."""

import numpy as np
from scipy.stats import binom


def hoeffding_bentkus_p_values(risks: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """p-values of "the risk is above alpha" for means of n i.i.d. losses in [0, 1].

    Angelopoulos et al. 2021, arXiv:2110.01052, proposition 4: the smaller of the Hoeffding and the
    Bentkus bound, min{exp(-n h1(min(R, alpha), alpha)), e P(Bin(n, alpha) <= ceil(n R))} with
    h1(a, b) = a log(a/b) + (1 - a) log((1 - a)/(1 - b)).

    Args:
        risks: empirical means, any shape, in [0, 1].
        n: losses in each mean.
        alpha: in (0, 1).

    Returns:
        p-values of the shape of `risks`, in [0, 1].
    """
    low = np.minimum(risks, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(low > 0, low * np.log(low / alpha), 0.0)
    hoeffding = np.exp(-n * (left + (1 - low) * np.log((1 - low) / (1 - alpha))))
    # A mean of n losses times n may miss a whole number by rounding.
    bentkus = np.e * binom.cdf(np.ceil(n * risks - 1e-9), n, alpha)
    return np.minimum(1.0, np.minimum(hoeffding, bentkus))


def wsr_certifies(losses: np.ndarray, alpha: float, delta: float) -> np.ndarray:
    """Return whether the Waudby-Smith-Ramdas betting bound on the mean lies below alpha.

    Bates et al. 2021, arXiv:2101.02703, proposition 5: R+ < alpha where some capital process
    K_i(alpha) = prod_{j <= i} (1 - nu_j (L_j - alpha)) exceeds 1/delta.

    Args:
        losses: (n, T) i.i.d. rows in [0, 1], in an order that does not depend on them.
        alpha: in (0, 1).
        delta: in (0, 1); the bound holds with probability 1 - delta.

    Returns:
        (T,) bool.
    """
    n = len(losses)
    count = np.arange(2, n + 2)[:, None]
    mean = (0.5 + np.cumsum(losses, axis=0)) / count
    variance = (0.25 + np.cumsum((losses - mean) ** 2, axis=0)) / count
    before = np.vstack([np.full((1, losses.shape[1]), 0.25), variance[:-1]])
    nu = np.minimum(1.0, np.sqrt(2 * np.log(1 / delta) / (n * before)))
    # nu (L - alpha) < 1, since both factors are at most 1 and alpha > 0.
    capital = np.cumsum(np.log1p(-nu * (losses - alpha)), axis=0)
    return capital.max(axis=0) > np.log(1 / delta)


def wsr_bound(losses: np.ndarray, delta: float) -> float:
    """The Waudby-Smith-Ramdas upper bound of a mean, to 1e-6: inf{R : max_i K_i(R) > 1/delta}.

    Args:
        losses: (n,) i.i.d. in [0, 1], in an order that does not depend on them.
        delta: in (0, 1).

    Returns:
        The bound, at most 1.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if wsr_certifies(losses[:, None], middle, delta)[0]:
            high = middle
        else:
            low = middle
    return high
