"""The AUC under weights is scikit-learn's, and its resamples are those of a plain bootstrap."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from chestxray.auc import WeightedAuc, mean_of_defined, resampled_aucs, undefined_aucs

RNG = np.random.default_rng(0)
TARGETS = (RNG.uniform(size=(200, 15)) < 0.2).astype(np.uint8)
SCORES = np.round(RNG.uniform(size=(200, 15)) + 0.2 * TARGETS, 2) / 2  # with ties


def test_the_weighted_auc_is_scikit_learns_with_sample_weights() -> None:
    weights = RNG.integers(0, 4, size=200).astype(float)
    for k in range(15):
        area = WeightedAuc(TARGETS[:, k], SCORES[:, k])(weights)
        expected = roc_auc_score(TARGETS[:, k], SCORES[:, k], sample_weight=weights)
        assert area == pytest.approx(expected, abs=1e-12)


def test_resamples_without_a_class_are_nan_and_count_for_the_other_classes() -> None:
    patients = np.repeat(np.arange(40), 5)
    targets = np.column_stack([TARGETS[:, 0], patients == 7])  # the second in one patient alone
    drawn = resampled_aucs(targets, SCORES[:, :2], patients, 50, np.random.default_rng(3))
    times = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=50)
    assert (np.isnan(drawn[:, 1]) == (times[:, 7] == 0)).all() and np.isnan(drawn[:, 1]).any()
    for row, found in zip(times, drawn, strict=True):
        expected = roc_auc_score(targets[:, 0], SCORES[:, 0], sample_weight=row[patients])
        assert found[0] == pytest.approx(expected, abs=1e-12)
    means = mean_of_defined(drawn)
    np.testing.assert_array_equal(means, np.nanmean(drawn, axis=1))


def test_an_undefined_auc_has_its_reason_and_no_mean() -> None:
    targets = np.column_stack([np.zeros(4), np.ones(4), [0, 1, 0, 1]])
    assert undefined_aucs(targets, "abc") == {"a": "no positives", "b": "no negatives"}
    assert np.isnan(mean_of_defined(np.full((1, 3), np.nan))).all()
