"""The thresholds against searches over everything, and against MAPIE."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chestxray.conformal import (
    GRID,
    crc_threshold,
    false_discovery_rates,
    fixed_sequence,
    hoeffding_bentkus_p_values,
    holm,
    miss_rates,
    rcps_threshold,
    unit_codes,
    wsr_certifies,
)
from chestxray.conformal.calibrate import calibrate
from chestxray.conformal.options import Config
from chestxray.conformal.rows import Rows

ALPHAS = ("0.05", "0.1", "0.2", "0.25", "0.29", "0.3", "0.34", "0.5", "0.57", "0.9", "1")


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and units of some images with many ties."""
    n, classes = draw(st.integers(1, 14)), draw(st.integers(1, 4))
    values = st.sampled_from(draw(st.sampled_from([(0.0, 0.5, 1.0), (0.1, 0.2, 0.3, 0.6, 0.7)])))
    scores = draw(st.lists(st.tuples(*[values] * classes), min_size=n, max_size=n))
    flags = st.tuples(*[st.integers(0, 1)] * classes)
    targets = draw(st.lists(flags, min_size=n, max_size=n))
    units = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    return np.array(targets, dtype=np.uint8), np.array(scores), unit_codes(np.array(units))[1]


def loss_sum(
    targets: np.ndarray, scores: np.ndarray, codes: np.ndarray, threshold: float
) -> Fraction:
    """The sum over the units of their mean miss rate at a threshold, exactly."""
    total = Fraction(0)
    for unit in range(max(codes) + 1):
        own = [i for i, code in enumerate(codes) if code == unit]
        for i in own:
            positive = [k for k, y in enumerate(targets[i]) if y]
            missed = [k for k in positive if scores[i][k] < threshold]
            total += Fraction(len(missed), max(len(positive), 1) * len(own))
    return total


def brute_crc(targets: np.ndarray, scores: np.ndarray, codes: np.ndarray, alpha: str) -> float:
    """The largest of all scores, and of no limit, that meets equation 4."""
    n = max(codes) + 1
    safe = [
        t
        for t in [-math.inf, *np.unique(scores), math.inf]
        if (loss_sum(targets, scores, codes, t) + 1) / (n + 1) <= Fraction(alpha)
    ]
    return max(safe, default=-math.inf)


@given(images(), st.sampled_from(ALPHAS))
@settings(max_examples=300, deadline=None)
@example((np.ones((99, 1), dtype=np.uint8), np.arange(99)[:, None] / 99, np.arange(99)), "0.29")
def test_crc_is_the_best_of_all_scores(made: tuple, alpha: str) -> None:
    assert crc_threshold(*made, alpha) == brute_crc(*made, alpha)


@given(images(), st.sampled_from(ALPHAS[:-1]))
def test_crc_ignores_the_order_of_rows_classes_and_units(made: tuple, alpha: str) -> None:
    targets, scores, codes = made
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(len(codes)), rng.permutation(targets.shape[1])
    renamed = rng.permutation(codes.max() + 1)[codes]
    shuffled = crc_threshold(
        targets[rows][:, columns], scores[rows][:, columns], renamed[rows], alpha
    )
    assert shuffled == crc_threshold(targets, scores, codes, alpha)


def test_crc_is_infinite_at_alpha_1_and_below_1_over_n_plus_1() -> None:
    rng = np.random.default_rng(0)
    targets, scores, codes = np.ones((50, 3)), rng.uniform(size=(50, 3)), np.arange(50)
    assert crc_threshold(targets, scores, codes, 1) == math.inf
    assert crc_threshold(targets, scores, codes, Fraction(1, 51) - Fraction(1, 10**9)) == -math.inf
    assert crc_threshold(targets, scores, codes, Fraction(1, 51)) == scores.min()


@pytest.mark.parametrize("alpha", ["0.29", Fraction(29, 100)])
def test_alpha_is_taken_as_typed(alpha: str | Fraction) -> None:
    scores = np.arange(1, 100)[:, None] / 100  # 99 images: of 100 alpha - 1 = 28 may be missed
    found = crc_threshold(np.ones((99, 1)), scores, np.arange(99), alpha)
    assert (scores < found).sum() == 28
    assert math.floor(0.29 * 100) == 28  # what plain floats make of the 29 of (n + 1) alpha


@pytest.mark.parametrize(("alpha", "allowed"), [("0.1", 9), ("0.3", 29), ("0.7", 69)])
def test_fractions_that_add_up_to_the_limit_meet_it(alpha: str, allowed: int) -> None:
    positives = np.where(np.arange(99) % 2, 3, 7)[:, None]
    scores = np.repeat(np.arange(1, 100)[:, None] / 100, 7, axis=1)
    found = crc_threshold(np.arange(7) < positives, scores, np.arange(99), alpha)
    assert (scores[:, 0] < found).sum() == allowed


