"""Training in two processes of one thread each against one process of one thread.

python -m benchmarks.processes --json processes.json

Stage 1 on random images of 224 px, the same global batch: one process without torchrun, one and
two under torchrun (where there is CUDA: no more than devices). The runs take turns, so that what
else the machine does falls on all of them. The efficiency is images/s over those of one process,
by the number of processes.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.batches import DEVICE, network_of, random_images
from benchmarks.race import described, machine
from chestxray.models.features import Features
from chestxray.runtime.cli import number
from chestxray.runtime.processes import process_group
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run
from chestxray.training.trainer import STEPS_BETWEEN_SYNCS, train_one_epoch

TOTAL = 32  # images a step, of all processes
ROOT = Path(__file__).resolve().parents[1]
RUNS = {"one process": 0, "torchrun, 1 process": 1, "torchrun, 2 processes": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    batches = number(int, TOTAL, math.inf, f"a whole number, at least a batch of {TOTAL}")
    rounds = number(int, 1, math.inf, "a whole number, at least 1")
    parser.add_argument("--images", type=batches, default=256, metavar="N", help="an epoch")
    parser.add_argument("--rounds", type=rounds, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    print(described(machine()) + ", one thread for each process")
    devices = torch.cuda.device_count() or max(RUNS.values())
    runs = {label: count for label, count in RUNS.items() if count <= devices}
    speeds: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(args.rounds):
        for label, count in runs.items():
            speeds[label].append(speed(count, args.images))
        print("  ".join(f"{k} {v[-1]:.1f}" for k, v in speeds.items()), file=sys.stderr, flush=True)
    efficiencies = {}
    for label, count in runs.items():
        pairs = zip(speeds[label], speeds["one process"], strict=True)
        ratios = [ours / (one * max(1, count)) for ours, one in pairs]
        efficiencies[label] = statistics.median(ratios)
        print(
            f"{label:<22} {statistics.median(speeds[label]):6.1f} images/s, efficiency "
            f"{efficiencies[label]:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    if args.json:
        content = {"machine": machine(), "images_per_second": speeds, "efficiency": efficiencies}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def speed(count: int, images: int) -> float:
    """Images per second of an epoch by so many processes under torchrun; 0: without it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "speed"
        done = subprocess.run(
            [sys.executable, *(launcher if count else []), __file__, str(path), str(images)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return float(path.read_text(encoding="ascii"))


def epochs(path: Path, images: int) -> None:
    """In a process of a run: an epoch to warm up and one to time."""
    on_device = DEVICE.type == "cuda"
    rng = np.random.default_rng(1)
    with process_group(DEVICE, lambda: None) as processes:
        network = network_of(scratch=False)
        optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)
        wrapped = processes.wrap(network, lambda: None)
        features = Features(random_images(images, on_device), network.frozen_stem())
        for warming_up in (True, False):
            run = Run("benchmark", stage=1, lr=1e-4, epochs_done=0, epochs_planned=1)
            order = rng.permutation(2 * TOTAL if warming_up else images) % images
            began = time.perf_counter()
            train_one_epoch(
                wrapped,
                FocalLoss(),
                optimizer,
                features,
                order,
                TOTAL // processes.size,
                run,
                sync_every=STEPS_BETWEEN_SYNCS if on_device else 1,
                processes=processes,
            )
            if on_device:
                torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if processes.rank == 0:
            path.write_text(str(images / seconds), encoding="ascii")


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].startswith("-"):
        epochs(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
