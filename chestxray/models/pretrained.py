"""Weights that a first stage starts from."""

from collections.abc import Mapping
from pickle import UnpicklingError
from urllib.error import URLError

import torch

from chestxray.models.backbones import Backbone, default_backbone


def imagenet_weights(backbone: Backbone | None = None) -> Mapping[str, torch.Tensor]:
    """Read a backbone's ImageNet weights from torchvision's cache, or download them.

    Args:
        backbone: entry of the table; None takes the default.

    Raises:
        FileNotFoundError: neither cached nor to be downloaded; says where to put the file.
        ValueError: the cached file is damaged.
    """
    weights = (backbone or default_backbone()).weights
    name = weights.url.rsplit("/", 1)[-1]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise FileNotFoundError(
            f"the ImageNet weights cannot be downloaded ({error}); put {name} into "
            f"{torch.hub.get_dir()}/checkpoints, or name it with --weights FILE; "
            "--weights none starts from random weights"
        ) from error
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{name} in {torch.hub.get_dir()}/checkpoints is damaged, or its download was; "
            "delete it and try again"
        ) from error
