"""Losses -> the threshold whose risk is controlled: CRC, RCPS and learn then test.

All take arrays and know no files. Thresholds are for `p >= t`: a larger one gives smaller sets.
"""

from fractions import Fraction

import numpy as np

from chestxray.conformal.bounds import hoeffding_bentkus_p_values, wsr_certifies
from chestxray.conformal.risks import GRID, LossCurves, Misses

_BLOCK = 64  # thresholds of the grid whose capital is computed at once


def crc_threshold(
    targets: np.ndarray, scores: np.ndarray, codes: np.ndarray, alpha: Fraction | float | str
) -> float:
    """Conformal risk control of the miss rate: E[L_{n+1}] <= alpha, exactly, without a grid.

    Angelopoulos et al. 2022, arXiv:2208.02814, equation 4 with B = 1: the largest t with
    sum over the positives (i, k) with p_ik < t of 1 / (|Y_i| m_g(i)) <= (n + 1) alpha - 1.

    Args:
        targets: (N, K), 0 or 1, of the images that count.
        scores: (N, K), in [0, 1].
        codes: (N,) unit of each image, 0 to n - 1.
        alpha: in [0, 1]; text and fractions are taken exactly.

    Returns:
        The threshold; -inf where only sets of every class are safe, +inf where even empty sets
        meet alpha.
    """
    if not len(codes):
        return -np.inf
    return largest_controlled(Misses(targets, scores, codes), int(codes.max()) + 1, alpha)


def largest_controlled(
    curves: LossCurves, n: int, alpha: Fraction | float | str, chosen: np.ndarray | None = None
) -> float:
    """Conformal risk control of any monotone loss: the largest t whose corrected risk meets alpha.

    Args:
        curves: the losses of the units.
        n: units that count.
        alpha: in [0, 1]; text and fractions are taken exactly.
        chosen: (G,) bool, which n of the units count; all where None.

    Returns:
        The threshold; -inf where none is safe.
    """
    allowed = (n + 1) * Fraction(alpha) - 1
    return -np.inf if allowed < 0 else curves.largest_threshold(allowed, chosen)


def corrected_risk(risk: np.ndarray, n: int) -> np.ndarray:
    """(n R + B) / (n + 1) with B = 1, which CRC keeps at most alpha: one more unit, all lost."""
    return (n * risk + 1) / (n + 1)


def rcps_threshold(
    losses: np.ndarray, alpha: float, delta: float, order: np.ndarray, grid: np.ndarray = GRID
) -> float:
    """Risk-controlling prediction sets: the risk is at most alpha with probability 1 - delta.

    Bates et al. 2021, arXiv:2101.02703: the largest t of the grid such that the upper bound of the
    risk is below alpha there and at every smaller t.

    Args:
        losses: (n, T), a row a unit, not decreasing along the grid.
        alpha, delta: in (0, 1).
        order: a permutation of the n units that knows no labels.
        grid: (T,) ascending.

    Returns:
        The threshold; -inf where none is certified.
    """
    certified = 0
    while certified < len(grid):
        block = losses[:, certified : certified + _BLOCK][order]
        failed = np.flatnonzero(~wsr_certifies(block, alpha, delta))
        if len(failed):
            certified += int(failed[0])
            break
        certified += block.shape[1]
    return float(grid[certified - 1]) if certified else -np.inf


def ltt_thresholds(
    risks: np.ndarray, n: int, alpha: float, delta: float, fwer: str, strict_last: bool
) -> np.ndarray:
    """Learn then test: thresholds with risk at most alpha, all at once, with probability 1 - delta.

    Angelopoulos et al. 2021, arXiv:2110.01052, with Hoeffding-Bentkus p-values.

    Args:
        risks: (T,) empirical risk over the n units at each threshold of the grid.
        n: units.
        alpha, delta: in (0, 1).
        fwer: "fst" (fixed sequence from the strict end) or "holm".
        strict_last: the strict end of the grid is its last threshold (FDR), not its first (FNR).

    Returns:
        (T,) bool.
    """
    p_values = hoeffding_bentkus_p_values(risks, n, alpha)
    if fwer == "holm":
        return holm(p_values, delta)
    sequence = p_values[::-1] if strict_last else p_values
    certified = np.logical_and.accumulate(sequence <= delta)
    return certified[::-1] if strict_last else certified


def holm(p_values: np.ndarray, delta: float) -> np.ndarray:
    """(T,) bool, the hypotheses that Holm's step-down procedure rejects at level delta."""
    order = np.argsort(p_values, kind="stable")
    levels = delta / np.arange(len(p_values), 0, -1)
    rejected = np.zeros(len(p_values), dtype=bool)
    rejected[order] = np.logical_and.accumulate(p_values[order] <= levels)
    return rejected
