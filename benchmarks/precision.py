"""Effect of bfloat16 on quality: five seeds of each precision, one checkpoint scored in both.

python -m benchmarks.precision --json precision.json

Runs main.py on drawn images. Compared are the mean validation AUC over the findings, of training
at 64 px, and for a checkpoint of 64 px and one of the recipe's 224 px each class's AUC over all
images, with the scores that it comes from.
"""

import json
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import build_parser, main_command, this_machine, write_json
from chestxray.phantom import draw_dataset
from chestxray.scores import metrics_path, read_scores

SEEDS, EPOCHS, LR = range(5), 3, "5e-4"
SIZES = (64, 224)
NAME = f"stage1_0005_{EPOCHS:02d}.pth"
MOST_AUC = 0.003  # promised: largest difference of a class's AUC between the precisions


@dataclass(frozen=True)
class Differences:
    """Largest difference of a class's AUC, and of a score, between the precisions."""

    auc: float
    p: float


def main() -> None:
    args = build_parser(__doc__, images=1600).parse_args()
    print(this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in SIZES:
            draw_dataset(folder / f"data{size}", n=args.images, size=size)
        aucs = {
            precision: [train(folder, precision, seed, SIZES[0]) for seed in SEEDS]
            for precision in ("fp32", "bf16")
        }
        train(folder, "bf16", SEEDS[0], SIZES[1])
        scored = {size: compare_scores(folder, size) for size in SIZES}
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
            f"scored in both at {size} px: AUC per class differs by {largest.auc:.5f} at most "
            f"(promised: {MOST_AUC:g}), p by {largest.p:.5f}"
        )
    write_json(args.json, {"mean_auc": aucs, "scored": scored})


def run_main(folder: Path, size: int, output: Path, *options: object) -> None:
    subprocess.run(
        main_command(folder / f"data{size}", folder / "cache", output, *options),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def output_folder(folder: Path, precision: str, seed: int, size: int) -> Path:
    return folder / f"{precision}-{seed}-{size}"


def train(folder: Path, precision: str, seed: int, size: int) -> float:
    """Train, and return the validation AUC after the last epoch."""
    output = output_folder(folder, precision, seed, size)
    options = ("--weights", "none", "--size", size, "--bs", 16, "--lr", LR, "--epochs", EPOCHS)
    run_main(folder, size, output, *options, "--precision", precision, "--seed", seed)
    last = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["val_auc"])


def compare_scores(folder: Path, size: int) -> Differences:
    """Score all images with one checkpoint in both precisions."""
    output = output_folder(folder, "bf16", SEEDS[0], size)
    aucs, scores = [], []
    for precision in ("fp32", "bf16"):
        path = folder / f"{precision}_scores{size}.csv"
        options = ("--test", "--ckpt", NAME, "--split", "all", "--scores", path)
        run_main(folder, size, output, *options, "--precision", precision)
        scores.append(read_scores(path).scores)
        classes = json.loads(metrics_path(path).read_text(encoding="utf-8"))["classes"]
        aucs.append([row["auc"] for row in classes.values() if row["auc"] is not None])
    auc, p = (float(np.abs(np.subtract(*pair)).max()) for pair in (aucs, scores))
    return Differences(auc, p)


if __name__ == "__main__":
    main()
