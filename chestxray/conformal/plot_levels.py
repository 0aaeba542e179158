"""The plot of all levels of a calibration: realised against nominal level, and the sets below."""

from typing import TYPE_CHECKING, Any

import numpy as np

from chestxray.conformal.metrics import FEW_PATIENTS, Estimate
from chestxray.conformal.plots import BLACK, BLUE, COLOURS, DASHES, GREY, ORANGE, begin
from chestxray.conformal.report import Entry, Report
from chestxray.runtime.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_TICKS = 12
_APART = 0.09  # of groups at the same level, as a share of the distance of levels


def comparable(report: Report) -> list[Entry]:
    """The levels with realised metrics, ascending; none of a joint control, which has but one."""
    if report.config.joint:
        return []
    found = [entry for entry in report.entries if entry.realised]
    return sorted(found, key=lambda entry: entry.certificate.alphas)


def draw_levels(report: Report) -> "Figure":
    """Realised risk against the level asked for, with intervals, re-splits, and the sets' size.

    Args:
        report: of a calibration with at least two levels that are certified and evaluated.
    """
    from matplotlib.figure import Figure

    config, entries = report.config, comparable(report)
    # Where empty sets meet every level, their share is what a low risk may be bought with.
    heights = [3.0, 1.2, 1.2] if config.target_risk.strict_last else [3.0, 1.2]
    figure = Figure(figsize=(8, 2.2 + sum(heights)), layout="constrained")
    risks, *others = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    begin(risks, plural(len(entries), "level"), config)
    _draw_risks(risks, entries, report)
    alphas = _alphas(entries)
    for axes, name in zip(others, ("size", "empty"), strict=False):
        found = [(entry.realised or {})[config.unit].estimates()[name] for entry in entries]
        _line(axes, alphas, found, color=BLUE)
        axes.set_ylim(bottom=0)
        axes.set_ylabel({"size": "classes\nin a set", "empty": "share of\nempty sets"}[name])
        axes.spines[["top", "right"]].set_visible(False)
    if len(report.entries) <= _MOST_TICKS:
        others[-1].set_xticks(_alphas(report.entries))
    others[-1].set_xlabel(f"nominal level alpha; the metrics are by {config.unit}")
    figure.align_ylabels()
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return figure


def _alphas(entries: list[Entry]) -> np.ndarray:
    return np.array([entry.certificate.alphas[0] for entry in entries])


def _draw_risks(axes: "Axes", entries: list[Entry], report: Report) -> None:
    """The realised risk of the whole, of each group, or of each class, and the diagonal."""
    config, alphas = report.config, _alphas(report.entries)
    ends = np.array([alphas.min(), alphas.max()])
    margin = 0.06 * np.ptp(ends)
    ends += [-margin, margin]
    axes.plot(ends, ends, color=BLACK, linestyle=":", label="realised = alpha")
    if config.by:
        _draw_groups(axes, entries, report)
    elif config.per_class:
        _draw_classes(axes, entries, report)
    else:
        _draw_whole(axes, entries, report)
    failed = _alphas([entry for entry in report.entries if not entry.certificate.certified])
    if len(failed):
        place, bottom = axes.get_xaxis_transform(), np.zeros(len(failed))
        style: dict[str, Any] = {"color": GREY, "linestyle": "", "clip_on": False}
        axes.plot(failed, bottom, "x", transform=place, label="nothing certified", **style)
    axes.set_xlim(*ends)
    axes.set_ylabel(f"realised {config.abbreviations}")


def _draw_whole(axes: "Axes", entries: list[Entry], report: Report) -> None:
    risk, unit = report.config.target_risk.metric, report.config.unit
    known = [entry for entry in entries if entry.resplits and entry.resplits.whole]
    cuts = [(entry.resplits.whole or {})[risk] for entry in known if entry.resplits]
    spread = np.array([cut.interval or (np.nan, np.nan) for cut in cuts])
    if len(cuts):
        means = [np.nan if cut.mean is None else cut.mean for cut in cuts]
        times = f"{report.config.resplits:,} cuts by {report.cut_by}"
        band: dict[str, Any] = {"color": ORANGE, "alpha": 0.18, "linewidth": 0}
        axes.fill_between(_alphas(known), *spread.T, label=f"5-95 % of {times}", **band)
        axes.plot(_alphas(known), means, color=ORANGE, linestyle="--", label="mean of the cuts")
    found = [(entry.realised or {})[unit].estimates()[risk] for entry in entries]
    label = f"evaluation rows, 95 % over {report.cut_by}s"
    _line(axes, _alphas(entries), found, color=BLUE, label=label)


def _draw_groups(axes: "Axes", entries: list[Entry], report: Report) -> None:
    """A line a group, with intervals side by side; grey where few patients are behind it."""
    columns = [(entry.group_metrics or {}).get(str(report.config.by), {}) for entry in entries]
    names = list(dict.fromkeys(name for groups in columns for name in groups))
    step = np.diff(np.sort(_alphas(entries))).min() * _APART
    for k, name in enumerate(names):
        own = [groups.get(name) for groups in columns]
        found = [Estimate(None, None) if g is None else next(iter(g.risks.values())) for g in own]
        most = max(group.patients for group in own if group is not None)
        colour = GREY if most < FEW_PATIENTS else COLOURS[k % len(COLOURS)]
        dashes = DASHES[k // len(COLOURS) % len(DASHES)]
        places = _alphas(entries) + (k - (len(names) - 1) / 2) * step
        label = f"{name} ({plural(most, report.cut_by)}), 95 %"
        _line(axes, places, found, color=colour, linestyle=dashes, label=label)


def _draw_classes(axes: "Axes", entries: list[Entry], report: Report) -> None:
    """A thin line a class, dotted where few patients have it, and the mean of the classes."""
    tables, lines = [entry.class_metrics or {} for entry in entries], []
    labels = {"-": "a class", ":": f"a class of fewer than {FEW_PATIENTS} {report.cut_by}s"}
    for name, metrics in tables[0].items():
        values = [table[name].shares[report.config.unit].missed.value for table in tables]
        lines.append([np.nan if value is None else value for value in values])
        dashes = ":" if metrics.patients < FEW_PATIENTS else "-"
        style: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": dashes}
        axes.plot(_alphas(entries), lines[-1], label=labels.pop(dashes, None), **style)
    known = np.array([line for line in lines if not np.isnan(line).any()])
    if len(known):
        label = f"mean of the classes ({len(known)})"
        axes.plot(_alphas(entries), known.mean(axis=0), "o-", color=BLUE, label=label)


def _line(axes: "Axes", alphas: np.ndarray, found: list[Estimate], **style: Any) -> None:
    """Estimates with their intervals."""
    values = np.array([np.nan if share.value is None else share.value for share in found])
    ends = np.array([share.interval or (np.nan, np.nan) for share in found]).T
    spread = np.clip(np.abs(ends - values), 0, None)
    axes.errorbar(alphas, values, yerr=spread, marker="o", markersize=4, elinewidth=1, **style)
