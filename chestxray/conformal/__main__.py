"""Scores CSV -> thresholds with a guarantee -> prediction sets and a report.

python -m chestxray.conformal SCORES.csv --risk fnr --alpha 0.1 0.2
python -m chestxray.conformal SCORES.csv --risk fdr --alpha 0.5
python -m chestxray.conformal SCORES.csv --risk fnr --frontier --from val
python -m chestxray.conformal NEW.csv --apply OUT/thresholds.json
"""

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from chestxray.conformal import artifacts
from chestxray.conformal.apply import apply, of_split
from chestxray.conformal.calibrate import (
    Config,
    Level,
    Rows,
    calibrate,
    risk_table,
    smallest_alpha,
)
from chestxray.conformal.metrics import prediction_sets, realised
from chestxray.conformal.resplits import cut_patients
from chestxray.runtime.cli import Parser, PipeSafeStreams
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores

FRONTIER = [f"{percent / 100:g}" for percent in range(5, 75, 5)]


def share(word: str) -> str:
    """A number in (0, 1), kept as typed, so that it can be taken exactly."""
    try:
        inside = 0 < Fraction(word) < 1 and 0 < float(word) < 1
    except (ValueError, ZeroDivisionError):
        inside = False
    if not inside:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0 and below 1")
    return word


def fraction(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0 and up to 1")
    return value


def whole(word: str) -> int:
    if not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number, at least 0")
    return int(word)


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m chestxray.conformal",
        allow_abbrev=False,
        description="Thresholds with a guarantee for the scores of a multi-label classifier.",
    )
    parser.add_argument(
        "csv", metavar="SCORES.csv", type=Path, help="image, patient, y_*, p_*; or .gz"
    )
    parser.add_argument("--risk", choices=("fnr", "fdr"), default="fnr", help="(default: fnr)")
    parser.add_argument(
        "--method",
        choices=("crc", "rcps", "ltt"),
        help="crc: in expectation; rcps, ltt: with probability 1 - delta "
        "(default: crc for fnr, ltt for fdr)",
    )
    parser.add_argument("--alpha", type=share, nargs="+", metavar="A", help="levels, 0 < A < 1")
    parser.add_argument("--delta", type=share, default="0.1", metavar="D", help="(default: 0.1)")
    parser.add_argument(
        "--unit",
        choices=("patient", "image"),
        default="patient",
        help="what the guarantee is for (default: patient)",
    )
    parser.add_argument(
        "--from",
        dest="split",
        metavar="SPLIT",
        help="rows to use (default: test; val for --frontier)",
    )
    parser.add_argument(
        "--cal-fraction",
        type=fraction,
        default=0.5,
        metavar="X",
        help="of the patients that calibrate, the others evaluate; 1: all calibrate (default: 0.5)",
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of every draw (default: 0)"
    )
    parser.add_argument(
        "--no-positive",
        choices=("drop", "zero", "error"),
        default="drop",
        help="the miss rate of a image without positive class (default: drop, it does not count)",
    )
    parser.add_argument(
        "--empty",
        type=int,
        choices=(0, 1),
        default=0,
        help="the false share of an empty set (default: 0)",
    )
    parser.add_argument(
        "--fwer",
        choices=("fst", "holm"),
        default="fst",
        help="of ltt: fixed sequence, or Holm (fst)",
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="CLASS", help="classes left out"
    )
    parser.add_argument(
        "--per-class", action="store_true", help="a threshold for each class (fnr by crc only)"
    )
    parser.add_argument(
        "--frontier", action="store_true", help="print what each level costs, and write nothing"
    )
    parser.add_argument(
        "--resplits",
        type=whole,
        default=1000,
        metavar="N",
        help="cuts by patient for the histogram of the realised risk; 0: none (default: 1000)",
    )
    parser.add_argument("--apply", type=Path, metavar="JSON", help="use stored thresholds.json")
    parser.add_argument(
        "--npz", type=Path, metavar="FILE", help="write the rows as arrays sgmd, labels"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="(default: SCORES_RISK_METHOD beside the CSV)"
    )
    return parser


