"""The command's flags: what may be typed, what contradicts what, and the options of a calibration.

Only numpy is imported here, so that --help and wrong usage answer at once.
"""

import argparse
import math
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from chestxray.conformal.risks import RISKS, Risk
from chestxray.labels import is_no_finding
from chestxray.runtime.cli import Parser, number
from chestxray.runtime.text import join_limited

_WHOLE = number(int, 0, math.inf, "a whole number, at least 0")
FRESH = "test"  # the split whose rows trained nothing and chose nothing


@dataclass(frozen=True)
class Config:
    """Options of a calibration: the risk, the method and for whom; names are the command's flags.

    `split` is --from: None where all rows are used.
    """

    risk: str = "fnr"
    method: str = "crc"
    delta: float = 0.1
    unit: str = "patient"
    no_positive: str = "drop"
    empty: float = 0.0
    fwer: str = "fst"
    per_class: bool = False
    split: str | None = None
    untouched: bool = False
    exclude: tuple[str, ...] = ()
    include_no_finding: bool = False
    cal_fraction: float = 0.5
    resplits: int = 1000
    seed: int = 0

    @property
    def target_risk(self) -> Risk:
        """The risk to be controlled, with the chosen conventions for 0/0."""
        return RISKS[self.risk](self.no_positive, self.empty)

    def leaves_out(self, name: str) -> bool:
        """Return whether a class takes no part in sets and risks."""
        return name in self.exclude or (is_no_finding(name) and not self.include_no_finding)

    def to_json(self) -> dict[str, object]:
        """All options by their flags."""
        options = asdict(self) | {"exclude": list(self.exclude)}
        return {"from" if name == "split" else name: value for name, value in options.items()}

    @classmethod
    def from_json(cls, options: dict[str, Any]) -> "Config":
        """Back from to_json.

        Raises:
            KeyError: an option is missing.
            TypeError: there is one more.
        """
        named = {"split" if name == "from" else name: value for name, value in options.items()}
        for field in fields(cls):
            if field.name not in named:
                raise KeyError(field.name)
        return cls(**named | {"exclude": tuple(options["exclude"])})


def config_of(args: argparse.Namespace) -> Config:
    """The options that were typed; the split is None where none was."""
    names = {field.name for field in fields(Config)}
    typed = {name: value for name, value in vars(args).items() if name in names}
    return Config(
        **typed
        | {
            "method": args.method or RISKS[args.risk]().methods[0],
            "delta": float(args.delta),
            "empty": float(args.empty),
            "exclude": tuple(args.exclude),
        }
    )


def unique_alphas(typed: list[str]) -> list[str]:
    """Each alpha once, as it was first typed: 0.2 and 0.20 are the same."""
    found: dict[Fraction, str] = {}
    for alpha in typed:
        found.setdefault(Fraction(alpha), alpha)
    return list(found.values())


def parse_options(argv: list[str]) -> argparse.Namespace:
    """The options of a command line; wrong usage is said in a line and exits with 2."""
    parser = build_parser()
    args, typed = parser.parse(argv)
    if args.csv is None:
        parser.error("SCORES.csv is needed, before flags that take several words")
    fault = _apply_fault(typed) if args.apply else contradiction(args, typed)
    if args.untouched and not args.split:
        fault = "--untouched declares the rows of a split: add --from NAME"
    if fault:
        parser.error(fault)
    return args


def _apply_fault(typed: dict[str, object]) -> str:
    """The fault of options beside --apply; "" where there is none."""
    allowed = {"csv", "apply", "split", "untouched", "out", "overwrite"}
    other = [f"--{name.replace('_', '-')}" for name in sorted(typed.keys() - allowed)]
    return f"--apply brings its options along: leave {other[0]} out" if other else ""


def contradiction(args: argparse.Namespace, typed: dict[str, object]) -> str:
    """The fault of a combination of flags; "" where there is none."""
    config = config_of(args)
    rules = {
        "--alpha A is needed; --frontier shows what each level costs": (
            not (args.alpha or args.frontier or args.npz)
        ),
        "--frontier is for choosing alpha on other rows: leave --alpha out": (
            args.frontier and args.alpha
        ),
        f"--delta {args.delta} is the chance that the promise fails: below 0.5": (
            config.delta >= 0.5
        ),
        f"--npz {args.npz} is the scores file itself": (
            args.npz and args.npz.resolve() == args.csv.resolve()
        ),
        "--delta goes with --method rcps or ltt: crc promises an expectation": (
            "delta" in typed and config.method == "crc"
        ),
        "--fwer goes with --method ltt": "fwer" in typed and config.method != "ltt",
        _method_fault(config): _method_fault(config),
    }
    return next((message for message, broken in rules.items() if broken), "")


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


