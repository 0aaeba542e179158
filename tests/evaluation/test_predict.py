"""Predictions count every image once, whatever the batch."""

import numpy as np
import pytest
import torch
from torch import nn

from chestxray.data.dataset import ChestDataset
from chestxray.evaluation import predict


class FirstPixels(nn.Module):
    """A network whose logits show which images it saw."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].flatten(1)[:, :15]


def numbered(n: int) -> ChestDataset:
    pixels = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    names = np.array([f"{i}.png" for i in range(n)], dtype=object)
    return ChestDataset(
        names, pixels, np.arange(n), np.zeros((n, 15), np.uint8), torch.device("cpu")
    )


@pytest.mark.parametrize("n", [0, 1, 2, 12, 13, 16])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 6, 100])
def test_every_image_is_scored_once_and_in_order(n: int, batch_size: int) -> None:
    logits, scores = predict.predict(FirstPixels(), numbered(n), batch_size, "test")
    assert logits.shape == scores.shape == (n, 15)
    assert (np.diff(logits[:, 0]) > 0).all()
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert scores.dtype == np.float32


def test_the_check_between_batches_can_end_a_prediction() -> None:
    def refuse() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        predict.predict(FirstPixels(), numbered(4), 2, "test", check=refuse)


def test_logits_that_are_not_finite_name_their_images() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = FirstPixels()(images)
            logits[images[:, 0, 0, 0] == images[:, 0].max(), 3] = float("inf")
            return logits

    with pytest.raises(FloatingPointError, match="1 image are not finite: 4.png"):
        predict.predict(Broken(), numbered(5), 5, "test")