@given(images(), st.sampled_from(["0.1", "0.3", "0.6"]), st.sampled_from([0.1, 0.5]))
@settings(max_examples=50, deadline=None)
def test_rcps_goes_up_while_the_bound_is_below_alpha(made: tuple, alpha: str, delta: float) -> None:
    grid = np.linspace(0, 1.1, 150)  # more than two blocks of thresholds
    losses = np.tile(miss_rates(*made, grid), (12, 1))
    order = np.random.default_rng(0).permutation(len(losses))
    expected = -math.inf
    for place, threshold in enumerate(grid):
        if not wsr_certifies(losses[order, place][:, None], float(alpha), delta)[0]:
            break
        expected = threshold
    assert rcps_threshold(losses, float(alpha), delta, order, grid) == expected


def test_rcps_stops_at_the_first_failure_for_good() -> None:
    losses = np.zeros((400, 5))
    losses[:, 2] = 0.9
    order, grid = np.arange(400), np.linspace(0.1, 0.5, 5)
    assert rcps_threshold(losses, 0.1, 0.1, order, grid) == grid[1]
    assert rcps_threshold(losses[:, 2:], 0.1, 0.1, order, grid[2:]) == -math.inf
    assert rcps_threshold(losses[:, :2], 0.1, 0.1, order, grid[:2]) == grid[1]


def brute_holm(p_values: list[float], delta: float) -> list[bool]:
    """Step down: the smallest p-value left against delta by how many are left."""
    left = set(range(len(p_values)))
    while left:
        least = min(left, key=lambda k: p_values[k])
        if p_values[least] > delta / len(left):
            break
        left.remove(least)
    return [k not in left for k in range(len(p_values))]


P_VALUES = st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.025, 0.03, 0.05, 0.1, 1.0]), min_size=1)


@given(P_VALUES, st.sampled_from([0.03, 0.05, 0.1]))
def test_holm_is_the_step_down_procedure(p_values: list[float], delta: float) -> None:
    assert holm(np.array(p_values), delta).tolist() == brute_holm(p_values, delta)


RISKS = st.lists(st.sampled_from([0.0, 0.05, 0.2, 0.25, 0.3, 0.6, 1.0]), min_size=1, max_size=12)


@given(RISKS, st.booleans())
def test_fixed_sequence_stops_at_the_first_p_value_above_delta(
    risks: list[float], strict_last: bool
) -> None:
    p_values = hoeffding_bentkus_p_values(np.array(risks), 100, 0.3)
    places = range(len(risks))
    expected = [False] * len(risks)
    for place in reversed(places) if strict_last else places:
        if p_values[place] > 0.1:
            break
        expected[place] = True
    sequence = range(len(risks) - 1, -1, -1) if strict_last else places
    found = fixed_sequence(lambda block: p_values[block] <= 0.1, sequence)
    assert sorted(found) == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("backwards", [True, False])
def test_a_fixed_sequence_ends_at_any_place(length: int, backwards: bool) -> None:
    sequence = range(length - 1, -1, -1) if backwards else range(length)
    for failing in range(length + 1):
        p_values = np.zeros(length)
        p_values[list(sequence[failing : failing + 1])] = 1.0
        found = fixed_sequence(lambda block, p=p_values: p[block] <= 0.1, sequence)
        assert list(found) == list(sequence[:failing])


# MAPIE has `p > t` where ours is `p >= t`: on these thresholds, which no score equals, both agree.
FINE = np.linspace(0.0005, 0.9995, 400)


