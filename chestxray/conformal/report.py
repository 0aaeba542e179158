"""The report of a calibration or an application: as values for JSON, as lines, as a page."""

import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np

from chestxray.conformal.certificate import BOUNDS, Certificate, prediction_sets
from chestxray.conformal.groups import Column
from chestxray.conformal.metrics import (
    FEW_PATIENTS,
    ClassMetrics,
    Estimate,
    GroupMetrics,
    RiskSummary,
    SetMetrics,
    by_group,
    per_class,
    realised,
)
from chestxray.conformal.options import Config
from chestxray.conformal.resplits import Spread
from chestxray.conformal.risks import RISKS, FalseDiscoveryRate, Risk
from chestxray.conformal.rows import Rows
from chestxray.labels import is_no_finding
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores

_MANY = 0.2  # share of empty or full sets above which it is said


@dataclass(frozen=True)
class Resplits:
    """Realised risks over cuts by patient: of the whole, or of each class or group alone."""

    times: int
    whole: dict[str, RiskSummary] | None = None
    parts: dict[str, RiskSummary] | None = None

    def to_json(self) -> dict[str, object]:
        found = {name: asdict(of) for name, of in (self.parts or self.whole or {}).items()}
        if self.parts is not None:
            return {"times": self.times, "parts": found}
        one = next(iter(found.values())) if len(found) == 1 else {"risks": found}
        return {"times": self.times, **one}


@dataclass(frozen=True)
class Entry:
    """The part of a report about one alpha.

    Attributes:
        certificate: the answer.
        guarantee: the promise in two sentences; None where nothing is certified.
        realised: metrics on the evaluation rows by weighting; None where there are none.
        class_metrics: the same by class.
        group_metrics: the realised risks by column and group, of the columns that the scores have.
        notes: sentences on what the metrics do not say by themselves.
        spread: by CRC, the risk of single calibrations: of the whole, or of each part.
        resplits: realised risk over other cuts; None where none were drawn.
        plots: names of the plots.
    """

    certificate: Certificate
    guarantee: str | None = None
    realised: dict[str, SetMetrics] | None = None
    class_metrics: dict[str, ClassMetrics] | None = None
    group_metrics: dict[str, dict[str, GroupMetrics]] | None = None
    notes: tuple[str, ...] = ()
    spread: Spread | dict[str, Spread | None] | None = None
    resplits: Resplits | None = None
    plots: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        realised = {name: found.to_json() for name, found in (self.realised or {}).items()}
        classes = {name: found.to_json() for name, found in (self.class_metrics or {}).items()}
        return self.certificate.to_json() | {
            "certified": self.certificate.certified,
            "guarantee": self.guarantee,
            "realised": realised or None,
            "classes": classes or None,
            "groups": self._groups_json(),
            "notes": list(self.notes),
            "single_calibrations": self._spread_json(),
            "resplits": self.resplits.to_json() if self.resplits else None,
            "plots": list(self.plots),
        }

    def _groups_json(self) -> dict[str, object] | None:
        columns = (self.group_metrics or {}).items()
        return {
            column: {name: asdict(found) for name, found in groups.items()}
            for column, groups in columns
        } or None

    def _spread_json(self) -> dict[str, object] | None:
        if isinstance(self.spread, dict):
            return {name: asdict(found) if found else None for name, found in self.spread.items()}
        return asdict(self.spread) if self.spread else None


