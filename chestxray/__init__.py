"""Training and scoring of chest X-ray classifiers whose scores stand up in statistics.

import chestxray
model = chestxray.load("checkpoints/stage2_0001_08.pth")
table = model.score("folder/")              # a DataFrame: image, and a score for each class
sets = model.sets(table, "thresholds.json")
"""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch comes with the first network that is loaded
    from chestxray.loaded_model import LoadedModel

__version__ = "0.1.0"


def load(
    checkpoint: str | PathLike[str], device: str = "auto", precision: str = "auto"
) -> "LoadedModel":
    """Load a network to score images with.

    Args:
        checkpoint: what main.py --test takes: one of its files, or weights of another program.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto" (bf16 where the hardware computes in it), "fp32" or "bf16".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no weights of such a network; the device is not there.
    """
    from chestxray.loaded_model import LoadedModel

    return LoadedModel.from_checkpoint(checkpoint, device, precision)
