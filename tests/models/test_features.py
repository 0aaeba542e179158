"""Kept features are the computed ones, to the bit, and are kept only where they fit."""

import copy
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers import random_dataset

from chestxray.data.dataset import epoch_order
from chestxray.models import network as networks
from chestxray.models.features import Features, keep_if_it_fits
from chestxray.runtime.signals import Stopped
from chestxray.training.batches import EpochBatches
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run
from chestxray.training.trainer import train_one_epoch, validate


def network_of(stage: int, bf16: bool = False) -> networks.StagedNetwork:
    network = networks.build_model(15, seed=0)
    network.bf16 = bf16
    network.set_stage(stage)
    return network


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stage", [2, 3, 4])
def test_kept_or_not_the_batches_are_the_same_bits(stage: int, bf16: bool) -> None:
    features = Features(random_dataset(37), network_of(stage, bf16).frozen_stem())
    wanted = [np.array([5]), np.array([36, 0, 20]), np.arange(37)]
    computed = [features.gather(indices) for indices in wanted]
    needed = features.bytes_to_keep()
    features.keep()
    for indices, (maps, targets) in zip(wanted, computed, strict=True):
        kept_maps, kept_targets = features.gather(indices)
        assert torch.equal(kept_maps, maps) and kept_maps.dtype == maps.dtype
        assert kept_maps.stride() == maps.stride() or maps.ndim == 2
        assert torch.equal(kept_targets, targets)
    maps, _ = features.gather(np.arange(37))
    assert needed == maps.numel() * maps.element_size()


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stage", [2, 4])
def test_a_run_with_kept_features_ends_in_the_same_bits(stage: int, bf16: bool) -> None:
    ends = [train_two_epochs(stage, bf16, keep) for keep in (False, True)]
    assert ends[0][1] == ends[1][1]
    for name, value in ends[0][0].items():
        assert torch.equal(value, ends[1][0][name]), name


def train_two_epochs(
    stage: int, bf16: bool, keep: bool
) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    network = network_of(stage, bf16)
    frozen = network.frozen_stem()
    train_set, val_set = (Features(random_dataset(n), frozen) for n in (21, 9))
    if keep:
        keep_if_it_fits([train_set, val_set], free=1 << 40)
    run = Run("r", stage=stage, lr=1e-3, epochs_done=0, epochs_planned=2)
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-3, fused=True)
    for _ in range(2):
        order = epoch_order(train_set.targets, 3, run.epochs_done, 8)
        epoch = EpochBatches(train_set, order, 5)
        train_one_epoch(network, FocalLoss(), optimizer, epoch, run)
        scorer = network.folded_head()
        run.finish_epoch(len(epoch), validate(scorer, FocalLoss(), val_set, 5, check=lambda: None))
    history = [{**asdict(record), "seconds": None} for record in run.history]
    return copy.deepcopy(network.state_dict()), history


def test_what_does_not_fit_is_computed_again_and_that_is_said() -> None:
    """Of all parts or of none: the second part alone would fit."""
    frozen = Counting(network_of(4).frozen_stem())
    parts = [Features(random_dataset(10), frozen), Features(random_dataset(2), frozen)]
    needed = 12 * 2048 * 4
    said = keep_if_it_fits(parts, free=2 * needed - 1)
    assert "again in every epoch" in said and "12 images" in said
    assert computes(parts[0], frozen) and computes(parts[1], frozen)
    said = keep_if_it_fits(parts, free=2 * needed)
    assert "is kept" in said
    assert not computes(parts[0], frozen) and not computes(parts[1], frozen)


class Counting(torch.nn.Module):
    """A module that counts how often it is called."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.module(images)


def computes(features: Features, frozen: Counting) -> bool:
    """Whether a batch is computed, rather than gathered from what is kept."""
    before = frozen.calls
    features.gather(np.array([1, 0]))
    return frozen.calls > before


def test_an_empty_part_has_nothing_to_keep() -> None:
    frozen = network_of(4).frozen_stem()
    parts = [Features(random_dataset(n), frozen) for n in (4, 0)]
    assert "is kept" in keep_if_it_fits(parts, free=1 << 40)
    assert parts[1].bytes_to_keep() == 0


def test_a_stop_ends_the_keeping() -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            raise Stopped(15)

    features = Features(random_dataset(70), network_of(4).frozen_stem())
    with pytest.raises(Stopped):
        features.keep(check)
    assert checks == 2
    frozen = network_of(4).frozen_stem()
    (maps, _), (images, _) = (
        features.gather(np.array([69, 0])),
        random_dataset(70).gather(np.array([69, 0])),
    )
    assert torch.equal(maps, frozen(images))  # a store that is half filled is not used
