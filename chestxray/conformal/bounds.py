"""Concentration: p-values of the mean of i.i.d. losses in [0, 1]."""

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
