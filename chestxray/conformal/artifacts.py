"""The files of a calibration: thresholds.json, sets.csv, the report, its tables and plots."""

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chestxray.conformal import output_folder, plot_levels, plots, resplits, summary, thresholds
from chestxray.conformal.betting import wsr_bound
from chestxray.conformal.calibrate import Calibration, loss_curves
from chestxray.conformal.certificate import Certificate, place_of, prediction_sets
from chestxray.conformal.control import corrected_risk
from chestxray.conformal.losses import GRID
from chestxray.conformal.metrics import RiskSummary
from chestxray.conformal.metrics import summary as summary_of
from chestxray.conformal.options import FRESH, Config
from chestxray.conformal.plots import Steps
from chestxray.conformal.report import (
    Entry,
    Report,
    Resplits,
    classes_text,
    empty_set_warnings,
    make_entry,
    rows_text,
)
from chestxray.conformal.report_page import lines, markdown
from chestxray.conformal.resplits import (
    Cuts,
    Spread,
    resplit,
    resplit_in_parts,
    single_calibrations,
)
from chestxray.conformal.rows import Rows
from chestxray.runtime.files import file_digest, whole_file
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 20  # files that the answer names
_CURVE = 20  # a bound is drawn at every so many-th threshold of the grid


def write_npz(path: Path, table: Scores) -> None:
    """Write arrays for notebooks, which np.load reads without pickle.

    They are sgmd (N, K) scores and labels (N, K), as the papers' notebooks call them; and, as text,
    images (N,), classes (K,), split (N,), "" where the file has none, and patients (N,) in their
    one spelling; without patients in the file there is no such array.
    """
    n = len(table.image_names)
    arrays: dict[str, Any] = {
        "sgmd": table.scores,
        "labels": table.targets,
        "images": table.image_names.astype(str),
        "classes": np.array(table.classes, dtype=str),
        "split": np.full(n, "") if table.splits is None else table.splits.astype(str),
    }
    if table.patients is not None:
        arrays["patients"] = table.patients.astype(str)
    with whole_file(path, "wb") as file:
        np.savez(file, **arrays)


@dataclass(frozen=True)
class Outcome:
    """All that a calibration came to.

    Attributes:
        source: the scores CSV.
        table: the chosen rows and classes.
        rows: the same as arrays.
        calibrates: (N,) bool, the images that calibrated; the others evaluate.
        calibration: of these images.
        certificates: one for each level, at least one certified.
        tune: the file of --tune and its rows; None without.
        formats: of the plots.
    """

    source: Path
    table: Scores
    rows: Rows
    calibrates: np.ndarray
    calibration: Calibration
    certificates: list[Certificate]
    tune: tuple[Path, Scores] | None
    formats: tuple[str, ...]

    @property
    def config(self) -> Config:
        return self.calibration.config

    @property
    def cal(self) -> Rows:
        return self.calibration.rows

    @property
    def eval_rows(self) -> Rows | None:
        return None if self.calibrates.all() else self.rows.take(~self.calibrates)

    @property
    def roles(self) -> np.ndarray:
        """(N,) text: cal, eval, and start for those that chose the start of the tests."""
        roles = np.where(self.calibrates, "cal", "eval").astype(object)
        roles[np.flatnonzero(self.calibrates)[self.calibration.starters]] = "start"
        return roles

    def side(self, mask: np.ndarray) -> Scores:
        return self.table.take(mask, list(range(len(self.table.classes))))

    @property
    def started_by(self) -> thresholds.StartedBy | None:
        """Who chose where the tests start."""
        if not self.config.needs_start:
            return None
        file, starters = self.tune or (None, self.side(self.roles == "start"))
        names = starters.image_names if starters.patients is None else starters.patients
        name = None if file is None else file.name
        return thresholds.StartedBy(name, self.config.tune, sorted(set(names)))


