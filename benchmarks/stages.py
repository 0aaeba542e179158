"""An epoch of each stage, validation and saving included, on the recipe's network at 224 pixels.

python -m benchmarks.stages --json stages.json

The images are random: what they show does not change the work. From stage 2 on the frozen
layers' maps are kept, as from the second epoch of such a stage; the filling is timed beside.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.race import BATCH, SIZE, described, machine
from chestxray.data.dataset import ChestDataset, epoch_order
from chestxray.labels import CLASSES
from chestxray.models import network as networks
from chestxray.models.features import Features, keep_if_it_fits
from chestxray.runtime.device import computes_in_bf16, pick_device
from chestxray.runtime.memory import free_memory
from chestxray.training import run_folder, trainer
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run

DEVICE = pick_device("auto")
EPOCHS = {1: 1, 2: 1, 3: 3, 4: 3}
PROMISED = {2: 1.4, 3: 3.5, 4: 50.0}  # times as fast as an epoch of stage 1, at least


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=4000, metavar="N", help="a tenth validates")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(args.images, SIZE, SIZE), dtype=np.uint8)
    targets = (rng.uniform(size=(args.images, len(CLASSES))) < 0.1).astype(np.uint8)
    validation = np.arange(args.images) % 10 == 0

    resident = DEVICE.type == "cuda"

    def part(rows: np.ndarray) -> ChestDataset:
        cache_index = np.flatnonzero(rows)
        names = np.array([f"{slot:08d}_000.png" for slot in cache_index], dtype=object)
        return ChestDataset(names, pixels, cache_index, targets[cache_index], DEVICE, resident)

    print(described(machine()))
    found: dict[int, dict[str, Any]] = {}
    for stage in EPOCHS:
        found[stage] = timed(stage, part(~validation), part(validation))
        times = statistics.median(found[1]["epochs"]) / statistics.median(found[stage]["epochs"])
        found[stage]["times_stage_1"] = times
        shown = ", ".join(f"{seconds:.1f}" for seconds in found[stage]["epochs"])
        line = f"stage {stage}: epoch {shown} s"
        if stage in PROMISED:
            line += f", {times:.1f} times as fast as stage 1 (promised: {PROMISED[stage]:g})"
            line += f"; filling {found[stage]['filling']:.1f} s: {found[stage]['kept']}"
        print(line, flush=True)
    if args.json:
        content = {"machine": machine(), "images": args.images, "stages": found}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def timed(stage: int, train_set: ChestDataset, val_set: ChestDataset) -> dict[str, Any]:
    """Seconds of each epoch, and of the filling before."""
    network = networks.build_model(len(CLASSES), seed=0).to(DEVICE)
    network.bf16 = computes_in_bf16(DEVICE)
    network.set_stage(stage)
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)
    frozen = network.frozen_stem()
    train_features, val_features = Features(train_set, frozen), Features(val_set, frozen)
    start = time.perf_counter()
    parts = [train_features, val_features]
    kept = keep_if_it_fits(parts, free_memory(DEVICE)) if stage > 1 else None
    filled = time.perf_counter()
    run = Run("benchmark", stage, 1e-4, epochs_done=0, epochs_planned=EPOCHS[stage])
    ends = []
    with tempfile.TemporaryDirectory() as name:
        folder = run_folder.RunFolder(Path(name), fixed={})

        def save() -> None:
            folder.save_epoch(run, network, optimizer)
            ends.append(time.perf_counter())

        trainer.train(
            run,
            network,
            FocalLoss(),
            optimizer,
            train_features,
            val_features,
            batch_size=BATCH,
            order_of=lambda epoch: epoch_order(train_set.targets, 0, epoch, 10000),
            save_seconds=600,
            save_epoch=save,
            save_partial_epoch=lambda: folder.save_partial_epoch(run, network, optimizer),
            check=lambda: None,
            scorer=network.folded_head,
            sync_every=1 if DEVICE.type == "cpu" else trainer.STEPS_BETWEEN_SYNCS,
        )
    epochs = [end - begin for begin, end in zip([filled, *ends], ends, strict=False)]
    return {"epochs": epochs, "filling": filled - start, "kept": kept}


if __name__ == "__main__":
    main()
