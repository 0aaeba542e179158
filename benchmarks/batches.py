"""Images per second by batch size, in training and in scoring, and the memory of the device.

python -m benchmarks.batches --json batches.json

Random images of 224 px, on the device where that is CUDA, and once sent from the host's memory;
stage 1 from pretrained weights (stem and first layer frozen) and from scratch (everything trains).
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.race import BATCH, SIZE, described, machine
from chestxray.data.dataset import ChestDataset
from chestxray.evaluation.predict import predict
from chestxray.labels import CLASSES
from chestxray.models import network as networks
from chestxray.models.features import Features
from chestxray.runtime.cli import number
from chestxray.runtime.device import computes_in_bf16, pick_device
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run
from chestxray.training.trainer import STEPS_BETWEEN_SYNCS, train_one_epoch

DEVICE = pick_device("auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    at_least = number(int, BATCH, math.inf, f"a whole number, at least {BATCH}")
    parser.add_argument("--images", type=at_least, default=256, metavar="N", help="an epoch")
    parser.add_argument("--batches", type=at_least, nargs="+", default=[32, 64], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    print(described(machine()))
    resident = DEVICE.type == "cuda"
    data = random_images(args.images, resident)
    found = []
    for batch_size in args.batches:
        for scratch in (False, True):
            found.append(training(data, batch_size, scratch))
        found.append(scoring(data, batch_size))
    if resident:
        sent = random_images(args.images, resident=False)
        found.append({**training(sent, args.batches[0], scratch=False), "sent": True})
    for row in found:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    if args.json:
        content = {"machine": machine(), "images": args.images, "found": found}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def random_images(count: int, resident: bool) -> ChestDataset:
    rng = np.random.default_rng(0)
    names = np.array([f"{index:08d}_000.png" for index in range(count)], dtype=object)
    pixels = rng.integers(256, size=(count, SIZE, SIZE), dtype=np.uint8)
    targets = (rng.uniform(size=(count, len(CLASSES))) < 0.1).astype(np.uint8)
    return ChestDataset(names, pixels, np.arange(count), targets, DEVICE, resident)


def network_of(scratch: bool) -> networks.StagedNetwork:
    network = networks.build_model(len(CLASSES), seed=0).to(DEVICE)
    network.bf16 = computes_in_bf16(DEVICE)
    network.set_stage(1, scratch)
    return network


def training(data: ChestDataset, batch_size: int, scratch: bool) -> dict[str, Any]:
    """Of an epoch of stage 1, after some steps to warm up."""
    _start_of_peak()
    network = network_of(scratch)
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)
    features = Features(data, network.frozen_stem())
    order = np.random.default_rng(0).permutation(len(data))
    for indices in (order[: 2 * batch_size], order):
        run = Run("benchmark", stage=1, lr=1e-4, epochs_done=0, epochs_planned=1)
        began = time.perf_counter()
        train_one_epoch(
            network,
            FocalLoss(),
            optimizer,
            features,
            indices,
            batch_size,
            run,
            sync_every=1 if DEVICE.type == "cpu" else STEPS_BETWEEN_SYNCS,
        )
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    what = "everything trains" if scratch else "stage 1"
    return {"what": what, "batch": batch_size, **_figures(len(data), seconds)}


def scoring(data: ChestDataset, batch_size: int) -> dict[str, Any]:
    """Of all images, the second time."""
    _start_of_peak()
    whole = network_of(scratch=True).folded_head()  # nothing is frozen
    for _ in range(2):
        began = time.perf_counter()
        predict(whole, data, batch_size, "scoring")
        seconds = time.perf_counter() - began
    return {"what": "scoring", "batch": batch_size, **_figures(len(data), seconds)}


def _start_of_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _figures(images: int, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {"images_per_second": round(images / seconds, 1)}
    if DEVICE.type == "cuda":
        found["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


if __name__ == "__main__":
    main()
