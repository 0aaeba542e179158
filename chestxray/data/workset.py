"""The images that a run works on: rows whose images could be read, and their pixels."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from chestxray.data.cache import (
    DecodedImages,
    describe_broken,
    describe_skipped,
    fit_on_device,
)
from chestxray.data.dataset import ChestDataset
from chestxray.data.splits import rows_digest
from chestxray.labels import CLASSES
from chestxray.runtime.text import plural


@dataclass(frozen=True)
class Workset:
    """Decoded images with their labels, patients and parts of the split.

    Attributes:
        rows: N of them, as in Entries.rows, with the column split; of images without labels, as in
            UnlabelledImages.rows, with the column patient where it is known.
        pixels: (M, size, size) uint8.
        cache_index: (N,) where each row's image lies in `pixels`.
    """

    rows: pd.DataFrame
    pixels: np.ndarray
    cache_index: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """(N, 15) zeros and ones; (N, 0) without labels."""
        return self.rows[[name for name in CLASSES if name in self.rows]].to_numpy(np.uint8)

    def digest(self) -> str:
        """A short name of images, parts and labels, by which two machines compare theirs."""
        return rows_digest(self.rows)

    def datasets(
        self, parts: Iterable[tuple[str, ...]], device: torch.device, free: int
    ) -> list[ChestDataset]:
        """A data set for each group of parts of the split.

        Args:
            parts: such as [("train",), ("val",)].
            device: where batches are wanted.
            free: bytes of its memory; a GPU keeps the images where all take at most half of that.
        """
        masks = [self.rows["split"].isin(part).to_numpy() for part in parts]
        return [self._dataset(mask, device, free) for mask in masks]

    def dataset(self, device: torch.device, free: int) -> ChestDataset:
        """A data set of all images; the arguments are those of `datasets`."""
        return self._dataset(np.ones(len(self.rows), dtype=bool), device, free)

    def _dataset(self, mask: np.ndarray, device: torch.device, free: int) -> ChestDataset:
        size = self.pixels.shape[1]
        return ChestDataset(
            self.rows["image"].to_numpy()[mask],
            self.pixels,
            self.cache_index[mask],
            self.targets[mask],
            device,
            resident=device.type == "cuda" and fit_on_device(len(self.rows), size, free),
        )


def keep_readable(
    rows: pd.DataFrame, images: DecodedImages, skip_broken: bool
) -> tuple[Workset, list[str]]:
    """Put rows and decoded images together, those left out that could not be read.

    Args:
        rows: N of them, with the column split.
        images: the decoded images of the same N.
        skip_broken: leave out images that cannot be read.

    Returns:
        The images to work on, and the ones left out, in lines for people.

    Raises:
        ValueError: an image cannot be read and is not to be skipped, or none can.
    """
    notes: list[str] = []
    if images.broken:
        if not skip_broken:
            raise ValueError(describe_broken(images.broken))
        notes = describe_skipped(images.broken)
    readable = images.cache_index >= 0
    if len(rows) - readable.sum() != len(images.broken):
        raise RuntimeError("images are missing, and nothing says why")
    if not readable.any():
        path, reason = min(images.broken.items())
        raise ValueError(f"none of {plural(len(rows), 'image')} can be read; {path}: {reason}")
    return Workset(rows[readable], images.pixels, images.cache_index[readable]), notes
