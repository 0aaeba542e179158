"""The four plots of the report; matplotlib is imported only when one is drawn."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chestxray.conformal.calibrate import Certificate
from chestxray.conformal.metrics import ClassMetrics, Estimate, RiskSummary
from chestxray.conformal.options import Config
from chestxray.conformal.report import positives_text
from chestxray.conformal.risks import GRID

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _BLACK = "#0072b2", "#d55e00", "#009e73", "#222222"
COLOURS = (_BLUE, _ORANGE, _GREEN, "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", ":")  # with the colours, 18 lines that differ
_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def _axes(config: Config, alpha: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    promise = f"alpha = {alpha}" + (" for each class" if config.per_class else "")
    if config.method != "crc":
        promise += f", delta = {config.delta:g}"
    risk = config.target_risk.abbreviation
    axes.set_title(f"{risk} by {config.method.upper()}, {promise}", loc="left", fontsize=11)
    return figure, axes


def png(figure: "Figure") -> bytes:
    """The bytes of a plot's file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _threshold_axis(axes: "Axes") -> None:
    axes.set_xscale("logit")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set(xlim=(_TICKS[0], _TICKS[-1]), ylim=(0, 1.02))
    axes.set_xlabel("threshold t (logit scale): a class is in the set where p >= t")


@dataclass(frozen=True)
class Steps:
    """A risk that is constant from above one threshold up to the next.

    Attributes:
        thresholds: (S,) ascending.
        risks: (S,) at each of them.
    """

    thresholds: np.ndarray
    risks: np.ndarray

    def at(self, threshold: float) -> float:
        place = int(np.searchsorted(self.thresholds, threshold))
        return float(self.risks[min(place, len(self.risks) - 1)])

    def draw(self, axes: "Axes", **style: Any) -> None:
        thresholds = np.clip(np.r_[0.0, self.thresholds], 1e-9, 1 - 1e-9)  # of a logit scale
        axes.step(thresholds, np.r_[self.risks[0], self.risks], where="pre", **style)


def draw_risk(
    risks: Steps, bound: Steps | None, certificate: Certificate, config: Config
) -> "Figure":
    """Risk on the calibration rows against the threshold, with bound, alpha and what meets it.

    Args:
        risks: mean loss of the calibration units.
        bound: its upper bound or correction, None where the method has none.
        certificate: with one threshold.
        config: risk, method and unit.
    """
    alpha, threshold = certificate.alpha, float(certificate.threshold or 0.0)
    figure, axes = _axes(config, alpha)
    risks.draw(axes, color=_BLUE, linewidth=3, label=f"calibration {config.unit}s, mean")
    if bound is not None:
        name = "corrected for one more" if config.method == "crc" else "upper bound"
        bound.draw(axes, color=_ORANGE, linestyle="--", label=name)
    axes.axhline(float(alpha), color=_BLACK, linestyle=":", label="alpha")
    ends = (threshold, GRID[-1]) if config.target_risk.strict_last else (GRID[0], threshold)
    if config.fwer == "fst" or config.method != "ltt":  # what Holm certifies may have gaps
        name = "thresholds that meet alpha" if config.method == "crc" else "certified thresholds"
        axes.axvspan(*ends, color=_GREEN, alpha=0.12, label=name)
    axes.axvline(threshold, color=_GREEN, label=f"threshold {threshold!r}")
    _threshold_axis(axes)
    axes.set_ylabel(config.target_risk.axis_label)
    axes.legend(frameon=False, loc="best")
    return figure


