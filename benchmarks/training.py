"""Stage 1 against a plain PyTorch loop, and against the network alone.

python -m benchmarks.training --json training.json

(a) plain: benchmarks/plain.py. (b) project: the decoded images from a warm cache, gathered,
through the frozen part, trained on by train_one_epoch; and the first epoch, with the decoding
into a new cache. (c) ceiling: the same network and precision, step after step on one batch that
lies in memory, with backward and optimizer.
"""

PROMISED = {
    "project_over_plain": 2.5,
    "project_over_ceiling": 0.95,
    "first_epoch_over_ceiling": 0.80,
}


def main() -> None:
    # As in main.py, decoding processes import this module: torch stays out of their way.
    from benchmarks import contestants, plain
    from benchmarks.race import arguments, race, ratio, report

    args = arguments(__doc__, images=256)
    found = race(
        {
            "plain": plain.training,
            "project": contestants.training,
            "project, first epoch": contestants.first_epoch,
            "ceiling": contestants.training_ceiling,
        },
        args,
    )
    ratios = {
        "project_over_plain": ratio(found, "project", "plain"),
        "project_over_ceiling": ratio(found, "project", "ceiling"),
        "first_epoch_over_ceiling": ratio(found, "project, first epoch", "ceiling"),
    }
    report(found, ratios, PROMISED, args)


if __name__ == "__main__":
    main()
