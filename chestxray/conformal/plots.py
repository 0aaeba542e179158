"""The plots of a level and their files; matplotlib is imported only when one is drawn."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chestxray.conformal.certificate import Certificate
from chestxray.conformal.losses import GRID
from chestxray.conformal.metrics import (
    FEW_PATIENTS,
    ClassMetrics,
    Estimate,
    GroupMetrics,
    RiskSummary,
)
from chestxray.conformal.options import Config
from chestxray.conformal.report_page import positives_text
from chestxray.conformal.resplits import Cuts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, BLACK = "#0072b2", "#d55e00", "#009e73", "#222222"
GREY = "#999999"
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":")  # with the colours, 18 lines that differ
_DPI = 120  # of a PNG
_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def _axes(config: Config, alpha: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    begin(axes, f"alpha = {alpha.replace(' ', ' and ')}", config)
    return figure, axes


def begin(axes: "Axes", level: str, config: Config) -> None:
    """Give axes the title, which names risk, method and level, and leave two of their sides out."""
    promise = level + (f" for each {config.part}" if config.in_parts else "")
    if config.method != "crc":
        promise += f", delta = {config.delta:g}"
    title = f"{config.abbreviations} by {config.method.upper()}, {promise}"
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def files(figure: "Figure", stem: str, formats: Iterable[str]) -> dict[str, bytes]:
    """The files of a plot by name: the same bytes whenever the same plot is drawn.

    Args:
        figure: with a layout that is not final.
        stem: the name without its ending.
        formats: of FORMATS.
    """
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)  # once: it takes as long as a file
    figure.set_layout_engine("none")
    return {f"{stem}.{kind}": _content(figure, kind) for kind in formats}


def _content(figure: "Figure", kind: str) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backend_bases import get_registered_canvas_class

    file = io.BytesIO()
    # Fonts of type 42 can be edited, and journals ask for them; the salt makes names in an SVG.
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "chestxray"}):
        figure.set_dpi(_DPI)  # which the others change
        canvas = get_registered_canvas_class(kind)(figure)  # savefig would draw everything twice
        getattr(canvas, f"print_{kind}")(file, metadata=_UNDATED.get(kind))
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
    curves: list[tuple[Steps, Steps | None]], certificate: Certificate, config: Config
) -> "Figure":
    """Risk on the calibration rows against the threshold, with bound, alpha and what meets it.

    Args:
        curves: of each risk the mean loss of the calibration units, and its upper bound or
            correction, None where the method has none.
        certificate: with one threshold.
        config: risk, method and unit.
    """
    threshold = float(certificate.threshold or 0.0)
    figure, axes = _axes(config, certificate.alpha)
    colours = (BLUE, ORANGE)
    for place, (risks, bound) in enumerate(curves):
        risk, colour = config.target_risks[place], colours[place]
        level = certificate.alpha.split()[place]
        name = f"{risk.abbreviation}, calibration" if config.joint else "calibration"
        risks.draw(axes, color=colour, linewidth=3, label=f"{name} {config.unit}s, mean")
        if bound is not None:
            name = "corrected for one more" if config.method == "crc" else "upper bound"
            bound.draw(axes, color=ORANGE, linestyle="--", label=name)
        label = f"alpha = {level} of the {risk.abbreviation}" if config.joint else "alpha"
        colour = colour if config.joint else BLACK
        axes.axhline(float(level), color=colour, linestyle=":", label=label)
    if config.fwer == "fst" or config.method != "ltt":  # what Holm certifies may have gaps
        first = certificate.start.threshold if certificate.start else GRID[-1]
        ends = (threshold, first) if config.target_risk.strict_last else (GRID[0], threshold)
        name = "thresholds that meet alpha" if config.method == "crc" else "certified thresholds"
        axes.axvspan(*ends, color=GREEN, alpha=0.12, label=name)
    axes.axvline(threshold, color=GREEN, label=f"threshold {threshold!r}")
    _threshold_axis(axes)
    axes.set_ylabel("risk" if config.joint else config.target_risk.axis_label)
    axes.legend(frameon=config.joint, loc="best")
    return figure


def draw_risk_in_parts(
    curves: dict[str, Steps | None], certificate: Certificate, config: Config
) -> "Figure":
    """The corrected risk of each class or group against its threshold, a dot at the chosen one.

    Args:
        curves: by name; None where no calibration unit counts.
        certificate: with a threshold for each class or group.
        config: unit and method.
    """
    figure, axes = _axes(config, certificate.alpha)
    axes.axhline(float(certificate.alpha), color=BLACK, linewidth=1, label="alpha")
    for k, (name, part) in enumerate((certificate.parts or {}).items()):
        colour = COLOURS[k % len(COLOURS)]
        dashes = DASHES[k // len(COLOURS) % len(DASHES)]
        curve, label = curves[name], f"{name} ({part.n_units:,})"
        if part.threshold is None:
            label += ", always in" if config.per_class else ", every class"
        if curve is None:
            axes.plot([], [], " ", label=label)
            continue
        curve.draw(axes, color=colour, linestyle=dashes, label=label)
        if part.threshold is not None:
            reached = curve.at(part.threshold)
            axes.plot(part.threshold, reached, "o", color=colour, markeredgecolor="white", zorder=3)
    _threshold_axis(axes)
    axes.set_ylabel(f"{config.target_risk.label} of a {config.part}, corrected for one more")
    title = f"{config.part} ({config.unit}s that calibrate);\ndot: its threshold"
    figure.legend(frameon=False, loc="outside right upper", title=title, fontsize=8)
    return figure


def draw_resplits(cuts: Cuts, certificate: Certificate, config: Config, cut_by: str) -> "Figure":
    """Histogram of the realised risks over re-splits by patient, with alpha and the mean.

    Args:
        cuts: of resplit.
        certificate: of the level.
        config: risk, method, unit and the share that calibrates.
        cut_by: "patient" or "image".
    """
    figure, axes = _axes(config, certificate.alpha)
    levels = certificate.alpha.split()
    for risk, alpha, colour in zip(config.target_risks, levels, (BLUE, ORANGE), strict=False):
        known = cuts.risks[risk.metric][~np.isnan(cuts.risks[risk.metric])]
        named = f"{risk.abbreviation}: " if config.joint else ""
        mean, line = (colour, colour) if config.joint else (ORANGE, BLACK)
        axes.hist(known, bins=40, color=colour, alpha=0.75 if not config.joint else 0.5)
        above = float((known > float(alpha)).mean()) if len(known) else 0.0
        label = f"{named}alpha = {alpha}"
        axes.axvline(float(alpha), color=line, linestyle="--", linewidth=2, label=label)
        if len(known):
            label = f"{named}mean {known.mean():.3f}"
            axes.axvline(known.mean(), color=mean, linewidth=2, label=label)
        label = f"{named}{above:.1%} of {len(known):,} evaluation halves above alpha,"
        axes.plot([], [], " ", label=f"{label}\nwhich errs with both halves")
    if config.method != "crc":
        axes.plot([], [], " ", label="gaps: thresholds lie on a grid")
    whom = f"{config.unit}s of the evaluation half"
    risks = "risks" if config.joint else config.target_risk.axis_label
    axes.set_xlabel(f"realised {risks}, mean over the {whom}")
    axes.set_ylabel(f"cuts by {cut_by}, {config.cal_fraction:.0%} for calibration")
    axes.locator_params(axis="y", integer=True)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return figure


def draw_resplits_in_parts(
    found: dict[str, RiskSummary], alpha: str, config: Config, cut_by: str
) -> "Figure":
    """Realised risk of each class or group over re-splits: median, 5-95 %, and alpha.

    Args:
        found: the summary of each class or group.
        alpha: the level.
        config: unit and the share that calibrates.
        cut_by: "patient" or "image".
    """
    figure, axes = _axes(config, alpha)
    for place, summary in enumerate(found.values()):
        if summary.interval is None or summary.median is None or summary.mean is None:
            continue
        axes.plot(summary.interval, [place, place], color=BLUE, linewidth=6, alpha=0.4)
        axes.plot(summary.median, place, "o", color=BLUE)
        axes.plot(summary.mean, place, "|", color=ORANGE, markersize=14, markeredgewidth=2)
    axes.axvline(float(alpha), color=BLACK, linestyle="--", label=f"alpha = {alpha}")
    axes.plot([], [], color=BLUE, linewidth=6, alpha=0.4, label="5-95 %")
    axes.plot([], [], "o", color=BLUE, label="median")
    axes.plot([], [], "|", color=ORANGE, markersize=14, markeredgewidth=2, label="mean")
    axes.set_yticks(np.arange(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(left=0)
    whom = "with the class" if config.per_class else "of the group"
    axes.set_xlabel(
        f"realised {config.target_risk.label} of the evaluation half's {config.unit}s {whom},\n"
        f"over cuts by {cut_by}, {config.cal_fraction:.0%} for calibration"
    )
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return figure


def draw_sizes(sets: np.ndarray, alpha: str, config: Config) -> "Figure":
    """Distribution of the number of classes in the sets (N, K) of the evaluation images."""
    figure, axes = _axes(config, alpha)
    sizes, classes = sets.sum(axis=1), sets.shape[1]
    shares = np.bincount(sizes, minlength=classes + 1) / len(sizes)
    axes.bar(np.arange(classes + 1), shares, color=BLUE)
    axes.axvline(sizes.mean(), color=ORANGE, linewidth=2, label=f"mean {sizes.mean():.2f}")
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
    _bars(axes, places - 0.2, [s.recall for s in shares], "recall", BLUE)
    _bars(axes, places + 0.2, [s.fdr for s in shares], "false share (FDR)", ORANGE)
    if config.per_class:  # else only the whole is controlled, and no class by itself
        name = "1 - alpha, least recall asked for"
        axes.axvline(1 - float(alpha), color=BLACK, linestyle=":", label=name)
    axes.set_yticks(places, [f"{name} ({positives_text(row)})" for name, row in table.items()])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=f"share by {config.unit}, with 95 % intervals over {cut_by}s")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return figure


def draw_groups(
    columns: dict[str, dict[str, GroupMetrics]], certificate: Certificate, config: Config
) -> "Figure":
    """Realised risks within groups with their intervals, in grey where few patients are behind.

    Args:
        columns: by column and group.
        certificate: of the level.
        config: the risks and the unit.
    """
    figure, axes = _axes(config, certificate.alpha)
    names = [f"{column}: {name}" for column, groups in columns.items() for name in groups]
    groups = [group for of_column in columns.values() for group in of_column.values()]
    colours = (BLUE, ORANGE)[: len(config.risk)]
    for risk, level, colour in zip(config.target_risks, certificate.alphas, colours, strict=True):
        own = risk.abbreviation
        label = f"alpha = {level:g}" + (f" of the {own}" if config.joint else "")
        if not config.per_class:  # which promises nothing about all classes together
            line = colour if config.joint else BLACK
            axes.axvline(level, color=line, linestyle="--", label=label)
        for place, group in enumerate(groups):
            found, shown = group.risks[risk.metric], GREY if group.few else colour
            if found.value is None:
                continue
            axes.plot(found.interval or (), [place] * len(found.interval or ()), color=shown)
            axes.plot(found.value, place, "o", color=shown)
        axes.plot([], [], "o-", color=colour, label=f"{own}, 95 %")
    if any(group.few for group in groups):
        label = f"fewer than {FEW_PATIENTS} patients"
        axes.plot([], [], "o-", color=GREY, label=label)
    counted = [f"{name} ({group.patients:,})" for name, group in zip(names, groups, strict=True)]
    axes.set_yticks(np.arange(len(names)), counted)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"realised {config.abbreviations} by {config.unit} (patients in brackets)")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return figure


def _bars(axes: "Axes", places: np.ndarray, shares: list[Estimate], name: str, colour: str) -> None:
    values = np.array([np.nan if s.value is None else s.value for s in shares])
    ends = np.array([s.interval or (np.nan, np.nan) for s in shares]).T
    spread = np.clip(np.abs(ends - values), 0, None)
    axes.barh(places, values, 0.38, color=colour, label=name, xerr=spread, ecolor=BLACK)
