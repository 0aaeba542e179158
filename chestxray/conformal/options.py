"""The command's flags: what may be typed, what contradicts what, and the options of a calibration.

Only numpy is imported here, so that --help and wrong usage answer at once.
"""

import argparse
import math
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from chestxray.conformal.groups import Column
from chestxray.conformal.risks import RISKS, Risk
from chestxray.labels import is_no_finding
from chestxray.runtime.cli import Parser, number
from chestxray.runtime.text import join_limited

_MOST_LEVELS = 100  # of a range
_WHOLE = number(int, 0, math.inf, "a whole number, at least 0")
FORMATS = ("png", "pdf", "svg")  # of a plot
FRESH = "test"  # the split whose rows trained nothing and chose nothing


@dataclass(frozen=True)
class Config:
    """Options of a calibration: the risks, the method and for whom; names are the command's flags.

    `split` is --from: None where all rows are used. `tune` is the SHA-256 of that file.
    """

    risk: tuple[str, ...] = ("fnr",)
    method: str = "crc"
    delta: float = 0.1
    unit: str = "patient"
    no_positive: str = "drop"
    empty: str = "0"
    fwer: str = "fst"
    pvalue: str = "wsr"
    tune: str | None = None
    per_class: bool = False
    by: str | None = None
    split: str | None = None
    untouched: bool = False
    exclude: tuple[str, ...] = ()
    include_no_finding: bool = False
    cal_fraction: float = 0.5
    resplits: int = 1000
    seed: int = 0

    def realised_risk(self, name: str) -> Risk:
        """A risk as it is measured, asked for or not: an empty set counts, as 0 by default."""
        return RISKS[name](self.no_positive, "0" if self.empty == "drop" else self.empty)

    @property
    def target_risks(self) -> tuple[Risk, ...]:
        """The risks to be controlled, all by one threshold, with the conventions for 0/0."""
        return tuple(RISKS[name](self.no_positive, self.empty) for name in self.risk)

    @property
    def by_metric(self) -> dict[str, Risk]:
        """The same by the keys of their realised values."""
        return {risk.metric: risk for risk in self.target_risks}

    @property
    def target_risk(self) -> Risk:
        """The first of them; the only one where a method can control but one."""
        return self.target_risks[0]

    @property
    def abbreviations(self) -> str:
        """The risks as a title names them: "FNR and FDR"."""
        return " and ".join(risk.abbreviation for risk in self.target_risks)

    @property
    def joint(self) -> bool:
        """Several risks are controlled at once."""
        return len(self.risk) > 1

    @property
    def in_parts(self) -> bool:
        """Each class or group has a threshold of its own."""
        return self.per_class or self.by is not None

    @property
    def part(self) -> str:
        """What a threshold is for: a class, or a group."""
        return "group" if self.by else "class"

    @property
    def needs_start(self) -> bool:
        """Other patients have to choose where a fixed sequence of tests starts."""
        return self.method == "ltt" and self.fwer == "fst" and self.target_risk.needs_start

    def leaves_out(self, name: str) -> bool:
        """Return whether a class takes no part in sets and risks."""
        return name in self.exclude or (is_no_finding(name) and not self.include_no_finding)

    def to_json(self) -> dict[str, object]:
        """All options by their flags."""
        options = asdict(self) | {"risk": list(self.risk), "exclude": list(self.exclude)}
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
        several = {name: tuple(options[name]) for name in ("risk", "exclude")}
        return cls(**named | several)


def config_of(args: argparse.Namespace) -> Config:
    """The options that were typed; the split is None where none was, and so is the tune file."""
    names = {field.name for field in fields(Config)}
    typed = {name: value for name, value in vars(args).items() if name in names}
    joint = len(args.risk) > 1
    return Config(
        **typed
        | {
            "risk": tuple(args.risk),
            "method": args.method or ("ltt" if joint else RISKS[args.risk[0]]().methods[0]),
            "delta": float(args.delta),
            "fwer": args.fwer or ("holm" if joint else "fst"),
            "pvalue": args.pvalue or "wsr",
            "tune": None,
            "exclude": tuple(args.exclude),
        }
    )


def levels_of(args: argparse.Namespace) -> list[str]:
    """Each level once, as it was first typed; of several risks the one level, "A B"."""
    alphas = [alpha for word in args.alpha or [] for alpha in word]
    return [" ".join(alphas)] if alphas and len(args.risk) > 1 else unique_alphas(alphas)


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
    fault = _fault(args, typed)
    if args.untouched and not args.split:
        fault = "--untouched declares the rows of a split: add --from NAME"
    if fault:
        parser.error(fault)
    return args


