"""Outputs of the frozen part of the network, kept in memory when they fit.

No augmentation and BatchNorm in eval: the frozen part is a constant function of an image, so that
an epoch after the first need not compute it again.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from chestxray.data.dataset import ChestDataset
from chestxray.models.network import StagedNetwork
from chestxray.runtime.cli import say
from chestxray.runtime.job import Job
from chestxray.runtime.progress import Progress
from chestxray.runtime.text import plural, size_text

SHARE = 0.5  # of the free memory that kept features may take
_CHUNK = 32  # images computed at once


class Features:
    """Batches of feature maps, the output of the frozen part of a network.

    Args:
        images: N of them.
        frozen: normalised images (n, 3, size, size) to maps (n, C, h, w), after pooling (n, C).
    """

    def __init__(self, images: ChestDataset, frozen: nn.Module) -> None:
        self.image_names, self.targets, self.device = (
            images.image_names,
            images.targets,
            images.device,
        )
        self._images, self._frozen = images, frozen
        self._kept: torch.Tensor | None = None  # (N, h, w, C), after pooling (N, C)

    def __len__(self) -> int:
        return len(self._images)

    def gather(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch: the feature maps of n images, and their targets (n, 15) float32."""
        if self._kept is None:
            images, targets = self._images.gather(indices)
            return self._frozen(images), targets
        maps = self._kept.index_select(0, self._images.send(indices))
        return maps.movedim(-1, 1), self._images.gather_targets(indices)

    def bytes_to_keep(self) -> int:
        """Memory that the feature maps of all images would take."""
        if not len(self):
            return 0
        one, _ = self.gather(np.zeros(1, dtype=np.int64))
        return len(self) * one.numel() * one.element_size()

    def keep(self, check: Callable[[], None] = lambda: None) -> None:
        """Compute the feature maps of all images once, and gather batches from them afterwards.

        Args:
            check: called between chunks; an exception from it ends the work.
        """
        kept = None
        with Progress("frozen layers", len(self)) as progress:
            for start in range(0, len(self), _CHUNK):
                check()
                indices = np.arange(start, min(start + _CHUNK, len(self)))
                maps = self.gather(indices)[0].movedim(1, -1)
                if kept is None:
                    kept = maps.new_empty((len(self), *maps.shape[1:]))
                kept[start : start + _CHUNK] = maps
                progress.advance(len(indices))
        self._kept = kept


def keep_if_it_fits(
    parts: Sequence[Features], free: int, check: Callable[[], None] = lambda: None
) -> str:
    """Keep the features of all parts of the split, or of none where all need too much memory.

    Args:
        parts: of one network.
        free: bytes that the process could still take; a share of it may be used.
        check: as in Features.keep.

    Returns:
        What was done, in a line for people.
    """
    needed = sum(part.bytes_to_keep() for part in parts)
    images = sum(map(len, parts))
    output = f"the output of the frozen layers for {plural(images, 'image')}"
    if needed > SHARE * free:
        return (
            f"{output} is computed again in every epoch: it takes {size_text(needed)}, more than "
            f"half of the {size_text(free)} of free memory"
        )
    for part in parts:
        part.keep(check)
    return f"{output} is kept: {size_text(needed)} of {size_text(free)} of free memory"


def frozen_features(
    network: StagedNetwork, parts: Sequence[ChestDataset], stage: int, job: Job
) -> list[Features]:
    """Features of the frozen part for each part of the split, kept where that pays.

    Args:
        network: some of whose sections are frozen.
        parts: data sets of images.
        stage: that trains; in stage 1 little is frozen, and nothing is kept.
        job: nothing is kept where several processes share the work.
    """
    frozen = network.frozen_stem()
    found = [Features(part, frozen) for part in parts]
    if stage > 1 and job.processes.size > 1:
        say("several processes: the output of the frozen layers is computed again in every epoch")
    elif stage > 1:
        say(keep_if_it_fits(found, job.free_memory(), job.stop.check))
    return found
