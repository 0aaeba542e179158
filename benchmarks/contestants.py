"""The project in training and scoring, and the network alone as the ceiling of both."""

import itertools
from pathlib import Path

import numpy as np
import torch

from benchmarks.race import BATCH, SIZE, Lap, Track
from chestxray.data.cache import load_images
from chestxray.data.dataset import ChestDataset
from chestxray.evaluation.predict import predict
from chestxray.models import network as networks
from chestxray.models.features import Features
from chestxray.runtime import device, memory
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run
from chestxray.training.trainer import STEPS_BETWEEN_SYNCS, train_one_epoch

DEVICE = device.pick_device("auto")


def stage_1() -> tuple[networks.StagedNetwork, torch.optim.Optimizer]:
    network = networks.build_model(15, seed=0).to(DEVICE)
    network.bf16 = device.computes_in_bf16(DEVICE)
    network.set_stage(1)
    return network, torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)


def loaded(track: Track, cache: Path) -> ChestDataset:
    images = load_images(track.paths, SIZE, track.source, cache, workers=2)
    names = np.array([Path(path).name for path in track.paths], dtype=object)
    resident = DEVICE.type == "cuda"
    return ChestDataset(
        names, images.pixels, images.cache_index, track.targets, DEVICE, resident=resident
    )


def training(track: Track) -> Lap:
    network, optimizer = stage_1()
    dataset = Features(loaded(track, track.scratch / "cache"), network.frozen_stem())
    return lambda: epoch(network, optimizer, dataset)


def first_epoch(track: Track) -> Lap:
    network, optimizer = stage_1()
    frozen = network.frozen_stem()
    numbers = itertools.count()

    def lap() -> int:
        dataset = loaded(track, track.scratch / f"cache{next(numbers)}")
        return epoch(network, optimizer, Features(dataset, frozen))

    return lap


def epoch(
    network: networks.StagedNetwork, optimizer: torch.optim.Optimizer, dataset: Features
) -> int:
    run = Run("benchmark", stage=1, lr=1e-4, epochs_done=0, epochs_planned=1)
    order = np.random.default_rng(0).permutation(len(dataset))
    sync_every = 1 if DEVICE.type == "cpu" else STEPS_BETWEEN_SYNCS
    train_one_epoch(
        network, FocalLoss(), optimizer, dataset, order, BATCH, run, sync_every=sync_every
    )
    return run.images_done


def training_ceiling(track: Track) -> Lap:
    network, optimizer = stage_1()
    frozen, criterion = network.frozen_stem(), FocalLoss()
    images = one_batch()
    targets = torch.from_numpy(track.targets[:BATCH]).float().to(DEVICE)
    steps = len(track.paths) // BATCH

    def lap() -> int:
        network.train()
        for _ in range(steps):
            loss = criterion(network(frozen(images)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return steps * BATCH

    return lap


def one_batch() -> torch.Tensor:
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    return images.to(DEVICE)


def whole_network() -> networks.FoldedNetwork:
    memory.reuse_freed_memory()
    network = networks.build_model(15, seed=0).to(DEVICE)
    network.bf16 = device.computes_in_bf16(DEVICE)
    return network.folded_head()


def evaluation(track: Track) -> Lap:
    scorer, dataset = whole_network(), loaded(track, track.scratch / "cache")
    return lambda: len(predict(scorer, dataset, BATCH, "scoring")[1])


def evaluation_ceiling(track: Track) -> Lap:
    scorer = whole_network()
    images = one_batch()
    steps = len(track.paths) // BATCH

    def lap() -> int:
        with torch.inference_mode():
            for _ in range(steps):
                scorer(images)
        return steps * BATCH

    return lap