def write(folder: Path, outcome: Outcome) -> list[str]:
    """Write everything about a calibration; returns the lines for the user.

    Args:
        folder: where to; see output_folder.
        outcome: of the calibration.
    """
    report, drawn = _report(outcome)
    source, config = outcome.source, outcome.config
    cal = outcome.side(outcome.calibrates)
    contents = {
        "thresholds.json": thresholds.text(
            source, cal, outcome.certificates, config, outcome.started_by
        ),
        **contents_of(source, outcome.table, outcome.rows, outcome.roles, report),
        **drawn,
    }
    output_folder.save(folder, contents, source, *([outcome.tune[0]] if outcome.tune else []))
    return [*lines(report), f"wrote {folder}/: {join_limited(contents, most=_NAMED)}"]


def _report(outcome: Outcome) -> tuple[Report, dict[str, str | bytes]]:
    """The report, and by name the table of the cuts and the plots."""
    table, config = outcome.table, outcome.config
    seen = not_fresh("calibrated on", [config.split or ""], config)
    caveat = "No promise holds" if seen else ""
    entries: list[Entry] = []
    cuts: dict[str, dict[str, Cuts]] = {}
    drawn: dict[str, bytes] = {}
    for certificate in outcome.certificates:
        entry = make_entry(certificate, config, outcome.eval_rows, caveat)
        if certificate.certified:
            cuts[certificate.alpha] = _cuts(outcome, certificate.alpha)
            entry = replace(entry, spread=_spread(outcome, entry))
            entry, figures = _with_plots(outcome, entry, cuts[certificate.alpha])
            drawn |= figures
        entries.append(entry)
    risk, method = config.abbreviations, config.method.upper()
    sides = [rows_text(outcome.side(side)) for side in (outcome.calibrates, ~outcome.calibrates)]
    evaluated = "evaluated on none" if outcome.eval_rows is None else f"evaluated on {sides[1]}"
    report = Report(
        title=f"{risk} control of {outcome.source.name} by {method}",
        classes=classes_text(table.classes),
        rows=f"Calibrated on {sides[0]}{_starters_text(outcome)}, {evaluated}; the unit is the "
        f"{config.unit}.",
        notes=[
            *table.notes,
            *declared(config),
            *_start_note(outcome),
            *([] if outcome.eval_rows is None else [about_the_cut(config)]),
        ],
        warnings=seen + dependence(outcome.cal, config) + empty_set_warnings(entries, config),
        promise_holds=not seen,
        config=config,
        cut_by=outcome.rows.cut_by,
        entries=entries,
    )
    if len(plot_levels.comparable(report)) > 1:
        figures = plots.files(plot_levels.draw_levels(report), "levels", outcome.formats)
        report, drawn = replace(report, plots=tuple(figures)), drawn | figures
    tables = {"resplits.csv": resplits.csv_text(cuts, config)} if any(cuts.values()) else {}
    return report, tables | drawn


def _starters_text(outcome: Outcome) -> str:
    """How many of those that calibrate count in no test."""
    starters = outcome.side(outcome.roles == "start")
    return (
        f" ({rows_text(starters)} chose where the tests start)" if starters.image_names.size else ""
    )


def _start_note(outcome: Outcome) -> list[str]:
    """Say who chose where the tests start."""
    by = outcome.started_by
    if by is None:
        return []
    who = plural(len(by.patients), outcome.rows.cut_by)
    if by.file is not None:
        return [f"the start of the tests was chosen on {who} of {by.file}"]
    return [started_within(who)]


def started_within(who: str) -> str:
    """Say that some of those that calibrate chose the start."""
    return (
        f"the start of the tests was chosen on {who}, a fifth of those that calibrate, taken by "
        "SHA-256 of their key; they count in no p-value"
    )


def about_the_cut(config: Config) -> str:
    """Say that a seed drew who calibrates."""
    return (
        f"--seed {config.seed} drew who calibrates: choose the seed before looking at results, "
        "since the best of several breaks the promise"
    )


