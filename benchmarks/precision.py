"""Whether bfloat16 costs quality: five seeds of each precision, and one checkpoint scored in both.

python -m benchmarks.precision --json precision.json

Runs main.py on drawn pictures of 64 px: what is compared is the mean validation AUC over the
findings, and each class's AUC over all pictures with the scores that it comes from.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race import machine
from chestxray.phantom import draw_dataset
from chestxray.scores import metrics_path, read_scores

MAIN = Path(__file__).resolve().parents[1] / "main.py"
SEEDS, EPOCHS, LR = range(5), 3, "5e-4"
NAME = f"stage1_0005_{EPOCHS:02d}.pth"
MOST_AUC = 0.003  # promised: largest difference of a class's AUC between the precisions


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=1600, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    print("{cores} cores of {cpu}, torch {torch}, {date}".format(**machine()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_dataset(folder / "data", n=args.pictures, size=64)
        aucs = {
            precision: [trained(folder, precision, seed) for seed in SEEDS]
            for precision in ("fp32", "bf16")
        }
        scored = compared(folder)
    means = {precision: statistics.mean(values) for precision, values in aucs.items()}
    for precision, values in aucs.items():
        print(
            f"trained in {precision}: mean AUC {means[precision]:.4f}, seeds "
            f"{min(values):.4f}-{max(values):.4f}, deviation {statistics.stdev(values):.4f}"
        )
    print(
        f"difference {means['bf16'] - means['fp32']:+.4f} (promised: less than the spread between "
        "seeds)\nscored in both: AUC per class differs by "
        f"{scored['auc']:.5f} at most (promised: {MOST_AUC:g}), p by {scored['p']:.5f}"
    )
    if args.json:
        content = {"machine": machine(), "mean_auc": aucs, "scored": scored}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def run(folder: Path, out: Path, *words: object) -> None:
    shared = ("--data_path", folder / "data", "--cache-dir", folder / "cache", "--output-dir", out)
    subprocess.run(
        [sys.executable, str(MAIN), *map(str, (*shared, *words))],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def trained(folder: Path, precision: str, seed: int) -> float:
    """The validation AUC after the last epoch of a run."""
    out = folder / f"{precision}{seed}"
    words = ("--weights", "none", "--size", 64, "--bs", 16, "--lr", LR, "--epochs", EPOCHS)
    run(folder, out, *words, "--precision", precision, "--seed", seed)
    last = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["val_auc"])


def compared(folder: Path) -> dict[str, Any]:
    """Largest differences between both precisions when one checkpoint scores all pictures."""
    aucs, scores = [], []
    for precision in ("fp32", "bf16"):
        path = folder / f"{precision}_scores.csv"
        words = ("--test", "--ckpt", NAME, "--split", "all", "--scores", path)
        run(folder, folder / "fp320", *words, "--precision", precision)
        scores.append(read_scores(path).scores)
        classes = json.loads(metrics_path(path).read_text(encoding="utf-8"))["classes"]
        aucs.append([row["auc"] for row in classes.values() if row["auc"] is not None])
    differences = (np.abs(np.subtract(*pair)).max() for pair in (aucs, scores))
    return dict(zip(("auc", "p"), map(float, differences), strict=True))


if __name__ == "__main__":
    main()
