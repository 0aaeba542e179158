"""Values that the plots show."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conformal_helpers import COUNTED, drawn

from chestxray.conformal import artifacts, plot_levels, plots
from chestxray.conformal.calibrate import Calibration, calibrate
from chestxray.conformal.groups import Groups
from chestxray.conformal.metrics import summary
from chestxray.conformal.options import Config
from chestxray.conformal.report import Report, Resplits, make_entry
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


def report_of(config: Config, alphas: list[str], groups: bool = False) -> Report:
    """The report of levels, each on the same 60 patients and evaluated on 60 others."""
    sides = [rows(0), rows(1)]
    if groups:
        sides = [grouped(side) for side in sides]
    calibration = Calibration(sides[0], config)
    entries = [make_entry(calibration.certificate(alpha), config, sides[1]) for alpha in alphas]
    return Report("t", "", "", [], [], True, config, "patient", entries)


def grouped(side: Rows) -> Rows:
    names = np.array([f"s{int(patient) % 2}" for patient in side.patients], dtype=object)
    return replace(side, groups=Groups(names, ("s0", "s1")))


def labelled(axes: Any) -> dict[str, Any]:
    return dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))


def test_levels_show_what_is_realised_with_its_interval_beside_the_diagonal() -> None:
    report = report_of(Config(), ["0.4", "0.001", "0.2", "0.3"])
    assert not report.entries[1].certificate.certified
    risks, sizes = plot_levels.draw_levels(report).axes
    named = labelled(risks)
    x, y = named["realised = alpha"].get_data()
    assert list(x) == list(y) and x[0] < 0.001 and x[1] > 0.4
    assert list(named["nothing certified"].get_xdata()) == [0.001]
    found = {e.certificate.alphas[0]: e.realised["patient"] for e in report.entries if e.realised}
    for axes, name in ((risks, "fnr"), (sizes, "size")):
        (container,) = axes.containers
        points, _, (bars,) = container
        assert list(points.get_xdata()) == sorted(found)
        for alpha, value, bar in zip(*points.get_data(), bars.get_segments(), strict=True):
            estimate = found[alpha].estimates()[name]
            assert value == estimate.value
            assert tuple(bar[:, 1]) == pytest.approx(estimate.interval)


def test_levels_show_the_mean_and_the_band_of_the_cuts() -> None:
    report = report_of(Config(), ["0.2", "0.3"])
    cuts = [np.linspace(0.1, 0.3, 21), np.linspace(0.2, 0.5, 21)]
    entries = [
        replace(e, resplits=Resplits(21, {"fnr": summary(values, 0.2)}))
        for e, values in zip(report.entries, cuts, strict=True)
    ]
    named = labelled(plot_levels.draw_levels(replace(report, entries=entries)).axes[0])
    assert list(named["mean of the cuts"].get_ydata()) == pytest.approx([0.2, 0.35])
    (band,) = (shape for label, shape in named.items() if label.startswith("5-95 %"))
    corners = {(float(x), round(float(y), 9)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(0.2, 0.11), (0.2, 0.29), (0.3, 0.215), (0.3, 0.485)}


def test_levels_of_an_fdr_show_the_share_of_empty_sets() -> None:
    report = report_of(Config(risk=("fdr",), method="ltt", delta=0.3), ["0.8", "0.9"])
    *_, empty = plot_levels.draw_levels(report).axes
    (container,) = empty.containers
    expected = [entry.realised["patient"].empty.value for entry in report.entries]
    assert list(container[0].get_ydata()) == expected


def test_levels_by_group_have_a_line_a_group() -> None:
    report = report_of(Config(by="site"), ["0.3", "0.4"], groups=True)
    risks, _ = plot_levels.draw_levels(report).axes
    assert len(risks.containers) == 2
    for name, container in zip(("s0", "s1"), risks.containers, strict=True):
        expected = [e.group_metrics["site"][name].risks["fnr"].value for e in report.entries]
        assert list(container[0].get_ydata()) == expected
        assert container.get_label().startswith(f"{name} (")


def test_levels_per_class_have_a_thin_line_a_class_and_their_mean() -> None:
    report = report_of(PER_CLASS, ["0.3", "0.4"])
    risks, _ = plot_levels.draw_levels(report).axes
    _, *lines, mean = risks.lines
    expected = [
        [1 - entry.class_metrics[name].shares["patient"].recall.value for entry in report.entries]
        for name in COUNTED
    ]
    assert [list(line.get_ydata()) for line in lines] == expected
    assert list(mean.get_ydata()) == pytest.approx(np.mean(expected, axis=0))


def test_one_level_or_two_risks_make_no_plot_of_levels() -> None:
    assert len(plot_levels.comparable(report_of(Config(), ["0.3", "0.001"]))) == 1
    joint = Config(risk=("fnr", "fdr"), method="ltt", fwer="holm", delta=0.3)
    assert not plot_levels.comparable(report_of(joint, ["0.6 0.9"]))
