"""The network that a command begins with: fresh, from ImageNet, from a file, or as it was left."""

from collections.abc import Mapping
from pathlib import Path

import torch

from chestxray.checkpoints import foreign
from chestxray.checkpoints.lookup import Opened
from chestxray.labels import CLASSES
from chestxray.models.backbones import BACKBONES
from chestxray.models.network import StagedNetwork, build_model, load_weights
from chestxray.models.pretrained import imagenet_weights
from chestxray.runtime.job import Job


def start_network(weights: str, seed: int, opened: Opened | None, job: Job) -> StagedNetwork:
    """Build the network on the job's device.

    Args:
        weights: "imagenet", "none" or a file, for a new run.
        seed: of fresh weights.
        opened: holds the weights to continue or score with; None for a new run.
        job: its first process on a machine alone downloads weights.

    Raises:
        FileNotFoundError, ValueError: the weights are not there, or do not fit.
    """
    body = _body(weights, job) if opened is None else None
    stored = opened.checkpoint if opened else None
    backbone = BACKBONES[stored.arch] if stored else None
    network = build_model(len(CLASSES), seed, body, backbone)
    if opened is not None:
        load_weights(network, opened.weights)
    network.bf16 = job.precision == "bf16"
    return network.to(job.device)


def _body(weights: str, job: Job) -> Mapping[str, torch.Tensor] | None:
    """The weights below the head that a new run begins with; None where they are fresh."""
    if weights == "imagenet":
        with job.processes.local_rank_first(job.stop.check):
            return imagenet_weights()
    return None if weights == "none" else foreign.read_state_dict(Path(weights))
