"""Stage 1 and scoring against a plain PyTorch loop, and against the network alone.

python -m benchmarks.network --json network.json

plain: benchmarks/plain.py. project: the decoded images of a warm cache, trained on by
train_one_epoch or scored by predict; in training also the first epoch, with the decoding into a
new cache. ceiling: the same network and precision on one batch that stays in memory.
"""

from pathlib import Path

from benchmarks.harness import (
    Speed,
    Spread,
    build_parser,
    measure,
    ratios,
    this_machine,
    workload,
    write_json,
)

RATIOS = {
    "project_over_plain": ("project", "plain"),
    "project_over_ceiling": ("project", "ceiling"),
    "first_epoch_over_ceiling": ("project, first epoch", "ceiling"),
}
PROMISED = {  # at least
    "training": {
        "project_over_plain": 2.5,
        "project_over_ceiling": 0.95,
        "first_epoch_over_ceiling": 0.80,
    },
    "evaluation": {"project_over_plain": 4.0, "project_over_ceiling": 0.95},
}


def main() -> None:
    # As in main.py, decoding processes import this file: torch stays out of their way.
    from benchmarks import plain, variants

    parser = build_parser(__doc__, images=256, rounds=5)
    parser.add_argument("--data_path", type=Path, metavar="DIR", help="instead of drawn images")
    args = parser.parse_args()
    contents = {
        "training": {
            "plain": plain.training,
            "project": variants.training,
            "project, first epoch": variants.first_epoch,
            "ceiling": variants.training_ceiling,
        },
        "evaluation": {
            "plain": plain.evaluation,
            "project": variants.evaluation,
            "ceiling": variants.evaluation_ceiling,
        },
    }
    print(this_machine())
    print(f"{args.images} images per run, {args.rounds} rounds; median (range)")
    with workload(args.images, args.data_path) as work:
        results = {
            name: report(name, measure(group, work, args.rounds))
            for name, group in contents.items()
        }
    write_json(args.json, results)


def report(name: str, speeds: dict[str, Speed]) -> dict[str, object]:
    """Print speeds and ratios of training or evaluation, and return its part of the JSON."""
    print(f"{name}:")
    for label, found in speeds.items():
        print(
            f"{label:<28} {Spread.of(found.images_per_second):.1f} images/s, "
            f"peak {found.peak_mebibytes:,.0f} MiB"
        )
    within = {}
    for key, promised in PROMISED[name].items():
        above, below = (speeds[label].images_per_second for label in RATIOS[key])
        within[key] = ratios(above, below)
        print(f"{key:<28} {within[key]:.2f}, promised: at least {promised:g}")
    medians = {key: values.median for key, values in within.items()}
    # The names in the file are those of earlier files, so that results can be compared.
    return {**medians, "machine": this_machine(), "contestants": speeds, "ratios": within}


if __name__ == "__main__":
    main()
