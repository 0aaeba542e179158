"""Scoring against a plain PyTorch loop, and against the network alone.

python -m benchmarks.evaluation --json evaluation.json

(a) plain: benchmarks/plain.py. (b) project: predict on the decoded images of a warm cache.
(c) ceiling: the same network and precision on one batch that lies in memory.
"""

PROMISED = {"project_over_plain": 4.0, "project_over_ceiling": 0.95}


def main() -> None:
    # As in main.py, decoding processes import this module: torch stays out of their way.
    from benchmarks import contestants, plain
    from benchmarks.race import arguments, race, ratio, report

    args = arguments(__doc__, images=256)
    found = race(
        {
            "plain": plain.evaluation,
            "project": contestants.evaluation,
            "ceiling": contestants.evaluation_ceiling,
        },
        args,
    )
    ratios = {
        "project_over_plain": ratio(found, "project", "plain"),
        "project_over_ceiling": ratio(found, "project", "ceiling"),
    }
    report(found, ratios, PROMISED, args)


if __name__ == "__main__":
    main()
