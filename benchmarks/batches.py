"""Images per second by batch size, in training and in scoring, and peak memory of the device.

python -m benchmarks.batches --json batches.json

Random images of 224 px, kept on the device where that is CUDA, and once sent from host memory;
stage 1 from pretrained weights (stem and first layer frozen) and from scratch (everything trains).
"""

import torch

from benchmarks.harness import at_least, build_parser, speed, this_machine, write_json
from benchmarks.variants import (
    RESIDENT,
    fixed_order,
    folded_network,
    random_dataset,
    score,
    start_training,
    train_epoch,
)
from chestxray.data.dataset import ChestDataset

Row = dict[str, str | int | float]


def main() -> None:
    parser = build_parser(__doc__, images=256, least=2)
    parser.add_argument(
        "--batches",
        type=at_least(2),
        nargs="+",
        default=[32, 64],
        metavar="N",
        help="batch sizes (default: 32 64)",
    )
    args = parser.parse_args()
    print(this_machine())
    dataset = random_dataset(args.images)
    found = []
    for batch_size in args.batches:
        for scratch in (False, True):
            found.append(measure_training(dataset, batch_size, scratch))
        found.append(measure_scoring(dataset, batch_size))
    if RESIDENT:
        sent = random_dataset(args.images, resident=False)
        found.append({**measure_training(sent, args.batches[0], scratch=False), "sent": True})
    for row in found:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    write_json(args.json, {"images": args.images, "found": found})


def measure_training(dataset: ChestDataset, batch_size: int, scratch: bool) -> Row:
    """Time an epoch of stage 1, after two steps to warm up."""
    _reset_peak()
    training = start_training(scratch=scratch)
    features, order = training.features(dataset), fixed_order(len(dataset))
    train_epoch(training, features, order[: 2 * batch_size], batch_size)
    found = speed(lambda: train_epoch(training, features, order, batch_size))
    return _row("everything trains" if scratch else "stage 1", batch_size, found)


def measure_scoring(dataset: ChestDataset, batch_size: int) -> Row:
    """Time the scoring of all images, the second time."""
    _reset_peak()
    scorer = folded_network()
    score(scorer, dataset, batch_size)
    return _row("scoring", batch_size, speed(lambda: score(scorer, dataset, batch_size)))


def _reset_peak() -> None:
    if RESIDENT:
        torch.cuda.reset_peak_memory_stats()


def _row(what: str, batch_size: int, images_per_second: float) -> Row:
    row: Row = {
        "what": what,
        "batch": batch_size,
        "images_per_second": round(images_per_second, 1),
    }
    if RESIDENT:
        row["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return row


if __name__ == "__main__":
    main()
