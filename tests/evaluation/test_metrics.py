"""Predictions count every image once; the figures are scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from chestxray.data.dataset import ChestDataset
from chestxray.evaluation import metrics, predict
from chestxray.labels import CLASSES, FINDINGS

RNG = np.random.default_rng(0)
TARGETS = (RNG.uniform(size=(200, 15)) < 0.2).astype(np.uint8)
SCORES = (
    np.round(RNG.uniform(size=(200, 15)) + 0.2 * TARGETS, 2).astype(np.float32) / 2
)  # with ties
PATIENTS = np.repeat(np.arange(80), RNG.multinomial(200, np.full(80, 1 / 80))).astype(str)


class FirstPixels(nn.Module):
    """A network whose logits show which images it saw."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].flatten(1)[:, :15]


def numbered(n: int) -> ChestDataset:
    pixels = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    names = np.array([f"{i}.png" for i in range(n)], dtype=object)
    return ChestDataset(
        names, pixels, np.arange(n), np.zeros((n, 15), np.uint8), torch.device("cpu")
    )


@pytest.mark.parametrize("n", [0, 1, 2, 12, 13, 16])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 6, 100])
def test_every_image_is_scored_once_and_in_order(n: int, batch_size: int) -> None:
    logits, scores = predict.predict(FirstPixels(), numbered(n), batch_size, "test")
    assert logits.shape == scores.shape == (n, 15)
    assert (np.diff(logits[:, 0]) > 0).all()
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert scores.dtype == np.float32


def test_the_check_between_batches_can_end_a_prediction() -> None:
    def refuse() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        predict.predict(FirstPixels(), numbered(4), 2, "test", check=refuse)


def test_logits_that_are_not_finite_are_an_error_that_names_images() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = FirstPixels()(images)
            logits[images[:, 0, 0, 0] == images[:, 0].max(), 3] = float("inf")
            return logits

    with pytest.raises(FloatingPointError, match="1 image are not finite: 4.png"):
        predict.predict(Broken(), numbered(5), 5, "test")


def test_auc_and_average_precision_are_scikit_learns() -> None:
    auc = metrics.roc_auc_per_class(TARGETS, SCORES)
    ap = metrics.average_precision_per_class(TARGETS, SCORES)
    for k, name in enumerate(CLASSES):
        assert auc[name] == roc_auc_score(TARGETS[:, k], SCORES[:, k])
        assert ap[name] == average_precision_score(TARGETS[:, k], SCORES[:, k])


def test_a_class_with_one_value_is_undefined_and_left_out_of_the_mean() -> None:
    targets = TARGETS.copy()
    targets[:, CLASSES.index("Hernia")] = 0
    targets[:, CLASSES.index("Mass")] = 1
    found = metrics.metrics(targets, SCORES, PATIENTS, resamples=0, seed=0)
    assert found["undefined"] == {"Hernia": "no positives", "Mass": "no negatives"}
    assert found["classes"]["Hernia"] == {"auc": None, "ap": None, "positives": 0, "negatives": 200}
    rest = [found["classes"][name]["auc"] for name in FINDINGS if name not in ("Hernia", "Mass")]
    assert found["mean_auc"] == np.mean(rest)
    assert found["mean_of"] == 12
    table = metrics.table(found)
    assert "mean of 12 of 14 findings" in table
    assert [line for line in table.splitlines() if line.startswith("Hernia")][0].split()[1:4] == [
        "0",
        "n/a",
        "n/a",
    ]


def test_no_finding_is_shown_and_not_in_the_mean() -> None:
    better = SCORES.copy()
    better[:, CLASSES.index("No Finding")] = TARGETS[:, CLASSES.index("No Finding")]
    plain = metrics.metrics(TARGETS, SCORES, PATIENTS, 0, 0)
    perfect = metrics.metrics(TARGETS, better, PATIENTS, 0, 0)
    assert perfect["classes"]["No Finding"]["auc"] == 1.0
    assert perfect["mean_auc"] == plain["mean_auc"]
    assert "not in the mean" in metrics.table(perfect)


def test_nothing_defined_is_null_everywhere_and_a_table_all_the_same() -> None:
    found = metrics.metrics(np.zeros((3, 15), np.uint8), SCORES[:3], PATIENTS[:3], 10, 0)
    assert found["mean_auc"] is None and found["mean_ap"] is None
    assert found["intervals"]["classes"] == {}
    assert "mean of 0 of 14 findings" in metrics.table(found)


def test_constant_scores_and_few_positives_are_flagged() -> None:
    scores, targets = SCORES.copy(), TARGETS.copy()
    scores[:, 0] = 0.25
    targets[:, 1] = 0
    targets[:2, 1] = 1
    lines = metrics.table(metrics.metrics(targets, scores, PATIENTS, 0, 0)).splitlines()
    assert "all scores are equal" in lines[1] and "0.500" in lines[1]
    assert lines[2].endswith("few")


def test_the_weighted_auc_is_scikit_learns_with_sample_weights() -> None:
    weights = RNG.integers(0, 4, size=200).astype(float)
    for k in range(15):
        area = metrics._WeightedAuc(TARGETS[:, k], SCORES[:, k])(weights)
        expected = roc_auc_score(TARGETS[:, k], SCORES[:, k], sample_weight=weights)
        assert area == pytest.approx(expected, abs=1e-12)


def test_intervals_are_those_of_a_plain_bootstrap_over_patients() -> None:
    found = metrics.auc_intervals(TARGETS, SCORES, PATIENTS, resamples=50, seed=7)
    keys, rng, drawn = np.unique(PATIENTS), np.random.default_rng(7), []
    for _ in range(50):
        chosen = keys[rng.integers(len(keys), size=len(keys))]
        rows = np.concatenate([np.flatnonzero(PATIENTS == key) for key in chosen])
        drawn.append([roc_auc_score(TARGETS[rows, k], SCORES[rows, k]) for k in range(15)])
    expected = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    for k, name in enumerate(CLASSES):
        np.testing.assert_allclose(found[name], expected[:, k], rtol=1e-12)
    of_findings = np.array(drawn)[:, [CLASSES.index(name) for name in FINDINGS]].mean(axis=1)
    np.testing.assert_allclose(found["mean"], np.quantile(of_findings, [0.025, 0.975]), rtol=1e-12)


def test_patients_make_wider_intervals_than_images_where_their_images_are_alike() -> None:
    targets, scores = np.repeat(TARGETS[:40], 5, axis=0), np.repeat(SCORES[:40], 5, axis=0)
    by_patient = metrics.auc_intervals(targets, scores, np.repeat(np.arange(40), 5), 200, 0)["mean"]
    by_image = metrics.auc_intervals(targets, scores, np.arange(200), 200, 0)["mean"]
    assert np.ptp(by_patient) > 1.5 * np.ptp(by_image)


def test_the_same_seed_gives_the_same_intervals() -> None:
    first, same, other = (
        metrics.auc_intervals(TARGETS, SCORES, PATIENTS, 20, seed) for seed in (0, 0, 1)
    )
    assert first == same != other
