"""Cost of saving an epoch, as a share of a stage-1 epoch of 1,000 images at 224 pixels.

python -m benchmarks.saving --json saving.json

An epoch trains on --images drawn images from the decoded cache; its seconds are scaled to 1,000
images. Saved are a checkpoint with the moments of Adam, the log, the curves, last.pth and best.pth,
into a temporary folder.
"""

from benchmarks import variants
from benchmarks.harness import (
    Spread,
    build_parser,
    ratios,
    seconds,
    this_machine,
    workload,
    write_json,
)

EPOCH = 1000  # images
PROMISED = 0.03  # of the epoch, at most


def main() -> None:
    args = build_parser(__doc__, images=256, rounds=5, least=2).parse_args()
    print(this_machine())
    with workload(args.images, size=256) as work:
        training = variants.start_training(epochs=args.rounds)
        features = training.features(variants.load_dataset(work, work.scratch / "cache"))
        validation = training.features(variants.random_dataset(variants.BATCH))
        order = variants.fixed_order(len(features))
        variants.train_epoch(training, features, order)  # to warm up
        epochs, saves = [], []
        for _ in range(args.rounds):
            epoch = seconds(lambda: variants.train_epoch(training, features, order))
            epochs.append(EPOCH / args.images * epoch)
            variants.finish_epoch(training, validation)
            saves.append(seconds(lambda: variants.save_epoch(training, work.scratch / "out")))
        size = (work.scratch / "out" / "last.pth").stat().st_size
    share = ratios(saves, epochs)
    print(f"epoch of {EPOCH:,} images: {Spread.of(epochs):.1f} s, from {args.images}")
    print(f"saving it: {Spread.of(saves):.2f} s, {size / 1e6:,.0f} MB")
    print(f"share: {share:.1%}, promised: at most {PROMISED:.0%}")
    write_json(args.json, {"share": share.median, "epochs": epochs, "saves": saves})


if __name__ == "__main__":
    main()
