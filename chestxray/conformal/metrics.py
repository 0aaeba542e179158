"""What prediction sets really do on rows with labels, in numbers."""

from typing import Any

import numpy as np

from chestxray.conformal.calibrate import Config, Level, Rows
from chestxray.conformal.risks import counting_rows

LEVEL = 0.95  # of the intervals by class
_RESAMPLES = 1000


def prediction_sets(scores: np.ndarray, level: Level) -> np.ndarray:
    """(N, K) bool: which classes are in the set of each image at a certified level."""
    if level.thresholds is not None:
        limits = np.array([-np.inf if t is None else t for t in level.thresholds])
        return scores >= limits
    return scores >= level.threshold


def realised(rows: Rows, sets: np.ndarray, choices: Config) -> dict[str, dict[str, float | None]]:
    """Risks and sizes on labelled rows, weighted by image and by patient.

    Args:
        rows: N images with labels.
        sets: (N, K) bool.
        choices: the conventions for 0/0.

    Returns:
        For "image" and "patient": fnr, fdr, fdr_nonempty, empty, full, size, precision, recall;
        None where nothing counts.
    """
    truth = rows.targets.astype(bool)
    hits = (sets & truth).sum(axis=1)
    size, positives = sets.sum(axis=1), truth.sum(axis=1)
    miss = 1 - hits / np.maximum(positives, 1)
    miss[positives == 0] = 0.0
    false = np.where(size > 0, 1 - hits / np.maximum(size, 1), choices.empty)
    # "error" was refused for the calibration rows; here such rows are dropped.
    how = "drop" if choices.no_positive == "error" else choices.no_positive
    counts = counting_rows(rows.targets, how)
    _, patient = np.unique(rows.patients, return_inverse=True)
    found = {}
    for name in ("image", "patient"):

        def mean(values: np.ndarray, mask: np.ndarray, name: str = name) -> float | None:
            if not mask.any():
                return None
            weights = np.ones(int(mask.sum()))
            if name == "patient":
                weights /= np.bincount(patient[mask], minlength=patient.max() + 1)[patient[mask]]
            return float(np.average(values[mask], weights=weights))

        everyone = np.ones(len(sets), dtype=bool)
        selected, wanted, right = (mean(v, everyone) for v in (size, positives, hits))
        found[name] = {
            "fnr": mean(miss, counts),
            "fdr": mean(false, everyone),
            "fdr_nonempty": mean(false, size > 0),
            "empty": mean(size == 0, everyone),
            "full": mean(size == sets.shape[1], everyone),
            "size": selected,
            "precision": right / selected if selected and right is not None else None,
            "recall": right / wanted if wanted and right is not None else None,
        }
    return found


def per_class(
    rows: Rows, sets: np.ndarray, classes: tuple[str, ...], seed: int
) -> dict[str, dict[str, Any]]:
    """Recall and false discovery rate of each class, with 95 % patient-bootstrap intervals.

    Args:
        rows: N images with labels.
        sets: (N, K) bool.
        classes: K names.
        seed: of the bootstrap.

    Returns:
        By class: positives, selected, and for "image" and "patient" recall and fdr with their
        intervals [low, high]; None where 0/0. By patient, a share is the mean over the patients
        that have the class (recall) or a selection of it (fdr).
    """
    truth = rows.targets.astype(bool)
    names, patient = np.unique(rows.patients, return_inverse=True)
    rng = np.random.default_rng([seed, 2])
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    table: dict[str, dict[str, Any]] = {
        name: {"positives": int(truth[:, k].sum()), "selected": int(sets[:, k].sum())}
        for k, name in enumerate(classes)
    }
    wanted, selected, right = (_by_patient(v, patient) for v in (truth, sets, truth & sets))
    for weighting in ("image", "patient"):
        recall = _ratio(right, wanted, times, weighting)
        precision = _ratio(right, selected, times, weighting)
        for k, name in enumerate(classes):
            table[name][weighting] = {
                "recall": _with_interval(recall[:, k]),
                "fdr": _with_interval(1 - precision[:, k]),
            }
    return table


def _ratio(part: np.ndarray, whole: np.ndarray, times: np.ndarray, weighting: str) -> np.ndarray:
    """(1 + B, K) shares of all images, then of each resample; NaN where 0/0.

    Args:
        part, whole: (G, K) counts of each patient.
        times: (B, G) how often each patient is in a resample.
        weighting: "image" divides the sums, "patient" takes the mean of the patients' shares.
    """
    if weighting == "patient":
        there = whole > 0
        part, whole = np.where(there, part / np.maximum(whole, 1), 0.0), there.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.vstack([part.sum(axis=0), times @ part]) / np.vstack(
            [whole.sum(axis=0), times @ whole]
        )


def _by_patient(values: np.ndarray, patient: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(patient, weights=column) for column in values.T], axis=1)


def _with_interval(values: np.ndarray) -> dict[str, Any]:
    """The first value with the interval of the others; None where undefined."""
    value, drawn = values[0], values[1:]
    if np.isnan(value):
        return {"value": None, "interval": None}
    tails = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(value), "interval": [float(tail) for tail in tails]}


def summary(risks: np.ndarray, alpha: str) -> dict[str, Any]:
    """Figures of the realised risk over re-splits, NaN where a cut has none."""
    known = risks[~np.isnan(risks)]
    if not len(known):
        return {"certified": 0, "mean": None, "median": None, "interval": None, "above_alpha": None}
    low, median, high = np.quantile(known, [0.05, 0.5, 0.95])
    return {
        "certified": len(known),
        "mean": float(known.mean()),
        "median": float(median),
        "interval": [float(low), float(high)],
        "above_alpha": float((known > float(alpha)).mean()),
    }
