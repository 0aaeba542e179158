"""The guarantees, on populations whose risk at every threshold is known."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from chestxray.conformal import (
    GRID,
    betting_p_values,
    crc_threshold,
    false_discovery_rates,
    fixed_sequence,
    hoeffding_bentkus_p_values,
    holm,
    miss_rates,
    rcps_threshold,
)
from chestxray.conformal.betting import PLAIN
from chestxray.conformal.calibrate import calibrate, loss_table
from chestxray.conformal.groups import Groups
from chestxray.conformal.losses import LossTable
from chestxray.conformal.ltt import Hypotheses, certified_place, chosen_start
from chestxray.conformal.options import Config
from chestxray.conformal.risks import MarginalFalseDiscoveryRate, Risk
from chestxray.conformal.rows import Rows

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


def at_most(share: float, limit: float, draws: int = DRAWS) -> bool:
    """Return whether a share of the draws is below a limit or within three standard errors."""
    return share <= limit + 3 * np.sqrt(limit * (1 - limit) / draws)


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


class Promise(NamedTuple):
    """Options, levels, how many patients calibrate, and whether others choose the start."""

    config: Config
    alpha: str
    patients: int = 300
    tuned: bool = False


FST, HOLM = Config(method="ltt", delta=DELTA), Config(method="ltt", fwer="holm", delta=DELTA)
NONEMPTY, MARGINAL = replace(FST, risk=("fdr",), empty="drop"), replace(FST, risk=("mfdr",))
PROMISES = {
    "fnr": Promise(FST, "0.2"),
    "fdr": Promise(replace(FST, risk=("fdr",)), "0.4"),
    "fdr of non-empty sets": Promise(NONEMPTY, "0.5"),
    "fdr of non-empty sets, tuned": Promise(NONEMPTY, "0.5", tuned=True),
    "mfdr": Promise(MARGINAL, "0.5"),
    "mfdr, tuned": Promise(MARGINAL, "0.5", tuned=True),
    "fnr and fdr": Promise(replace(HOLM, risk=("fnr", "fdr")), "0.4 0.6"),
    "fnr and mfdr": Promise(replace(HOLM, risk=("fnr", "mfdr")), "0.4 0.6"),
}
# Hoeffding-Bentkus sees no spread: of the marginal loss, which has little, it needs more patients.
OF_MANY = {
    "mfdr": Promise(MARGINAL, "0.6", 1500),
    "mfdr, tuned": Promise(MARGINAL, "0.6", 1500, tuned=True),
    "fnr and mfdr": Promise(replace(HOLM, risk=("fnr", "mfdr")), "0.4 0.65", 1500),
}
CHOOSING = 60  # patients of another file, who choose the start


@cache
def tables(risk: Risk) -> tuple[LossTable, np.ndarray]:
    """The losses of all families, on the whole grid, and the true risk (T,)."""
    table = loss_table(rows_of(families(), np.arange(len(families().targets))), risk)
    return table, table.steps()[1]


def rows_of(whole: Population, patients: np.ndarray) -> Rows:
    """The images of some patients; one drawn twice is two patients."""
    images = whole.targets.shape[1]
    units = np.repeat(np.arange(len(patients)), images)
    targets, scores = whole.targets[patients], whole.scores[patients]
    return Rows(targets.reshape(-1, CLASSES), scores.reshape(-1, CLASSES), units, units)


def certified_risks(promise: Promise) -> np.ndarray:
    """(draws, risks) true risk where each fresh calibration certifies; NaN where nowhere."""
    config, levels = promise.config, list(map(float, promise.alpha.split()))
    rng = np.random.default_rng(11)
    found = np.full((DRAWS, len(levels)), np.nan)
    for draw in range(DRAWS):
        order, start = rng.integers(len(families().targets), size=promise.patients), None
        chooses = order[: len(order) // 5]
        if promise.tuned:
            chooses = rng.integers(len(families().targets), size=CHOOSING)
        elif config.needs_start:
            order = order[len(chooses) :]
        hypotheses = [
            Hypotheses(risk, alpha, tables(risk)[0], order)
            for risk, alpha in zip(config.target_risks, levels, strict=True)
        ]
        if config.needs_start:
            start = chosen_start(hypotheses[0].table, chooses, hypotheses[0].alpha)
        place = certified_place(hypotheses, config, start)
        if place is not None:
            found[draw] = [tables(risk)[1][place] for risk in config.target_risks]
    return found


@pytest.mark.parametrize("pvalue", ["wsr", "hb"])
@pytest.mark.parametrize("name", PROMISES)
def test_violations_of_every_promise_are_at_most_delta(name: str, pvalue: str) -> None:
    promise = OF_MANY.get(name, PROMISES[name]) if pvalue == "hb" else PROMISES[name]
    config = replace(promise.config, pvalue=pvalue)
    risks = certified_risks(promise._replace(config=config))
    alphas = np.array(list(map(float, promise.alpha.split())))
    assert at_most((risks > alphas).any(axis=1).mean(), DELTA)
    assert np.isfinite(risks).all(axis=1).mean() > 0.9  # nearly all certify something
    assert (np.nanmean(risks, axis=0) > 0.7 * alphas).any()  # and waste little


def test_the_risk_of_a_ratio_is_a_plain_count() -> None:
    """What is promised of mFDR and of FDR given non-empty sets, counted over all images."""
    whole, place = families(), 450
    sets = whole.scores >= GRID[place]
    false = (sets & (whole.targets != 1)).sum(axis=2)
    sizes = sets.sum(axis=2)
    marginal = tables(MARGINAL.target_risk)[1][place]
    assert marginal == pytest.approx(false.sum() / sizes.sum())
    shares = false[sizes > 0] / sizes[sizes > 0]
    assert tables(NONEMPTY.target_risk)[1][place] == pytest.approx(shares.mean())
    assert (sizes == 0).mean() > 0.1


@cache
def groups_by_difficulty() -> np.ndarray:
    """(P,) text: three families of ten are in a group that has most of the hard ones."""
    missed = families().by_patient["fnr"][:, 100]
    noise = np.random.default_rng(5).normal(scale=missed.std() / 2, size=len(missed))
    hard = missed + noise > np.quantile(missed + noise, 0.7)
    return np.where(hard, "hard", "easy").astype(object)


def miss_rate_of(patients: np.ndarray) -> Callable[[float], float]:
    """The true miss rate of some families, as a function of the threshold."""
    targets, scores = families().targets[patients], families().scores[patients]
    positive = targets == 1
    order = np.argsort(scores[positive])
    weights = np.broadcast_to(1 / targets.sum(axis=2, keepdims=True), positive.shape)
    sums = np.r_[0.0, np.cumsum(weights[positive][order])] / targets[..., 0].size
    ascending = scores[positive][order]
    return lambda threshold: float(sums[np.searchsorted(ascending, threshold)])


def test_crc_by_group_keeps_the_mean_risk_of_each_group_at_alpha() -> None:
    """One threshold for all keeps the risk of all at alpha, and breaks it in the hard group."""
    whole, alpha = families(), "0.2"
    groups = groups_by_difficulty()
    true = {name: miss_rate_of(groups == name) for name in ("easy", "hard")}
    rng = np.random.default_rng(13)
    own, common = np.zeros((2, DRAWS, 2))
    for draw in range(DRAWS):
        patients = rng.integers(len(whole.targets), size=120)
        rows = rows_of(whole, patients)
        of = np.repeat(groups[patients], whole.targets.shape[1])
        by_group = replace(rows, groups=Groups(of, ("easy", "hard")))
        parts = calibrate(by_group, alpha, Config(by="difficulty")).parts
        one = calibrate(rows, alpha, Config()).threshold
        assert parts is not None and one is not None
        limits = [-1.0 if part.threshold is None else part.threshold for part in parts.values()]
        own[draw] = [true[name](limit) for name, limit in zip(true, limits, strict=True)]
        common[draw] = [true[name](one) for name in true]
    errors = own.std(axis=0, ddof=1) / np.sqrt(DRAWS)
    assert (own.mean(axis=0) <= float(alpha) + 3 * errors).all()
    assert (own.mean(axis=0) >= float(alpha) - 2 / 30).all()  # some 36 are in the hard group
    assert common[:, 1].mean() > float(alpha) + 0.05
    assert common[:, 0].mean() < float(alpha)


TIMES = 5_000
DRAWN = {
    "bernoulli": lambda rng, mean, shape: rng.binomial(1, mean, size=shape) / 1,
    "thirds": lambda rng, mean, shape: rng.binomial(3, mean, size=shape) / 3,
}
Tests = Callable[[np.ndarray, float, float], np.ndarray]
TESTS: dict[str, Tests] = {
    "wsr": lambda losses, alpha, delta: betting_p_values(losses, alpha, delta, PLAIN, delta),
    "wsr, capped bets": lambda losses, alpha, delta: betting_p_values(
        losses, alpha, delta, MarginalFalseDiscoveryRate().bets(alpha), delta
    ),
    "hb": lambda losses, alpha, delta: hoeffding_bentkus_p_values(
        losses.mean(axis=0), len(losses), alpha
    ),
}


@pytest.mark.parametrize("n", [50, 100, 300])
@pytest.mark.parametrize("alpha", [0.1, 0.3])
@pytest.mark.parametrize("losses", DRAWN)
def test_a_mean_of_exactly_alpha_is_rejected_at_most_as_often_as_promised(
    losses: str, alpha: float, n: int
) -> None:
    rng = np.random.default_rng(n)
    limits, lower = (DRAWN[losses](rng, mean, (n, TIMES)) for mean in (alpha, alpha / 3))
    for name, test in TESTS.items():
        for delta in (0.1, 0.05):
            rejected = (test(limits, alpha, delta) <= delta).mean()
            assert at_most(rejected, delta, TIMES), (name, delta, rejected)
            assert (test(lower, alpha, delta) <= delta).mean() > 0.1, name  # it can reject
