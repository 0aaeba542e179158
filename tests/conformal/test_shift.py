"""A shift of prevalence is told from chance, also for patients with few positives."""

import re

import numpy as np
import pytest

from chestxray.conformal.shift import describe_shift, patient_counts


def counts(patients: int, prevalence: float, alike: float, rng: np.random.Generator) -> np.ndarray:
    """(G, 2) images and positives; the smaller `alike`, the more a patient's images agree."""
    images = np.minimum(rng.geometric(0.25, patients), 50)
    own = rng.beta(prevalence * alike, (1 - prevalence) * alike, patients)
    return np.column_stack([images, rng.binomial(images, own)])


@pytest.mark.parametrize(
    ("before", "now", "prevalence", "alike"),
    [(700, 30, 0.03, 20.0), (50, 200, 0.04, 1.0), (60, 60, 0.04, 2.0), (400, 400, 0.1, 1.0)],
)
def test_alike_patients_raise_an_alarm_in_one_of_a_hundred(
    before: int, now: int, prevalence: float, alike: float
) -> None:
    rng = np.random.default_rng(0)
    alarms = sum(
        bool(
            describe_shift(
                ("A",),
                counts(before, prevalence, alike, rng),
                counts(now, prevalence, alike, rng),
                seed,
            )
        )
        for seed in range(200)
    )
    assert alarms <= 200 * 0.01 + 3 * np.sqrt(200 * 0.01 * 0.99)


def test_a_shift_is_described_with_prevalences_and_interval() -> None:
    rng = np.random.default_rng(0)
    before, now = (counts(n, p, 5.0, rng) for n, p in ((700, 0.10), (150, 0.25)))
    alike = counts(700, 0.3, 5.0, rng), counts(150, 0.3, 5.0, rng)
    both = [np.column_stack([a, b[:, 1]]) for a, b in zip((before, now), alike, strict=True)]
    for pair, other in zip(both, alike, strict=True):
        pair[:, 2] = np.minimum(other[:, 1], pair[:, 0])
    (said,) = describe_shift(("Effusion", "Mass"), both[0], both[1])
    shares = [c[:, 1].sum() / c[:, 0].sum() for c in (before, now)]
    assert said.startswith(
        f"Effusion: prevalence {shares[0]:.1%} where it was calibrated, {shares[1]:.1%} here"
    )
    low, high = (float(x) / 100 for x in re.findall(r"([+-][0-9.]+)%", said))
    assert 0 < low < shares[1] - shares[0] < high


def test_a_small_difference_is_not_a_shift_however_certain() -> None:
    before = np.tile([[100, 10]], (800, 1))
    assert describe_shift(("A",), before, before + [[0, 1]]) == []
    assert len(describe_shift(("A",), before, before + [[0, 3]])) == 1


def test_images_and_positives_are_counted_by_patient() -> None:
    names, found = patient_counts(
        np.array([[1, 0], [1, 1], [0, 1]], dtype=np.uint8), np.array(["b", "a", "b"], dtype=object)
    )
    assert names.tolist() == ["a", "b"] and found.tolist() == [[1, 1, 1], [2, 1, 1]]
