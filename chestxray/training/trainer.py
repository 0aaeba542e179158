"""One epoch of training, and its validation."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from chestxray.data.dataset import BatchSource
from chestxray.evaluation.metrics import mean_of_findings, roc_auc_per_class
from chestxray.evaluation.predict import predict
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.runtime.progress import Progress
from chestxray.runtime.text import join_limited
from chestxray.training.batches import EpochBatches
from chestxray.training.run import Run, Validation


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: EpochBatches,
    run: Run,
    after_sync: Callable[[], None] = lambda: None,
) -> None:
    """Train on the images of an epoch that are not done yet.

    Args:
        model: from what the batches hold to logits (n, C); wrapped where processes share them.
        criterion: from logits and targets to a mean loss.
        optimizer: of the model's trainable parameters.
        batches: of the epoch, from where the run stands.
        run: its images and sums move on with each sync.
        after_sync: called after the step of each sync; an exception from it leaves `run` in order.

    Raises:
        FloatingPointError: a loss that is not finite.
    """
    model.train()
    title = f"epoch {run.epochs_done + 1}/{run.epochs_planned}"
    with Progress(title, len(batches), run.images_done) as progress:
        sums = _RunningSums(run, batches)
        for inputs, targets, weight, indices in batches:
            loss = weight * criterion(model(inputs), targets)
            sums.add(indices, loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if sums.move_run_on(progress):
                after_sync()
                sums.restart_clock()  # saving is not training


class _RunningSums:
    """The losses since the last sync, from which a run's sums move on at the next."""

    def __init__(self, run: Run, batches: EpochBatches) -> None:
        self._run, self._batches = run, batches
        self._position = run.images_done
        self._pending: list[tuple[np.ndarray, torch.Tensor]] = []
        self._losses: list[float] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        self._began = time.monotonic()

    def add(self, indices: np.ndarray, loss: torch.Tensor) -> None:
        """Note the loss of a batch; at a sync, read all that are pending.

        Raises:
            FloatingPointError: one is not finite; names its images.
        """
        self._pending.append((indices, loss))
        self._position += len(indices)
        if len(self._pending) == self._batches.sync_every or self._position == len(self._batches):
            self._losses = self._batches.mean([loss for _, loss in self._pending])
            self._check_finite()

    def move_run_on(self, progress: Progress) -> bool:
        """After a sync's step, bring the run to it; returns whether there was one."""
        if not self._losses:
            return False
        run = self._run
        for (indices, _), value in zip(self._pending, self._losses, strict=True):
            run.loss_sum += value * len(indices)
        progress.advance(self._position - run.images_done, run.loss_sum / self._position)
        run.images_done, self._pending, self._losses = self._position, [], []
        run.seconds_done += time.monotonic() - self._began
        return True

    def _check_finite(self) -> None:
        before = self._run.images_done
        for (indices, _), value in zip(self._pending, self._losses, strict=True):
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} in the batch after {before} images; it holds "
                    f"{join_limited(self._batches.names(indices))}"
                )
            before += len(indices)


def validate(
    model: nn.Module,
    criterion: nn.Module,
    data: BatchSource,
    batch_size: int,
    check: Callable[[], None],
    processes: Processes = ONE_PROCESS,
) -> Validation:
    """Loss and mean AUC on the validation images.

    Args:
        model: from what `data` gathers to logits (n, C); left in eval mode.
        criterion: from logits and targets to a mean loss.
        data: the validation images.
        batch_size: images at a time, per process.
        check: called between batches; an exception from it ends the work.
        processes: those who share the images.
    """
    logits, scores = predict(model, data, batch_size, "validation", check, processes)
    if not len(data):
        return Validation(None, None, 0)
    targets = torch.from_numpy(data.targets.astype(np.float32))
    auc, classes = mean_of_findings(roc_auc_per_class(data.targets, scores))
    loss = criterion(torch.from_numpy(logits), targets).item()
    return Validation(loss, auc if classes else None, classes)
