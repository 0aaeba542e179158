"""Stage 1 against a plain PyTorch loop, and against the network alone.

python -m benchmarks.training --json training.json

(a) plain: benchmarks/plain.py. (b) project: the decoded pictures from a warm cache, gathered,
through the frozen part, trained on by train_one_epoch; and the first epoch, with the decoding
into a new cache. (c) ceiling: the same network and precision, step after step on one batch that
lies in memory, with backward and optimizer.
"""

import itertools
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain
from benchmarks.race import BATCH, SIZE, Lap, Track, arguments, race, ratio, report
from chestxray import machine, model
from chestxray.dataset import ChestDataset
from chestxray.features import Features
from chestxray.images import load_pictures
from chestxray.losses import FocalLoss
from chestxray.runs import Run
from chestxray.trainer import train_one_epoch

CPU = torch.device("cpu")
PROMISED = {
    "project_over_plain": 2.5,
    "project_over_ceiling": 0.95,
    "first_epoch_over_ceiling": 0.80,
}


def stage_1() -> tuple[model.ChestResNet, torch.optim.Optimizer]:
    machine.reuse_freed_memory()
    network = model.build_model(15, seed=0)
    network.bf16 = machine.computes_in_bf16(CPU)
    network.set_trainable(model.STAGES[1])
    return network, torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)


def loaded(track: Track, cache: Path) -> ChestDataset:
    pictures = load_pictures(track.paths, SIZE, track.source, cache, workers=2)
    names = np.array([Path(path).name for path in track.paths], dtype=object)
    return ChestDataset(names, pictures.pixels, pictures.slots, track.targets, CPU)


def project(track: Track) -> Lap:
    network, optimizer = stage_1()
    dataset = Features(loaded(track, track.scratch / "cache"), network.frozen_part())
    return lambda: epoch(network, optimizer, dataset)


def first_epoch(track: Track) -> Lap:
    network, optimizer = stage_1()
    frozen = network.frozen_part()
    numbers = itertools.count()

    def lap() -> int:
        dataset = loaded(track, track.scratch / f"cache{next(numbers)}")
        return epoch(network, optimizer, Features(dataset, frozen))

    return lap


def epoch(network: model.ChestResNet, optimizer: torch.optim.Optimizer, dataset: Features) -> int:
    run = Run("benchmark", stage=1, lr=1e-4, epochs_done=0, epochs_planned=1)
    order = np.random.default_rng(0).permutation(len(dataset))
    train_one_epoch(network, FocalLoss(), optimizer, dataset, order, BATCH, run)
    return run.pictures_done


def ceiling(track: Track) -> Lap:
    network, optimizer = stage_1()
    frozen, criterion = network.frozen_part(), FocalLoss()
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(track.targets[:BATCH]).float()
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


def main() -> None:
    args = arguments(__doc__, pictures=256)
    contestants = {
        "plain": plain.training,
        "project": project,
        "project, first epoch": first_epoch,
        "ceiling": ceiling,
    }
    found = race(contestants, args)
    ratios = {
        "project_over_plain": ratio(found, "project", "plain"),
        "project_over_ceiling": ratio(found, "project", "ceiling"),
        "first_epoch_over_ceiling": ratio(found, "project, first epoch", "ceiling"),
    }
    report(found, ratios, PROMISED, args)


if __name__ == "__main__":
    main()
