"""Betting on a mean: p-values and upper bounds of the mean of i.i.d. losses in [0, 1].

Waudby-Smith and Ramdas 2020, arXiv:2010.09686, as Bates et al. 2021, arXiv:2101.02703, use it. A
gambler bets against "the mean is alpha or more", unit by unit; by Ville's inequality the capital
exceeds 1/delta with probability delta at most where that is true, for every number of units.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Units until the first look at which thresholds have enough, and between two further looks.
_FIRST, _AT_ONCE = 64, 256


@dataclass(frozen=True)
class Bets:
    """How the gambler stakes.

    Attributes:
        most: the largest bet; (loss - alpha) times it must stay below 1.
        prior_variance: what the first bet takes for the variance of the losses.
    """

    most: float = 1.0
    prior_variance: float = 0.25


PLAIN = Bets()


def betting_p_values(
    losses: np.ndarray, alpha: float, delta: float, bets: Bets = PLAIN, enough: float = 0.0
) -> np.ndarray:
    """p-values of "the mean is above alpha", 1 / max_i K_i(alpha) of the capital process K.

    Args:
        losses: (n, T) i.i.d. rows in [0, 1], in an order that does not depend on them.
        alpha: in (0, 1).
        delta: in (0, 1), the level that the bets are made for.
        bets: how they are made.
        enough: what is at most this need not be exact: it may come out larger, but still at most
            this.

    Returns:
        (T,) in [0, 1]; each p-value is valid at every level, whatever delta is.
    """
    return np.exp(-_log_capital(losses, alpha, delta, bets, -_log(enough)))


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
    enough = np.log(1 / delta)
    return _log_capital(losses, alpha, delta, PLAIN, enough) > enough


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


def betting_order(units: np.ndarray) -> np.ndarray:
    """The order in which units are bet on: it knows no labels, and nobody can choose it.

    An order drawn by a seed could be shopped for: the best of ten seeds breaks the promise in a
    third of all draws at delta 0.1.

    Args:
        units: (n,) keys, sorted.
    """
    return order_by_digest(units, "chestxray bets on")


def order_by_digest(keys: np.ndarray, purpose: str) -> np.ndarray:
    """The order of (n,) keys by SHA-256 of a purpose and the key."""
    digests = [hashlib.sha256(f"{purpose} {key}".encode()).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=digests.__getitem__), dtype=np.intp)


def _log(value: float) -> float:
    return float(np.log(value)) if value > 0 else -np.inf


def _log_capital(
    losses: np.ndarray, alpha: float, delta: float, bets: Bets, enough: float
) -> np.ndarray:
    """(T,) log max_i K_i(alpha), K_0 = 1; a threshold above `enough` is left there."""
    n, thresholds = losses.shape
    best = np.zeros(thresholds)
    left = np.arange(thresholds)  # thresholds that are still bet on
    pace = 2 * np.log(1 / delta) / n
    # Carried on from block to block: sums of losses and of squared deviations, and log K.
    sums, squares, capital = np.zeros((3, thresholds, 1))
    for start, stop in pairwise([0, *range(min(_FIRST, n), n, _AT_ONCE), n]):
        block = losses[start:stop, left].T
        count = np.arange(start + 1, stop + 1)
        block_sums = sums + np.cumsum(block, axis=1)
        deviations = block - (0.5 + block_sums) / (count + 1)
        block_squares = squares + np.cumsum(deviations**2, axis=1)
        before = np.hstack([squares, block_squares[:, :-1]])
        variance = (bets.prior_variance + before) / count
        stakes = np.minimum(bets.most, np.sqrt(pace / variance))
        growth = np.cumprod(1 - stakes * (block - alpha), axis=1)
        with np.errstate(divide="ignore"):  # a capital below 1e-300 is lost
            best[left] = np.maximum(best[left], capital[:, 0] + np.log(growth.max(axis=1)))
            capital = capital + np.log(growth[:, -1:])
        going = best[left] <= enough
        left = left[going]
        sums, squares, capital = (last[going, -1:] for last in (block_sums, block_squares, capital))
    return best