@dataclass(frozen=True)
class Application:
    """What was applied to what.

    Attributes:
        thresholds, scores: names of the files.
        split: of the rows; None where all are used.
        untouched: the user declares that these rows trained nothing and chose nothing.
        thresholds_sha256, scores_sha256: of the files.
    """

    thresholds: str
    scores: str
    split: str | None
    untouched: bool
    thresholds_sha256: str
    scores_sha256: str

    def to_json(self) -> dict[str, object]:
        return {"from" if name == "split" else name: v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class Report:
    """All that report.json holds.

    Attributes:
        title: the calibration or application.
        classes, rows: a line each: the classes that count, and the rows that were used.
        notes: what else a reader must know, a sentence each.
        warnings: reasons to doubt the promise, and checks that could not be made.
        promise_holds: no warning takes the promise back.
        config: of the calibration.
        cut_by: "patient", or "image" where the scores name no patients.
        entries: one for each alpha.
        applied: of an application; None for a calibration.
        plots: names of the plots of all levels together.
    """

    title: str
    classes: str
    rows: str
    notes: list[str]
    warnings: list[str]
    promise_holds: bool
    config: Config
    cut_by: str
    entries: list[Entry]
    applied: Application | None = None
    plots: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "title": self.title,
            "counted": self.classes,
            "rows": self.rows,
            "definition": definition(self.config),
            "notes": self.notes,
            "warnings": self.warnings,
            "promise_holds": self.promise_holds,
            **({} if self.applied is None else {"applied": self.applied.to_json()}),
            "choices": self.config.to_json(),
            "plots": list(self.plots),
            "levels": [entry.to_json() for entry in self.entries],
        }


def make_entry(
    certificate: Certificate,
    config: Config,
    eval_rows: Rows | None,
    caveat: str = "",
) -> Entry:
    """Put a certificate into words, and measure its sets on the evaluation rows.

    Args:
        certificate: of calibrate.
        config: of the calibration.
        eval_rows: labelled images; None where there are none.
        caveat: how a warning takes the promise back, "" where none does.
    """
    if not certificate.certified:
        return Entry(certificate)
    if caveat:
        caveat = f"{caveat}, see the warnings; without them it would read: "
    promise = caveat + guarantee(certificate, config)
    if eval_rows is None:
        return Entry(certificate, promise)
    sets = prediction_sets(eval_rows, certificate)
    found = realised(eval_rows, sets, config)
    notes = _full_sets(found) + ([] if caveat else _above_alpha(found, certificate, config))
    return Entry(
        certificate,
        promise,
        realised=found,
        class_metrics=per_class(eval_rows, sets, eval_rows.classes, config.seed),
        group_metrics=by_group(eval_rows, sets, config),
        notes=tuple(notes),
    )


def _above_alpha(
    found: dict[str, SetMetrics], certificate: Certificate, config: Config
) -> list[str]:
    """Say why a realised risk may lie above alpha, where one does."""
    if config.in_parts:
        return []
    said = []
    for risk, alpha in zip(config.target_risks, certificate.alphas, strict=True):
        by_image = found["image"].risks[risk.name].value
        own = by_image if config.unit == "image" else found["patient"].risks[risk.name].value
        if own is None or by_image is None:
            continue
        if round(own, 3) > alpha:
            said.append(
                f"by {config.unit} the {risk.abbreviation} is {own:.3f} on these rows, above "
                "alpha: the promise is about the risk of new ones, and a finite number of rows "
                "errs by chance"
            )
        elif round(by_image, 3) > alpha:
            said.append(
                f"by image the {risk.abbreviation} is {by_image:.3f}, above alpha: the promise is "
                "by patient, where one with many images weighs as much as one with a single image"
            )
    return said


def _full_sets(found: dict[str, SetMetrics]) -> list[str]:
    """Say that many sets hold every class, where they do."""
    full = found["image"].full.value or 0
    if full <= _MANY:
        return []
    return [f"{full:.0%} of the sets hold every class, and so say nothing about their image"]


def empty_set_warnings(entries: list[Entry], config: Config) -> list[str]:
    """Warn of a false discovery rate that is low because many sets are empty."""
    if FalseDiscoveryRate.name not in config.risk or config.empty != "0":
        return []
    said = []
    for entry in entries:
        found = (entry.realised or {}).get("image")
        if found is None or (found.empty.value or 0) <= _MANY:
            continue
        said.append(
            f"alpha {entry.certificate.alpha}: {found.empty.value:.0%} of the sets are "
            "empty, and an empty set counts as 0 false: the FDR of the others is "
            f"{_number(found.fdr_nonempty.value)}"
        )
    return said


def definition(config: Config) -> str:
    """What is averaged, a sentence or two for each risk."""
    return " ".join(risk.definition for risk in config.target_risks)


