"""Losses of units: tables along a fixed grid of thresholds, and exact functions of the threshold.

K classes, scores p in [0, 1]: the prediction set at threshold t is C_t(x) = {k : p_k >= t}, so
t = 0 is every class (the papers' lambda is 1 - t). A unit is what the guarantee is for, a patient
or an image; its loss is the mean over its images that count.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from chestxray.runtime.text import plural

_AT_ONCE = 2_000_000  # losses summed at once
# Thresholds fixed before any data are seen: quantiles of the calibration scores would void tests.
GRID = 1 / (1 + np.exp(-np.linspace(-12, 12, 1000)))


class LossCurves(Protocol):
    """The losses of G units as functions of the threshold, never falling where it rises.

    `least` is the sum of the losses at the smallest threshold.
    """

    @property
    def least(self) -> Fraction: ...

    def largest_threshold(self, allowed: Fraction, chosen: np.ndarray | None = None) -> float:
        """The largest t at which the losses sum to at most `allowed`; -inf where none does.

        Args:
            allowed: at least 0.
            chosen: (G,) bool, the units that count; all where None.
        """

    def risk(self, threshold: float, chosen: np.ndarray) -> float:
        """Mean loss at a threshold of the chosen units, (G,) bool, at least one."""

    def resampled_risks(self, times: np.ndarray, allowed: Fraction) -> np.ndarray:
        """Mean loss of new units at the largest threshold of each resample, as these units show it.

        Args:
            times: (B, G) whole numbers, how often each unit is in each resample.
            allowed: as in largest_threshold, at least 0.

        Returns:
            (B,); NaN where a resample has no threshold.
        """

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds (S,), ascending, and the mean loss (S,) from above the last one up to each."""