def _fault(args: argparse.Namespace, typed: dict[str, object]) -> str:
    """The fault of what was typed; "" where there is none."""
    if args.apply:
        return _apply_fault(typed)
    if args.select or args.on:
        return _select_fault(typed)
    return contradiction(args, typed)


def _apply_fault(typed: dict[str, object]) -> str:
    """The fault of options beside --apply; "" where there is none."""
    allowed = {"csv", "apply", "split", "untouched", "out", "overwrite"}
    other = [f"--{name.replace('_', '-')}" for name in sorted(typed.keys() - allowed)]
    return f"--apply brings its options along: leave {other[0]} out" if other else ""


def _select_fault(typed: dict[str, object]) -> str:
    """The fault of options beside --select; "" where there is none."""
    if "on" not in typed:
        return "--select needs --on NEW.csv, the scores to select from"
    if "select" not in typed:
        return "--on goes with --select Q, the share of the selected that may be false"
    allowed = {"csv", "select", "on", "split", "untouched", "out", "overwrite"}
    allowed |= {"exclude", "include_no_finding"}
    other = [f"--{name.replace('_', '-')}" for name in sorted(typed.keys() - allowed)]
    return f"--select is no calibration of thresholds: leave {other[0]} out" if other else ""


def contradiction(args: argparse.Namespace, typed: dict[str, object]) -> str:
    """The fault of a combination of flags; "" where there is none."""
    config = config_of(args)
    ltt = config.method == "ltt"
    levels = sum(map(len, args.alpha or []))
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
        f"--npz {args.npz} is a scores file that is read": (
            args.npz and args.npz.resolve() in {p.resolve() for p in (args.csv, args.tune) if p}
        ),
        _unused_flag(args, typed): _unused_flag(args, typed),
        _joint_fault(config): _joint_fault(config),
        f"--alpha takes one level for each of --risk {' '.join(config.risk)}, in their order": (
            config.joint and args.alpha and not levels == len(args.alpha) == len(config.risk)
        ),
        "--delta goes with --method rcps or ltt: crc promises an expectation": (
            "delta" in typed and config.method == "crc"
        ),
        "--fwer goes with --method ltt": "fwer" in typed and not ltt,
        "--pvalue goes with --method ltt": "pvalue" in typed and not ltt,
        "--tune chooses where the tests of --empty drop and --risk mfdr start (--fwer fst)": (
            args.tune and not config.needs_start
        ),
        _method_fault(config): _method_fault(config),
    }
    return next((message for message, broken in rules.items() if broken), "")


def _unused_flag(args: argparse.Namespace, typed: dict[str, object]) -> str:
    """The fault of a flag that only a calibration uses, where none is made; "" without one."""
    if args.alpha:
        return ""
    unused = {"out", "format", "resplits", "seed", "cal_fraction"}
    unused |= set() if args.frontier else {"by", "tune", "per_class", "method", "fwer", "pvalue"}
    found = [f"--{name.replace('_', '-')}" for name in sorted(unused & typed.keys())]
    return f"{found[0]} is for a calibration: add --alpha A, or leave it out" if found else ""


def _joint_fault(config: Config) -> str:
    """The reason why several risks cannot be controlled at once; "" where they can."""
    if not config.joint:
        return ""
    names = " ".join(config.risk)
    if len(set(config.risk)) < len(config.risk):
        return f"--risk {names} names a risk twice"
    if len(config.risk) > 2:
        return f"--risk {names}: two risks at most can be controlled at once"
    if config.method != "ltt":
        return f"--risk {names} at once is for --method ltt, not {config.method}"
    if config.fwer != "holm":
        return (
            f"--risk {names} at once has no end of the grid where both are low, for a fixed "
            "sequence to begin at: --fwer holm"
        )
    if config.in_parts:
        return f"--risk {names} at once has one threshold: leave --per-class and --by out"
    return ""


def _method_fault(config: Config) -> str:
    """The reason why the method cannot control the risk; "" where it can."""
    risk = config.target_risk
    if not config.joint and config.method not in risk.methods:
        return (
            f"--method {config.method} needs a monotone risk, which {risk.abbreviation} is not: "
            f"--method {risk.methods[0]}"
        )
    if config.method == "ltt" and config.fwer == "fst" and risk.fixed_sequence_fault:
        return f"--fwer fst {risk.fixed_sequence_fault}: --fwer holm"
    names = join_limited(name for name, other in RISKS.items() if other.by_class)
    can_be_parted = risk.by_class and config.method == "crc"
    if config.per_class and config.by:
        return (
            "--per-class and --by at once leave too few patients for each threshold: choose one "
            "of them"
        )
    if config.per_class and not can_be_parted:
        return f"--per-class is for --risk {names} --method crc"
    if config.by and not can_be_parted:
        return f"--by is for --risk {names} --method crc"
    return ""


