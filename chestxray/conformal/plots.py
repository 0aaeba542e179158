"""The four plots of the report; matplotlib is imported only when one is drawn."""

import io
from typing import Any

import numpy as np

from chestxray.conformal.calibrate import Config
from chestxray.conformal.risks import GRID

_BLUE, _ORANGE, _GREEN, _BLACK = "#0072b2", "#d55e00", "#009e73", "#222222"
_NAMES = {"fnr": "miss rate (FNR)", "fdr": "false discovery rate (FDR)"}
_COLOURS = (_BLUE, _ORANGE, _GREEN, "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", ":")  # with the colours, 18 lines that differ
_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def _axes(choices: Config, alpha: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    promise = f"alpha = {alpha}" + (" for each class" if choices.per_class else "")
    if choices.method != "crc":
        promise += f", delta = {choices.delta:g}"
    axes.set_title(
        f"{choices.risk.upper()} by {choices.method.upper()}, {promise}", loc="left", fontsize=11
    )
    return figure, axes


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _threshold_axis(axes: Any) -> None:
    axes.set_xscale("logit")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set(xlim=(_TICKS[0], _TICKS[-1]), ylim=(0, 1.02))
    axes.set_xlabel("threshold t (logit scale): a class is in the set where p >= t")


def draw_risk(
    risks: np.ndarray,
    bound: np.ndarray | None,
    level: dict[str, Any],
    choices: Config,
) -> bytes:
    """Risk on the calibration rows against the threshold, with bound, alpha and certified part.

    Args:
        risks: (T,) mean loss of the calibration units on the grid.
        bound: (T,) its upper bound or correction, None where the method has none.
        level: one of report.json's levels, certified.
        choices: risk, method and unit.
    """
    figure, axes = _axes(choices, level["alpha"])
    axes.plot(GRID, risks, color=_BLUE, linewidth=3, label=f"calibration {choices.unit}s, mean")
    if bound is not None:
        name = "corrected for one more" if choices.method == "crc" else "upper bound"
        axes.plot(GRID, bound, color=_ORANGE, linestyle="--", label=name)
    axes.axhline(float(level["alpha"]), color=_BLACK, linestyle=":", label="alpha")
    threshold = level["threshold"]
    inside = (GRID[0], threshold) if choices.risk == "fnr" else (threshold, GRID[-1])
    if choices.fwer == "fst" or choices.method != "ltt":  # what Holm certifies may have gaps
        axes.axvspan(*inside, color=_GREEN, alpha=0.12, label="certified thresholds")
    axes.axvline(threshold, color=_GREEN, label=f"threshold {threshold:.4g}")
    _threshold_axis(axes)
    axes.set_ylabel(_NAMES[choices.risk])
    axes.legend(frameon=False, loc="best")
    return _png(figure)


def draw_risk_per_class(
    curves: list[np.ndarray | None], level: dict[str, Any], choices: Config
) -> bytes:
    """The corrected miss rate of each class against its threshold, with a dot at the chosen one.

    Args:
        curves: K times (T,) on the grid; None where no calibration unit has the class.
        level: one of report.json's levels, certified, with a threshold a class.
        choices: unit and method.
    """
    figure, axes = _axes(choices, level["alpha"])
    limits, units = level["threshold"], level["units_by_class"]
    axes.axhline(float(level["alpha"]), color=_BLACK, linewidth=1, label="alpha")
    for k, (name, curve) in enumerate(zip(limits, curves, strict=True)):
        colour = _COLOURS[k % len(_COLOURS)]
        dashes = _DASHES[k // len(_COLOURS) % len(_DASHES)]
        threshold, label = limits[name], f"{name} ({units[name]:,})"
        if threshold is None:
            label += ", always in"
        if curve is None:
            axes.plot([], [], " ", label=label)
            continue
        axes.plot(GRID, curve, color=colour, linestyle=dashes, label=label)
        if threshold is not None:
            reached = np.interp(threshold, GRID, curve)
            axes.plot(threshold, reached, "o", color=colour, markeredgecolor="white", zorder=3)
    _threshold_axis(axes)
    axes.set_ylabel("miss rate of a class, corrected for one more")
    title = f"class ({choices.unit}s that calibrate);\ndot: its threshold"
    figure.legend(frameon=False, loc="outside right upper", title=title, fontsize=8)
    return _png(figure)


def draw_resplits(risks: np.ndarray, alpha: str, choices: Config) -> bytes:
    """Histogram of the realised risk over re-splits by patient, with alpha and the mean.

    Args:
        risks: (times,) realised risk of each cut, NaN where it certifies nothing.
        alpha: the level.
        choices: risk, method, unit and the share that calibrates.
    """
    known = risks[~np.isnan(risks)]
    figure, axes = _axes(choices, alpha)
    axes.hist(known, bins=40, color=_BLUE, alpha=0.75)
    above = float((known > float(alpha)).mean()) if len(known) else 0.0
    axes.axvline(float(alpha), color=_BLACK, linestyle="--", linewidth=2, label=f"alpha = {alpha}")
    if len(known):
        axes.axvline(known.mean(), color=_ORANGE, linewidth=2, label=f"mean {known.mean():.3f}")
    axes.plot([], [], " ", label=f"{above:.1%} of {len(known):,} cuts above alpha")
    if choices.method != "crc":
        axes.plot([], [], " ", label="gaps: thresholds lie on a grid")
    whom = f"{choices.unit}s of the other side"
    axes.set_xlabel(f"realised {_NAMES[choices.risk]}, mean over the {whom}")
    axes.set_ylabel(f"cuts by patient, {choices.cal_fraction:.0%} for calibration")
    axes.legend(frameon=False)
    return _png(figure)


def draw_resplits_per_class(found: dict[str, dict[str, Any]], alpha: str, choices: Config) -> bytes:
    """Realised miss rate of each class over re-splits by patient: median, 5-95 %, and alpha.

    Args:
        found: figures.summary by class.
        alpha: the level.
        choices: unit and the share that calibrates.
    """
    figure, axes = _axes(choices, alpha)
    for place, figures in enumerate(found.values()):
        if figures["certified"]:
            axes.plot(figures["interval"], [place, place], color=_BLUE, linewidth=6, alpha=0.4)
            axes.plot(figures["median"], place, "o", color=_BLUE)
            axes.plot(figures["mean"], place, "|", color=_ORANGE, markersize=14, markeredgewidth=2)
    axes.axvline(float(alpha), color=_BLACK, linestyle="--", label=f"alpha = {alpha}")
    axes.plot([], [], color=_BLUE, linewidth=6, alpha=0.4, label="5-95 %")
    axes.plot([], [], "o", color=_BLUE, label="median")
    axes.plot([], [], "|", color=_ORANGE, markersize=14, markeredgewidth=2, label="mean")
    axes.set_yticks(np.arange(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(
        f"realised miss rate of the other side's {choices.unit}s with the class,\n"
        f"over cuts by patient, {choices.cal_fraction:.0%} for calibration"
    )
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return _png(figure)


def draw_sizes(sets: np.ndarray, alpha: str, choices: Config) -> bytes:
    """How many classes the sets (N, K) of the evaluation images have."""
    figure, axes = _axes(choices, alpha)
    sizes, classes = sets.sum(axis=1), sets.shape[1]
    shares = np.bincount(sizes, minlength=classes + 1) / len(sizes)
    axes.bar(np.arange(classes + 1), shares, color=_BLUE)
    axes.axvline(sizes.mean(), color=_ORANGE, linewidth=2, label=f"mean {sizes.mean():.2f}")
    axes.plot([], [], " ", label=f"empty {shares[0]:.1%}, every class {shares[-1]:.1%}")
    axes.set(xlabel="classes in the prediction set", ylabel="share of the evaluation images")
    axes.set_xticks(np.arange(classes + 1))
    axes.legend(frameon=False)
    return _png(figure)


def draw_classes(table: dict[str, dict[str, Any]], alpha: str, choices: Config) -> bytes:
    """Recall and false share of each class, weighted by the unit, with bootstrap intervals."""
    weighting = "patient" if choices.unit == "patient" else "image"
    figure, axes = _axes(choices, alpha)
    places = np.arange(len(table))
    for shift, what, color in ((-0.2, "recall", _BLUE), (0.2, "fdr", _ORANGE)):
        shares = [row[weighting][what] for row in table.values()]
        values = np.array([np.nan if s["value"] is None else s["value"] for s in shares])
        ends = np.array([s["interval"] or (np.nan, np.nan) for s in shares]).T
        spread = np.clip(np.abs(ends - values), 0, None)
        name = "recall" if what == "recall" else "false share (FDR)"
        axes.barh(places + shift, values, 0.38, color=color, label=name, xerr=spread, ecolor=_BLACK)
    if choices.per_class:  # else only the whole is controlled, and no class by itself
        name = "1 - alpha, least recall asked for"
        axes.axvline(1 - float(alpha), color=_BLACK, linestyle=":", label=name)
    axes.set_yticks(places, [f"{n} ({row['positives']:,} positive)" for n, row in table.items()])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=f"share by {weighting}, with 95 % patient-bootstrap intervals")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return _png(figure)
