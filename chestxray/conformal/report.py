"""The report of a calibration or an application: its values, and the sentences about them."""

from dataclasses import asdict, dataclass
from decimal import Decimal

import numpy as np

from chestxray.conformal.certificate import Certificate, prediction_sets
from chestxray.conformal.groups import Column
from chestxray.conformal.metrics import (
    ClassMetrics,
    GroupMetrics,
    RiskSummary,
    SetMetrics,
    by_group,
    per_class,
    realised,
)
from chestxray.conformal.options import Config
from chestxray.conformal.resplits import Spread
from chestxray.conformal.risks import FalseDiscoveryRate, Risk
from chestxray.conformal.rows import Rows
from chestxray.labels import is_no_finding
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import ScoredBy, Scores

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
        scored_by: the checkpoint that gave the scores; None where nothing told.
    """

    thresholds: str
    scores: str
    split: str | None
    untouched: bool
    thresholds_sha256: str
    scores_sha256: str
    scored_by: ScoredBy | None

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

    @property
    def certified(self) -> list[Certificate]:
        """The certificates of the levels that have a threshold."""
        return [entry.certificate for entry in self.entries if entry.certificate.certified]

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
        by_image = found["image"].estimates()[risk.metric].value
        own = found[config.unit].estimates()[risk.metric].value
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
            f"{number_text(found.fdr_nonempty.value)}"
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
    what = " and ".join(
        risk.promise(alpha) + (_counted(", among images", risk) if config.joint else "")
        for risk, alpha in zip(risks, alphas, strict=True)
    )
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
    which = "" if config.joint else _counted("", risks[0])
    if config.unit == "patient":
        return f"a new patient's images{which}, averaged over them,"
    return f"a new image{which},"


def _counted(whom: str, risk: Risk) -> str:
    """Whom a risk is about, where it does not count all; of nobody in particular, nothing."""
    if risk.counted:
        return f"{whom} {risk.counted}"
    return "" if whom.startswith(",") else whom


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


def number_text(value: float | None) -> str:
    """A metric with three digits, "n/a" where it is not defined."""
    return "n/a" if value is None else f"{value:.3f}"