def check_usage(parser: Parser, args: argparse.Namespace, typed: dict[str, Any]) -> None:
    """Refuse choices that contradict each other (exit 2)."""
    if args.apply:
        for name in sorted(typed.keys() - {"csv", "apply", "split", "out"}):
            parser.error(f"--apply brings its choices along: leave --{name.replace('_', '-')} out")
        return
    args.method = args.method or {"fnr": "crc", "fdr": "ltt"}[args.risk]
    if args.risk == "fdr" and args.method != "ltt":
        parser.error(f"--method {args.method} needs a monotone risk and FDR is none: --method ltt")
    if args.method == "ltt" and args.risk == "fdr" and args.empty and args.fwer == "fst":
        parser.error(
            "--fwer fst begins at all-empty sets, which --empty 1 makes a full loss: --fwer holm"
        )
    if args.per_class and (args.risk, args.method) != ("fnr", "crc"):
        parser.error("--per-class is for --risk fnr --method crc")
    if not (args.alpha or args.frontier or args.apply or args.npz):
        parser.error("--alpha A is needed; --frontier shows what each level costs")
    if args.frontier and args.alpha:
        parser.error("--frontier is for choosing alpha on other rows: leave --alpha out")
    if float(args.delta) >= 0.5:
        parser.error(f"--delta {args.delta} is the chance that the promise fails: below 0.5")
    if args.npz and args.npz.resolve() == args.csv.resolve():
        parser.error(f"--npz {args.npz} is the scores file itself")
    args.alpha = list({Fraction(alpha): alpha for alpha in reversed(args.alpha or [])}.values())[
        ::-1
    ]


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args, typed = parser.parse(sys.argv[1:] if argv is None else argv)
    check_usage(parser, args, typed)
    with PipeSafeStreams():
        try:
            return run(args)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def run(args: argparse.Namespace) -> int:
    """The steps: read, choose rows, cut by patient, calibrate, judge, write."""
    if args.apply:
        print("\n".join(apply(args.csv, args.apply, args.split, args.out)))
        return 0
    folder = args.out or args.csv.parent / f"{stem(args.csv)}_{args.risk}_{args.method}"
    if args.alpha:
        artifacts.refuse_foreign_files(folder)
    table = choose(read_scores(args.csv), args)
    choices = chosen(args, table)
    rows = Rows.of(table, args.unit)
    if args.alpha or args.frontier:
        rows.counting(choices)  # refuses what --no-positive error does, before anything is written
    if args.npz:
        artifacts.write_npz(args.npz, rows)
        print(f"wrote {args.npz}")
    if args.frontier:
        print(frontier(rows, choices))
    if not args.alpha:
        return 0

    calibrates = cut(rows, choices)
    cal = rows.take(calibrates)
    levels = [calibrate(cal, alpha, choices) for alpha in args.alpha]
    if not any(level.certified for level in levels):
        return refuse(levels, cal, choices)
    print("\n".join(artifacts.write(folder, args.csv, table, calibrates, levels, choices)))
    return 0


def chosen(args: argparse.Namespace, table: Scores) -> Config:
    return Config(
        risk=args.risk,
        method=args.method,
        delta=float(args.delta),
        unit=args.unit,
        no_positive=args.no_positive,
        empty=float(args.empty),
        fwer=args.fwer,
        per_class=args.per_class,
        split=None if table.splits is None else str(table.splits[0]),
        exclude=tuple(args.exclude),
        cal_fraction=args.cal_fraction,
        resplits=args.resplits,
        seed=args.seed,
    )


def choose(table: Scores, args: argparse.Namespace) -> Scores:
    """The rows of the split and the columns of the classes that are asked for."""
    if table.splits is None:
        print(
            f"{args.csv} has no split column: all {plural(len(table.image_names), 'row')} are used"
        )
    split = args.split or ("val" if args.frontier else "test")
    table = of_split(args.csv, table, split)
    unknown = sorted(set(args.exclude) - set(table.classes))
    if unknown:
        raise ValueError(
            f"--exclude {join_limited(unknown)}: the classes are {join_limited(table.classes, 20)}"
        )
    kept = [k for k, name in enumerate(table.classes) if name not in args.exclude]
    if not kept:
        raise ValueError("--exclude leaves no class")
    if args.unit == "patient" and table.patients is None:
        raise ValueError(f"{args.csv} has no patient column: --unit image must be typed")
    return table.take(np.ones(len(table.image_names), dtype=bool), kept)


def cut(rows: Rows, choices: Config) -> np.ndarray:
    """(N,) bool, the images of a random share of the patients."""
    names, codes = np.unique(rows.patients, return_inverse=True)
    rng = np.random.default_rng(choices.seed)
    return cut_patients(len(names), choices.cal_fraction, rng)[codes]


def frontier(rows: Rows, choices: Config) -> str:
    """What each level costs on these rows, as a table."""
    table = risk_table(rows, choices)
    units = plural(len(np.unique(rows.units)), choices.unit)
    lines = [
        f"{choices.risk.upper()} by {choices.method} on {units}, figures on the same rows, which "
        "are no calibration rows once alpha is chosen on them"
    ]
    lines += [f"{'alpha':>6}{'threshold':>12}{'size':>7}{'FNR':>7}{'FDR':>7}{'empty':>7}"]
    for alpha in FRONTIER:
        level = calibrate(rows, alpha, choices, table)
        if not level.certified:
            lines.append(f"{alpha:>6}   {level.reason}")
            continue
        sets = prediction_sets(rows.scores, level)
        found = realised(rows, sets, choices)["patient" if choices.unit == "patient" else "image"]
        figures = "".join(
            f"{'n/a' if found[name] is None else format(found[name], '.3f'):>7}"
            for name in ("size", "fnr", "fdr", "empty")
        )
        where = "by class" if level.threshold is None else f"{level.threshold:.6f}"
        lines.append(f"{alpha:>6}{where:>12}{figures}")
    return "\n".join(lines)


def refuse(levels: list[Level], cal: Rows, choices: Config) -> int:
    """Say that and why nothing is certified, and what would be (exit 3)."""
    for level in levels:
        print(f"alpha {level.alpha}: nothing is certified, {level.reason}", file=sys.stderr)
    if not all(level.lax for level in levels):
        least = smallest_alpha(cal, choices)
        hint = "none below 1" if least is None else f"{least} (needs fresh calibration rows)"
        print(f"the smallest certifiable alpha on these rows: {hint}", file=sys.stderr)
    return 3


def stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


if __name__ == "__main__":
    sys.exit(main())
