"""The project in training and scoring, and the network alone as the ceiling of both.

The benchmarks reach chestxray.models and chestxray.training through this file.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harness import BATCH, SIZE, TimedRun, Workload
from chestxray.checkpoints.checkpoint import Checkpoint, TableRecord
from chestxray.data.cache import load_images
from chestxray.data.dataset import MEAN, STD, ChestDataset
from chestxray.data.splits import Split
from chestxray.evaluation.predict import predict
from chestxray.labels import CLASSES
from chestxray.models.features import Features, keep_if_it_fits
from chestxray.models.network import FoldedNetwork, StagedNetwork, build_model
from chestxray.runtime import device, memory
from chestxray.runtime.job import STEPS_BETWEEN_SYNCS
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.training import trainer
from chestxray.training.batches import EpochBatches
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run
from chestxray.training.run_folder import RunFolder

DEVICE = device.pick_device("auto")
RESIDENT = DEVICE.type == "cuda"  # images lie on the device
LR = 1e-4


@dataclass
class Training:
    """A stage as main.py trains it; `model` is the network, wrapped for several processes."""

    network: StagedNetwork
    model: nn.Module
    optimizer: torch.optim.Optimizer
    run: Run
    processes: Processes

    def features(self, dataset: ChestDataset) -> Features:
        return Features(dataset, self.network.frozen_stem())


def build_network(stage: int = 1, scratch: bool = False) -> StagedNetwork:
    network = build_model(len(CLASSES), seed=0).to(DEVICE)
    network.bf16 = device.computes_in_bf16(DEVICE)
    network.set_stage(stage, from_scratch=scratch)
    return network


def start_training(
    stage: int = 1, scratch: bool = False, epochs: int = 1, processes: Processes = ONE_PROCESS
) -> Training:
    network = build_network(stage, scratch)
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=LR, fused=True)
    run = Run("benchmark", stage, LR, epochs_done=0, epochs_planned=epochs)
    return Training(network, processes.wrap(network, lambda: None), optimizer, run, processes)


def train_epoch(
    training: Training, features: Features, order: np.ndarray, batch_size: int = BATCH
) -> int:
    """Train on an epoch from its beginning; returns the number of its images."""
    training.run.images_done, training.run.loss_sum = 0, 0.0
    sync_every = 1 if DEVICE.type == "cpu" else STEPS_BETWEEN_SYNCS
    epoch = EpochBatches(features, order, batch_size, 0, training.processes, sync_every)
    model, optimizer = training.model, training.optimizer
    trainer.train_one_epoch(model, FocalLoss(), optimizer, epoch, training.run)
    _wait_for_device()
    return len(order)


def finish_epoch(training: Training, val_features: Features) -> None:
    """Validate, and record the epoch that was trained."""
    scorer, images = training.network.folded_head(), training.run.images_done
    metrics = trainer.validate(scorer, FocalLoss(), val_features, BATCH, lambda: None)
    training.run.finish_epoch(images, metrics)


def save_epoch(training: Training, folder: Path) -> None:
    """Save the finished epoch: checkpoint, log, curves, last.pth and best.pth."""
    template = Checkpoint(
        **vars(training.run),
        classes=list(CLASSES),
        split=Split.empty(),
        size=SIZE,
        mean=list(MEAN),
        std=list(STD),
        args={},
        table=TableRecord({}, {}),
        precision="fp32",
        processes=training.processes.size,
    )
    RunFolder(folder, template).save_epoch(training.run, training.network, training.optimizer)


def keep_features(parts: list[Features]) -> str:
    """Keep the feature maps of the frozen layers, if they fit; returns a line that says so."""
    return keep_if_it_fits(parts, memory.free_memory(DEVICE))


def folded_network() -> FoldedNetwork:
    return build_network(scratch=True).folded_head()  # nothing is frozen: the whole network


def score(scorer: nn.Module, dataset: ChestDataset, batch_size: int = BATCH) -> int:
    """Score all images; returns their number."""
    return len(predict(scorer, dataset, batch_size, "scoring")[1])


def random_dataset(count: int, resident: bool = RESIDENT) -> ChestDataset:
    rng = np.random.default_rng(0)
    names = np.array([f"{index:08d}_000.png" for index in range(count)], dtype=object)
    pixels = rng.integers(256, size=(count, SIZE, SIZE), dtype=np.uint8)
    targets = (rng.uniform(size=(count, len(CLASSES))) < 0.1).astype(np.uint8)
    return ChestDataset(names, pixels, np.arange(count), targets, DEVICE, resident)


def load_dataset(work: Workload, cache: Path) -> ChestDataset:
    images = load_images(work.paths, SIZE, work.source, cache, workers=2)
    names = np.array([Path(path).name for path in work.paths], dtype=object)
    return ChestDataset(names, images.pixels, images.cache_index, work.targets, DEVICE, RESIDENT)


def fixed_order(count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(count)


def training(work: Workload) -> TimedRun:
    """Train on the decoded images of a warm cache."""
    state = start_training()
    features = state.features(load_dataset(work, work.scratch / "cache"))
    return lambda: train_epoch(state, features, fixed_order(len(features)))


def first_epoch(work: Workload) -> TimedRun:
    """Train with the decoding into a new cache."""
    state = start_training()
    frozen = state.network.frozen_stem()
    numbers = itertools.count()

    def run() -> int:
        features = Features(load_dataset(work, work.scratch / f"cache{next(numbers)}"), frozen)
        return train_epoch(state, features, fixed_order(len(features)))

    return run


def training_ceiling(work: Workload) -> TimedRun:
    """Take training steps on one batch that stays in memory."""
    state = start_training()
    frozen, criterion = state.network.frozen_stem(), FocalLoss()
    images, targets = _one_batch(), torch.from_numpy(work.targets[:BATCH]).float().to(DEVICE)
    steps = len(work.paths) // BATCH

    def run() -> int:
        state.network.train()
        for _ in range(steps):
            loss = criterion(state.network(frozen(images)), targets)
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()
        _wait_for_device()
        return steps * BATCH

    return run


def evaluation(work: Workload) -> TimedRun:
    """Score the decoded images of a warm cache."""
    memory.reuse_freed_memory()
    scorer, dataset = folded_network(), load_dataset(work, work.scratch / "cache")
    return lambda: score(scorer, dataset)


def evaluation_ceiling(work: Workload) -> TimedRun:
    """Score one batch that stays in memory."""
    memory.reuse_freed_memory()
    scorer, images = folded_network(), _one_batch()
    steps = len(work.paths) // BATCH

    def run() -> int:
        with torch.inference_mode():
            for _ in range(steps):
                scorer(images)
        _wait_for_device()
        return steps * BATCH

    return run


def _one_batch() -> torch.Tensor:
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    return images.to(DEVICE)


def _wait_for_device() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
