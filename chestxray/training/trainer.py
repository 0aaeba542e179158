"""One epoch, and the staged loop around it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from chestxray.data.dataset import BatchSource, batches
from chestxray.evaluation.metrics import mean_of_findings, roc_auc_per_class
from chestxray.evaluation.predict import predict
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.runtime.progress import Progress
from chestxray.runtime.signals import Stopped
from chestxray.runtime.text import join_limited, plural
from chestxray.training.run import Run

STEPS_BETWEEN_SYNCS = 16  # on an accelerator, where a look at a loss waits for all that is queued


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: BatchSource,
    order: np.ndarray,
    batch_size: int,
    run: Run,
    after_sync: Callable[[], None] = lambda: None,
    sync_every: int = 1,
    processes: Processes = ONE_PROCESS,
) -> None:
    """Train on the images of an epoch that are not done yet.

    Args:
        model: what the data set gathers to logits (n, C).
        criterion: logits and targets to a mean loss.
        optimizer: of the model's trainable parameters.
        dataset: the training images.
        order: indices into the data set, the whole epoch.
        batch_size: images per step and process; a rest with fewer than two for each process joins
            the batch before.
        run: `images_done` is where to begin; it and the sums move on with each look.
        after_sync: called after the step of each look; an exception from it leaves `run` in order.
        sync_every: steps between two looks at the losses. A look waits for the device; it comes
            before the step, so that with 1 no step of a loss that is not finite is taken.
        processes: who shares each batch; all have the same arguments, and the model is wrapped.

    Raises:
        ValueError: a single image, of which BatchNorm cannot take a variance.
        FloatingPointError: a loss that is not finite.
    """
    if len(order) < 2:
        raise ValueError(f"{plural(len(order), 'training image')}: BatchNorm needs at least two")
    model.train()
    title = f"epoch {run.epochs_done + 1}/{run.epochs_planned}"
    position, pending = run.images_done, []
    began = time.monotonic()
    with Progress(title, len(order), run.images_done) as progress:
        for indices in batches(
            order, batch_size * processes.size, run.images_done, least=2 * processes.size
        ):
            share, weight = processes.training_share(indices, batch_size)
            inputs, targets = dataset.gather(share)
            loss = weight * criterion(model(inputs), targets)
            pending.append((indices, loss.detach()))
            position += len(indices)
            looking = len(pending) == sync_every or position == len(order)
            losses = (
                _finite_losses(pending, run.images_done, dataset.image_names, processes)
                if looking
                else []
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if looking:
                for (taken, _), value in zip(pending, losses, strict=True):
                    run.loss_sum += value * len(taken)
                progress.advance(position - run.images_done, run.loss_sum / position)
                run.images_done, pending = position, []
                run.seconds_done += time.monotonic() - began
                after_sync()
                began = time.monotonic()  # saving is no training


def _finite_losses(
    pending: list[tuple[np.ndarray, torch.Tensor]],
    before: int,
    names: np.ndarray,
    processes: Processes,
) -> list[float]:
    """The losses of some batches, each with its indices, as numbers; waits for the device."""
    losses: list[float] = processes.mean(torch.stack([loss for _, loss in pending])).tolist()
    for (indices, _), value in zip(pending, losses, strict=True):
        if not np.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} in the batch after {before} images; it holds "
                f"{join_limited(names[indices])}"
            )
        before += len(indices)
    return losses


def validate(
    model: nn.Module,
    criterion: nn.Module,
    dataset: BatchSource,
    batch_size: int,
    check: Callable[[], None],
    processes: Processes = ONE_PROCESS,
) -> dict[str, Any]:
    """Loss, mean AUC over the findings that have both values, and how many those are.

    All None where there is no image, or no finding with both values.
    """
    logits, scores = predict(model, dataset, batch_size, "validation", check, processes)
    if not len(dataset):
        return {"val_loss": None, "val_auc": None, "val_classes": 0}
    targets = torch.from_numpy(dataset.targets.astype(np.float32))
    auc, classes = mean_of_findings(roc_auc_per_class(dataset.targets, scores))
    return {
        "val_loss": criterion(torch.from_numpy(logits), targets).item(),
        "val_auc": auc if classes else None,
        "val_classes": classes,
    }


def train(
    run: Run,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_set: BatchSource,
    val_set: BatchSource,
    batch_size: int,
    order_of: Callable[[int], np.ndarray],
    save_seconds: float,
    save_epoch: Callable[[], None],
    save_partial_epoch: Callable[[], None],
    check: Callable[[], None],
    scorer: Callable[[], nn.Module] | None = None,
    sync_every: int = 1,
    processes: Processes = ONE_PROCESS,
) -> None:
    """Bring a run to its planned end: train, validate, record and save, epoch by epoch.

    Args:
        run: where it stands; moved on with every batch and epoch.
        order_of: from an epoch, counted from 0, to its training images; see epoch_order.
        save_seconds: save inside an epoch after so long.
        save_epoch: keeps a finished epoch.
        save_partial_epoch: keeps an epoch under way.
        check: raises Stopped when a signal has asked to stop, in all processes at once; what is
            done by then is kept.
        scorer: gives the model as it is now in a form that is faster in scoring.
        sync_every, processes: see train_one_epoch.

    Raises:
        Stopped: after saving, where a batch was done since the last time.
        FloatingPointError: a loss or a score is not finite; the files are as they were.
    """
    saved = time.monotonic()

    def after_sync() -> None:
        nonlocal saved
        check()
        if time.monotonic() - saved > save_seconds:
            save_partial_epoch()
            saved = time.monotonic()

    while run.epochs_done < run.epochs_planned:
        check()
        order = order_of(run.epochs_done)
        before = run.images_done
        try:
            train_one_epoch(
                model,
                criterion,
                optimizer,
                train_set,
                order,
                batch_size,
                run,
                after_sync,
                sync_every,
                processes,
            )
            began = time.monotonic()
            scoring = scorer() if scorer else model
            figures = validate(scoring, criterion, val_set, batch_size, check, processes)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"epoch {run.epochs_done + 1} at lr {run.lr:g} has diverged: {error}\n"
                "the checkpoints are as they were; a smaller --lr helps most often"
            ) from error
        except Stopped:
            if run.images_done > before:
                save_partial_epoch()
            raise
        run.seconds_done += time.monotonic() - began
        run.finish_epoch(len(order), figures)
        save_epoch()
        saved = time.monotonic()
