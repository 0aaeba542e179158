"""What keeping an epoch costs, as a share of a stage-1 epoch of 1,000 images at 224 pixels.

python -m benchmarks.saving --json saving.json

An epoch trains on as many drawn images as asked for, each of them from the decoded cache, and its
seconds are taken times 1,000 over that number. Kept are a checkpoint with the moments of Adam, the
log, the curves, last.pth and best.pth, into a temporary folder.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.contestants import stage_1, training
from benchmarks.race import Track, machine
from chestxray.data.entries import read_entries
from chestxray.labels import CLASSES
from chestxray.phantom import draw_dataset
from chestxray.training.run import Run
from chestxray.training.run_folder import RunFolder

EPOCH = 1000  # images
PROMISED = 0.03  # of the epoch, at most


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=256, metavar="N", help="trained on")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    where = machine()
    print("{cores} cores of {cpu}, torch {torch}, {date}".format(**where))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_dataset(folder / "data", args.images, size=256)
        rows = read_entries(folder / "data").rows
        targets = rows[list(CLASSES)].to_numpy()
        lap = training(Track(rows["path"].tolist(), targets, folder / "data", folder))
        lap()
        epochs = [EPOCH / args.images * seconds(lap) for _ in range(args.rounds)]
        saves, size = saved(folder / "out", args.rounds)
    shares = [save / epoch for save, epoch in zip(saves, epochs, strict=True)]
    share = statistics.median(shares)
    print(
        f"epoch of {EPOCH:,} images: {statistics.median(epochs):.1f} s "
        f"({min(epochs):.1f}-{max(epochs):.1f}), from {args.images}"
    )
    print(
        f"keeping it: {statistics.median(saves):.2f} s ({min(saves):.2f}-{max(saves):.2f}), "
        f"{size / 1e6:,.0f} MB"
    )
    print(
        f"share: {share:.1%} ({min(shares):.1%}-{max(shares):.1%}), "
        f"promised: at most {PROMISED:.0%}"
    )
    if args.json:
        content = {"share": share, "machine": where, "epochs": epochs, "saves": saves}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def saved(out: Path, rounds: int) -> tuple[list[float], int]:
    """Seconds of keeping each of some epochs, and the bytes of a checkpoint."""
    network, optimizer = stage_1()
    for parameter in network.trainable_parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    folder = RunFolder(out, fixed={})
    run = Run("benchmark", stage=1, lr=1e-4, epochs_done=0, epochs_planned=rounds)
    times = []
    for _ in range(rounds):
        run.loss_sum = 1.0
        run.finish_epoch(EPOCH, {"val_loss": 0.1, "val_auc": 0.7, "val_classes": 14})
        times.append(seconds(lambda: folder.save_epoch(run, network, optimizer)))
    return times, (out / "last.pth").stat().st_size


if __name__ == "__main__":
    main()
