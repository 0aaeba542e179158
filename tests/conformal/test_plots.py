"""Values that the plots show."""

import numpy as np
import pytest
from conformal_helpers import COUNTED, drawn

from chestxray.conformal import artifacts, plots
from chestxray.conformal.calibrate import Calibration, calibrate
from chestxray.conformal.options import Config
from chestxray.conformal.rows import Rows

PER_CLASS = Config(per_class=True)


def rows(seed: int) -> Rows:
    table = drawn(60, seed=seed)
    return Rows.from_scores(table.take(np.ones(len(table.image_names), bool), [0, 2, 3]), "patient")


@pytest.mark.parametrize("seed", range(8))
def test_a_class_is_drawn_in_steps_with_its_dot_on_them(seed: int) -> None:
    """The dot lies at its threshold's corrected risk, counted anew, which meets alpha."""
    cal = rows(seed)
    certificate = calibrate(cal, "0.3", PER_CLASS)
    curves = artifacts._part_curves(cal, PER_CLASS)
    (axes,) = plots.draw_risk_in_parts(curves, certificate, PER_CLASS).axes
    thresholds = [certificate.parts[name].threshold for name in COUNTED]
    lines = [line for line in axes.lines if line.get_drawstyle() == "steps-pre"]
    dots = {line.get_color(): line.get_data() for line in axes.lines if line.get_marker() == "o"}
    assert len(lines) == 3 and dots
    for k, line in enumerate(lines):
        if line.get_color() not in dots:
            assert thresholds[k] is None
            continue
        (threshold,), (risk,) = dots[line.get_color()]
        has = cal.targets[:, k] == 1
        units = np.unique(cal.units[has])
        missed = [(cal.scores[has & (cal.units == unit), k] < threshold).mean() for unit in units]
        assert threshold == thresholds[k]
        assert risk == pytest.approx((sum(missed) + 1) / (len(units) + 1)) and risk <= 0.3
        x, y = line.get_data()
        assert y[np.searchsorted(x, threshold)] == risk
        assert y[np.searchsorted(x, threshold, side="right")] > 0.3


@pytest.mark.parametrize("method", ["crc", "rcps"])
def test_the_risk_at_the_threshold_meets_alpha_as_drawn(method: str) -> None:
    calibration = Calibration(rows(0), Config(method=method))
    certificate = calibration.certificate("0.3")
    curves = artifacts._curves(calibration, certificate)
    figure = plots.draw_risk(curves, certificate, calibration.config)
    names = {line.get_label(): line for line in figure.axes[0].lines}
    bound = names["corrected for one more" if method == "crc" else "upper bound"]
    x, y = bound.get_data()
    assert y[np.searchsorted(x, certificate.threshold)] == pytest.approx(
        certificate.bound, abs=1e-6
    )
    assert certificate.bound <= 0.3
    assert f"threshold {certificate.threshold!r}" in names
    spans = {patch.get_label() for patch in figure.axes[0].patches}
    assert ("certified thresholds" in spans) == (method == "rcps")
