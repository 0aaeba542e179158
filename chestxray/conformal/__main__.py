"""Scores CSV -> thresholds with a guarantee -> prediction sets and a report.

python -m chestxray.conformal SCORES.csv --risk fnr --alpha 0.1 0.2
python -m chestxray.conformal SCORES.csv --risk fdr --alpha 0.5
python -m chestxray.conformal SCORES.csv --risk fnr --frontier --from val
python -m chestxray.conformal NEW.csv --apply OUT/thresholds.json
"""

import argparse
import math
import sys
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from chestxray.conformal import artifacts
from chestxray.conformal.apply import apply, take_split
from chestxray.conformal.calibrate import (
    Certificate,
    Config,
    Rows,
    calibrate,
    risk_table,
    smallest_alpha,
)
from chestxray.conformal.metrics import prediction_sets, realised
from chestxray.conformal.resplits import cut_patients
from chestxray.conformal.risks import RISKS
from chestxray.runtime.cli import Parser, number, run_uninterrupted
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores

FRONTIER = [f"{percent / 100:g}" for percent in range(5, 75, 5)]


def share(word: str) -> str:
    """Check a number in (0, 1) and keep it as typed, so that it can be taken exactly."""
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


def build_parser() -> Parser:
    whole = number(int, 0, math.inf, "a whole number, at least 0")
    parser = Parser(
        prog="python -m chestxray.conformal",
        allow_abbrev=False,
        description="Thresholds with a guarantee for the scores of a multi-label classifier.",
    )
    parser.add_argument(
        "csv", metavar="SCORES.csv", type=Path, help="image, patient, y_*, p_*; or .gz"
    )
    risks = ", ".join(f"{name}: {risk.label}" for name, risk in RISKS.items())
    parser.add_argument(
        "--risk", choices=tuple(RISKS), default="fnr", help=f"{risks} (default: fnr)"
    )
    parser.add_argument(
        "--method",
        choices=("crc", "rcps", "ltt"),
        help="crc: in expectation; rcps, ltt: with probability 1 - delta "
        "(default: crc for a monotone risk, which fnr is, else ltt)",
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
        help="share of the patients that calibrate, 1 for all; the others evaluate (default: 0.5)",
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of every draw (default: 0)"
    )
    parser.add_argument(
        "--no-positive",
        choices=("drop", "zero", "error"),
        default="drop",
        help="an image without a positive class in the miss rate (default: drop, it is left out)",
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
        help="of ltt: fixed sequence, or Holm (default: fst)",
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


def check_usage(parser: Parser, args: argparse.Namespace, typed: dict[str, object]) -> None:
    """Refuse options that contradict each other (exit 2)."""
    if args.apply:
        for name in sorted(typed.keys() - {"csv", "apply", "split", "out"}):
            parser.error(f"--apply brings its options along: leave --{name.replace('_', '-')} out")
        return
    if not (args.alpha or args.frontier or args.npz):
        parser.error("--alpha A is needed; --frontier shows what each level costs")
    if args.frontier and args.alpha:
        parser.error("--frontier is for choosing alpha on other rows: leave --alpha out")
    if float(args.delta) >= 0.5:
        parser.error(f"--delta {args.delta} is the chance that the promise fails: below 0.5")
    if args.npz and args.npz.resolve() == args.csv.resolve():
        parser.error(f"--npz {args.npz} is the scores file itself")
    fault = _method_fault(make_config(args))
    if fault:
        parser.error(fault)


def _method_fault(config: Config) -> str:
    """The reason why the method cannot control the risk; "" where it can."""
    risk = config.target_risk
    if config.method not in risk.methods:
        return (
            f"--method {config.method} needs a monotone risk, which {risk.abbreviation} is not: "
            f"--method {risk.methods[0]}"
        )
    if config.method == "ltt" and config.fwer == "fst" and risk.fixed_sequence_fault:
        return f"--fwer fst {risk.fixed_sequence_fault}: --fwer holm"
    if config.per_class and not (risk.by_class and config.method == "crc"):
        names = join_limited(name for name, other in RISKS.items() if other.by_class)
        return f"--per-class is for --risk {names} --method crc"
    return ""


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args, typed = parser.parse(sys.argv[1:] if argv is None else argv)
    check_usage(parser, args, typed)
    return run_uninterrupted(partial(run, args))


def run(args: argparse.Namespace) -> int:
    """The steps: read, choose rows, cut by patient, calibrate, evaluate, write."""
    if args.apply:
        print("\n".join(apply(args.csv, args.apply, args.split, args.out)))
        return 0
    config, alphas = make_config(args), unique_alphas(args.alpha or [])
    folder = args.out or args.csv.parent / f"{stem(args.csv)}_{config.risk}_{config.method}"
    if alphas:
        artifacts.refuse_foreign_files(folder)
    table = select(read_scores(args.csv, exclude=args.exclude), args)
    if table.splits is not None:
        config = replace(config, split=str(table.splits[0]))
    rows = Rows.from_scores(table, args.unit)
    if alphas or args.frontier:
        rows.counting(config)  # refuses what --no-positive error does, before anything is written
    if args.npz:
        artifacts.write_npz(args.npz, rows)
        print(f"wrote {args.npz}")
    if args.frontier:
        print(frontier(rows, config))
    if not alphas:
        return 0

    calibrates = draw_calibration(rows, config)
    cal = rows.take(calibrates)
    certificates = [calibrate(cal, alpha, config) for alpha in alphas]
    if not any(certificate.certified for certificate in certificates):
        return refuse(certificates, cal, config)
    print("\n".join(artifacts.write(folder, args.csv, table, calibrates, certificates, config)))
    return 0


def make_config(args: argparse.Namespace) -> Config:
    """The options of the calibration, but for the split that the rows turn out to have."""
    return Config(
        risk=args.risk,
        method=args.method or RISKS[args.risk]().methods[0],
        delta=float(args.delta),
        unit=args.unit,
        no_positive=args.no_positive,
        empty=float(args.empty),
        fwer=args.fwer,
        per_class=args.per_class,
        exclude=tuple(args.exclude),
        cal_fraction=args.cal_fraction,
        resplits=args.resplits,
        seed=args.seed,
    )


def unique_alphas(typed: list[str]) -> list[str]:
    """Each alpha once, as it was first typed: 0.2 and 0.20 are the same."""
    found: dict[Fraction, str] = {}
    for alpha in typed:
        found.setdefault(Fraction(alpha), alpha)
    return list(found.values())


def select(table: Scores, args: argparse.Namespace) -> Scores:
    """The rows of the split and the columns of the classes that are asked for."""
    if table.splits is None:
        print(
            f"{args.csv} has no split column: all {plural(len(table.image_names), 'row')} are used"
        )
    split = args.split or ("val" if args.frontier else "test")
    table = take_split(args.csv, table, split)
    classes = (*table.classes, *table.excluded)
    unknown = sorted(set(args.exclude) - set(classes))
    if unknown:
        raise ValueError(
            f"--exclude {join_limited(unknown)}: the classes are {join_limited(classes, 20)}"
        )
    kept = [k for k, name in enumerate(table.classes) if name not in args.exclude]
    if not kept:
        raise ValueError("--exclude leaves no class")
    if args.unit == "patient" and table.patients is None:
        raise ValueError(f"{args.csv} has no patient column: --unit image must be typed")
    return table.take(np.ones(len(table.image_names), dtype=bool), kept)


def draw_calibration(rows: Rows, config: Config) -> np.ndarray:
    """(N,) bool, the images of a random share of the patients."""
    names, codes = np.unique(rows.patients, return_inverse=True)
    rng = np.random.default_rng(config.seed)
    return cut_patients(len(names), config.cal_fraction, rng)[codes]


def frontier(rows: Rows, config: Config) -> str:
    """The cost of each level on these rows, as a table."""
    losses = risk_table(rows, config)
    units = plural(len(np.unique(rows.units)), config.unit)
    columns = ["size", *(risk.abbreviation for risk in RISKS.values()), "empty"]
    lines = [
        f"{config.target_risk.abbreviation} by {config.method} on {units}, metrics on the same "
        "rows, which cannot calibrate once alpha is chosen on them",
        f"{'alpha':>6}{'threshold':>12}" + "".join(f"{name:>7}" for name in columns),
    ]
    for alpha in FRONTIER:
        certificate = calibrate(rows, alpha, config, losses)
        if not certificate.certified:
            lines.append(f"{alpha:>6}   {certificate.reason}")
            continue
        sets = prediction_sets(rows.scores, certificate)
        found = realised(rows, sets, config)[config.unit]
        values = "".join(
            f"{'n/a' if value is None else format(value, '.3f'):>7}"
            for value in (found.size, *found.risks.values(), found.empty)
        )
        threshold = certificate.threshold
        where = "by class" if threshold is None else f"{threshold:.6f}"
        lines.append(f"{alpha:>6}{where:>12}{values}")
    return "\n".join(lines)


def refuse(certificates: list[Certificate], cal: Rows, config: Config) -> int:
    """Say why nothing is certified, and the smallest alpha that would be (exit 3)."""
    for found in certificates:
        print(f"alpha {found.alpha}: nothing is certified, {found.reason}", file=sys.stderr)
    if not all(found.trivially_met for found in certificates):
        least = smallest_alpha(cal, config)
        hint = "none below 1" if least is None else f"{least} (needs fresh calibration rows)"
        print(f"the smallest certifiable alpha on these rows: {hint}", file=sys.stderr)
    return 3


def stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


if __name__ == "__main__":
    sys.exit(main())
