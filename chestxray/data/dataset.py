"""Rows -> batches: images (N, 3, size, size), targets (N, 15); the order of an epoch.

No loader and no stored generator: images lie decoded in one array, a batch is a gather from it,
and the order of an epoch follows from (seed, epoch) alone, so a run resumes exactly at any batch.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from chestxray.labels import CLASSES, HERNIA

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of the pretrained weights
_UPLOAD = 4096  # images copied to a device at once


class BatchSource(Protocol):
    """Batches that a network is trained on or scored with."""

    image_names: np.ndarray
    targets: np.ndarray
    device: torch.device

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather one batch: inputs of the network (n, ...), targets (n, 15) float32."""


class ChestDataset:
    """Images and targets of one part of the split.

    Args:
        image_names: (N,) file names.
        pixels: (M, size, size) uint8.
        cache_index: (N,) the row of each image in `pixels`.
        targets: (N, 15), 0 or 1.
        device: where batches are wanted.
        resident: keep the images on the device, N size^2 bytes, and gather them there.
    """

    def __init__(
        self,
        image_names: np.ndarray,
        pixels: np.ndarray,
        cache_index: np.ndarray,
        targets: np.ndarray,
        device: torch.device,
        resident: bool = False,
    ) -> None:
        self.image_names, self.pixels, self.cache_index = image_names, pixels, cache_index
        self.targets, self.device = targets, device
        grey = torch.arange(256).view(256, 1) / 255
        self._normalised = ((grey - torch.tensor(MEAN)) / torch.tensor(STD)).to(device)
        self._resident = self._upload() if resident else None

    def __len__(self) -> int:
        return len(self.cache_index)

    def gather(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather images (n, 3, size, size), normalised float32, and targets (n, 15) float32."""
        if self._resident is None:
            grey = self.send(self.pixels[self.cache_index[indices]])
        else:
            grey = self._resident.index_select(0, self.send(indices))
        images = functional.embedding(grey.int(), self._normalised)  # a grey value's three numbers
        return images.permute(0, 3, 1, 2), self.gather_targets(indices)

    def gather_targets(self, indices: np.ndarray) -> torch.Tensor:
        """Gather the targets (n, 15) float32 of one batch."""
        return self.send(self.targets[indices]).float()

    def send(self, array: np.ndarray) -> torch.Tensor:
        """Send an array to the device as a tensor, without waiting for it."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # from pinned memory the host need not wait for the copy
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _upload(self) -> torch.Tensor:
        """Copy the images to the device, (N, size, size) uint8 in the order of the data set."""
        size = self.pixels.shape[1]
        grey = torch.empty((len(self), size, size), dtype=torch.uint8, device=self.device)
        for start in range(0, len(self), _UPLOAD):
            cache_index = self.cache_index[start : start + _UPLOAD]
            grey[start : start + _UPLOAD] = torch.from_numpy(self.pixels[cache_index]).to(
                self.device
            )
        return grey


def epoch_order(targets: np.ndarray, seed: int, epoch: int, max_per_class: int) -> np.ndarray:
    """Draw the order of the images of a training epoch.

    Args:
        targets: (N, 15), 0 or 1, of the training part.
        seed: of the run.
        epoch: counted from 0 across stages.
        max_per_class: see cap; 0 takes every image.

    Returns:
        (n,) indices into `targets`, n <= N, each at most once.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(targets))
    return order[cap(targets[order], max_per_class)] if max_per_class else order


def cap(targets: np.ndarray, most: int) -> np.ndarray:
    """Choose the rows that a cap per class lets through.

    Rows are visited in order; a row is taken unless one of its labels is on `most` taken rows
    already; rows with Hernia always are.

    Args:
        targets: (N, 15), 0 or 1, in the order in which they are visited.
        most: at least 1.

    Returns:
        (N,) bool.
    """
    taken = np.zeros(len(targets), dtype=bool)
    full = np.zeros(len(CLASSES), dtype=bool)
    hernia = targets[:, CLASSES.index(HERNIA)].astype(bool)
    counts = np.zeros(len(CLASSES), dtype=np.int64)
    start = 0
    while start < len(targets):  # a round per class that fills up, not per row
        remaining = targets[start:]
        open_rows = hernia[start:] | ~remaining[:, full].any(axis=1)
        running = counts + np.cumsum(remaining * open_rows[:, None], axis=0, dtype=np.int64)
        fills = ((running >= most) & ~full).any(axis=1)
        stop = int(np.argmax(fills)) + 1 if fills.any() else len(remaining)
        taken[start : start + stop] = open_rows[:stop]
        counts = running[stop - 1]
        full |= counts >= most
        start += stop
    return taken


def batches(
    order: np.ndarray, batch_size: int, start: int = 0, least: int = 2
) -> Iterator[np.ndarray]:
    """Cut an order into batches from a position on; a smaller remainder joins the last batch."""
    while start < len(order):
        stop = start + batch_size
        if len(order) - stop < least:
            stop = len(order)
        yield order[start:stop]
        start = stop