def share(word: str) -> str:
    """Check a number in (0, 1) and keep it as typed, so that it can be taken exactly."""
    try:
        inside = 0 < Fraction(word) < 1 and 0 < float(word) < 1
    except (ValueError, ZeroDivisionError):
        inside = False
    if not inside:
        hint = "; the scores stand before the flags" if ".csv" in word else ""
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0 and below 1{hint}")
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
    parser = Parser(
        prog="python -m chestxray.conformal",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Thresholds with a guarantee for the scores of a multi-label classifier, and "
        "the\nprediction sets that they give: the classes with p >= threshold.",
        epilog="""examples:
  python -m chestxray.conformal SCORES.csv --frontier --from val     what each alpha costs
  python -m chestxray.conformal SCORES.csv --risk fnr --alpha 0.1    calibrate and evaluate
  python -m chestxray.conformal NEW.csv --apply OUT/thresholds.json  sets for new images

Exit codes: 0 done, 1 wrong data, 2 wrong usage, 3 nothing can be certified at this alpha.
docs/risk-control.md explains what is promised, and what is not.""",
    )
    parser.add_argument(
        "csv",
        metavar="SCORES.csv",
        type=Path,
        nargs="?",
        help="image, patient, y_*, p_*; or .gz. It stands before the flags",
    )
    add_promise(parser).add_argument(
        "--per-class",
        action="store_true",
        help="a threshold for each class by itself (fnr by crc only)",
    )
    add_rows(parser, "test; val for --frontier; all for --apply")
    _add_output(parser)
    return parser


def add_promise(parser: Parser) -> Any:
    """Add the flags of risk and method; returns their group."""
    promise = parser.add_argument_group("the promise")
    risks = "; ".join(f"{name}: {risk.meaning}" for name, risk in RISKS.items())
    promise.add_argument(
        "--risk", choices=tuple(RISKS), default="fnr", help=f"{risks} (default: fnr)"
    )
    promise.add_argument(
        "--alpha",
        type=share,
        nargs="+",
        metavar="A",
        help="the risk to stay below, 0 < A < 1, taken exactly; each of several holds alone",
    )
    promise.add_argument(
        "--method",
        choices=("crc", "rcps", "ltt"),
        help="crc: in expectation over calibrations; rcps, ltt: with probability 1 - delta over "
        "them (default: crc for fnr; ltt for fdr, which is not monotone)",
    )
    promise.add_argument(
        "--delta",
        type=share,
        default="0.1",
        metavar="D",
        help="chance that the promise of rcps and ltt fails, below 0.5 (default: 0.1)",
    )
    promise.add_argument(
        "--unit",
        choices=("patient", "image"),
        default="patient",
        help="patient: for a new patient's images on average; image: for a new image, which "
        "takes images of one patient for independent (default: patient)",
    )
    promise.add_argument(
        "--fwer",
        choices=("fst", "holm"),
        default="fst",
        help="of ltt. fst: test thresholds from the strict end until one fails; holm: test all, "
        "at a higher price (default: fst)",
    )
    return promise


def add_rows(parser: Parser, split: str) -> None:
    """Add the flags of rows and classes; `split` is the default of --from, in words."""
    rows = parser.add_argument_group("rows and classes")
    rows.add_argument(
        "--from",
        dest="split",
        metavar="SPLIT",
        help=f"rows to use (default: {split})",
    )
    rows.add_argument(
        "--untouched",
        action="store_true",
        help="declare that the rows of --from SPLIT trained nothing and chose nothing; without "
        "it, only those of test keep the promise",
    )
    rows.add_argument("--exclude", nargs="+", default=[], metavar="CLASS", help="classes left out")
    rows.add_argument(
        "--include-no-finding",
        action="store_true",
        help="count No Finding as a class; without it, a set without a finding is the empty set",
    )
    rows.add_argument(
        "--no-positive",
        choices=("drop", "zero", "error"),
        default="drop",
        help="an image without a positive class, whose miss rate is 0/0. drop: it does not count; "
        "zero: it counts as 0; error: refuse (default: drop)",
    )
    rows.add_argument(
        "--empty",
        type=int,
        choices=(0, 1),
        default=0,
        help="the false share of an empty set, 0/0: 0 or 1 (default: 0)",
    )
    rows.add_argument(
        "--cal-fraction",
        type=fraction,
        default=0.5,
        metavar="X",
        help="share of the patients that calibrate, 1 for all; the others evaluate (default: 0.5)",
    )
    rows.add_argument(
        "--seed",
        type=_WHOLE,
        default=0,
        metavar="N",
        help="draws the patients that calibrate; choose it before looking at results (default: 0)",
    )


def _add_output(parser: Parser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="(default: beside the CSV, named after it, risk, method, --per-class and split)",
    )
    output.add_argument(
        "--overwrite", action="store_true", help="write into a folder that holds anything else"
    )
    output.add_argument(
        "--resplits",
        type=_WHOLE,
        default=1000,
        metavar="N",
        help="other cuts by patient for the histogram of the realised risk (default: 1000)",
    )
    output.add_argument(
        "--npz", type=Path, metavar="FILE", help="write the rows as arrays sgmd, labels"
    )
    other = parser.add_argument_group("instead of a calibration")
    other.add_argument(
        "--frontier", action="store_true", help="print what each level costs, and calibrate nothing"
    )
    other.add_argument(
        "--apply",
        type=Path,
        metavar="JSON",
        help="use the thresholds of a thresholds.json on other scores, with or without labels",
    )
