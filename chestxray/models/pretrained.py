"""The weights that a first stage starts from."""

from collections.abc import Mapping
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torchvision.models import ResNet50_Weights


def imagenet_weights() -> Mapping[str, torch.Tensor]:
    """torchvision's IMAGENET1K_V1 weights (the recipe's), from its cache or the network.

    Raises:
        FileNotFoundError: not cached and not to be had; says where to put the file.
        ValueError: the cached file is damaged.
    """
    weights = ResNet50_Weights.IMAGENET1K_V1
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
