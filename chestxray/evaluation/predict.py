"""A network and a data set -> logits and scores, each image once, in order."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from chestxray.data.dataset import BatchSource, batches
from chestxray.data.workset import Workset
from chestxray.labels import CLASSES
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.runtime.progress import Progress
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores


def predict(
    model: nn.Module,
    dataset: BatchSource,
    batch_size: int,
    title: str,
    check: Callable[[], None] = lambda: None,
    processes: Processes = ONE_PROCESS,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every image once, in the order of the data set.

    Args:
        model: what the data set gathers to logits (n, C); left in eval mode.
        dataset: N images.
        batch_size: images at a time, per process.
        title: what the progress bar says.
        check: called between batches; an exception from it ends the work.
        processes: who shares the images; each gets all scores.

    Returns:
        Logits (N, C) and scores (N, C) = sigmoid(logits), both float32 and finite.

    Raises:
        FloatingPointError: logits that are not finite; names images.
    """
    model.eval()
    parts = []
    with torch.inference_mode(), Progress(title, len(dataset)) as progress:
        for indices in batches(np.arange(len(dataset)), batch_size * processes.size):
            check()
            part = processes.scoring_share(indices)
            if len(part):
                inputs, _ = dataset.gather(part)
                parts.append(model(inputs).float())
            progress.advance(len(indices))
        own = torch.cat(parts).cpu() if parts else torch.empty(0, len(CLASSES))
        logits = processes.gather_rows(own, len(dataset))
    if len(logits) != len(dataset):
        raise RuntimeError(f"{len(logits)} rows of scores for {len(dataset)} images")
    broken = ~torch.isfinite(logits).all(dim=1).numpy()
    if broken.any():
        raise FloatingPointError(
            f"the logits of {plural(int(broken.sum()), 'image')} are not finite: "
            f"{join_limited(dataset.image_names[broken], most=3)}"
        )
    return logits.numpy(), torch.sigmoid(logits).numpy()


def scores_table(images: Workset, logits: np.ndarray, scores: np.ndarray) -> Scores:
    """Put logits and scores (N, C) beside the labels, patients and attributes of their images."""
    return Scores(
        image_names=images.rows["image"].to_numpy(),
        patients=images.rows["patient"].to_numpy(),
        splits=images.rows["split"].to_numpy(),
        classes=CLASSES,
        targets=images.targets,
        logits=logits,
        scores=scores,
        attributes={
            "sex": images.rows["sex"].to_numpy(),
            "age": _age_texts(images.rows["age"].to_numpy()),
            "view": images.rows["view"].to_numpy(),
        },
    )


def _age_texts(years: np.ndarray) -> np.ndarray:
    """Ages as short as can be, "" for NaN: 58, and 1.08333 for thirteen months."""
    return np.array(["" if np.isnan(age) else f"{age:g}" for age in years], dtype=object)
