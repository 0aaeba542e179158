"""The report of a calibration or an application: as values for JSON, as lines, as a page."""

from dataclasses import asdict, dataclass

import numpy as np

from chestxray.conformal.calibrate import Certificate, Config, Rows
from chestxray.conformal.metrics import (
    WEIGHTINGS,
    ClassMetrics,
    Estimate,
    RiskSummary,
    SetMetrics,
    per_class,
    prediction_sets,
    realised,
)
from chestxray.conformal.risks import RISKS
from chestxray.runtime.text import plural
from chestxray.scores import Scores


@dataclass(frozen=True)
class Resplits:
    """Realised risk over cuts by patient: of the whole, or of each class alone."""

    times: int
    whole: RiskSummary | None = None
    classes: dict[str, RiskSummary] | None = None

    def to_json(self) -> dict[str, object]:
        if self.classes is None:
            return {"times": self.times} | (asdict(self.whole) if self.whole else {})
        by_class = {name: asdict(found) for name, found in self.classes.items()}
        return {"times": self.times, "classes": by_class}


@dataclass(frozen=True)
class Entry:
    """The part of a report about one alpha.

    Attributes:
        certificate: the answer.
        classes: K names.
        guarantee: the promise in one sentence; None where nothing is certified.
        realised: metrics on the evaluation rows by weighting; None where there are none.
        class_metrics: the same by class.
        resplits, plots: of the first certified alpha alone.
    """

    certificate: Certificate
    classes: tuple[str, ...]
    guarantee: str | None = None
    realised: dict[str, SetMetrics] | None = None
    class_metrics: dict[str, ClassMetrics] | None = None
    resplits: Resplits | None = None
    plots: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        realised = {name: found.to_json() for name, found in (self.realised or {}).items()}
        classes = {name: asdict(found) for name, found in (self.class_metrics or {}).items()}
        return self.certificate.to_json(self.classes) | {
            "certified": self.certificate.certified,
            "guarantee": self.guarantee,
            "realised": realised or None,
            "classes": classes or None,
            "resplits": self.resplits.to_json() if self.resplits else None,
            "plots": list(self.plots),
        }


@dataclass(frozen=True)
class Report:
    """All that report.json holds.

    Attributes:
        title, rows: a line each: the calibration or application, and the rows it used.
        warnings: reasons to doubt the promise, and checks that could not be made.
        promise_holds: no warning takes the promise back.
        config: of the calibration.
        entries: one for each alpha.
        applied: names of the files and the split of an application; None for a calibration.
    """

    title: str
    rows: str
    warnings: list[str]
    promise_holds: bool
    config: Config
    entries: list[Entry]
    applied: dict[str, str | None] | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "title": self.title,
            "rows": self.rows,
            "warnings": self.warnings,
            "promise_holds": self.promise_holds,
            **({} if self.applied is None else {"applied": self.applied}),
            "choices": self.config.to_json(),
            "levels": [entry.to_json() for entry in self.entries],
        }


def make_entry(
    certificate: Certificate,
    config: Config,
    classes: tuple[str, ...],
    eval_rows: Rows | None,
    caveat: str = "",
) -> Entry:
    """Put a certificate into words, and measure its sets on the evaluation rows.

    Args:
        certificate: of calibrate.
        config: of the calibration.
        classes: K names.
        eval_rows: labelled images; None where there are none.
        caveat: how a warning takes the promise back, "" where none does.
    """
    if not certificate.certified:
        return Entry(certificate, classes)
    if caveat:
        caveat = f"{caveat}, see the warnings; without them it would read: "
    promise = caveat + guarantee(certificate, config)
    if eval_rows is None:
        return Entry(certificate, classes, promise)
    sets = prediction_sets(eval_rows.scores, certificate)
    return Entry(
        certificate,
        classes,
        promise,
        realised(eval_rows, sets, config),
        per_class(eval_rows, sets, classes, config.seed),
    )


