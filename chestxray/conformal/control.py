"""Losses -> the threshold whose risk is controlled: CRC, RCPS and learn then test.

All take arrays and know no files. Thresholds are for `p >= t`: a larger one gives smaller sets.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from chestxray.conformal.betting import wsr_certifies
from chestxray.conformal.losses import GRID, LossCurves, Misses

_BLOCK = 64  # thresholds of the grid that are tested at once
_ROUNDING = 1e-12  # of means of losses


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
    certified = fixed_sequence(
        lambda places: wsr_certifies(losses[order, places], alpha, delta), range(len(grid))
    )
    return float(grid[certified[-1]]) if certified else -np.inf


def fixed_sequence(passes: Callable[[slice], np.ndarray], places: range) -> range:
    """The head of a sequence of tests, up to the first that fails.

    Args:
        passes: (P,) bool, which places of a slice of the grid pass.
        places: of the grid, in the order in which they are tested.
    """
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        passed = passes(slice(min(block), max(block) + 1))[:: block.step]
        if not passed.all():
            return places[: start + int(passed.argmin())]
    return places


def best_start(losses: np.ndarray, alpha: float) -> int:
    """Where a fixed sequence starts: the place with the largest (alpha - mean) / sd.

    Args:
        losses: (n, T) of units that take part in no test, up to the last threshold where any of
            their sets is not empty.
        alpha: in (0, 1).

    Returns:
        A number from 0 to T - 1, of equal ones the strictest; 0 where T is 0.
    """
    gaps, spreads = alpha - losses.mean(axis=0), losses.std(axis=0)
    gaps[np.abs(gaps) < _ROUNDING] = 0.0
    spreads[spreads < _ROUNDING] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(gaps == 0, 0.0, gaps / spreads)
    if not len(ratios):
        return 0
    best = np.isclose(ratios, ratios.max(), rtol=1e-9, atol=_ROUNDING)  # rounding decides nothing
    return int(np.flatnonzero(best)[-1])


def holm(p_values: np.ndarray, delta: float) -> np.ndarray:
    """(T,) bool, the hypotheses that Holm's step-down procedure rejects at level delta."""
    order = np.argsort(p_values, kind="stable")
    levels = delta / np.arange(len(p_values), 0, -1)
    rejected = np.zeros(len(p_values), dtype=bool)
    rejected[order] = np.logical_and.accumulate(p_values[order] <= levels)
    return rejected
