"""Several scores files -> AUC, thresholds, realised risk and set size side by side.

python -m chestxray.conformal.compare A.csv B.csv --risk fnr --alpha 0.1 0.2
python -m chestxray.conformal.compare A.csv B.csv --ensemble MEAN.csv
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from chestxray.conformal.options import add_promise, add_rows, contradiction
from chestxray.runtime.cli import Parser, run_uninterrupted
from chestxray.runtime.text import is_harmless

# pandas and scipy are imported where the steps begin: --help and wrong usage answer at once.

ENSEMBLE = "ensemble"  # the name of the mean in the tables


def main(argv: list[str] | None = None) -> int:
    args = parse_options(sys.argv[1:] if argv is None else argv)
    return run_uninterrupted(partial(run, args))


def run(args: argparse.Namespace) -> int:
    from chestxray.conformal.comparison import compare

    return compare(args)


def parse_options(argv: list[str]) -> argparse.Namespace:
    """The options of a command line; wrong usage is said in a line and exits with 2."""
    parser = build_parser()
    args, typed = parser.parse(argv)
    typed_names = args.names
    args.names = typed_names or default_names(args.csvs, (ENSEMBLE,) if args.ensemble else ())
    fault = _files_fault(args, typed_names) or _flags_fault(args, typed)
    if fault:
        parser.error(fault)
    return args


def default_names(csvs: list[Path], taken: tuple[str, ...] = ()) -> list[str]:
    """The file names without ending; those met before get a number."""
    names: list[str] = []
    for csv in csvs:
        stem = csv.name.removesuffix(".gz").removesuffix(".csv")
        numbered = (f"{stem} {number}" for number in range(2, len(csvs) + 2))
        free = (name for name in (stem, *numbered) if name not in (*names, *taken))
        names.append(next(free))
    return names


def _files_fault(args: argparse.Namespace, typed_names: list[str] | None) -> str:
    """The fault of the files and their names; "" where there is none."""
    csvs, names, out = args.csvs, args.names, args.ensemble
    odd = [name for name in names if not name.strip() or "|" in name or not is_harmless(name)]
    rules = {
        "a comparison takes two scores files or more, before the flags": len(csvs) < 2,
        f"--names are as many as the scores files, {len(csvs)}": len(names) != len(csvs),
        "--names differ from each other": len(set(names)) < len(names),
        f"the name {ENSEMBLE!r} is that of the mean": out and ENSEMBLE in (typed_names or ()),
        f"the name {odd[0] if odd else ''!r} is empty, has a | or a control character, or begins "
        "like a formula with - = + or @: --names gives others": odd,
        f"--ensemble {out} is one of the scores files": (
            out and out.resolve() in [csv.resolve() for csv in csvs]
        ),
        f"--ensemble {out}: the name of a scores file ends in .csv": out and out.suffix != ".csv",
    }
    return next((message for message, broken in rules.items() if broken), "")


def _flags_fault(args: argparse.Namespace, typed: dict[str, object]) -> str:
    """The fault of a combination of flags; "" where there is none."""
    if not args.alpha:
        other = sorted(typed.keys() - {"csvs", "names", "ensemble", "exclude", "overwrite"})
        if not args.ensemble:
            return "--alpha A compares, --ensemble OUT.csv writes the mean: one is needed"
        flag = {"split": "from"}.get(other[0], other[0].replace("_", "-")) if other else ""
        return f"--{flag} is for a comparison: add --alpha A" if other else ""
    if args.untouched and not args.split:
        return "--untouched declares the rows of a split: add --from NAME"
    if args.cal_fraction == 1:
        return "--cal-fraction 1 leaves nobody to compare on"
    if len(args.risk) > 1:
        return f"--risk {' '.join(args.risk)}: a comparison is of one risk"
    return contradiction(args, typed)


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m chestxray.conformal.compare",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Several scores files of the same images: calibrated and evaluated on the "
        "same patients,\nwith the differences to the first file; and their mean as one more file.",
        epilog="""examples:
  python -m chestxray.conformal.compare A.csv B.csv --risk fnr --alpha 0.1 0.2
  python -m chestxray.conformal.compare A.csv B.csv C.csv --names resnet densenet vit --alpha 0.1
  python -m chestxray.conformal.compare A.csv B.csv --ensemble MEAN.csv

Exit codes: 0 done, 1 wrong data, 2 wrong usage, 3 nothing can be certified for any file.
docs/risk-control.md explains what is promised, and what is not.""",
    )
    parser.add_argument(
        "csvs",
        metavar="SCORES.csv",
        type=Path,
        nargs="+",
        help="two or more; or .gz. They stand before the flags; differences are to the first",
    )
    parser.add_argument(
        "--names",
        nargs="+",
        metavar="NAME",
        help="of the files in tables and plot (default: the file names without .csv)",
    )
    parser.add_argument(
        "--ensemble",
        type=Path,
        metavar="OUT.csv",
        help="write the mean logit of all files as a scores file; with --alpha it is compared too",
    )
    add_promise(parser)
    add_rows(parser, "test")
    _add_output(parser)
    # What a comparison does not have.
    parser.set_defaults(frontier=False, npz=None, tune=None, per_class=False, by=None)
    return parser


def _add_output(parser: Parser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="(default: beside the first file, named after risk, method and split)",
    )
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="write into a folder that holds anything else, and replace the file of --ensemble",
    )


if __name__ == "__main__":
    sys.exit(main())
