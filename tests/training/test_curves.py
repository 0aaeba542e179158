"""The plot of loss and AUC over the epochs."""

import io

import numpy as np
import pytest
from PIL import Image

from chestxray.checkpoints.checkpoint import EpochRecord
from chestxray.training.curves import draw_curves


def record(epoch: int, stage: int = 1, validated: bool = True) -> EpochRecord:
    return EpochRecord(
        run_id="r",
        stage=stage,
        epoch=epoch,
        lr=1e-4,
        images=16,
        train_loss=0.1 / epoch,
        val_loss=0.12 / epoch if validated else None,
        val_auc=0.5 + 0.02 * epoch if validated else None,
        val_classes=14 if validated else 0,
        seconds=1.0,
    )


def drawn_plot(history: list[EpochRecord]) -> np.ndarray:
    """(height, width, 3) of what draw_curves writes."""
    file = io.BytesIO()
    draw_curves(history, file)
    with Image.open(file, formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def has_colour(plot: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((plot == colour).all(axis=2).any())


BLUE, ORANGE = (0, 114, 178), (213, 94, 0)

HISTORIES = {
    "one epoch": [record(1)],
    "several stages": [record(epoch, stage=1 + epoch // 4) for epoch in range(1, 11)],
    "one epoch a stage": [record(stage, stage) for stage in range(1, 5)],
    "an epoch without validation": [record(1), record(2, validated=False), record(3)],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_curves_show_training_and_validation(name: str) -> None:
    plot = drawn_plot(HISTORIES[name])
    losses, areas = np.split(plot, 2, axis=1)
    assert has_colour(losses, BLUE) and has_colour(losses, ORANGE)
    assert has_colour(areas, ORANGE)


def test_a_run_without_validation_keeps_both_panels() -> None:
    without, with_it = (
        np.split(drawn_plot([record(epoch, 1 + epoch // 4, kept) for epoch in range(1, 11)]), 2, 1)
        for kept in (False, True)
    )
    assert has_colour(without[0], BLUE)
    assert not has_colour(without[1], ORANGE)
    for empty, full in zip(without, with_it, strict=True):
        assert axis_length(empty) == pytest.approx(axis_length(full), rel=0.05)


def axis_length(panel: np.ndarray) -> int:
    """Pixels of the longest black row: the x axis."""
    return int((panel.max(axis=2) < 60).sum(axis=1).max())