def not_fresh(used: str, splits: list[str], config: Config) -> list[str]:
    """Warn of rows that may have trained or chosen the network.

    Args:
        used: "calibrated on" or "applied to".
        splits: theirs; "" where a split is not known.
        config: says whether they are declared untouched.
    """
    why = {
        "train": "the network was trained on these rows and scores them better than fresh ones",
        "val": "the epoch was chosen on these rows, so its scores suit them better than fresh ones",
    }
    other = (
        "nothing says that these rows trained nothing and chose nothing; --untouched with --from "
        "declares it"
    )
    if config.untouched:
        return []
    return [
        f"{used} rows of the split {split}: {why.get(split, other)}; the promise does not hold"
        for split in splits
        if split not in ("", FRESH)
    ]


def declared(config: Config) -> list[str]:
    """Repeat what --untouched declares."""
    if not config.untouched:
        return []
    return [
        f"declared by --untouched: the rows of the split {config.split} trained nothing and chose "
        "nothing; the promise rests on that"
    ]


def dependence(cal: Rows, config: Config) -> list[str]:
    """Warn of a promise for images where patients have several."""
    n_images, patients = len(cal.units), len(np.unique(cal.patients))
    if config.unit != "image" or patients == n_images:
        return []
    return [
        f"{plural(n_images, 'image')} of {plural(patients, 'patient')} calibrated as if they "
        "were independent: images of one patient are not, and the promise is broken more often "
        "than it says"
    ]


def contents_of(
    source: Path, table: Scores, rows: Rows, roles: np.ndarray, report: Report
) -> dict[str, str | bytes]:
    """The contents of sets.csv and the report; the summary, unless there is nothing to sum up."""
    certificates = report.certified
    contents: dict[str, str | bytes] = {
        "sets.csv": sets_text(table, rows, roles, certificates),
        "report.json": json.dumps(report.to_json(), indent=2) + "\n",
        "report.md": markdown(report),
    }
    if report.applied is not None and not table.targets.shape[1]:
        return contents
    return contents | {
        "summary.csv": summary.csv_text(report),
        "summary.tex": summary.tex_text(report, source.name, file_digest(source)),
    }


def sets_text(table: Scores, rows: Rows, roles: np.ndarray, certificates: list[Certificate]) -> str:
    """The content of sets.csv: a row for each image and certified level.

    Args:
        table, rows: of N images.
        roles: (N,) text, cal, eval or start.
        certificates: the certified ones.
    """
    names = np.array(table.classes, dtype=object)
    patients = table.image_names if table.patients is None else table.patients
    labels = [""] * len(table.image_names)
    if table.targets.shape[1]:
        labels = ["|".join(names[row]) for row in table.targets == 1]
    groups = [[]] * len(labels) if rows.groups is None else [[name] for name in rows.groups.of]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    group = [] if rows.groups is None else ["group"]
    writer.writerow(["image", "patient", "role", *group, "alpha", "set", "size", "labels"])
    for certificate in certificates:
        sets = prediction_sets(rows, certificate)
        for row, image_name in enumerate(table.image_names):
            chosen = names[sets[row]]
            cells = [image_name, patients[row], roles[row], *groups[row], certificate.alpha]
            writer.writerow([*cells, "|".join(chosen), len(chosen), labels[row]])
    return file.getvalue()


def _spread(outcome: Outcome, entry: Entry) -> Spread | dict[str, Spread | None] | None:
    """By CRC, the risk of single calibrations of this size: of the whole, or of each part."""
    alpha, config = entry.certificate.alpha, outcome.config
    if config.method != "crc":
        return None
    if not config.in_parts:
        calibration = outcome.calibration
        n = calibration.tested.n_units
        return single_calibrations(calibration.curves, n, alpha, config)
    return {
        name: single_calibrations(loss_curves(part, config.target_risk), n, alpha, config)
        if (n := part.n_units)
        else None
        for name, part in outcome.cal.parts(config).items()
    }


