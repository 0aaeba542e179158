"""The plot of a comparison: realised risk beside alpha, and set size, of each file."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from chestxray.conformal.comparison_page import Comparison, Level
from chestxray.conformal.metrics import Estimate
from chestxray.conformal.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLACK = "#222222"
_GAP = 1.2  # between the files of one alpha and of the next
_NAME = 26  # characters of a line of a file's name


def draw(comparison: Comparison) -> "Figure":
    """Realised risk and set size with 95 % intervals, a line a file, a group an alpha."""
    from matplotlib.figure import Figure

    files, levels, config = len(comparison.names), comparison.levels, comparison.config
    height = 1.8 + 0.36 * len(levels) * (files + _GAP)
    figure = Figure(figsize=(10, max(height, 3.2)), layout="constrained")
    risks, sizes = figure.subplots(1, 2, sharey=True)
    groups = [place * (files + _GAP) + np.arange(files) for place in range(len(levels))]
    for level, places in zip(levels, groups, strict=True):
        _draw_alpha(risks, level.alpha, places)
        _draw_level(risks, level, places, config.unit, config.target_risk.metric)
        _draw_level(sizes, level, places, config.unit, "size")
    names = [textwrap.fill(name, _NAME) for name in comparison.names]
    risks.set_yticks(np.concatenate(groups), names * len(levels))
    risks.set_ylim(groups[-1][-1] + 0.7, -1.4)
    risks.set_xlabel(f"realised {config.target_risk.axis_label}")
    sizes.set_xlabel("classes in a set")
    for axes in (risks, sizes):
        axes.set_xlim(0, 1.15 * axes.get_xlim()[1])  # room for the last number
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.suptitle(_title(comparison), x=0.01, ha="left", fontsize=12)
    return figure


def _title(comparison: Comparison) -> str:
    config = comparison.config
    delta = "" if config.method == "crc" else f", delta = {config.delta:g}"
    return (
        f"{config.target_risk.abbreviation} control by {config.method.upper()}{delta}: the same "
        f"patients for every file\nmeans over the {config.unit}s that evaluate, with 95 % intervals"
    )


def _draw_alpha(axes: "Axes", alpha: str, places: np.ndarray) -> None:
    """A line at alpha along the files of its group."""
    ends = (places[0] - 0.5, places[-1] + 0.5)
    axes.vlines(float(alpha), *ends, color=_BLACK, linestyle="--", zorder=0)
    axes.text(float(alpha), ends[0] - 0.05, f"alpha = {alpha}", ha="center", va="bottom")


def _draw_level(axes: "Axes", level: Level, places: np.ndarray, unit: str, metric: str) -> None:
    """A dot with its interval for each file."""
    for k, (place, sets) in enumerate(zip(places, level.sets, strict=True)):
        if sets is None:
            where = axes.get_yaxis_transform()  # x in shares of the axis
            text = "nothing is certified"
            axes.text(0.05, place, text, transform=where, va="center", color="#777777")
            continue
        found, colour = sets[unit][metric].found, COLOURS[k % len(COLOURS)]
        if found.value is not None:
            _draw_estimate(axes, found, place, colour, digits=2 if metric == "size" else 3)


def _draw_estimate(axes: "Axes", found: Estimate, place: float, colour: str, digits: int) -> None:
    assert found.value is not None
    low, high = found.interval or (found.value, found.value)
    axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.35)
    axes.plot(found.value, place, "o", color=colour, markersize=8)
    axes.annotate(
        f"{found.value:.{digits}f}",
        (high, place),
        (6, 0),
        textcoords="offset points",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # over the line at alpha
    )
