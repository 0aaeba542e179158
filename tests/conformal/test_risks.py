"""The losses of prediction sets and the bounds of their means, against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestxray.conformal import (
    GRID,
    counting_rows,
    false_discovery_rates,
    hoeffding_bentkus_p_values,
    miss_rates,
    unit_codes,
    wsr_bound,
    wsr_certifies,
)

STEPS = np.array([0.0, 0.25, 0.5, 0.5000001, 0.75, 1.0])
VALUES = (0.0, 0.25, 0.3, 0.5, 0.75, 1.0)  # ties among the scores, and with the steps


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and units of a few images; every unit has at least one."""
    n, classes = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    cells = st.lists(st.sampled_from(VALUES), min_size=classes, max_size=classes)
    flags = st.lists(st.integers(0, 1), min_size=classes, max_size=classes)
    scores = np.array(draw(st.lists(cells, min_size=n, max_size=n)))
    targets = np.array(draw(st.lists(flags, min_size=n, max_size=n)), dtype=np.uint8)
    units = np.array(draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n)))
    return targets, scores, unit_codes(units)[1]


def of_units(by_image: list[list[float]], codes: np.ndarray) -> list[list[float]]:
    """The mean over the images of each unit."""
    table = []
    for unit in range(max(codes) + 1):
        own = [row for row, code in zip(by_image, codes, strict=True) if code == unit]
        table.append([sum(column) / len(own) for column in zip(*own, strict=True)])
    return table


def chosen_set(scores: np.ndarray, threshold: float) -> set[int]:
    return {k for k, p in enumerate(scores) if p >= threshold}


@given(images())
def test_miss_rates_are_what_a_loop_finds(made: tuple) -> None:
    targets, scores, codes = made
    losses = []
    for truth, row in zip(targets, scores, strict=True):
        positive = {k for k, y in enumerate(truth) if y}
        losses.append(
            [len(positive - chosen_set(row, t)) / len(positive) if positive else 0.0 for t in STEPS]
        )
    found = miss_rates(targets, scores, codes, STEPS)
    np.testing.assert_allclose(found, of_units(losses, codes), atol=1e-12)
    assert found.min() >= 0 and found.max() <= 1
    assert (np.diff(found, axis=1) >= 0).all()


@given(images(), st.sampled_from([0.0, 1.0]))
def test_false_discovery_rates_are_what_a_loop_finds(made: tuple, empty: float) -> None:
    targets, scores, codes = made
    losses = []
    for truth, row in zip(targets, scores, strict=True):
        positive = {k for k, y in enumerate(truth) if y}
        sets = [chosen_set(row, t) for t in STEPS]
        losses.append([len(s - positive) / len(s) if s else empty for s in sets])
    found = false_discovery_rates(targets, scores, codes, empty, STEPS)
    np.testing.assert_allclose(found, of_units(losses, codes), atol=1e-12)


def test_losses_of_many_images_are_those_of_the_units_one_by_one() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.uniform(size=(9000, 5)) < 0.3).astype(np.uint8)
    scores = rng.uniform(size=(9000, 5)).astype(np.float32).astype(np.float64)
    codes = unit_codes(rng.integers(0, 40, size=9000))[1]  # units spread over the whole file
    grid = GRID[::50]
    for losses in (miss_rates, false_discovery_rates):
        together = losses(targets, scores, codes, grid=grid)
        for unit in (0, 17, 39):
            own = codes == unit
            alone = losses(targets[own], scores[own], np.zeros(own.sum(), dtype=int), grid=grid)
            np.testing.assert_allclose(together[unit], alone[0], atol=1e-12)


def test_at_threshold_0_sets_are_full_and_above_1_they_are_empty() -> None:
    targets, scores = np.array([[1, 0, 0]]), np.array([[0.0, 0.5, 1.0]])
    codes, ends = np.array([0]), np.array([0.0, 1.1])
    assert miss_rates(targets, scores, codes, ends).tolist() == [[0, 1]]
    assert false_discovery_rates(targets, scores, codes, 0.0, ends)[0] == pytest.approx([2 / 3, 0])
    assert false_discovery_rates(targets, scores, codes, 1.0, ends)[0] == pytest.approx([2 / 3, 1])


def test_a_unit_is_its_name_and_its_images_may_lie_anywhere() -> None:
    names, codes = unit_codes(np.array(["b", "a", "c", "a"], dtype=object))
    assert names.tolist() == ["a", "b", "c"]
    assert codes.tolist() == [1, 0, 2, 0]