def column(word: str) -> str:
    """Check COLUMN or COLUMN:CUT,CUT and keep it as typed."""
    try:
        Column.parse(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word


def alphas(word: str) -> list[str]:
    """The levels of a word: one, or FIRST:LAST:STEP, each as text, so that it is taken exactly."""
    if ":" not in word:
        return [share(word)]
    try:
        first, last, step = map(Decimal, word.split(":"))
        count = math.floor((last - first) / step) + 1 if step > 0 else 0
        inside = count >= 1 and 0 < first and last < 1
    except (ValueError, ArithmeticError):
        inside = False
    if not inside:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not FIRST:LAST:STEP with 0 < FIRST <= LAST < 1 and STEP above 0"
        )
    if count > _MOST_LEVELS:
        raise argparse.ArgumentTypeError(
            f"{word!r} makes {count:,} levels, above {_MOST_LEVELS}: a larger STEP"
        )
    return [f"{(first + place * step).normalize():f}" for place in range(count)]


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
  python -m chestxray.conformal SCORES.csv --select 0.2 --on NEW.csv  few of the selected are false

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
    promise = add_promise(parser)
    promise.add_argument(
        "--per-class",
        action="store_true",
        help="a threshold for each class by itself (fnr by crc only)",
    )
    promise.add_argument(
        "--by",
        type=column,
        metavar="COLUMN",
        help="a threshold for each group of patients by itself (fnr by crc only): the values of a "
        "column of SCORES.csv, as sex or view, or bands of a number, as age:18,40,60,80",
    )
    promise.add_argument(
        "--tune",
        type=Path,
        metavar="FILE",
        help="scores of other patients, its rows of val if it has any, that choose where the tests "
        "of --empty drop and --risk mfdr start (default: a fifth of the calibration patients)",
    )
    add_rows(parser, "test; val for --frontier; all for --apply")
    _add_output(parser)
    _add_instead(parser)
    return parser


def add_promise(parser: Parser) -> Any:
    """Add the flags of risk and method; returns their group."""
    promise = parser.add_argument_group("the promise")
    risks = "; ".join(f"{name}: {risk().meaning}" for name, risk in RISKS.items())
    promise.add_argument(
        "--risk",
        choices=tuple(RISKS),
        nargs="+",
        default=["fnr"],
        help=f"{risks}; several: all at once, by one threshold (default: fnr)",
    )
    promise.add_argument(
        "--alpha",
        type=alphas,
        nargs="+",
        metavar="A",
        help="the risk to stay below, 0 < A < 1, taken exactly; each of several holds alone. "
        "0.05:0.5:0.05 is a range; of several risks, one level each",
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
    _add_tests(promise)
    return promise


def _add_tests(promise: Any) -> None:
    """Add the flags of learn then test to their group."""
    promise.add_argument(
        "--fwer",
        choices=("fst", "holm"),
        help="of ltt. fst: test thresholds from the strict end until one fails; holm: test all, "
        "at a higher price (default: fst; holm for several risks)",
    )
    promise.add_argument(
        "--pvalue",
        choices=("wsr", "hb"),
        help="of ltt. wsr: by betting, sharper; hb: Hoeffding and Bentkus, as in the papers "
        "(default: wsr)",
    )


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
        choices=("0", "1", "drop"),
        default="0",
        help="the false share of an empty set, 0/0: 0 or 1; drop: it does not count, and fdr is "
        "that of the sets that are not empty (default: 0)",
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
        "--format",
        choices=FORMATS,
        nargs="+",
        default=["png", "pdf"],
        help="files of each plot, one or several formats (default: png pdf)",
    )
    output.add_argument(
        "--npz",
        type=Path,
        metavar="FILE",
        help="write the rows as arrays: sgmd, labels, images, patients, classes, split",
    )


def _add_instead(parser: Parser) -> None:
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
    other.add_argument(
        "--select",
        type=share,
        metavar="Q",
        help="select new images for each class by itself, so that of the selected a share of at "
        "most Q is expected to be false, 0 < Q < 1, taken exactly; needs --on",
    )
    other.add_argument(
        "--on",
        type=Path,
        metavar="NEW.csv",
        help="the scores to select from, with or without labels, of other patients",
    )