def guarantee(certificate: Certificate, config: Config) -> str:
    """The promise of a certificate in one plain sentence, and for whom."""
    risk, alpha = config.target_risk, certificate.alpha
    unit = f"{config.unit}s"
    conditions = f"; it holds for {unit} drawn like those that calibrated, each alpha alone"
    conditions += f", {risk.convention}" if risk.convention else ""
    if config.per_class:
        return (
            f"Expectation, over the draw of calibration and test {unit}, for each class by itself: "
            f"among {unit} with the class, the {risk.label} is at most {alpha}{conditions}."
        )
    what = f"for {_newcomer(config)} the {risk.meaning} ({risk.abbreviation}) is at most {alpha}"
    if config.method == "crc":
        return (
            f"Expectation, over the draw of the calibration {unit} and of the new one: {what} on "
            f"average; about half of all calibrations lie a little above{conditions}."
        )
    return (
        f"Probability, over the draw of the calibration {unit}: with probability at least "
        f"{1 - config.delta:g} they are such that {what} in expectation{conditions}."
    )


def _newcomer(config: Config) -> str:
    """The new unit that the promise is for, with a comma where the sentence needs one."""
    counted = config.target_risk.counted
    which = f" {counted}" if counted else ""
    if config.unit == "patient":
        return f"a new patient's images{which}, averaged over them,"
    return f"a new image{which}"


def rows_text(table: Scores) -> str:
    """ "5 images of 2 patients"."""
    owners = table.image_names if table.patients is None else table.patients
    return (
        f"{plural(len(table.image_names), 'image')} of {plural(len(np.unique(owners)), 'patient')}"
    )


def lines(report: Report) -> list[str]:
    """The report as the command prints it."""
    said = [report.rows, *(f"warning: {warning}" for warning in report.warnings)]
    for entry in report.entries:
        said += ["", f"alpha {entry.certificate.alpha}"]
        said += [f"  {line}" for line in _entry_lines(entry, report.config)]
    return said


def _entry_lines(entry: Entry, config: Config) -> list[str]:
    certificate = entry.certificate
    if not certificate.certified:
        return [f"nothing is certified: {certificate.reason}"]
    said = [str(entry.guarantee), f"threshold: {threshold_text(entry)}", counting(certificate)]
    for name, found in (entry.realised or {}).items():
        risks = "  ".join(
            f"{RISKS[risk].abbreviation} {_number(value)}" for risk, value in found.risks.items()
        )
        said.append(
            f"realised by {name:<8} {risks} (non-empty {_number(found.fdr_nonempty)})  "
            f"empty {_number(found.empty)}  full {_number(found.full)}  "
            f"classes {_number(found.size)}"
        )
    if entry.resplits:
        said += _resplit_lines(entry.resplits, config)
    return said


def _resplit_lines(resplits: Resplits, config: Config) -> list[str]:
    begin = f"{plural(resplits.times, 'cut')} by patient"
    if resplits.classes is not None:
        width = max(map(len, resplits.classes))
        by_class = [f"  {name:<{width}} {_cuts(s)}" for name, s in resplits.classes.items()]
        return [f"{begin}, realised {config.target_risk.label} of each class", *by_class]
    whole = resplits.whole or RiskSummary(0)
    return [f"{begin}: {whole.certified:,} certify, realised risk {_cuts(whole)}"]


def _cuts(found: RiskSummary) -> str:
    if found.interval is None:
        return "n/a"
    low, high = found.interval
    return (
        f"{found.mean:.4f} on average, 5-95 % {low:.4f}-{high:.4f}, "
        f"above alpha in {found.above_alpha:.1%}"
    )


def markdown(report: Report) -> str:
    """The report as a page for people."""
    page = [f"# {report.title}", "", report.rows]
    for warning in report.warnings:
        page += ["", f"**Warning.** {warning}."]
    for entry in report.entries:
        page += ["", f"## alpha = {entry.certificate.alpha}", "", *_section(entry)]
    return "\n".join(page) + "\n"