def guarantee(certificate: Certificate, config: Config) -> str:
    """The promise of a certificate in two plain sentences: what, and on which conditions."""
    risks, unit = config.target_risks, f"{config.unit}s"
    alphas = certificate.alpha.split()
    alone = "both at once" if config.joint else "each alpha alone"
    conditions = f"It holds for {unit} drawn like those that calibrated, {alone}"
    conditions += "".join(f", {risk.convention}" for risk in risks if risk.convention)
    if config.method == "crc":
        conditions += ", and on average over calibrations: single ones lie above and below"
    what = " and ".join(map(lambda risk, a: risk.promise(a), risks, alphas))
    if config.in_parts:
        which = "class" if config.per_class else f"group of {Column.parse(str(config.by)).name}"
        whom = f"{unit} with the class" if config.per_class else _counted(f"its {unit}", risks[0])
        return (
            f"For each {which} by itself, among {whom}, {what}, over the draw of the "
            f"calibration {unit} and of a new one. {conditions}."
        )
    if config.method == "crc":
        return (
            f"For {_newcomer(config)} {what}, over the draw of the calibration {unit} and of the "
            f"new one. {conditions}."
        )
    confidence = Decimal(1) - Decimal(repr(config.delta))
    return (
        f"With probability at least {confidence:f} over the draw of the calibration {unit}, for "
        f"{_newcomer(config)} {what}. {conditions}."
    )


def _newcomer(config: Config) -> str:
    """The new unit that the promise is for, with a comma where the sentence needs one."""
    risks = config.target_risks
    # Of two risks, each counts the images that it counts: the one that does not count all says so.
    which = "" if config.joint else _counted("", risks[0])
    if config.unit == "patient":
        return f"a new patient's images{which}, averaged over them,"
    return f"a new image{which},"


def _counted(whom: str, risk: Risk) -> str:
    return f"{whom} {risk.counted}" if risk.counted else whom


def classes_text(classes: tuple[str, ...]) -> str:
    """The classes that count."""
    return f"Classes that count ({len(classes)}): {join_limited(classes, most=len(classes))}."


def left_out_note(excluded: tuple[str, ...]) -> tuple[str, ...]:
    """Say that No Finding takes no part, where a file has it and it does not count."""
    if not any(map(is_no_finding, excluded)):
        return ()
    return (
        "No Finding takes no part in sets and risks (--include-no-finding counts it); a set "
        "without a finding is the empty set",
    )


def rows_text(table: Scores) -> str:
    """ "5 images of 2 patients"; "5 images" where patients are not known."""
    images = plural(len(table.image_names), "image")
    if table.patients is None:
        return images
    return f"{images} of {plural(len(np.unique(table.patients)), 'patient')}"


def lines(report: Report) -> list[str]:
    """The report as the command prints it, wrapped at the width of the terminal."""
    said = [f"warning: {warning}" for warning in report.warnings]
    said.append(definition(report.config))
    for entry in report.entries:
        said += ["", f"alpha {entry.certificate.alpha}"]
        said += [f"  {line}" for line in _entry_lines(entry, report)]
    head = head_lines(report.classes, (report.rows, *report.notes))
    return head + [part for line in said for part in _wrapped(line)]


def head_lines(classes: str, notes: Iterable[str]) -> list[str]:
    """The first lines of every answer: the classes that count, and what else must be known."""
    return [part for line in (classes, *notes) for part in _wrapped(line)]


def _wrapped(line: str) -> list[str]:
    """A line of the answer as lines of the terminal."""
    width = shutil.get_terminal_size((100, 24)).columns
    indent = " " * (len(line) - len(line.lstrip()))
    wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
    return wrap(line, max(width, 40), subsequent_indent=f"{indent}  ") or [""]


def _entry_lines(entry: Entry, report: Report) -> list[str]:
    certificate, config = entry.certificate, report.config
    if not certificate.certified:
        return [f"nothing is certified: {certificate.reason}"]
    said = [*_threshold_lines(entry, config), str(entry.guarantee)]
    said.append(counting(certificate, config))
    said += spread_lines(entry, report)
    said += [
        f"realised by {weighting:<8} {_realised_text(found, config)}"
        for weighting, found in (entry.realised or {}).items()
    ]
    said += _group_lines(entry, config)
    said += entry.notes
    if entry.resplits:
        said += _resplit_lines(entry.resplits, report)
    return said