def _with_plots(
    outcome: Outcome, entry: Entry, cuts: dict[str, Cuts]
) -> tuple[Entry, dict[str, bytes]]:
    """A certified entry with its re-splits and the names of its plots; and the plots by name."""
    certificate, config, eval_rows = entry.certificate, outcome.config, outcome.eval_rows
    if certificate.parts is not None:
        curves = _part_curves(outcome.cal, config)
        figures = {"risk": plots.draw_risk_in_parts(curves, certificate, config)}
    else:
        figures = {
            "risk": plots.draw_risk(_curves(outcome.calibration, certificate), certificate, config)
        }
    if cuts:
        found, figures["resplits"] = _resplits(outcome, entry, cuts)
        entry = replace(entry, resplits=found)
    if eval_rows is not None and entry.class_metrics is not None:
        sets = prediction_sets(eval_rows, certificate)
        figures["sizes"] = plots.draw_sizes(sets, certificate.alpha, config)
        figures["classes"] = plots.draw_classes(entry.class_metrics, certificate.alpha, config)
        if entry.group_metrics:
            figures["groups"] = plots.draw_groups(entry.group_metrics, certificate, config)
    drawn: dict[str, bytes] = {}
    for kind, figure in figures.items():
        stem = output_folder.plot_stem(kind, certificate.alpha)
        drawn |= plots.files(figure, stem, outcome.formats)
    return replace(entry, plots=tuple(drawn)), drawn


def _cuts(outcome: Outcome, alpha: str) -> dict[str, Cuts]:
    """What other cuts would have given, by class or group, or under "" of the whole; or none."""
    config, rows = outcome.config, outcome.rows
    if not config.resplits or outcome.eval_rows is None:
        return {}
    if config.in_parts:
        return resplit_in_parts(rows, alpha, config)
    return {"": resplit(rows, alpha, config, outcome.calibration.tune)}


def _resplits(outcome: Outcome, entry: Entry, cuts: dict[str, Cuts]) -> tuple[Resplits, "Figure"]:
    """The realised risk of an entry's alpha over re-splits, and its plot."""
    certificate, config, cut_by = entry.certificate, outcome.config, outcome.rows.cut_by
    found = {name: _summary(part, certificate, config) for name, part in cuts.items()}
    if config.in_parts:
        parts = {name: by_risk[config.target_risk.metric] for name, by_risk in found.items()}
        drawn = plots.draw_resplits_in_parts(parts, certificate.alpha, config, cut_by)
        return Resplits(config.resplits, parts=parts), drawn
    drawn = plots.draw_resplits(cuts[""], certificate, config, cut_by)
    return Resplits(config.resplits, found[""]), drawn


def _summary(cuts: Cuts, certificate: Certificate, config: Config) -> dict[str, RiskSummary]:
    """The realised risks over the cuts, by name."""
    levels = zip(config.by_metric, certificate.alphas, strict=True)
    return {name: summary_of(cuts.risks[name], alpha) for name, alpha in levels}


def _curves(calibration: Calibration, certificate: Certificate) -> list[tuple[Steps, Steps | None]]:
    """Each risk on the calibration units, and its bound where the method has one."""
    config = calibration.config
    if config.method == "crc":
        risks = Steps(*calibration.curves.steps())
        n = calibration.tested.n_units
        return [(risks, replace(risks, risks=corrected_risk(risks.risks, n)))]
    found = [Steps(*table.steps()) for _, table, _ in calibration.tables]
    if config.method == "ltt":
        return [(risks, None) for risks in found]
    (_, table, order), *_ = calibration.tables
    places = np.union1d(np.arange(0, len(GRID), _CURVE), [place_of(certificate.threshold or 0.0)])
    bounds = [wsr_bound(table.losses[order, place], config.delta) for place in places]
    return [(found[0], Steps(GRID[places], np.array(bounds)))]


def _part_curves(cal: Rows, config: Config) -> dict[str, Steps | None]:
    """The corrected risk of each class or group alone; None where no unit counts."""
    curves: dict[str, Steps | None] = {}
    for name, part in cal.parts(config).items():
        if not part.n_units:
            curves[name] = None
            continue
        steps = Steps(*loss_curves(part, config.target_risk).steps())
        curves[name] = replace(steps, risks=corrected_risk(steps.risks, part.n_units))
    return curves
