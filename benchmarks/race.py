"""Contestants in processes of their own that run in turns, for `training` and `evaluation`.

Each round lets every contestant run once, so that what else the machine does falls on all of them;
ratios are taken within a round, and their median is given.
"""

import argparse
import json
import math
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestxray.data.entries import read_entries
from chestxray.labels import CLASSES
from chestxray.phantom import draw_dataset
from chestxray.runtime.cli import number

SIZE, BATCH = 224, 32


@dataclass
class Track:
    """What every contestant gets: image files, their targets (n, 15), and a scratch folder."""

    paths: list[str]
    targets: np.ndarray
    source: Path
    scratch: Path


Lap = Callable[[], int]  # works once, and returns how many images it did


def arguments(doc: str | None, images: int) -> argparse.Namespace:
    """The command line of a race."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--data_path", type=Path, help="instead of drawn 1024 px images")
    batches = number(int, BATCH, math.inf, f"a whole number, at least a batch of {BATCH}")
    rounds = number(int, 1, math.inf, "a whole number, at least 1")
    parser.add_argument("--images", type=batches, default=images, metavar="N", help="a lap")
    parser.add_argument("--rounds", type=rounds, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser.parse_args()


def race(
    contestants: Mapping[str, Callable[[Track], Lap]], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Images per second of each contestant in each round, and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        source = args.data_path or scratch / "drawn"
        if args.data_path is None:
            draw_dataset(source, args.images, size=1024)
        rows = read_entries(source).rows.head(args.images)
        track = Track(rows["path"].tolist(), rows[list(CLASSES)].to_numpy(), source, scratch)
        context = multiprocessing.get_context("spawn")
        lanes, processes = {}, []
        try:
            for label, prepare in contestants.items():
                ours, theirs = context.Pipe()
                processes.append(context.Process(target=_lane, args=(prepare, track, theirs)))
                processes[-1].start()
                theirs.close()  # so that a contestant that dies ends the race
                lanes[label] = ours
                ours.recv()  # prepared, and warmed up by one lap
            return _raced(lanes, args.rounds)
        finally:
            for process in processes:
                process.terminate()


def _raced(lanes: Mapping[str, Connection], rounds: int) -> dict[str, dict[str, Any]]:
    speeds: dict[str, list[float]] = {label: [] for label in lanes}
    for round_number in range(rounds):
        for label, lane in lanes.items():
            lane.send("go")
            speeds[label].append(lane.recv())
        shown = "  ".join(f"{label} {values[-1]:.1f}" for label, values in speeds.items())
        print(f"round {round_number + 1}: {shown}", file=sys.stderr, flush=True)
    found = {}
    for label, lane in lanes.items():
        lane.send("end")
        found[label] = {"images_per_second": speeds[label], "peak_mebibytes": lane.recv()}
    return found


def _lane(prepare: Callable[[Track], Lap], track: Track, pipe: Connection) -> None:
    lap = prepare(track)
    lap()
    _wait_for_device()
    pipe.send("ready")
    while pipe.recv() == "go":
        start = time.perf_counter()
        images = lap()
        _wait_for_device()
        pipe.send(images / (time.perf_counter() - start))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(found: dict[str, dict[str, Any]], above: str, below: str) -> dict[str, float]:
    """Median and range of the ratios within the rounds."""
    pairs = [found[label]["images_per_second"] for label in (above, below)]
    ratios = [first / second for first, second in zip(*pairs, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def machine() -> dict[str, Any]:
    """What the figures come from."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ] or [platform.processor()]
    return {
        "cpu": names[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "date": date.today().isoformat(),
    }


def described(where: dict[str, Any]) -> str:
    """A machine in a line."""
    gpu = f"{where['gpu']}, " if where["gpu"] else ""
    return gpu + "{cores} cores of {cpu}, torch {torch}, {date}".format(**where)


def report(
    found: dict[str, dict[str, Any]],
    ratios: dict[str, dict[str, float]],
    promised: dict[str, float],
    args: argparse.Namespace,
) -> None:
    """Print the figures, and write them down where asked; ratios by their key in the JSON."""
    where = machine()
    print(described(where))
    print(f"{args.images} images a lap, {args.rounds} rounds; median (range)")
    for label, figures in found.items():
        speeds = figures["images_per_second"]
        print(
            f"{label:<28} {statistics.median(speeds):6.1f} ({min(speeds):.1f}-{max(speeds):.1f}) "
            f"images/s, peak {figures['peak_mebibytes']:,.0f} MiB"
        )
    for key, values in ratios.items():
        print(
            f"{key:<28} {values['median']:6.2f} ({values['min']:.2f}-{values['max']:.2f}), "
            f"promised: at least {promised[key]:g}"
        )
    if args.json:
        medians = {key: values["median"] for key, values in ratios.items()}
        content = {**medians, "machine": where, "contestants": found, "ratios": ratios}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
