"""Scores CSV -> thresholds with a guarantee -> prediction sets and a report.

python -m chestxray.conformal SCORES.csv --risk fnr --alpha 0.1 0.2
python -m chestxray.conformal SCORES.csv --risk fdr --alpha 0.5
python -m chestxray.conformal SCORES.csv --risk fnr --frontier --from val
python -m chestxray.conformal NEW.csv --apply OUT/thresholds.json
python -m chestxray.conformal SCORES.csv --select 0.2 --on NEW.csv
"""

import argparse
import sys
from functools import partial

from chestxray.conformal.options import parse_options
from chestxray.runtime.cli import run_uninterrupted

# pandas and scipy are imported where the steps begin: --help and wrong usage answer at once.


def main(argv: list[str] | None = None) -> int:
    args = parse_options(sys.argv[1:] if argv is None else argv)
    return run_uninterrupted(partial(run, args))


def run(args: argparse.Namespace) -> int:
    if args.apply:
        from chestxray.conformal.apply import apply

        print("\n".join(apply(args)))
        return 0
    if args.select:
        from chestxray.conformal.select_new import select_new

        print("\n".join(select_new(args)))
        return 0
    from chestxray.conformal.command import calibrate_and_evaluate

    return calibrate_and_evaluate(args)


if __name__ == "__main__":
    sys.exit(main())