def _realised_text(found: SetMetrics, config: Config) -> str:
    """All metrics in a line; the FDR of non-empty sets behind the FDR, unless they are one."""
    risks = {
        config.named_risk(name).abbreviation: _number(share.value)
        for name, share in found.risks.items()
    }
    if config.empty != "drop":
        risks["FDR"] += f" (non-empty {_number(found.fdr_nonempty.value)})"
    shares = {"empty": found.empty, "full": found.full, "size": found.size}
    others = {name: _number(share.value) for name, share in shares.items()}
    return "  ".join(f"{name} {value}" for name, value in (risks | others).items())


def _group_lines(entry: Entry, config: Config) -> list[str]:
    """The realised risks by sex, view, age, a line a column."""
    said = []
    for risk in config.target_risks:
        for column, groups in (entry.group_metrics or {}).items():
            found = "  ".join(
                f"{name} {_number(group.risks[risk.name].value)}{' (few)' if group.few else ''}"
                for name, group in groups.items()
            )
            said.append(f"realised {risk.abbreviation} by {column}: {found}")
    return said


def spread_lines(entry: Entry, report: Report) -> list[str]:
    """The range of the risk of single calibrations of this size, of a calibration by CRC."""
    config = report.config
    risk, alpha = config.target_risk.abbreviation, entry.certificate.alpha
    if config.method != "crc" or report.applied is not None:
        return []
    if entry.spread is None:
        units = plural(entry.certificate.n_units, config.unit)
        return [f"{units} are too few to tell the range of {risk} of single calibrations"]
    begin = f"single calibrations of this size have {risk}"
    if not isinstance(entry.spread, dict):
        return [f"{begin} {_spread(entry.spread, alpha)}"]
    width = max(map(len, entry.spread))
    return [f"{begin} of each {config.part}"] + [
        f"  {name:<{width}} {_spread(found, alpha)}" for name, found in entry.spread.items()
    ]


def _spread(found: Spread | None, alpha: str) -> str:
    if found is None:
        return "not known: too few have it"
    low, high = found.interval
    return f"{low:.3f} to {high:.3f} (95 %), {found.above_alpha:.0%} of them above {alpha}"


def _spread_section(entry: Entry, report: Report) -> list[str]:
    if not isinstance(entry.spread, dict):
        said = spread_lines(entry, report)
        return ["", f"{said[0][0].upper()}{said[0][1:]}."] if said else []
    page = [
        "",
        f"| {report.config.part} | {report.config.target_risk.abbreviation} of single calibrations "
        "of this size |",
        "|---|---|",
    ]
    return page + [
        f"| {name} | {_spread(found, entry.certificate.alpha)} |"
        for name, found in entry.spread.items()
    ]


def _resplit_lines(resplits: Resplits, report: Report) -> list[str]:
    config = report.config
    begin = f"{plural(resplits.times, 'cut')} by {report.cut_by}"
    if resplits.parts is not None:
        width = max(map(len, resplits.parts))
        of_each = [f"  {name:<{width}} {_cuts(s)}" for name, s in resplits.parts.items()]
        label = config.target_risk.label
        return [
            f"{begin}, realised {label} of each {config.part}; the share above alpha errs with "
            "both halves",
            *of_each,
        ]
    said = []
    for name, whole in (resplits.whole or {}).items():
        found = "have a threshold" if config.method == "crc" else "certify"
        errs = "" if whole.interval is None else ", which errs with both halves"
        risk = config.named_risk(name).abbreviation if config.joint else "risk"
        said.append(f"{begin}: {whole.certified:,} {found}, realised {risk} {_cuts(whole)}{errs}")
    return said


def _cuts(found: RiskSummary) -> str:
    if found.interval is None:
        return "n/a"
    low, high = found.interval
    return (
        f"{found.mean:.4f} on average, 5-95 % {low:.4f}-{high:.4f}, "
        f"{found.halves_above_alpha:.1%} of the evaluation halves above alpha"
    )


