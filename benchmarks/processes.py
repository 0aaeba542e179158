"""Training in two processes of one thread each against one process of one thread.

python -m benchmarks.processes --json processes.json

Stage 1 on random images of 224 px, the same global batch: one process without torchrun, one and
two under torchrun (on CUDA at most one per device). Efficiency is images/s divided by those of one
process and by the number of processes.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import (
    BATCH,
    ROOT,
    Spread,
    build_parser,
    ratios,
    speed,
    take_turns,
    this_machine,
    write_json,
)
from benchmarks.variants import DEVICE, random_dataset, start_training, train_epoch
from chestxray.runtime.processes import process_group

RUNS = {"one process": 0, "torchrun, 1 process": 1, "torchrun, 2 processes": 2}


def main() -> None:
    args = build_parser(__doc__, images=256, rounds=5).parse_args()
    print(f"{this_machine()}, one thread per process")
    devices = torch.cuda.device_count() or max(RUNS.values())
    counts = {label: count for label, count in RUNS.items() if count <= devices}
    runs = {label: partial(launch, count, args.images) for label, count in counts.items()}
    speeds = take_turns(runs, args.rounds)
    efficiency = {}
    for label, count in counts.items():
        within = ratios(speeds[label], [max(1, count) * one for one in speeds["one process"]])
        efficiency[label] = within.median
        median = Spread.of(speeds[label]).median
        print(f"{label:<22} {median:6.1f} images/s, efficiency {within:.2f}")
    write_json(args.json, {"images_per_second": speeds, "efficiency": efficiency})


def launch(count: int, images: int) -> float:
    """Images per second of an epoch in `count` processes under torchrun; 0: without torchrun."""
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


def train(path: Path, images: int) -> None:
    """Train in one process of a launch: an epoch to warm up and one to time."""
    rng = np.random.default_rng(1)
    with process_group(DEVICE, lambda: None) as processes:
        # Each process trains on its share of a batch, so that a step is BATCH images in all.
        batch_size = BATCH // processes.size
        training = start_training(processes=processes)
        features = training.features(random_dataset(images))
        train_epoch(training, features, rng.permutation(2 * BATCH) % images, batch_size)
        order = rng.permutation(images)
        found = speed(lambda: train_epoch(training, features, order, batch_size))
        if processes.rank == 0:
            path.write_text(str(found), encoding="ascii")


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].startswith("-"):
        train(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
