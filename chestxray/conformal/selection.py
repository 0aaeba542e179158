"""Conformal selection: images of a new batch called positive, with few of them false.

Jin and Candes 2022, arXiv:2210.01408: the p-value of an image for a class is its rank among the
calibration images without the class, and the procedure of Benjamini and Hochberg at q selects. If
the calibration images and those of the batch are exchangeable, the expected share of the selected
that do not have the class is at most q, for each class by itself.

Ranks and levels are compared as whole numbers: q is taken exactly as typed.
"""

import math
from fractions import Fraction

import numpy as np

from chestxray.conformal.betting import order_by_digest


def one_image_each(patients: np.ndarray, image_names: np.ndarray) -> np.ndarray:
    """Draw one image of each patient: the one whose name has the smallest SHA-256.

    The draw knows neither labels nor the order of the rows, and nobody can choose it.

    Args:
        patients: (N,) keys.
        image_names: (N,), each once.

    Returns:
        (N,) bool, the images drawn.
    """
    order = order_by_digest(image_names, "chestxray draws")
    drawn = np.zeros(len(image_names), dtype=bool)
    drawn[order[np.unique(patients[order], return_index=True)[1]]] = True
    return drawn


def ranks_among_negatives(
    targets: np.ndarray, calibration_scores: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Rank images of a batch, for each class, among the calibration images without the class.

    Args:
        targets: (n, K), 0 or 1, of the calibration images.
        calibration_scores: (n, K), theirs.
        scores: (m, K), of the batch.

    Returns:
        (m, K) whole numbers from 1 to n + 1: one more than the calibration images that do not have
        the class and score at least as high. Divided by n + 1 they are p-values.
    """
    return np.stack(
        [
            1 + _at_least(np.sort(known[labels == 0]), found)
            for labels, known, found in zip(targets.T, calibration_scores.T, scores.T, strict=True)
        ],
        axis=1,
    )


def _at_least(sorted_scores: np.ndarray, found: np.ndarray) -> np.ndarray:
    """How many of the sorted scores are at least as high as each of `found`."""
    return len(sorted_scores) - np.searchsorted(sorted_scores, found, side="left")


def benjamini_hochberg(ranks: np.ndarray, n: int, q: str) -> np.ndarray:
    """Select, in each class, the r images of the smallest p-values, for the largest r that is safe.

    r is safe where the r-th smallest p-value is at most q r / m.

    Args:
        ranks: (m, K) of ranks_among_negatives: p-values times n + 1.
        n: number of calibration images.
        q: in (0, 1), as text, so that it is taken exactly.

    Returns:
        (m, K) bool, the selected.
    """
    m, level = len(ranks), Fraction(q)
    places = np.arange(1, m + 1, dtype=object)  # Python's whole numbers: q may have many digits
    highest = (level.numerator * (n + 1) * places // (level.denominator * m)).astype(np.int64)
    ascending = np.sort(ranks, axis=0)
    safe = ascending <= highest[:, None]
    return ranks <= np.where(safe, ascending, 0).max(axis=0)


def fewest_selected(n: int, m: int, q: str) -> int:
    """The number below which no class has a selection: r images need 1 / (n + 1) <= q r / m.

    Above m where nothing can be selected at all, see calibration_needed.
    """
    return math.ceil(m / ((n + 1) * Fraction(q)))


def calibration_needed(q: str) -> int:
    """The smallest n with which anything can be selected: 1 / (n + 1) <= q."""
    return math.ceil(1 / Fraction(q)) - 1
