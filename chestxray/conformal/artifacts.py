"""The files of a calibration: thresholds.json, sets.csv, report.json, report.md, and plots."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chestxray.conformal import output_folder, plots, thresholds
from chestxray.conformal.bounds import wsr_bound
from chestxray.conformal.calibrate import (
    Certificate,
    Rows,
    betting_order,
    loss_curves,
    loss_table,
)
from chestxray.conformal.control import corrected_risk
from chestxray.conformal.metrics import prediction_sets, summary
from chestxray.conformal.options import FRESH, Config
from chestxray.conformal.plots import Steps
from chestxray.conformal.report import (
    Entry,
    Report,
    Resplits,
    classes_text,
    empty_set_warnings,
    lines,
    make_entry,
    markdown,
    rows_text,
)
from chestxray.conformal.resplits import (
    Spread,
    resplit,
    resplit_per_class,
    single_calibrations,
)
from chestxray.conformal.risks import GRID
from chestxray.runtime.files import whole_file
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVE = 20  # a bound is drawn at every so many-th threshold of the grid


def write_npz(path: Path, rows: Rows) -> None:
    """Write the arrays that the papers' notebooks read: sgmd (N, K) scores, labels (N, K)."""
    with whole_file(path, "wb") as file:
        np.savez(file, sgmd=rows.scores, labels=rows.targets)


def write(
    folder: Path,
    source: Path,
    table: Scores,
    calibrates: np.ndarray,
    certificates: list[Certificate],
    config: Config,
) -> list[str]:
    """Write everything about a calibration; returns the lines for the user.

    Args:
        folder: where to; see output_folder.
        source: the scores CSV.
        table: the chosen rows and classes.
        calibrates: (N,) bool, the images that calibrated; the others evaluate.
        certificates: of calibrate, at least one certified.
        config: as typed.
    """
    report, drawn = _report(source, table, calibrates, certificates, config)
    cal = table.take(calibrates, list(range(len(table.classes))))
    roles = np.where(calibrates, "cal", "eval")
    contents = {
        "thresholds.json": thresholds.text(source, cal, certificates, config),
        **contents_of(table, roles, report),
        **drawn,
    }
    output_folder.save(folder, contents, source)
    return [*lines(report), f"wrote {folder}/: {join_limited(contents, most=len(contents))}"]


def _report(
    source: Path,
    table: Scores,
    calibrates: np.ndarray,
    certificates: list[Certificate],
    config: Config,
) -> tuple[Report, dict[str, bytes]]:
    """The report, and the plots of its certified entries by name."""
    rows, everything = Rows.from_scores(table, config.unit), list(range(len(table.classes)))
    cal, others = rows.take(calibrates), rows.take(~calibrates)
    eval_rows = others if len(others.units) else None
    seen = not_fresh("calibrated on", [config.split or ""], config)
    caveat = "No promise holds" if seen else ""
    entries: list[Entry] = []
    drawn: dict[str, bytes] = {}
    for certificate in certificates:
        entry = make_entry(certificate, config, table.classes, eval_rows, caveat)
        if certificate.certified:
            entry = replace(entry, spread=_spread(cal, entry, config))
            entry, figures = _with_plots(rows, cal, eval_rows, entry, config)
            drawn |= figures
        entries.append(entry)
    risk, method = config.target_risk.abbreviation, config.method.upper()
    sides = [rows_text(table.take(side, everything)) for side in (calibrates, ~calibrates)]
    evaluated = "evaluated on none" if eval_rows is None else f"evaluated on {sides[1]}"
    report = Report(
        title=f"{risk} control of {source.name} by {method}",
        classes=classes_text(table.classes),
        rows=f"Calibrated on {sides[0]}, {evaluated}; the unit is the {config.unit}.",
        notes=[*table.notes, *declared(config), *about_the_cut(config)],
        warnings=seen + dependence(cal, config) + empty_set_warnings(entries, config),
        promise_holds=not seen,
        config=config,
        cut_by=rows.cut_by,
        entries=entries,
    )
    return report, drawn


def about_the_cut(config: Config) -> list[str]:
    """Say that a seed drew who calibrates, where some evaluate."""
    if config.cal_fraction == 1:
        return []
    return [
        f"--seed {config.seed} drew who calibrates: choose the seed before looking at results, "
        "since the best of several breaks the promise"
    ]


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


def contents_of(table: Scores, roles: np.ndarray, report: Report) -> dict[str, str | bytes]:
    """The contents of sets.csv, report.json and report.md."""
    certificates = [entry.certificate for entry in report.entries if entry.certificate.certified]
    return {
        "sets.csv": _sets(table, roles, certificates),
        "report.json": json.dumps(report.to_json(), indent=2) + "\n",
        "report.md": markdown(report),
    }


