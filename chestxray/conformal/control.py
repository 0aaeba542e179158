"""Scores and labels -> the threshold whose risk is controlled.

All three take arrays and know no files. Thresholds are for `p >= t`: a larger one gives smaller
sets.
"""

from fractions import Fraction

import numpy as np

from chestxray.conformal.bounds import hoeffding_bentkus_p_values, wsr_certifies
from chestxray.conformal.risks import GRID

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
    allowed = (int(codes.max()) + 2) * Fraction(alpha) - 1 if len(codes) else Fraction(-1)
    if allowed < 0:
        return -np.inf
    misses = Misses(targets, scores, codes)
    return misses.largest_threshold(allowed)


def corrected_risk(risk: np.ndarray, n: int) -> np.ndarray:
    """What CRC keeps at most alpha, (n R + B) / (n + 1) with B = 1: the risk if one more missed."""
    return (n * risk + 1) / (n + 1)


class Misses:
    """The positives in the order in which a rising threshold misses them."""

    def __init__(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> None:
        row, column = np.nonzero(targets)
        scored = scores[row, column]
        order = np.argsort(scored, kind="stable")
        self.scores = scored[order]
        self.units = codes[row][order]
        per_image = targets.sum(axis=1, dtype=np.int64) * np.bincount(codes)[codes]
        self.denominators = per_image[row][order]
        self.weights = 1 / self.denominators

    def largest_threshold(self, allowed: Fraction, chosen: np.ndarray | None = None) -> float:
        """sup{t : the weights of the scores below t sum to at most `allowed`}.

        Args:
            allowed: at least 0.
            chosen: (G,) bool, the units that count; all where None.
        """
        inside = slice(None) if chosen is None else chosen[self.units]
        scores, weights = self.scores[inside], self.weights[inside]
        sums = np.cumsum(weights)
        # Floats decide but where the sum comes within rounding of the limit: there fractions do.
        limit = float(allowed)
        margin = 1e-9 * max(1.0, limit)
        first = int(np.searchsorted(sums, limit - margin, side="right"))
        last = int(np.searchsorted(sums, limit + margin, side="right"))
        for place in range(first, last):
            if self._sum(inside, place + 1) > allowed:
                last = place
                break
        if last == len(scores):
            return np.inf
        return float(scores[last])  # of equal scores all or none are below the threshold

    def risk(self, threshold: float, chosen: np.ndarray) -> float:
        """Mean loss at a threshold of the chosen units, (G,) bool, at least one."""
        missed = chosen[self.units] & (self.scores < threshold)
        return float(self.weights[missed].sum() / chosen.sum())

    def _sum(self, inside: slice | np.ndarray, count: int) -> Fraction:
        values, times = np.unique(self.denominators[inside][:count], return_counts=True)
        return sum(
            (Fraction(int(t), int(v)) for v, t in zip(values, times, strict=True)), Fraction(0)
        )


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
    """Learn then test: which thresholds have risk at most alpha, all at once, with prob. 1 - delta.

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
    """(T,) bool, which hypotheses Holm's step-down procedure rejects at level delta."""
    order = np.argsort(p_values, kind="stable")
    levels = delta / np.arange(len(p_values), 0, -1)
    rejected = np.zeros(len(p_values), dtype=bool)
    rejected[order] = np.logical_and.accumulate(p_values[order] <= levels)
    return rejected
