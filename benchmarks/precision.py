"""Whether bfloat16 costs quality: five seeds of each precision, and one checkpoint scored in both.

python -m benchmarks.precision --json precision.json

Runs main.py on drawn images. Compared are the mean validation AUC over the findings, of training
at 64 px, and for a checkpoint of 64 px and one of the recipe's 224 px each class's AUC over all
images, with the scores that it comes from.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.race import described, machine
from chestxray.phantom import draw_dataset
from chestxray.scores import metrics_path, read_scores

MAIN = Path(__file__).resolve().parents[1] / "main.py"
SEEDS, EPOCHS, LR = range(5), 3, "5e-4"
SIZES = (64, 224)
NAME = f"stage1_0005_{EPOCHS:02d}.pth"
MOST_AUC = 0.003  # promised: largest difference of a class's AUC between the precisions


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1600, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    print(described(machine()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in SIZES:
            draw_dataset(folder / f"data{size}", n=args.images, size=size)
        aucs = {
            precision: [trained(folder, precision, seed, SIZES[0]) for seed in SEEDS]
            for precision in ("fp32", "bf16")
        }
        trained(folder, "bf16", SEEDS[0], SIZES[1])
        scored = {size: compared(folder, size) for size in SIZES}
    means = {precision: statistics.mean(values) for precision, values in aucs.items()}
    for precision, values in aucs.items():
        print(
            f"trained in {precision}: mean AUC {means[precision]:.4f}, seeds "
            f"{min(values):.4f}-{max(values):.4f}, deviation {statistics.stdev(values):.4f}"
        )
    print(
        f"difference {means['bf16'] - means['fp32']:+.4f} (promised: less than the spread between "
        "seeds)"
    )
    for size, largest in scored.items():
        print(
            f"scored in both at {size} px: AUC per class differs by {largest['auc']:.5f} at most "
            f"(promised: {MOST_AUC:g}), p by {largest['p']:.5f}"
        )
    if args.json:
        content = {"machine": machine(), "mean_auc": aucs, "scored": scored}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def run(folder: Path, size: int, out: Path, *words: object) -> None:
    data = ("--data_path", folder / f"data{size}", "--cache-dir", folder / "cache")
    subprocess.run(
        [sys.executable, str(MAIN), *map(str, (*data, "--output-dir", out, *words))],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def output(folder: Path, precision: str, seed: int, size: int) -> Path:
    return folder / f"{precision}-{seed}-{size}"


def trained(folder: Path, precision: str, seed: int, size: int) -> float:
    """The validation AUC after the last epoch of a run."""
    out = output(folder, precision, seed, size)
    words = ("--weights", "none", "--size", size, "--bs", 16, "--lr", LR, "--epochs", EPOCHS)
    run(folder, size, out, *words, "--precision", precision, "--seed", seed)
    last = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["val_auc"])


def compared(folder: Path, size: int) -> dict[str, float]:
    """Largest differences between both precisions when one checkpoint scores all images."""
    out = output(folder, "bf16", SEEDS[0], size)
    aucs, scores = [], []
    for precision in ("fp32", "bf16"):
        path = folder / f"{precision}_scores{size}.csv"
        words = ("--test", "--ckpt", NAME, "--split", "all", "--scores", path)
        run(folder, size, out, *words, "--precision", precision)
        scores.append(read_scores(path).scores)
        classes = json.loads(metrics_path(path).read_text(encoding="utf-8"))["classes"]
        aucs.append([row["auc"] for row in classes.values() if row["auc"] is not None])
    differences = (np.abs(np.subtract(*pair)).max() for pair in (aucs, scores))
    return dict(zip(("auc", "p"), map(float, differences), strict=True))


if __name__ == "__main__":
    main()