def markdown(report: Report) -> str:
    """The report as a page for people."""
    page = [f"# {report.title}", "", report.classes, "", report.rows]
    for note in report.notes:
        page += ["", f"{note[0].upper()}{note[1:]}."]
    for warning in report.warnings:
        page += ["", f"**Warning.** {warning}."]
    page += ["", definition(report.config), *_shown(report.plots)]
    for entry in report.entries:
        page += ["", f"## alpha = {entry.certificate.alpha}", "", *_section(entry, report)]
    return "\n".join(page) + "\n"


def _section(entry: Entry, report: Report) -> list[str]:
    certificate = entry.certificate
    if not certificate.certified:
        return [f"Nothing is certified: {certificate.reason}."]
    page = [*_threshold_table(entry, report.config), "", str(entry.guarantee), ""]
    page.append(f"{counting(certificate, report.config)}.")
    page += _spread_section(entry, report)
    for note in entry.notes:
        page += ["", f"{note[0].upper()}{note[1:]}."]
    if entry.realised is None or entry.class_metrics is None:
        page += ["", "No labelled rows for evaluation: no realised metrics."]
    else:
        page += ["", *_realised_table(entry.realised, report.config)]
        page += ["", *_class_table(entry.class_metrics)]
        page += _group_tables(entry, report)
    if entry.resplits:
        page += ["", *_resplits_table(entry.resplits, report)]
    return page + _shown(entry.plots)


def _shown(plots: tuple[str, ...]) -> list[str]:
    """Each plot once, of its formats the first that a page can show; a PDF is linked."""
    kinds = {Path(name).suffix for name in plots}
    best = next((kind for kind in (".png", ".svg", ".pdf") if kind in kinds), "")
    page = []
    for name in (name for name in plots if Path(name).suffix == best):
        link = f"[{TITLES[Path(name).stem.partition('_')[0]]}]({name})"
        page += ["", link if best == ".pdf" else f"!{link}"]
    return page


TITLES = {
    "levels": "Realised against nominal level",
    "risk": "Risk against threshold",
    "resplits": "Realised risk over re-splits",
    "sizes": "Set sizes",
    "classes": "Recall and false share by class",
    "groups": "Realised risk by group",
}
_ROWS = {
    "fdr_nonempty": "FDR of non-empty sets",
    "empty": "empty sets, share",
    "full": "sets of every class, share",
    "size": "classes in a set, mean",
    "precision": "micro precision",
    "recall": "micro recall",
}


def _realised_table(found: dict[str, SetMetrics], config: Config) -> list[str]:
    risks = {name: config.named_risk(name) for name in RISKS}
    texts = {name: f"{risk.abbreviation}, {risk.meaning}" for name, risk in risks.items()} | _ROWS
    if config.empty == "drop":  # the FDR is that of the sets that are not empty
        del texts["fdr_nonempty"]
    columns = [metrics.estimates() for metrics in found.values()]
    page = [f"| realised, 95 % interval | {' | '.join(f'by {name}' for name in found)} |"]
    page.append("|---" * (1 + len(found)) + "|")
    return page + [
        f"| {text} | " + " | ".join(_interval(column[name]) for column in columns) + " |"
        for name, text in texts.items()
    ]