def unit_codes(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units by name: (G,) sorted names and (N,) the number of each row's unit."""
    names, codes = np.unique(units, return_inverse=True)
    return names, codes


def counting_rows(targets: np.ndarray, no_positive: str) -> np.ndarray:
    """Select the images that count for the miss rate, 0/0 where an image has no positive class.

    Args:
        targets: (N, K), 0 or 1.
        no_positive: "drop" (such an image does not count), "zero" (its loss is 0), or "error".

    Returns:
        (N,) bool.

    Raises:
        ValueError: "error" was asked for and there is such an image.
    """
    positive: np.ndarray = (targets == 1).any(axis=1)
    if no_positive == "drop":
        return positive
    if no_positive == "error" and not positive.all():
        raise ValueError(
            f"{plural(int((~positive).sum()), 'image')} without a positive class, miss rate 0/0; "
            "--no-positive drop leaves them out, zero counts them as 0"
        )
    return np.ones(len(targets), dtype=bool)


def miss_rates(
    targets: np.ndarray, scores: np.ndarray, codes: np.ndarray, grid: np.ndarray = GRID
) -> np.ndarray:
    """Share of its positive classes that a unit's images miss (FNP = 1 - |Y n C| / |Y|).

    Args:
        targets: (N, K), 0 or 1; an image without a positive class has loss 0.
        scores: (N, K), in [0, 1].
        codes: (N,) unit of each image, 0 to G - 1, each at least once.
        grid: (T,) thresholds, ascending.

    Returns:
        (G, T) in [0, 1], not decreasing along the grid.
    """
    row, column = np.nonzero(targets)
    weights = 1 / _denominators(targets, codes)[row]
    reached = np.searchsorted(grid, scores[row, column], side="right")  # thresholds that it meets
    units, steps = int(codes.max()) + 1, len(grid) + 1
    cells = np.bincount(codes[row] * steps + reached, weights=weights, minlength=units * steps)
    return _summed(cells.reshape(units, steps))


def false_discovery_rates(
    targets: np.ndarray,
    scores: np.ndarray,
    codes: np.ndarray,
    empty: float = 0.0,
    grid: np.ndarray = GRID,
) -> np.ndarray:
    """False share of the sets of a unit's images (FDP = |C minus Y| / |C|).

    Args:
        targets, scores, codes, grid: as in miss_rates.
        empty: loss of an empty set, 0 (as in the LTT paper) or 1.

    Returns:
        (G, T) in [0, 1]; with all images in one unit, their mean, which is all that LTT needs.
    """
    n, classes = scores.shape
    met = np.searchsorted(grid, scores, side="right")  # thresholds that each class meets
    order = np.argsort(-met, axis=1, kind="stable")
    leaves = np.take_along_axis(met, order, axis=1)  # where the set loses its m-th class
    false = np.cumsum(np.take_along_axis(targets != 1, order, axis=1), axis=1)
    shares = np.column_stack([np.full(n, empty), false / np.arange(1, classes + 1)])
    # An image's loss changes only where its set does: add up the changes, then sum along the grid.
    units, steps = int(codes.max()) + 1, len(grid) + 1
    weights = 1 / np.bincount(codes)[codes]
    changes = (shares[:, :-1] - shares[:, 1:]) * weights[:, None]
    cells = np.bincount(
        (codes[:, None] * steps + leaves).ravel(), changes.ravel(), minlength=units * steps
    ).reshape(units, steps)
    cells[:, 0] += np.bincount(codes, weights=shares[:, -1] * weights, minlength=units)
    return _summed(cells)


def nonempty_shares(scores: np.ndarray, codes: np.ndarray, grid: np.ndarray = GRID) -> np.ndarray:
    """(G, T) share of a unit's images whose set is not empty; arguments as in miss_rates."""
    counted = _counts_above(scores.max(axis=1, keepdims=True), codes, grid)
    return counted / np.bincount(codes)[:, None]


def labels_given(
    targets: np.ndarray, scores: np.ndarray, codes: np.ndarray, grid: np.ndarray = GRID
) -> tuple[np.ndarray, np.ndarray]:
    """Labels that the sets of a unit's images hold, false ones and all.

    Args:
        targets, scores, codes, grid: as in miss_rates.

    Returns:
        (G, T) in [0, 1] both: means over the unit's images, over the K classes.
    """
    most = (np.bincount(codes) * scores.shape[1])[:, None]
    false = _counts_above(np.where(targets == 1, -1.0, scores), codes, grid)
    return false / most, _counts_above(scores, codes, grid) / most


def _counts_above(scores: np.ndarray, codes: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(G, T) how many scores of a unit's images (N, M) are at or above each threshold."""
    met = np.searchsorted(grid, scores, side="right")
    units, steps = int(codes.max()) + 1, len(grid) + 1
    cells = np.bincount((codes[:, None] * steps + met).ravel(), minlength=units * steps)
    return np.cumsum(cells.reshape(units, steps)[:, :0:-1], axis=1)[:, ::-1]


def _summed(cells: np.ndarray) -> np.ndarray:
    """(G, T) losses from (G, T + 1) changes along the grid, in place: the table is large."""
    cells = cells.astype(float, copy=False)  # of no positives at all, bincount makes integers
    losses = np.cumsum(cells, axis=1, out=cells)[:, :-1]
    return np.clip(losses, 0.0, 1.0, out=losses)  # sums of shares miss 0 and 1 by rounding


def _denominators(targets: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N,) |Y_i| m_g(i): what a missed positive of image i is divided by in its unit's loss."""
    return targets.sum(axis=1, dtype=np.int64) * np.bincount(codes)[codes]


@dataclass(frozen=True)
class LossTable:
    """What G units add to a risk at each threshold of the grid: E(losses) / E(weights).

    Attributes:
        losses: (G, T) in [0, 1].
        weights: (G, T) in [0, 1], what the risk divides by; None where that is 1.
        shown: (G,) the last place where any set of a unit is not empty, -1 without one; beyond it
            nothing changes. None where it is not needed.
    """

    losses: np.ndarray
    weights: np.ndarray | None = None
    shown: np.ndarray | None = None

    def at(self, alpha: float, units: np.ndarray, places: slice) -> np.ndarray:
        """Losses in [0, 1] whose mean is at most alpha where the risk is.

        Args:
            alpha: in (0, 1).
            units: (n,) numbers of the units.
            places: of the grid.

        Returns:
            (n, P): losses where the weights are 1, else losses + alpha (1 - weights).
        """
        losses = self.losses[units, places]
        if self.weights is None:
            return losses
        return losses + alpha * (1 - self.weights[units, places])

    def last_shown(self, units: np.ndarray) -> int:
        """The last place where any set of the (n,) units is not empty, -1 without one."""
        assert self.shown is not None
        return int(self.shown[units].max())

    @property
    def least(self) -> Fraction:
        return Fraction(float(self.losses[:, 0].sum()))

    def largest_threshold(self, allowed: Fraction, chosen: np.ndarray | None = None) -> float:
        inside = self.losses if chosen is None else self.losses[chosen]
        above = np.flatnonzero(inside.sum(axis=0) > float(allowed))
        safe = int(above[0]) if len(above) else len(GRID)
        return float(GRID[safe - 1]) if safe else -np.inf

    def risk(self, threshold: float, chosen: np.ndarray) -> float:
        place = int(np.searchsorted(GRID, threshold))
        losses = self.losses[chosen, place].mean()
        if self.weights is None:
            return float(losses)
        weight = self.weights[chosen, place].mean()
        return float(losses / weight) if weight > 0 else np.nan

    def resampled_risks(self, times: np.ndarray, allowed: Fraction) -> np.ndarray:
        above = times.astype(float) @ self.losses > float(allowed)
        safe = np.where(above.any(axis=1), above.argmax(axis=1), len(GRID))
        return np.r_[np.nan, self.losses.mean(axis=0)][safe]

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        losses = self.losses.mean(axis=0)
        if self.weights is None:
            return GRID, losses
        weights = self.weights.mean(axis=0)
        return GRID, np.divide(losses, weights, out=np.full(len(GRID), np.nan), where=weights > 0)


class Misses:
    """Miss rates at every threshold, exactly: the positives in the order in which it misses them.

    Args:
        targets, scores, codes: as in miss_rates.
    """

    least = Fraction(0)  # below all scores nothing is missed

    def __init__(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> None:
        self.n_units = len(np.unique(codes))
        row, column = np.nonzero(targets)
        scored = scores[row, column]
        order = np.argsort(scored, kind="stable")
        self.scores = scored[order]
        self.units = codes[row][order]
        self.denominators = _denominators(targets, codes)[row][order]
        self.weights = 1 / self.denominators

    def largest_threshold(self, allowed: Fraction, chosen: np.ndarray | None = None) -> float:
        """sup{t : the weights of the scores below t sum to at most `allowed`}; may be +inf."""
        inside = slice(None) if chosen is None else chosen[self.units]
        scores, weights = self.scores[inside], self.weights[inside]
        sums = np.cumsum(weights)
        # Floats decide, except within rounding of the limit: there fractions do.
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
        missed = chosen[self.units] & (self.scores < threshold)
        return float(self.weights[missed].sum() / chosen.sum())

    def resampled_risks(self, times: np.ndarray, allowed: Fraction) -> np.ndarray:
        limit = float(allowed) * (1 + 1e-9)  # a sum of weights misses a whole number by rounding
        block = max(1, _AT_ONCE // max(1, len(self.scores)))
        missed = [
            (np.cumsum(part[:, self.units] * self.weights, axis=1) <= limit).sum(axis=1)
            for part in np.split(times, range(block, len(times), block))
        ]
        # Of new units, some lie between a threshold and the next score: half a step on average.
        risks = (self._risks_at_scores("left") + self._risks_at_scores("right")) / 2
        return np.r_[risks, self.weights.sum() / self.n_units][np.hstack(missed)]

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        thresholds, first = np.unique(np.r_[self.scores, 1.0], return_index=True)
        risks = np.r_[self._risks_at_scores("left"), self.weights.sum() / self.n_units]
        return thresholds, risks[first]

    def _risks_at_scores(self, side: Literal["left", "right"]) -> np.ndarray:
        """The mean loss where each score is the threshold ("left"), and just above it ("right")."""
        sums = np.r_[0.0, np.cumsum(self.weights)]
        return sums[np.searchsorted(self.scores, self.scores, side=side)] / self.n_units

    def _sum(self, inside: slice | np.ndarray, count: int) -> Fraction:
        values, times = np.unique(self.denominators[inside][:count], return_counts=True)
        return sum(
            (Fraction(int(t), int(v)) for v, t in zip(values, times, strict=True)), Fraction(0)
        )