def _sets(table: Scores, roles: np.ndarray, certificates: list[Certificate]) -> str:
    names = np.array(table.classes, dtype=object)
    patients = table.image_names if table.patients is None else table.patients
    labels = [""] * len(table.image_names)
    if table.targets.shape[1]:
        labels = ["|".join(names[row]) for row in table.targets == 1]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "patient", "role", "alpha", "set", "size", "labels"])
    for certificate in certificates:
        sets = prediction_sets(table.scores, certificate)
        for row, image_name in enumerate(table.image_names):
            chosen = names[sets[row]]
            cells = [image_name, patients[row], roles[row], certificate.alpha]
            writer.writerow([*cells, "|".join(chosen), len(chosen), labels[row]])
    return file.getvalue()


def _spread(cal: Rows, entry: Entry, config: Config) -> Spread | dict[str, Spread | None] | None:
    """By CRC, the risk of single calibrations of this size: of the whole, or by class."""
    alpha = entry.certificate.alpha
    if config.method != "crc":
        return None
    if not config.per_class:
        counting = cal.counting(config)
        n = len(np.unique(counting.units))
        return single_calibrations(loss_curves(counting, config), n, alpha, config)
    found: dict[str, Spread | None] = {}
    for k, name in enumerate(entry.classes):
        alone = cal.with_class(k)
        n = len(np.unique(alone.units))
        found[name] = (
            single_calibrations(loss_curves(alone, config), n, alpha, config) if n else None
        )
    return found


def _with_plots(
    rows: Rows, cal: Rows, eval_rows: Rows | None, entry: Entry, config: Config
) -> tuple[Entry, dict[str, bytes]]:
    """A certified entry with its re-splits and the names of its plots; and the plots by name."""
    certificate = entry.certificate
    if certificate.thresholds is not None:
        curves = _class_curves(cal, config)
        figures = {"risk": plots.draw_risk_per_class(curves, certificate, entry.classes, config)}
    else:
        figures = {"risk": plots.draw_risk(*_curves(cal, certificate, config), certificate, config)}
    if config.resplits and eval_rows is not None:
        resplits, figures["resplits"] = _resplits(rows, entry, config)
        entry = replace(entry, resplits=resplits)
    if eval_rows is not None and entry.class_metrics is not None:
        sets = prediction_sets(eval_rows.scores, certificate)
        figures["sizes"] = plots.draw_sizes(sets, certificate.alpha, config)
        figures["classes"] = plots.draw_classes(entry.class_metrics, certificate.alpha, config)
    drawn = {
        output_folder.plot_name(kind, certificate.alpha): plots.png(figure)
        for kind, figure in figures.items()
    }
    return replace(entry, plots=tuple(drawn)), drawn


def _resplits(rows: Rows, entry: Entry, config: Config) -> tuple[Resplits, "Figure"]:
    """The realised risk of an entry's alpha over re-splits, and its plot."""
    alpha = entry.certificate.alpha
    if config.per_class:
        by_class = resplit_per_class(rows, alpha, config)
        found = {name: summary(by_class[:, k], alpha) for k, name in enumerate(entry.classes)}
        drawn = plots.draw_resplits_per_class(found, alpha, config, rows.cut_by)
        return Resplits(config.resplits, classes=found), drawn
    risks, _ = resplit(rows, alpha, config)
    drawn = plots.draw_resplits(risks, alpha, config, rows.cut_by)
    return Resplits(config.resplits, summary(risks, alpha)), drawn


def _curves(cal: Rows, certificate: Certificate, config: Config) -> tuple[Steps, Steps | None]:
    """The risk on the calibration units, and its bound where the method has one."""
    counting = cal.counting(config)
    if config.method == "crc":
        risks = Steps(*loss_curves(counting, config).steps())
        n = len(np.unique(counting.units))
        return risks, replace(risks, risks=corrected_risk(risks.risks, n))
    losses = loss_table(counting, config)
    risks = Steps(GRID, losses.mean(axis=0))
    if config.method == "ltt":
        return risks, None
    chosen = int(np.searchsorted(GRID, certificate.threshold or 0.0))
    places = np.union1d(np.arange(0, len(GRID), _CURVE), [chosen])
    order = betting_order(np.unique(counting.units))
    bounds = [wsr_bound(losses[order, place], config.delta) for place in places]
    return risks, Steps(GRID[places], np.array(bounds))


def _class_curves(cal: Rows, config: Config) -> list[Steps | None]:
    """The corrected risk of each class alone; None where no unit has it."""
    curves: list[Steps | None] = []
    for k in range(cal.targets.shape[1]):
        alone = cal.with_class(k)
        n = len(np.unique(alone.units))
        if not n:
            curves.append(None)
            continue
        steps = Steps(*loss_curves(alone, config).steps())
        curves.append(replace(steps, risks=corrected_risk(steps.risks, n)))
    return curves