def scored(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, at least one for each image (MAPIE demands it), and scores in steps off the grid."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1, size=(n, 6))
    targets = (truth + rng.normal(size=(n, 6)) > 0).astype(np.uint8)
    targets[np.arange(n), truth.argmax(axis=1)] = 1
    scores = np.round(1 / (1 + np.exp(-truth)), 3)
    assert not np.isin(scores, FINE).any()
    return targets, scores


def mapie_threshold(targets: np.ndarray, scores: np.ndarray, **options: object) -> float:
    from mapie.risk_control import MultiLabelClassificationController

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty sets, for which it takes 1 as we ask it to
        fitted = MultiLabelClassificationController(
            predict_function=lambda x: x, predict_params=FINE, **options
        ).calibrate(scores, targets)
    return float(fitted.best_predict_param[0])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("alpha", ["0.07", "0.13", "0.31"])
def test_crc_agrees_with_mapie_on_its_grid(seed: int, alpha: str) -> None:
    targets, scores = scored(120, seed)
    theirs = mapie_threshold(targets, scores, risk="recall", target_level=1 - float(alpha))
    exact = crc_threshold(targets, scores, np.arange(120), alpha)
    assert theirs == FINE[FINE <= exact].max()  # the best of the grid is the one below ours


@pytest.mark.parametrize("alpha", [0.2, 0.35])
def test_rcps_with_a_hoeffding_bound_agrees_with_mapie(alpha: float) -> None:
    targets, scores = scored(150, 2)
    theirs = mapie_threshold(
        targets,
        scores,
        risk="recall",
        method="rcps",
        rcps_bound="hoeffding",
        target_level=1 - alpha,
        confidence_level=0.9,
    )
    bound = miss_rates(targets, scores, np.arange(150), FINE).mean(axis=0)
    bound += math.sqrt(math.log(1 / 0.1) / (2 * 150))
    assert theirs == FINE[bound < alpha].max()


@pytest.mark.parametrize("alpha", [0.3, 0.45, 0.6])
def test_ltt_with_holm_agrees_with_mapie(alpha: float) -> None:
    targets, scores = scored(150, 3)
    theirs = mapie_threshold(
        targets,
        scores,
        risk="precision",
        method="ltt",
        target_level=1 - alpha,
        confidence_level=0.9,
    )
    risks = false_discovery_rates(targets, scores, np.arange(150), 1.0, FINE).mean(axis=0)
    certified = holm(hoeffding_bentkus_p_values(risks, 150, alpha), 0.1)
    np.testing.assert_equal(theirs, FINE[certified].min() if certified.any() else np.nan)


# MAPIE 1.6 has no betting p-values, no units of several images, no groups, and of ratios only the
# precision of one class, whose number of tests is that of the positives found. What it has too, its
# procedure of learn then test (behind all its controllers), is compared on the losses of our table:
# recall by a fixed sequence, Hoeffding-Bentkus p-values, several risks at once by Holm, both ways
# of correcting for the number of tests.


def one_image_each(n: int, seed: int) -> tuple[Rows, dict[str, np.ndarray]]:
    """Patients of one image each, and the mean losses (T,) on our grid."""
    targets, scores = scored(n, seed)
    rows = Rows(targets, scores, np.arange(n), np.arange(n))
    means = {
        "fnr": miss_rates(targets, scores, np.arange(n)).mean(axis=0),
        "fdr": false_discovery_rates(targets, scores, np.arange(n)).mean(axis=0),
    }
    return rows, means


def mapie_procedure(means: list[np.ndarray], n: int, alpha: str, fwer: str) -> np.ndarray:
    """(T,) bool, what MAPIE certifies at delta 0.1 for means of n losses, one row a risk."""
    from mapie.risk_control._base_controller import ltt_procedure

    levels = np.array([[float(level)] for level in alpha.split()])
    table = np.array(means)
    valid, _ = ltt_procedure(table, levels, 0.1, np.full(table.shape, float(n)), fwer_method=fwer)
    certified = np.zeros(table.shape[1], dtype=bool)
    certified[valid[0]] = True
    return certified


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("alpha", ["0.15", "0.3"])
@pytest.mark.parametrize(
    ("fwer", "theirs"), [("fst", "fixed_sequence"), ("holm", "bonferroni_holm")]
)
def test_recall_by_ltt_agrees_with_mapie(fwer: str, theirs: str, alpha: str, seed: int) -> None:
    rows, means = one_image_each(150, seed)
    certified = mapie_procedure([means["fnr"]], 150, alpha, theirs)
    found = calibrate(rows, alpha, Config(method="ltt", fwer=fwer, pvalue="hb"))
    assert found.threshold == (GRID[certified].max() if certified.any() else None)
    assert found.certified or (alpha, fwer) == ("0.15", "holm")


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("alpha", ["0.3 0.5", "0.4 0.4", "0.1 0.2"])
def test_two_risks_at_once_agree_with_mapie(alpha: str, seed: int) -> None:
    rows, means = one_image_each(400, seed)
    certified = mapie_procedure([means["fnr"], means["fdr"]], 400, alpha, "bonferroni_holm")
    config = Config(risk=("fnr", "fdr"), method="ltt", fwer="holm", pvalue="hb")
    found = calibrate(rows, alpha, config)
    assert found.threshold == (GRID[certified].max() if certified.any() else None)
    assert found.certified == (alpha != "0.1 0.2")


def test_tests_in_a_sequence_and_holm_agree_with_mapie() -> None:
    from mapie.risk_control import control_fwer

    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = rng.uniform(size=20) ** 6
        sequence = range(19, -1, -1)  # from the strict end, as FDR has it
        passed = fixed_sequence(lambda block, p=p_values: p[block] <= 0.1, sequence)
        theirs = control_fwer(p_values[::-1], 0.1, "fixed_sequence")
        assert sorted(passed) == sorted(19 - theirs)
        assert np.flatnonzero(holm(p_values, 0.1)).tolist() == sorted(control_fwer(p_values, 0.1))


def test_hoeffding_bentkus_p_values_agree_with_mapie() -> None:
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    risks = (np.arange(101) + 0.5) / 101  # no whole numbers of losses, where rounding decides
    for n in (10, 101, 1000):
        for alpha in (0.05, 0.3, 0.7):
            theirs = compute_hoeffding_bentkus_p_value(risks, n, alpha)[:, 0]
            ours = hoeffding_bentkus_p_values(risks, n, alpha)
            np.testing.assert_allclose(ours, np.minimum(theirs, 1.0), rtol=1e-9)
