"""Losses of prediction sets, averaged per unit.

K classes, scores p in [0, 1]: the prediction set at threshold t is C_t(x) = {k : p_k >= t}, so
t = 0 is every class (the papers' lambda is 1 - t). A unit is what the guarantee is for, a patient
or a image; its loss is the mean over its images that count.
"""

import numpy as np

from chestxray.runtime.text import plural

# Thresholds fixed before any data are seen: quantiles of the calibration scores would void tests.
GRID = 1 / (1 + np.exp(-np.linspace(-12, 12, 1000)))


def unit_codes(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units by name: (G,) sorted names and (N,) the number of each row's unit."""
    names, codes = np.unique(units, return_inverse=True)
    return names, codes


def counting_rows(targets: np.ndarray, no_positive: str) -> np.ndarray:
    """Which images count for the miss rate, 0/0 where a image has no positive class.

    Args:
        targets: (N, K), 0 or 1.
        no_positive: "drop" (such a image does not count), "zero" (its loss is 0), or "error".

    Returns:
        (N,) bool.

    Raises:
        ValueError: "error" was asked for and there is such a image.
    """
    positive: np.ndarray = (targets == 1).any(axis=1)
    if no_positive == "drop":
        return positive
    if no_positive == "error" and not positive.all():
        raise ValueError(
            f"{plural(int((~positive).sum()), 'image')} without positive class, miss rate 0/0; "
            "--no-positive drop leaves them out, zero counts them as 0"
        )
    return np.ones(len(targets), dtype=bool)


def miss_rates(
    targets: np.ndarray, scores: np.ndarray, codes: np.ndarray, grid: np.ndarray = GRID
) -> np.ndarray:
    """The share of its positive classes that a unit's images miss (FNP = 1 - |Y n C| / |Y|).

    Args:
        targets: (N, K), 0 or 1; a image without positive class has loss 0.
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
    """The false share of the sets of a unit's images (FDP = |C minus Y| / |C|).

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
    # A image's loss changes only where its set does: add up the changes, then sum along the grid.
    units, steps = int(codes.max()) + 1, len(grid) + 1
    weights = 1 / np.bincount(codes)[codes]
    changes = (shares[:, :-1] - shares[:, 1:]) * weights[:, None]
    cells = np.bincount(
        (codes[:, None] * steps + leaves).ravel(), changes.ravel(), minlength=units * steps
    ).reshape(units, steps)
    cells[:, 0] += np.bincount(codes, weights=shares[:, -1] * weights, minlength=units)
    return _summed(cells)


def _summed(cells: np.ndarray) -> np.ndarray:
    """(G, T) losses from (G, T + 1) changes along the grid, in place: the table is large."""
    cells = cells.astype(float, copy=False)  # of no positives at all, bincount makes integers
    losses = np.cumsum(cells, axis=1, out=cells)[:, :-1]
    return np.clip(losses, 0.0, 1.0, out=losses)  # sums of shares miss 0 and 1 by rounding


def _denominators(targets: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N,) |Y_i| m_g(i): what a missed positive of image i is divided by in its unit's loss."""
    return targets.sum(axis=1, dtype=np.int64) * np.bincount(codes)[codes]
