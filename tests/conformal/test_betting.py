"""The betting p-values against a plain loop, and the start of a fixed sequence."""

import math
from fractions import Fraction

import numpy as np
import pytest
from brute_force import betting
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chestxray.conformal import best_start, betting_p_values, wsr_certifies
from chestxray.conformal.betting import PLAIN, Bets
from chestxray.conformal.risks import MarginalFalseDiscoveryRate

KINDS = {"fnr": lambda alpha: PLAIN, "mfdr": MarginalFalseDiscoveryRate().bets}
SIZES = (1, 2, 63, 64, 65, 319, 320, 321, 1000)  # first look at 64, then at each 256 more


def columns(n: int, alpha: float) -> np.ndarray:
    """(n, T) losses of many sorts: constant, at the limits, exactly alpha, drawn, in two halves."""
    rng = np.random.default_rng(n)
    constant = np.tile([0.0, 1.0, alpha, alpha / 2, (1 + alpha) / 2], (n, 1))
    bernoulli = (rng.uniform(size=(n, 5)) < alpha * np.linspace(0.2, 1.2, 5)).astype(float)
    drawn = rng.uniform(size=(n, 6)) * alpha * np.linspace(0.3, 2.5, 6)
    good_then_bad = np.repeat([[0.0], [1.0]], [n - n // 2, n // 2], axis=0)
    every = [constant, bernoulli, drawn, good_then_bad, good_then_bad[::-1]]
    return np.clip(np.hstack(every), 0.0, 1.0)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_p_values_are_those_of_a_plain_loop(kind: str, alpha: float, n: int) -> None:
    losses = columns(n, alpha)
    for delta in (0.01, 0.1, 0.4):
        found = betting_p_values(losses, alpha, delta, KINDS[kind](alpha))
        expected = [betting(column, alpha, delta, kind) for column in losses.T.tolist()]
        # Of a p-value of 1e-100, twelve digits are more than its logarithm can hold.
        far = np.array(expected) < 1e-50
        np.testing.assert_allclose(found[~far], np.array(expected)[~far], rtol=1e-12)
        np.testing.assert_allclose(found[far], np.array(expected)[far], rtol=1e-10)
        assert found[1] == found[2] == 1.0  # of losses of 1, and of exactly alpha
        assert found.min() < 1.0


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_enough_spares_only_what_is_below_it(kind: str, alpha: float, n: int) -> None:
    losses, bets = columns(n, alpha), KINDS[kind](alpha)
    exact = betting_p_values(losses, alpha, 0.1, bets)
    for enough in (0.5, 0.1, 1e-3):
        found = betting_p_values(losses, alpha, 0.1, bets, enough)
        above = exact > enough
        np.testing.assert_array_equal(found[above], exact[above])
        assert (found[~above] <= enough).all() and (found[~above] >= exact[~above]).all()


def test_what_is_enough_is_left_early() -> None:
    """It saves something: after the first 64 good losses the rest is not looked at."""
    losses = np.zeros((400, 1))
    exact = betting_p_values(losses, 0.3, 0.1)
    assert betting_p_values(losses, 0.3, 0.1, enough=0.1)[0] > 1e6 * exact[0]


@pytest.mark.parametrize("n", SIZES)
def test_a_p_value_below_delta_is_a_bound_below_alpha(n: int) -> None:
    for alpha in (0.05, 0.3, 0.9):
        losses = columns(n, alpha)
        for delta in (0.05, 0.3):
            p_values = betting_p_values(losses, alpha, delta)
            assert (np.abs(p_values / delta - 1) > 1e-9).all()
            assert wsr_certifies(losses, alpha, delta).tolist() == (p_values < delta).tolist()


@pytest.mark.parametrize("bets", [PLAIN, Bets(most=0.9 / 0.7, prior_variance=0.02)])
def test_columns_are_bet_on_as_if_each_stood_alone(bets: Bets) -> None:
    losses = columns(500, 0.3)
    together = betting_p_values(losses, 0.3, 0.1, bets, enough=0.1)
    alone = [betting_p_values(x[:, None], 0.3, 0.1, bets, enough=0.1)[0] for x in losses.T]
    assert together.tolist() == alone


SHARES = st.sampled_from(["0", "1/4", "1/3", "1/2", "2/3", "3/4", "1"])


def exhaustive_start(losses: list[tuple[str, ...]], alpha: Fraction) -> int:
    """The last place of the largest (alpha - mean) / sd; its sign and square are fractions."""

    def ratio(column: list[Fraction]) -> tuple[int, Fraction]:
        mean = sum(column, Fraction(0)) / len(column)
        gap, variance = alpha - mean, sum(((x - mean) ** 2 for x in column), Fraction(0))
        if not variance:
            return (gap > 0) - (gap < 0), Fraction(0)
        return 0, abs(gap) * gap / variance

    ratios = [ratio(list(map(Fraction, column))) for column in zip(*losses, strict=True)]
    return max(range(len(ratios)), key=lambda place: (ratios[place], place))


@given(
    st.integers(1, 8).flatmap(lambda t: st.lists(st.tuples(*[SHARES] * t), min_size=1, max_size=9)),
    st.sampled_from(["1/4", "3/10", "1/2", "7/10"]),
)
@settings(max_examples=500, deadline=None)
@example([("1/2", "1/4"), ("1/3", "1/2")], "1/2")  # equal, but for the rounding of a third
@example([("1/2", "1/4"), ("1/2", "3/4")], "1/2")  # nothing is gained, without any spread or with
@example([("1/3", "0"), ("1/3", "1/4")], "1/2")  # without any spread below alpha: surely
def test_the_start_is_the_best_of_all_places(losses: list[tuple[str, ...]], alpha: str) -> None:
    table = np.array([[float(Fraction(x)) for x in row] for row in losses])
    assert best_start(table, float(Fraction(alpha))) == exhaustive_start(losses, Fraction(alpha))


def test_without_any_place_the_start_is_the_first() -> None:
    assert best_start(np.empty((3, 0)), 0.5) == 0


def test_many_units_without_loss_do_not_overflow() -> None:
    losses = np.zeros((5000, 1))
    for alpha in (0.5, 0.99):
        found = betting_p_values(losses, alpha, 1e-6, Bets(0.9 / (1 - alpha), 0.02))
        assert 0 <= found[0] < 1e-100 and math.isfinite(found[0])