def test_images_without_a_positive_are_dropped_zero_or_refused() -> None:
    targets = np.array([[1, 0], [0, 0], [1, 1]])
    assert counting_rows(targets, "drop").tolist() == [True, False, True]
    assert counting_rows(targets, "zero").tolist() == [True, True, True]
    with pytest.raises(ValueError, match="1 image without a positive class"):
        counting_rows(targets, "error")
    assert counting_rows(targets[[0, 2]], "error").all()


def test_the_grid_is_the_sigmoid_of_1000_equal_steps() -> None:
    assert len(GRID) == 1000
    np.testing.assert_allclose(np.log(GRID / (1 - GRID)), np.linspace(-12, 12, 1000), atol=1e-9)


def hoeffding_bentkus(risk: float, n: int, alpha: float) -> float:
    low = min(risk, alpha)
    left = low * math.log(low / alpha) if low > 0 else 0.0
    h1 = left + (1 - low) * math.log((1 - low) / (1 - alpha))
    most = math.ceil(n * risk - 1e-9)
    tail = sum(math.comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(most + 1))
    return min(1.0, math.exp(-n * h1), math.e * tail)


@given(
    st.integers(1, 60),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
)
def test_p_values_are_the_formula(n: int, risks: list[float], alpha: float) -> None:
    found = hoeffding_bentkus_p_values(np.array(risks), n, alpha)
    expected = [hoeffding_bentkus(risk, n, alpha) for risk in risks]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(("n", "alpha", "count"), [(100, 0.1, 2), (100, 0.1, 5), (100, 0.3, 15)])
def test_a_p_value_does_not_jump_by_rounding_of_the_mean(n: int, alpha: float, count: int) -> None:
    risk = count / n * (1 + 4e-16)
    assert math.ceil(n * risk) == count + 1
    exact, above = hoeffding_bentkus_p_values(np.array([count / n, risk]), n, alpha)
    assert exact == pytest.approx(above, rel=1e-9)


def capitals(losses: list[float], risk: float, delta: float) -> list[float]:
    """K_1 to K_n of the Waudby-Smith-Ramdas bound, as CONFORMAL.md writes them."""
    n, capital, variance, found = len(losses), 1.0, 0.25, []
    means: list[float] = []
    for i in range(1, n + 1):
        nu = min(1.0, math.sqrt(2 * math.log(1 / delta) / (n * variance)))
        capital *= 1 - nu * (losses[i - 1] - risk)
        found.append(capital)
        means.append((0.5 + sum(losses[:i])) / (i + 1))
        squares = sum((x - m) ** 2 for x, m in zip(losses[:i], means, strict=True))
        variance = (0.25 + squares) / (i + 1)
    return found


LOSSES = st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0]), min_size=1, max_size=40)


@given(LOSSES, st.sampled_from([0.05, 0.2, 0.5, 0.9]), st.sampled_from([0.05, 0.1, 0.3]))
@settings(max_examples=150, deadline=None)
def test_the_bound_is_below_alpha_where_the_capital_passes(
    losses: list[float], alpha: float, delta: float
) -> None:
    largest = max(capitals(losses, alpha, delta))
    if abs(largest * delta - 1) > 1e-9:  # not where rounding decides
        found = wsr_certifies(np.array(losses)[:, None], alpha, delta)
        assert found.tolist() == [largest > 1 / delta]


@given(LOSSES, st.sampled_from([0.05, 0.1, 0.3]))
@settings(max_examples=50, deadline=None)
def test_the_bound_is_the_least_risk_that_is_refuted(losses: list[float], delta: float) -> None:
    bound = wsr_bound(np.array(losses), delta)
    if bound < 1:
        assert max(capitals(losses, bound + 1e-5, delta)) > 1 / delta
    assert max(capitals(losses, bound - 1e-5, delta)) <= 1 / delta


def test_columns_are_certified_as_if_each_stood_alone() -> None:
    losses = np.random.default_rng(0).uniform(size=(200, 30)) * np.linspace(0, 1, 30)
    together = wsr_certifies(losses, 0.3, 0.1)
    assert together.tolist() == [bool(wsr_certifies(x[:, None], 0.3, 0.1)[0]) for x in losses.T]
    assert together.any() and not together.all()


def test_more_confidence_and_fewer_units_give_larger_bounds() -> None:
    losses = np.random.default_rng(0).beta(1, 8, size=1000)
    bounds = [wsr_bound(losses, 0.3), wsr_bound(losses, 0.01), wsr_bound(losses[:100], 0.01)]
    assert losses.mean() < bounds[0] < bounds[1] < bounds[2] < 1
