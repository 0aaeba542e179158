"""ROC AUC whose images can be weighted anew at little cost, for a bootstrap of the patients."""

from collections.abc import Sequence

import numpy as np

from chestxray.bootstrap import patient_resamples


class WeightedAuc:
    """ROC AUC of one class under changing weights of the images; the sorting is done once.

    Args:
        targets: (N,), 0 or 1.
        scores: (N,).
    """

    def __init__(self, targets: np.ndarray, scores: np.ndarray) -> None:
        order = np.argsort(scores, kind="stable")
        positive = targets[order].astype(bool)
        self._positives, self._negatives = order[positive], order[~positive]
        # How many negatives lie below each positive, without and with those of the same score.
        negatives, positives = scores[self._negatives], scores[self._positives]
        self._below = np.searchsorted(negatives, positives, side="left")
        self._up_to = np.searchsorted(negatives, positives, side="right")

    def __call__(self, weights: np.ndarray) -> float:
        """The AUC under (N,) weights, exact for whole ones; NaN without positives or negatives."""
        positive = weights[self._positives]
        negative = np.r_[0.0, np.cumsum(weights[self._negatives])]
        pairs = positive.sum() * negative[-1]
        won = (positive * (negative[self._below] + negative[self._up_to])).sum() / 2  # ties: half
        return float(won / pairs) if pairs else float("nan")


def undefined_aucs(targets: np.ndarray, classes: Sequence[str]) -> dict[str, str]:
    """Name the classes whose AUC is undefined, with the reason.

    Args:
        targets: (N, C), 0 or 1.
        classes: C names.
    """
    reasons = {}
    for name, count in zip(classes, targets.sum(axis=0), strict=True):
        if count == 0:
            reasons[name] = "no positives"
        elif count == len(targets):
            reasons[name] = "no negatives"
    return reasons


def resampled_aucs(
    targets: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    resamples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The AUC of each class in resamples of the patients, all images of one coming along.

    Args:
        targets: (N, C), 0 or 1.
        scores: (N, C).
        patients: (N,) keys.
        resamples: at least 1.
        rng: of the draws, which depend on nothing but the number of patients.

    Returns:
        (resamples, C); NaN where a resample leaves a class undefined.
    """
    keys, codes = np.unique(patients, return_inverse=True)
    areas = [WeightedAuc(*columns) for columns in zip(targets.T, scores.T, strict=True)]
    times = (row for block in patient_resamples(len(keys), resamples, rng) for row in block)
    drawn = [[area(row[codes].astype(float)) for area in areas] for row in times]
    return np.array(drawn).reshape(resamples, len(areas))


def mean_of_defined(drawn: np.ndarray) -> np.ndarray:
    """(B,) mean over the classes that each row of (B, C) defines; NaN where it defines none."""
    known = ~np.isnan(drawn)
    counts = known.sum(axis=1)
    sums = np.where(known, drawn, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