def _section(entry: Entry) -> list[str]:
    certificate = entry.certificate
    if not certificate.certified:
        return [f"Nothing is certified: {certificate.reason}."]
    page = [str(entry.guarantee), "", f"Threshold: {threshold_text(entry)}.", ""]
    page.append(f"{counting(certificate)}.")
    if entry.realised is None or entry.class_metrics is None:
        page += ["", "No labelled rows for evaluation: no realised metrics."]
    else:
        page += ["", *_realised_table(entry.realised), "", *_class_table(entry.class_metrics)]
    if entry.resplits:
        page += ["", *_resplits_table(entry.resplits)]
    for name in entry.plots:
        page += ["", f"![{_TITLES[name]}]({name})"]
    return page


_TITLES = {
    "risk.png": "Risk against threshold",
    "resplits.png": "Realised risk over re-splits",
    "sizes.png": "Set sizes",
    "classes.png": "Recall and false share by class",
}
_ROWS = {
    "fdr_nonempty": "FDR of non-empty sets",
    "empty": "empty sets, share",
    "full": "sets of every class, share",
    "size": "classes in a set, mean",
    "precision": "micro precision",
    "recall": "micro recall",
}


def _realised_table(found: dict[str, SetMetrics]) -> list[str]:
    texts = {name: f"{risk.abbreviation}, {risk.meaning}" for name, risk in RISKS.items()} | _ROWS
    columns = [found[weighting].to_json() for weighting in WEIGHTINGS]
    return ["| realised | by image | by patient |", "|---|---|---|"] + [
        f"| {text} | " + " | ".join(_number(column[name]) for column in columns) + " |"
        for name, text in texts.items()
    ]


def _class_table(found: dict[str, ClassMetrics]) -> list[str]:
    page = [
        "| class | positives | recall by image | by patient | FDR by image | by patient |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        shares = row.image.recall, row.patient.recall, row.image.fdr, row.patient.fdr
        page.append(f"| {name} | {row.positives} | " + " | ".join(map(_interval, shares)) + " |")
    return page


def _resplits_table(resplits: Resplits) -> list[str]:
    page = [
        f"| realised risk over {plural(resplits.times, 'cut')} by patient | mean | median "
        "| 5-95 % | above alpha |",
        "|---|---|---|---|---|",
    ]
    whole = {"all classes": resplits.whole or RiskSummary(0)}
    for name, found in (resplits.classes or whole).items():
        values = "n/a | n/a | n/a | n/a"
        if found.interval is not None:
            low, high = found.interval
            values = (
                f"{found.mean:.3f} | {found.median:.3f} | {low:.3f}-{high:.3f} | "
                f"{found.above_alpha:.1%}"
            )
        page.append(f"| {name} | {values} |")
    return page


def threshold_text(entry: Entry) -> str:
    certificate = entry.certificate
    thresholds = certificate.thresholds_by_name(entry.classes)
    units = certificate.units_by_name(entry.classes)
    if thresholds is None or units is None:
        return f"p >= {certificate.threshold:.6g}"
    return ", ".join(
        f"{name} {'always in the set' if t is None else f'p >= {t:.4g}'} (n = {units[name]})"
        for name, t in thresholds.items()
    )


def counting(certificate: Certificate) -> str:
    """The units and images that counted in a calibration, and the bound that it reached."""
    found = f"{certificate.n_units:,} units with {certificate.n_images:,} images counted"
    bound = certificate.bound
    return found if bound is None else f"{found}; bound or p-value {bound:.4g}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _interval(share: Estimate) -> str:
    if share.value is None or share.interval is None:
        return "n/a"
    return f"{share.value:.3f} ({share.interval[0]:.3f}-{share.interval[1]:.3f})"
