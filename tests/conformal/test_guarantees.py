"""The guarantees, on populations whose risk at every threshold is known."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from chestxray.conformal import (
    GRID,
    crc_threshold,
    false_discovery_rates,
    fixed_sequence,
    hoeffding_bentkus_p_values,
    holm,
    miss_rates,
    rcps_threshold,
)

DRAWS, DELTA, CLASSES = 500, 0.1, 6


class Population(NamedTuple):
    """(P, R, K) labels and scores of P patients with R images each, losses, and the true risks.

    The losses are (P, T) by patient and (P, R, T) by image, for "fnr" and "fdr"; the risk of a
    new patient is that of a new image, since all patients have R images.
    """

    targets: np.ndarray
    scores: np.ndarray
    by_patient: dict[str, np.ndarray]
    by_image: dict[str, np.ndarray]
    risks: dict[str, np.ndarray]


PLACES = np.arange(200, 800, 3)  # of the grid: all that is tested here lies there
THRESHOLDS = GRID[PLACES]


@cache
def population(patients: int, images: int, shared: float) -> Population:
    """Patients whose images share a part of what the network errs by (0: independent images).

    Every image has a positive class, so that all count.
    """
    rng = np.random.default_rng(patients + images)
    shape = (patients, images, CLASSES)

    def drawn(width: int) -> np.ndarray:
        """Standard normal, with correlation `shared` between the images of a patient."""
        own = rng.normal(size=(patients, images, width))
        return np.sqrt(shared) * rng.normal(size=(patients, 1, width)) + np.sqrt(1 - shared) * own

    truth = 1.5 * drawn(CLASSES) - 1.5
    error = drawn(CLASSES) + 1.5 * drawn(1)  # of a class in the image, and of the image
    targets = rng.uniform(size=shape) < 1 / (1 + np.exp(-truth))
    np.put_along_axis(targets, truth.argmax(axis=2)[..., None], True, axis=2)
    scores = 1 / (1 + np.exp(-(truth + error)))
    flat = targets.reshape(-1, CLASSES).astype(np.uint8), scores.reshape(-1, CLASSES)
    every = np.arange(patients * images)
    tables = {
        "fnr": miss_rates(*flat, every, THRESHOLDS),
        "fdr": false_discovery_rates(*flat, every, 0.0, THRESHOLDS),
    }
    by_image = {k: v.reshape(patients, images, -1) for k, v in tables.items()}
    return Population(
        flat[0].reshape(shape),
        scores,
        {k: v.mean(axis=1) for k, v in by_image.items()},
        by_image,
        {k: v.mean(axis=0) for k, v in tables.items()},
    )


def alone() -> Population:
    """Images of patients with one image each."""
    return population(20_000, 1, 0.0)


def families() -> Population:
    """Patients with twenty images that resemble each other."""
    return population(2_500, 20, 0.9)


def test_the_known_risks_are_those_of_a_plain_count() -> None:
    whole = families()
    for place in (60, 100, 140):
        sets = whole.scores >= THRESHOLDS[place]
        hits = (sets & (whole.targets == 1)).sum(axis=2)
        missed = 1 - hits / whole.targets.sum(axis=2)
        false = np.where(sets.any(axis=2), 1 - hits / np.maximum(sets.sum(axis=2), 1), 0.0)
        assert whole.risks["fnr"][place] == pytest.approx(missed.mean())
        assert whole.risks["fdr"][place] == pytest.approx(false.mean())


def rcps(losses: np.ndarray, rng: np.random.Generator) -> float:
    order = rng.permutation(len(losses))
    return rcps_threshold(losses, 0.15, DELTA, order, THRESHOLDS)


def ltt(losses: np.ndarray, rng: np.random.Generator) -> float:
    p_values = hoeffding_bentkus_p_values(losses.mean(axis=0), len(losses), 0.4)
    strict_first = range(len(THRESHOLDS) - 1, -1, -1)
    certified = fixed_sequence(lambda block: p_values[block] <= DELTA, strict_first)
    return float(THRESHOLDS[certified[-1]]) if certified else np.inf


def ltt_holm(losses: np.ndarray, rng: np.random.Generator) -> float:
    certified = holm(hoeffding_bentkus_p_values(losses.mean(axis=0), len(losses), 0.4), DELTA)
    return float(THRESHOLDS[np.flatnonzero(certified)[0]]) if certified.any() else np.inf


METHODS = {"rcps": (rcps, "fnr", 0.15), "fst": (ltt, "fdr", 0.4), "holm": (ltt_holm, "fdr", 0.4)}
Method = Callable[[np.ndarray, np.random.Generator], float]


def true_risks(whole: Population, method: str, patients: int, unit: str) -> np.ndarray:
    """The true risk of what each of 500 fresh calibration sets certifies; 0 where nothing."""
    find, risk, _ = METHODS[method]
    rng = np.random.default_rng(7)
    found = np.zeros(DRAWS)
    for draw in range(DRAWS):
        rows = rng.integers(len(whole.targets), size=patients)  # independent draws
        if unit == "patient":
            losses = whole.by_patient[risk][rows]
        else:
            losses = whole.by_image[risk][rows].reshape(-1, len(THRESHOLDS))
        threshold = find(losses, rng)
        if np.isfinite(threshold):
            found[draw] = whole.risks[risk][np.searchsorted(THRESHOLDS, threshold)]
    return found


def at_most(share: float, limit: float) -> bool:
    """Return whether a share of the draws is below a limit or within three standard errors."""
    return share <= limit + 3 * np.sqrt(limit * (1 - limit) / DRAWS)


def crc_risks(whole: Population, patients: int, alpha: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    images = whole.targets.shape[1]
    codes = np.repeat(np.arange(patients), images)
    # The true miss rate at any threshold: each positive weighs 1 / (the positives of its image).
    positive = whole.targets == 1
    order = np.argsort(whole.scores[positive])
    weights = np.broadcast_to(1 / whole.targets.sum(axis=2, keepdims=True), positive.shape)
    scores, missed = whole.scores[positive][order], np.cumsum(weights[positive][order])
    found = np.zeros(DRAWS)
    for draw in range(DRAWS):
        rows = rng.integers(len(whole.targets), size=patients)
        targets = whole.targets[rows].reshape(-1, CLASSES)
        threshold = crc_threshold(targets, whole.scores[rows].reshape(-1, CLASSES), codes, alpha)
        found[draw] = np.r_[0.0, missed][np.searchsorted(scores, threshold)]
    return found / (len(whole.targets) * images)


@pytest.mark.parametrize("whole", [alone, families])
@pytest.mark.parametrize("alpha", ["0.05", "0.2"])
def test_crc_keeps_the_mean_risk_at_alpha_and_wastes_little(
    whole: Callable[[], Population], alpha: str
) -> None:
    patients = 150
    risks = crc_risks(whole(), patients, alpha)
    error = risks.std(ddof=1) / np.sqrt(DRAWS)
    assert risks.mean() <= float(alpha) + 3 * error
    assert risks.mean() >= float(alpha) - 2 / (patients + 1) - 3 * error


def test_crc_would_not_hold_without_its_correction() -> None:
    """The data alone do not keep the mean risk below alpha: n + 1 is needed."""
    whole = alone()
    rng = np.random.default_rng(0)
    n, alpha = 9, 0.15  # (n + 1) alpha - 1 = 0.5 is allowed; n alpha = 1.35 without the correction
    found = np.zeros((8 * DRAWS, 2))
    for draw in range(len(found)):
        losses = whole.by_patient["fnr"][rng.integers(len(whole.targets), size=n)].sum(axis=0)
        for which, allowed in enumerate(((n + 1) * alpha - 1, n * alpha)):
            last = np.searchsorted(losses, allowed, side="right") - 1
            found[draw, which] = whole.risks["fnr"][last] if last >= 0 else 0.0
    corrected, plain = found.mean(axis=0)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert corrected <= alpha + 3 * error[0]
    assert plain > alpha + 3 * error[1]


@pytest.mark.parametrize("method", METHODS)
def test_violations_are_at_most_delta_for_independent_images(method: str) -> None:
    alpha = METHODS[method][2]
    risks = true_risks(alone(), method, 400, "image")
    assert at_most((risks > alpha).mean(), DELTA)
    assert (risks > 0).mean() > 0.9  # not an empty promise: nearly all certify something
    assert risks.mean() > alpha / 2


@pytest.mark.parametrize("method", METHODS)
def test_violations_are_at_most_delta_for_dependent_images(
    method: str,
) -> None:
    alpha = METHODS[method][2]
    risks = true_risks(families(), method, 300, "patient")
    assert at_most((risks > alpha).mean(), DELTA)
    assert (risks > 0).mean() > 0.9


@pytest.mark.parametrize("method", ["rcps", "fst"])
def test_the_image_as_unit_breaks_the_promise_if_dependent(method: str) -> None:
    alpha = METHODS[method][2]
    risks = true_risks(families(), method, 100, "image")
    assert (risks > alpha).mean() > DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)
