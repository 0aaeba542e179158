"""Shared parts of the benchmarks: command line, machine, timing, variants that take turns.

Variants run in separate processes. Each round runs every variant once, so that other load on the
machine affects all of them; ratios are taken within a round.
"""

# torch and pandas are imported in functions: decoding processes and `resplits` import this file.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from chestxray.runtime.cli import number

ROOT = Path(__file__).resolve().parents[1]
SIZE, BATCH = 224, 32

TimedRun = Callable[[], int]  # works once, and returns how many images it processed


@dataclass
class Workload:
    """Input of every variant: image files, their targets (N, 15), and a scratch folder."""

    paths: list[str]
    targets: np.ndarray
    source: Path
    scratch: Path


@dataclass(frozen=True)
class Speed:
    """Images per second of a variant in each round, and the peak memory of its process."""

    images_per_second: list[float]
    peak_mebibytes: float


@dataclass(frozen=True)
class Spread:
    """Median and range of some values; a format applies to each of the three."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.min:{spec}}-{self.max:{spec}})"


@dataclass(frozen=True)
class Machine:
    """Hardware and software that results come from; printed in one line."""

    cpu: str
    gpu: str | None
    cores: int
    torch: str
    date: str

    def __str__(self) -> str:
        gpu = f"{self.gpu}, " if self.gpu else ""
        return f"{gpu}{self.cores} cores of {self.cpu}, torch {self.torch}, {self.date}"


def this_machine() -> Machine:
    import torch

    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return Machine(
        cpu=names[0] if names else platform.processor(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        cores=torch.get_num_threads(),
        torch=str(torch.__version__),
        date=date.today().isoformat(),
    )


def build_parser(
    doc: str | None, images: int | None = None, rounds: int | None = None, least: int = BATCH
) -> argparse.ArgumentParser:
    """Build a benchmark's parser: --json, and --images and --rounds if they have a default.

    Args:
        doc: docstring of the benchmark; its first line is the description.
        images, rounds: defaults.
        least: images that the benchmark needs.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    if images:
        help_text = f"images per run (default: {images})"
        parser.add_argument(
            "--images", type=at_least(least), default=images, metavar="N", help=help_text
        )
    if rounds:
        help_text = f"repetitions (default: {rounds})"
        parser.add_argument(
            "--rounds", type=at_least(1), default=rounds, metavar="N", help=help_text
        )
    return parser


def at_least(low: int) -> Any:
    """Type for argparse: a whole number, `low` or more."""
    return number(int, low, math.inf, f"a whole number, at least {low}")


def write_json(path: Path | None, content: Mapping[str, object]) -> None:
    """Write results and the machine that they come from, if a path was given."""
    if path:
        text = json.dumps({"machine": this_machine(), **content}, indent=2, default=asdict)
        path.write_text(text + "\n", encoding="utf-8")


def seconds(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def speed(run: TimedRun) -> float:
    """Images per second of one run."""
    began = time.perf_counter()
    images = run()
    return images / (time.perf_counter() - began)


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of the ratios within the rounds."""
    return Spread.of([first / second for first, second in zip(above, below, strict=True)])


def main_command(data: Path, cache: Path, output: Path, *options: object) -> list[str]:
    """Command line of main.py."""
    folders = ("--data_path", data, "--cache-dir", cache, "--output-dir", output)
    return [sys.executable, str(ROOT / "main.py"), *map(str, (*folders, *options))]


def take_turns(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each run once per round, print its speed, and return the speeds by label."""
    speeds: dict[str, list[float]] = {label: [] for label in runs}
    for index in range(rounds):
        for label, run in runs.items():
            speeds[label].append(run())
        shown = "  ".join(f"{label} {values[-1]:.1f}" for label, values in speeds.items())
        print(f"round {index + 1}: {shown}", file=sys.stderr, flush=True)
    return speeds


@contextmanager
def workload(images: int, data_path: Path | None = None, size: int = 1024) -> Iterator[Workload]:
    """Provide images of a data set, by default drawn at `size` pixels, and a scratch folder."""
    from chestxray.data.entries import read_entries
    from chestxray.labels import CLASSES
    from chestxray.phantom import draw_dataset

    with tempfile.TemporaryDirectory() as name:
        source = data_path or Path(name) / "drawn"
        if data_path is None:
            draw_dataset(source, images, size=size)
        rows = read_entries(source).rows.head(images)
        targets = rows[list(CLASSES)].to_numpy()
        yield Workload(rows["path"].tolist(), targets, source, Path(name))


def measure(
    variants: Mapping[str, Callable[[Workload], TimedRun]], work: Workload, rounds: int
) -> dict[str, Speed]:
    """Run all variants in turns, each in its own process."""
    with ExitStack() as stack:
        pipes = {
            label: stack.enter_context(_started(prepare, work))
            for label, prepare in variants.items()
        }
        runs = {label: partial(_ask, pipe, "run") for label, pipe in pipes.items()}
        speeds = take_turns(runs, rounds)
        return {label: Speed(speeds[label], _ask(pipe, "end")) for label, pipe in pipes.items()}


@contextmanager
def _started(prepare: Callable[[Workload], TimedRun], work: Workload) -> Iterator[Connection]:
    """Connect to a new process of a variant, prepared and warmed up by one run."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(prepare, work, theirs))
    process.start()
    theirs.close()  # so that reading ends when the process dies
    try:
        ours.recv()
        yield ours
    finally:
        process.terminate()


def _ask(pipe: Connection, word: str) -> float:
    pipe.send(word)
    return float(pipe.recv())


def _serve(prepare: Callable[[Workload], TimedRun], work: Workload, pipe: Connection) -> None:
    run = prepare(work)
    run()
    pipe.send("ready")
    while pipe.recv() == "run":
        pipe.send(speed(run))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