def draw_risk_per_class(
    curves: list[Steps | None],
    certificate: Certificate,
    classes: tuple[str, ...],
    config: Config,
) -> "Figure":
    """The corrected risk of each class against its threshold, with a dot at the chosen one.

    Args:
        curves: the corrected risk of K classes; None where no calibration unit has the class.
        certificate: with a threshold for each class.
        classes: K names.
        config: unit and method.
    """
    figure, axes = _axes(config, certificate.alpha)
    units = certificate.units_by_name(classes) or {}
    thresholds = certificate.thresholds_by_name(classes) or {}
    axes.axhline(float(certificate.alpha), color=_BLACK, linewidth=1, label="alpha")
    for k, (name, curve) in enumerate(zip(classes, curves, strict=True)):
        colour = COLOURS[k % len(COLOURS)]
        dashes = _DASHES[k // len(COLOURS) % len(_DASHES)]
        threshold, label = thresholds[name], f"{name} ({units[name]:,})"
        if threshold is None:
            label += ", always in"
        if curve is None:
            axes.plot([], [], " ", label=label)
            continue
        curve.draw(axes, color=colour, linestyle=dashes, label=label)
        if threshold is not None:
            reached = curve.at(threshold)
            axes.plot(threshold, reached, "o", color=colour, markeredgecolor="white", zorder=3)
    _threshold_axis(axes)
    axes.set_ylabel(f"{config.target_risk.label} of a class, corrected for one more")
    title = f"class ({config.unit}s that calibrate);\ndot: its threshold"
    figure.legend(frameon=False, loc="outside right upper", title=title, fontsize=8)
    return figure


def draw_resplits(risks: np.ndarray, alpha: str, config: Config, cut_by: str) -> "Figure":
    """Histogram of the realised risk over re-splits by patient, with alpha and the mean.

    Args:
        risks: (times,) realised risk of each cut, NaN where it certifies nothing.
        alpha: the level.
        config: risk, method, unit and the share that calibrates.
        cut_by: "patient" or "image".
    """
    known = risks[~np.isnan(risks)]
    figure, axes = _axes(config, alpha)
    axes.hist(known, bins=40, color=_BLUE, alpha=0.75)
    above = float((known > float(alpha)).mean()) if len(known) else 0.0
    axes.axvline(float(alpha), color=_BLACK, linestyle="--", linewidth=2, label=f"alpha = {alpha}")
    if len(known):
        axes.axvline(known.mean(), color=_ORANGE, linewidth=2, label=f"mean {known.mean():.3f}")
    axes.plot(
        [],
        [],
        " ",
        label=f"{above:.1%} of {len(known):,} evaluation halves above alpha,\n"
        "which errs with both halves",
    )
    if config.method != "crc":
        axes.plot([], [], " ", label="gaps: thresholds lie on a grid")
    whom = f"{config.unit}s of the evaluation half"
    axes.set_xlabel(f"realised {config.target_risk.axis_label}, mean over the {whom}")
    axes.set_ylabel(f"cuts by {cut_by}, {config.cal_fraction:.0%} for calibration")
    axes.locator_params(axis="y", integer=True)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return figure


def draw_resplits_per_class(
    found: dict[str, RiskSummary], alpha: str, config: Config, cut_by: str
) -> "Figure":
    """Realised risk of each class over re-splits by patient: median, 5-95 %, and alpha.

    Args:
        found: the summary of each class.
        alpha: the level.
        config: unit and the share that calibrates.
        cut_by: "patient" or "image".
    """
    figure, axes = _axes(config, alpha)
    for place, summary in enumerate(found.values()):
        if summary.interval is None or summary.median is None or summary.mean is None:
            continue
        axes.plot(summary.interval, [place, place], color=_BLUE, linewidth=6, alpha=0.4)
        axes.plot(summary.median, place, "o", color=_BLUE)
        axes.plot(summary.mean, place, "|", color=_ORANGE, markersize=14, markeredgewidth=2)
    axes.axvline(float(alpha), color=_BLACK, linestyle="--", label=f"alpha = {alpha}")
    axes.plot([], [], color=_BLUE, linewidth=6, alpha=0.4, label="5-95 %")
    axes.plot([], [], "o", color=_BLUE, label="median")
    axes.plot([], [], "|", color=_ORANGE, markersize=14, markeredgewidth=2, label="mean")
    axes.set_yticks(np.arange(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(
        f"realised {config.target_risk.label} of the evaluation half's {config.unit}s with the "
        f"class,\nover cuts by {cut_by}, {config.cal_fraction:.0%} for calibration"
    )
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return figure


def draw_sizes(sets: np.ndarray, alpha: str, config: Config) -> "Figure":
    """Distribution of the number of classes in the sets (N, K) of the evaluation images."""
    figure, axes = _axes(config, alpha)
    sizes, classes = sets.sum(axis=1), sets.shape[1]
    shares = np.bincount(sizes, minlength=classes + 1) / len(sizes)
    axes.bar(np.arange(classes + 1), shares, color=_BLUE)
    axes.axvline(sizes.mean(), color=_ORANGE, linewidth=2, label=f"mean {sizes.mean():.2f}")
    axes.plot([], [], " ", label=f"empty {shares[0]:.1%}, every class {shares[-1]:.1%}")
    axes.set(xlabel="classes in the prediction set", ylabel="share of the evaluation images")
    axes.set_xticks(np.arange(classes + 1))
    axes.legend(frameon=False)
    return figure


def draw_classes(table: dict[str, ClassMetrics], alpha: str, config: Config) -> "Figure":
    """Recall and false share of each class, weighted by the unit, with bootstrap intervals."""
    figure, axes = _axes(config, alpha)
    places = np.arange(len(table))
    shares = [row.shares[config.unit] for row in table.values()]
    cut_by = "patient" if "patient" in next(iter(table.values())).shares else "image"
    _bars(axes, places - 0.2, [s.recall for s in shares], "recall", _BLUE)
    _bars(axes, places + 0.2, [s.fdr for s in shares], "false share (FDR)", _ORANGE)
    if config.per_class:  # else only the whole is controlled, and no class by itself
        name = "1 - alpha, least recall asked for"
        axes.axvline(1 - float(alpha), color=_BLACK, linestyle=":", label=name)
    axes.set_yticks(places, [f"{name} ({positives_text(row)})" for name, row in table.items()])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=f"share by {config.unit}, with 95 % intervals over {cut_by}s")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return figure


def _bars(axes: "Axes", places: np.ndarray, shares: list[Estimate], name: str, colour: str) -> None:
    values = np.array([np.nan if s.value is None else s.value for s in shares])
    ends = np.array([s.interval or (np.nan, np.nan) for s in shares]).T
    spread = np.clip(np.abs(ends - values), 0, None)
    axes.barh(places, values, 0.38, color=colour, label=name, xerr=spread, ecolor=_BLACK)