def _class_table(found: dict[str, ClassMetrics]) -> list[str]:
    weightings = list(next(iter(found.values())).shares)
    heads = [f"{share} by {name}" for share in ("recall", "FDR") for name in weightings]
    page = [f"| class | positives | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for name, row in found.items():
        shares = [row.shares[w].recall for w in weightings]
        shares += [row.shares[w].fdr for w in weightings]
        cells = " | ".join(map(_interval, shares))
        page.append(f"| {name} | {positives_text(row)} | {cells} |")
    return page


def _group_tables(entry: Entry, report: Report) -> list[str]:
    """The realised risks by sex, view, age; those of few patients in grey."""
    if not entry.group_metrics:
        return []
    config, unit = report.config, report.cut_by
    heads = [risk.abbreviation for risk in config.target_risks]
    page = ["", f"| realised within, by {config.unit} | {unit}s, images | {' | '.join(heads)} |"]
    page.append("|---" * (2 + len(heads)) + "|")
    few = False
    for column, groups in entry.group_metrics.items():
        for name, group in groups.items():
            cells = [_interval(group.risks[risk.name]) for risk in config.target_risks]
            shown = [f"{column}: {name}", f"{group.patients:,}, {group.images:,}", *cells]
            page.append(f"| {' | '.join(map(_grey, shown) if group.few else shown)} |")
            few |= group.few
    page += ["", _about_groups(config)]
    return page + (["", f"Grey: fewer than {FEW_PATIENTS} {unit}s."] if few else [])


def _grey(text: str) -> str:
    return f'<span style="color:grey">{text}</span>'


def _about_groups(config: Config) -> str:
    if config.by:
        return (
            f"The promise is for each group of {config.by} by itself; it says nothing about groups "
            "cut otherwise."
        )
    return "The promise is for all together, not for a group: --by COLUMN gives one to each group."


def positives_text(row: ClassMetrics) -> str:
    """ "10 in 2 patients"; "10" where patients are not known."""
    if "patient" not in row.shares:
        return f"{row.positives:,}"
    return f"{row.positives:,} in {plural(row.patients, 'patient')}"


def _resplits_table(resplits: Resplits, report: Report) -> list[str]:
    page = [
        f"| realised risk over {plural(resplits.times, 'cut')} by {report.cut_by} | mean | median "
        "| 5-95 % | evaluation halves above alpha, which errs with both halves |",
        "|---|---|---|---|---|",
    ]
    config = report.config
    whole = {
        config.named_risk(name).abbreviation if config.joint else "all classes": found
        for name, found in (resplits.whole or {}).items()
    }
    for name, found in (resplits.parts or whole).items():
        values = "n/a | n/a | n/a | n/a"
        if found.interval is not None:
            low, high = found.interval
            values = (
                f"{found.mean:.3f} | {found.median:.3f} | {low:.3f}-{high:.3f} | "
                f"{found.halves_above_alpha:.1%}"
            )
        page.append(f"| {name} | {values} |")
    return page


def threshold_rows(entry: Entry, config: Config) -> dict[str, tuple[str, str]]:
    """The threshold and number of units of each class or group; "all classes" with one.

    A threshold is the shortest text that reads back to the same number.
    """
    certificate = entry.certificate
    if certificate.parts is None:
        return {"all classes": (f"p >= {certificate.threshold!r}", f"{certificate.n_units:,}")}
    always = "always in the set" if config.per_class else "every class in the set"
    return {
        name: (
            always if part.threshold is None else f"p >= {part.threshold!r}",
            f"{part.n_units:,}",
        )
        for name, part in certificate.parts.items()
    }


def _threshold_lines(entry: Entry, config: Config) -> list[str]:
    rows = threshold_rows(entry, config)
    if not config.in_parts:
        return [f"threshold: {threshold}" for threshold, _ in rows.values()]
    width = max(map(len, rows))
    return [f"threshold of each {config.part}"] + [
        f"  {name:<{width}} {threshold} ({units} {config.unit}s)"
        for name, (threshold, units) in rows.items()
    ]


def _threshold_table(entry: Entry, config: Config) -> list[str]:
    rows = threshold_rows(entry, config)
    page = [f"| {config.part} | threshold | {config.unit}s |", "|---|---|---|"]
    return page + [f"| {name} | {t} | {units} |" for name, (t, units) in rows.items()]


def counting(certificate: Certificate, config: Config) -> str:
    """The units and images that counted in a calibration, and the bound that it reached."""
    found = plural(certificate.n_images, "image")
    if config.unit == "patient":
        found = f"{plural(certificate.n_units, 'patient')} with {found}"
    bound = certificate.bound
    if config.joint and bound is not None:
        return (
            f"{found} counted; largest p-value {bound:.4g} at the threshold, the largest certified"
        )
    return f"{found} counted" + (
        "" if bound is None else f"; {BOUNDS[config.method]} {bound:.4g} at the threshold"
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _interval(share: Estimate) -> str:
    if share.interval is None:
        return _number(share.value)
    return f"{share.value:.3f} ({share.interval[0]:.3f}-{share.interval[1]:.3f})"
