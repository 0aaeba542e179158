"""The plot of a run's losses and AUCs; matplotlib is imported only when it is drawn."""

from typing import IO, Any

from chestxray.checkpoints.checkpoint import EpochRecord

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#777777"  # told apart by the colour-blind too


def draw_curves(history: list[EpochRecord], file: IO[bytes]) -> None:
    """Draw loss and validation AUC over the epochs, as a PNG.

    Args:
        history: the records of log.jsonl, oldest first, at least one.
        file: where the PNG goes.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [record.epoch for record in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, areas = figure.subplots(1, 2)
    losses.plot(epochs, [r.train_loss for r in history], "o-", color=_BLUE, label="training")
    validated = any(record.val_loss is not None for record in history)
    if validated:
        losses.plot(epochs, _gaps(history, "val_loss"), "s-", color=_ORANGE, label="validation")
    losses.set_ylabel("loss (mean over images and classes)")
    losses.legend(frameon=False)
    areas.plot(epochs, _gaps(history, "val_auc"), "s-", color=_ORANGE)
    areas.axhline(0.5, color=_GREY, linewidth=0.8)
    areas.annotate("chance", (1, 0.5), xycoords=("axes fraction", "data"), ha="right", color=_GREY)
    if not validated:
        areas.text(0.5, 0.4, "no validation images", transform=areas.transAxes, ha="center")
    areas.set_ylabel("validation ROC AUC, mean over the findings")
    for axes in (losses, areas):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)  # also where there is nothing to draw
        _mark_stages(axes, history)
    figure.savefig(file, format="png", dpi=150)


def _mark_stages(axes: Any, history: list[EpochRecord]) -> None:
    """Name each stage where it begins, behind a dashed line."""
    for before, record in zip([None, *history], history, strict=False):
        if before is not None and before.stage == record.stage:
            continue
        begin = record.epoch - 0.5
        if before is not None:
            axes.axvline(begin, color=_GREY, linestyle="--", linewidth=0.8)
        place = {"xycoords": ("data", "axes fraction"), "va": "bottom", "color": _GREY}
        axes.annotate(f" stage {record.stage}", (begin, 1.0), **place)


def _gaps(history: list[EpochRecord], name: str) -> list[float]:
    values = [getattr(record, name) for record in history]
    return [float("nan") if value is None else value for value in values]
