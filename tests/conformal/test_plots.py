"""Values that the plots show."""

import numpy as np
import pytest

from chestxray.conformal import GRID, crc_threshold, miss_rates
from chestxray.conformal.control import corrected_risk
from chestxray.conformal.plots import value_at


@pytest.mark.parametrize("seed", range(20))
def test_the_dot_of_a_class_lies_at_or_below_alpha(seed: int) -> None:
    scores = np.random.default_rng(seed).uniform(size=(9, 1))
    targets, codes = np.ones((9, 1), dtype=np.uint8), np.arange(9)
    curve = corrected_risk(miss_rates(targets, scores, codes).mean(axis=0), 9)
    threshold = crc_threshold(targets, scores, codes, "0.3")
    assert value_at(threshold, curve) <= 0.3
    assert value_at(threshold + 0.01, curve) > 0.3


def test_the_value_on_the_grid_is_the_curve_itself() -> None:
    curve = np.linspace(0, 1, len(GRID))
    assert value_at(float(GRID[500]), curve) == curve[500]
    assert value_at(0.0, curve) == curve[0] and value_at(1.0, curve) == curve[-1]
