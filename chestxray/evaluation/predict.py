"""A network and a data set -> logits and scores, each image once, in order."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import nn

from chestxray.data.dataset import BatchSource, batches
from chestxray.data.workset import Workset
from chestxray.labels import CLASSES
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.runtime.progress import Progress
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores

# On a CPU the last bits of an output depend on how many images are computed at once.
AT_ONCE = 8


def predict(
    model: nn.Module,
    dataset: BatchSource,
    batch_size: int,
    title: str,
    check: Callable[[], None] = lambda: None,
    processes: Processes = ONE_PROCESS,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every image once, in the order of the data set.

    On a CPU an image gets the same bits whatever else is scored, in batches of any size, by any
    number of processes that compute with as many threads.

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
            parts += [_logits(model, dataset, few) for few in _few_at_once(part, dataset.device)]
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
    # In float32 the last bit of a sigmoid depends on where in the array it stands.
    return logits.numpy(), torch.sigmoid(logits.double()).float().numpy()


def _few_at_once(indices: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Split a batch into what is computed at once."""
    at_once = AT_ONCE if device.type == "cpu" else len(indices)
    return [indices[start : start + at_once] for start in range(0, len(indices), at_once)]


def _logits(model: nn.Module, dataset: BatchSource, indices: np.ndarray) -> torch.Tensor:
    """The logits (n, C) of some images; on a CPU with the last one repeated up to AT_ONCE."""
    filled = indices
    if dataset.device.type == "cpu":
        filled = np.pad(indices, (0, AT_ONCE - len(indices)), mode="edge")
    inputs, _ = dataset.gather(filled)
    logits: torch.Tensor = model(inputs)[: len(indices)]
    return logits.float()


def scores_table(images: Workset, logits: np.ndarray, scores: np.ndarray) -> Scores:
    """Put logits and scores (N, C) beside what is known of their images.

    Without labels that is the patient, at most.
    """
    rows = images.rows
    return Scores(
        image_names=rows["image"].to_numpy(),
        patients=rows["patient"].to_numpy() if "patient" in rows else None,
        splits=rows["split"].to_numpy() if "split" in rows else None,
        classes=CLASSES,
        targets=images.targets,
        logits=logits,
        scores=scores,
        attributes=_attributes(rows),
    )


def _attributes(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    if "age" not in rows:
        return {}
    return {
        "sex": rows["sex"].to_numpy(),
        "age": _age_texts(rows["age"].to_numpy()),
        "view": rows["view"].to_numpy(),
    }


def _age_texts(years: np.ndarray) -> np.ndarray:
    """Ages as short as can be, "" for NaN: 58, and 1.08333 for thirteen months."""
    return np.array(["" if np.isnan(age) else f"{age:g}" for age in years], dtype=object)
