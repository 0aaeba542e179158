"""The batches of an epoch, of which each process of a job gets a share."""

from collections.abc import Iterator

import numpy as np
import torch

from chestxray.data.dataset import BatchSource, batches, epoch_order
from chestxray.options import Options
from chestxray.runtime.job import Job
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.runtime.text import plural
from chestxray.training.run import Run


class EpochBatches:
    """The batches of an epoch that are not done yet.

    Iterating gives inputs and targets of this process's share of a batch, the weight of their mean
    loss, and the indices of the whole batch; see Processes.training_share.

    Args:
        data: the training images.
        order: indices into them, the whole epoch.
        batch_size: images per step and process; a remainder with fewer than two images for each
            process joins the batch before.
        done: images of the epoch that were trained on before.
        processes: those who share each batch; all have the same arguments.
        sync_every: batches between two syncs, at which their losses are read. A sync waits for the
            device; it comes before the step, so that with 1 no step of a loss that is not finite
            is taken.

    Raises:
        ValueError: a single image, of which BatchNorm cannot take a variance.
    """

    def __init__(
        self,
        data: BatchSource,
        order: np.ndarray,
        batch_size: int,
        done: int = 0,
        processes: Processes = ONE_PROCESS,
        sync_every: int = 1,
    ) -> None:
        if len(order) < 2:
            raise ValueError(
                f"{plural(len(order), 'training image')}: BatchNorm needs at least two"
            )
        self._data, self._order, self._batch_size = data, order, batch_size
        self._done, self._processes = done, processes
        self.sync_every = sync_every

    def __len__(self) -> int:
        """Images of the whole epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, float, np.ndarray]]:
        size = self._processes.size
        for indices in batches(self._order, self._batch_size * size, self._done, least=2 * size):
            share, weight = self._processes.training_share(indices, self._batch_size)
            yield *self._data.gather(share), weight, indices

    def mean(self, losses: list[torch.Tensor]) -> list[float]:
        """The mean of each loss over the processes; waits for the device."""
        return self._processes.mean(torch.stack(losses)).tolist()

    def names(self, indices: np.ndarray) -> np.ndarray:
        """The image names of a batch."""
        return self._data.image_names[indices]


def next_epoch(data: BatchSource, options: Options, run: Run, job: Job) -> EpochBatches:
    """The batches of the epoch that a run is in, from where it stands.

    Args:
        data: the training images.
        options: batch size, seed, and the cap per class.
        run: its epoch and the images done of it.
        job: whose processes share each batch.
    """
    order = epoch_order(data.targets, options.seed, run.epochs_done, options.max_per_class)
    done, processes = run.images_done, job.processes
    return EpochBatches(data, order, options.bs, done, processes, job.sync_every)
