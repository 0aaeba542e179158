"""Scores of a folder of images, against --test on the same images, from the first command on.

python -m benchmarks.predict --json predict.json

Both are whole commands with a cold cache, on drawn images of 1024 px: python starts, the images are
decoded and scored, the files are written.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.harness import (
    ROOT,
    Spread,
    build_parser,
    main_command,
    ratios,
    speed,
    take_turns,
    this_machine,
    workload,
    write_json,
)

CHECKPOINT, SIDE = "stage1_0001_01.pth", 1024
PROMISED = 0.9  # of the speed of --test


def main() -> None:
    args = build_parser(__doc__, images=1000, rounds=3).parse_args()
    print(this_machine())
    with workload(args.images, size=SIDE) as work, workload(32, size=64) as few:
        output = work.scratch / "out"
        train = ("--weights", "none", "--bs", 16, "--epochs", 1, "--no-cache")
        run(main_command(few.source, work.scratch, output, *train))
        ckpt = ("--ckpt", output / CHECKPOINT)
        runs = {
            "test": partial(speed_of_test, work.source, args.images, *ckpt),
            "predict": partial(speed_of_predict, work.source, args.images, *ckpt),
        }
        speeds = take_turns(runs, args.rounds)
    found = ratios(speeds["predict"], speeds["test"])
    for label, values in speeds.items():
        print(f"{label:<10} {Spread.of(values):.1f} images/s")
    print(f"predict over test {found:.2f}, promised: at least {PROMISED}")
    write_json(args.json, {"images_per_second": speeds, "predict_over_test": found})


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def speed_of_test(source: Path, images: int, *words: object) -> float:
    """Images per second of main.py --test on all images."""
    with tempfile.TemporaryDirectory() as name:
        cache, output = Path(name) / "cache", Path(name) / "out"
        options = ("--test", "--split", "all", *words)
        return _speed(main_command(source, cache, output, *options), images)


def speed_of_predict(source: Path, images: int, *words: object) -> float:
    """Images per second of the same images without their table."""
    with tempfile.TemporaryDirectory() as name:
        folders = ("--cache-dir", Path(name) / "cache", "--out", Path(name) / "out")
        options = map(str, (source / "images", *words, *folders))
        return _speed([sys.executable, "-m", "chestxray.predict", *options], images)


def _speed(command: list[str], images: int) -> float:
    def work() -> int:
        run(command)
        return images

    return speed(work)


if __name__ == "__main__":
    main()
