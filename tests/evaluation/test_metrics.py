"""AUC, average precision and their intervals are scikit-learn's and a plain bootstrap's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from spellings import spelling_of

from chestxray.evaluation import metrics
from chestxray.labels import CLASSES, FINDINGS
from chestxray.scores import Scores

RNG = np.random.default_rng(0)
TARGETS = (RNG.uniform(size=(200, 15)) < 0.2).astype(np.uint8)
SCORES = (
    np.round(RNG.uniform(size=(200, 15)) + 0.2 * TARGETS, 2).astype(np.float32) / 2
)  # with ties
PATIENTS = np.repeat(np.arange(80), RNG.multinomial(200, np.full(80, 1 / 80))).astype(str)


def table_of(targets: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> Scores:
    names = np.array([f"{n}.png" for n in range(len(targets))], dtype=object)
    return Scores(names, patients, None, CLASSES, targets, None, scores)


def metrics_of(
    targets: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int = 0
) -> metrics.Metrics:
    return metrics.compute_metrics(table_of(targets, scores, patients), resamples, seed=0)


def test_auc_and_average_precision_are_scikit_learns() -> None:
    auc = metrics.roc_auc_per_class(TARGETS, SCORES)
    ap = metrics.average_precision_per_class(TARGETS, SCORES)
    for k, name in enumerate(CLASSES):
        assert auc[name] == roc_auc_score(TARGETS[:, k], SCORES[:, k])
        assert ap[name] == average_precision_score(TARGETS[:, k], SCORES[:, k])


def test_a_class_with_one_value_is_left_out_of_the_mean() -> None:
    targets = TARGETS.copy()
    targets[:, CLASSES.index("Hernia")] = 0
    targets[:, CLASSES.index("Mass")] = 1
    found = metrics_of(targets, SCORES, PATIENTS)
    assert found.undefined == {"Hernia": "no positives", "Mass": "no negatives"}
    assert found.classes["Hernia"] == metrics.ClassMetrics(None, None, 0, 200)
    rest = [found.classes[name].auc for name in FINDINGS if name not in ("Hernia", "Mass")]
    assert found.mean_auc == np.mean(rest)
    assert found.mean_of == 12
    table = metrics.metrics_table(found)
    assert "mean of 12 of 14 findings" in table
    assert [line for line in table.splitlines() if line.startswith("Hernia")][0].split()[1:4] == [
        "0",
        "n/a",
        "n/a",
    ]


def test_no_finding_is_shown_and_not_in_the_mean() -> None:
    better = SCORES.copy()
    better[:, CLASSES.index("No Finding")] = TARGETS[:, CLASSES.index("No Finding")]
    plain = metrics_of(TARGETS, SCORES, PATIENTS)
    perfect = metrics_of(TARGETS, better, PATIENTS)
    assert perfect.classes["No Finding"].auc == 1.0
    assert perfect.mean_auc == plain.mean_auc
    assert "not in the mean" in metrics.metrics_table(perfect)


def test_nothing_defined_is_null_and_still_a_table() -> None:
    found = metrics_of(np.zeros((3, 15), np.uint8), SCORES[:3], PATIENTS[:3], resamples=10)
    assert found.mean_auc is None and found.mean_ap is None
    assert found.intervals is not None and found.intervals.classes == {}
    assert "mean of 0 of 14 findings" in metrics.metrics_table(found)


def test_constant_scores_and_few_positives_are_flagged() -> None:
    scores, targets = SCORES.copy(), TARGETS.copy()
    scores[:, 0] = 0.25
    targets[:, 1] = 0
    targets[:2, 1] = 1
    lines = metrics.metrics_table(metrics_of(targets, scores, PATIENTS)).splitlines()
    assert "all scores are equal" in lines[1] and "0.500" in lines[1]
    assert lines[2].endswith("few")


def test_intervals_are_those_of_a_plain_patient_bootstrap() -> None:
    found = metrics.auc_intervals(TARGETS, SCORES, PATIENTS, resamples=50, seed=7)
    keys, rng, drawn = np.unique(PATIENTS), np.random.default_rng(7), []
    for _ in range(50):
        chosen = np.repeat(keys, rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys))))
        rows = np.concatenate([np.flatnonzero(PATIENTS == key) for key in chosen])
        drawn.append([roc_auc_score(TARGETS[rows, k], SCORES[rows, k]) for k in range(15)])
    expected = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    for k, name in enumerate(CLASSES):
        np.testing.assert_allclose(found[name], expected[:, k], rtol=1e-12)
    of_findings = np.array(drawn)[:, [CLASSES.index(name) for name in FINDINGS]].mean(axis=1)
    np.testing.assert_allclose(found["mean"], np.quantile(of_findings, [0.025, 0.975]), rtol=1e-12)


def test_alike_images_of_a_patient_make_wider_intervals() -> None:
    targets, scores = np.repeat(TARGETS[:40], 5, axis=0), np.repeat(SCORES[:40], 5, axis=0)
    by_patient = metrics.auc_intervals(targets, scores, np.repeat(np.arange(40), 5), 200, 0)["mean"]
    by_image = metrics.auc_intervals(targets, scores, np.arange(200), 200, 0)["mean"]
    assert np.ptp(by_patient) > 1.5 * np.ptp(by_image)


def test_the_same_seed_gives_the_same_intervals() -> None:
    first, same, other = (
        metrics.auc_intervals(TARGETS, SCORES, PATIENTS, 20, seed) for seed in (0, 0, 1)
    )
    assert first == same != other


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_the_spelling_of_the_patients_does_not_change_the_metrics(data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 2, (24, 15)), rng.uniform(size=(24, 15))
    numbers = np.repeat(np.arange(8, 16), 3)
    clean = np.array([f"{number:08d}" for number in numbers], dtype=object)
    spelled = np.array([data.draw(spelling_of(int(n))) for n in numbers], dtype=object)
    assert metrics_of(targets, scores, spelled, 9) == metrics_of(targets, scores, clean, 9)
