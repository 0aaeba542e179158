"""The files of a calibration: thresholds.json, sets.csv, report.json, report.md, four plots."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from chestxray.conformal import plots, thresholds
from chestxray.conformal.bounds import wsr_bound
from chestxray.conformal.calibrate import (
    Certificate,
    Config,
    Rows,
    loss_table,
    shuffled,
)
from chestxray.conformal.control import corrected_risk
from chestxray.conformal.metrics import prediction_sets, summary
from chestxray.conformal.report import (
    Entry,
    Report,
    Resplits,
    lines,
    make_entry,
    markdown,
    rows_text,
)
from chestxray.conformal.resplits import resplit, resplit_per_class
from chestxray.conformal.risks import GRID
from chestxray.runtime.files import whole_file
from chestxray.runtime.signals import delay_ctrl_c
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores

PLOTS = ("risk.png", "resplits.png", "sizes.png", "classes.png")
_FILES = ("thresholds.json", "sets.csv", "report.json", "report.md", *PLOTS)
_CURVE = 20  # a bound is drawn at every so many-th threshold of the grid
_CALIBRATION, _APPLICATION = "a calibration", "applied thresholds"


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
        folder: where to; see refuse_foreign_files.
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
    save(folder, contents)
    return [*lines(report), f"wrote {folder}/: {join_limited(n for n in _FILES if n in contents)}"]


def _report(
    source: Path,
    table: Scores,
    calibrates: np.ndarray,
    certificates: list[Certificate],
    config: Config,
) -> tuple[Report, dict[str, bytes]]:
    """The report, and the plots of its first certified entry."""
    rows, everything = Rows.from_scores(table, config.unit), list(range(len(table.classes)))
    cal, others = rows.take(calibrates), rows.take(~calibrates)
    eval_rows = others if len(others.units) else None
    seen = selected_on(config)
    caveat = "No promise for fresh patients" if seen else ""
    entries = [make_entry(c, config, table.classes, eval_rows, caveat) for c in certificates]
    which = next(number for number, c in enumerate(certificates) if c.certified)
    drawn = _plots(cal, eval_rows, entries[which], config)
    if config.resplits and eval_rows is not None:
        resplits, drawn["resplits.png"] = _resplits(rows, entries[which], config)
        entries[which] = replace(entries[which], resplits=resplits)
    shown = tuple(name for name in PLOTS if name in drawn)
    entries[which] = replace(entries[which], plots=shown)
    risk, method = config.target_risk.abbreviation, config.method.upper()
    sides = [rows_text(table.take(side, everything)) for side in (calibrates, ~calibrates)]
    report = Report(
        title=f"{risk} control of {source.name} by {method}",
        rows=f"Calibrated on {sides[0]}, evaluated on {sides[1]}; the unit is the {config.unit}.",
        warnings=seen + _dependence(cal, config),
        promise_holds=not seen,
        config=config,
        entries=entries,
    )
    return report, drawn


def selected_on(config: Config) -> list[str]:
    """Warn of a calibration on rows that the training has seen."""
    why = {
        "train": "the network was trained on these rows and scores them better than fresh ones",
        "val": "the epoch was chosen on these rows, so its scores suit them better than fresh ones",
    }
    if config.split not in why:
        return []
    return [
        f"calibrated on the split {config.split}: {why[config.split]}; rows that trained or "
        "chose the network cannot calibrate, and the promise does not hold"
    ]


def _dependence(cal: Rows, config: Config) -> list[str]:
    """Warn of a promise for images where patients have several."""
    n_images, patients = len(cal.units), len(np.unique(cal.patients))
    if config.unit != "image" or patients == n_images:
        return []
    return [
        f"{plural(n_images, 'image')} of {plural(patients, 'patient')} calibrated as if they "
        "were independent: images of one patient are not, and the promise is broken more often "
        "than it says"
    ]


def refuse_foreign_files(folder: Path, application: bool = False) -> None:
    """Refuse a folder with files of another kind than those that are to be written.

    Raises:
        FileExistsError: it holds such files.
    """
    there = [name for name in _FILES if (folder / name).exists()]
    if there and _kind(folder) != (_APPLICATION if application else _CALIBRATION):
        raise FileExistsError(
            f"{folder} holds {join_limited(there)} of {_kind(folder)}, which would be replaced: "
            "--out names another folder"
        )


def _kind(folder: Path) -> str:
    if (folder / "thresholds.json").exists():
        try:
            thresholds.read(folder / "thresholds.json")
        except ValueError:
            return "something else"
        return _CALIBRATION
    try:
        applied = "applied" in json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        applied = False
    return _APPLICATION if applied else "something else"


def contents_of(table: Scores, roles: np.ndarray, report: Report) -> dict[str, str | bytes]:
    """The contents of sets.csv, report.json and report.md."""
    certificates = [entry.certificate for entry in report.entries if entry.certificate.certified]
    return {
        "sets.csv": _sets(table, roles, certificates),
        "report.json": json.dumps(report.to_json(), indent=2) + "\n",
        "report.md": markdown(report),
    }


def save(folder: Path, contents: dict[str, str | bytes]) -> None:
    """Write the files once all are made, after removing those of an earlier run."""
    with delay_ctrl_c():  # it leaves the files of one run, not of two or none
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        for name, content in contents.items():
            with whole_file(folder / name, "w" if isinstance(content, str) else "wb") as file:
                file.write(content)


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


def _resplits(rows: Rows, entry: Entry, config: Config) -> tuple[Resplits, bytes]:
    """The realised risk of an entry's alpha over re-splits, and its plot."""
    alpha = entry.certificate.alpha
    if config.per_class:
        by_class = resplit_per_class(rows, alpha, config)
        found = {name: summary(by_class[:, k], alpha) for k, name in enumerate(entry.classes)}
        drawn = plots.draw_resplits_per_class(found, alpha, config)
        return Resplits(config.resplits, classes=found), drawn
    risks, _ = resplit(rows, alpha, config)
    whole = summary(risks, alpha)
    return Resplits(config.resplits, whole), plots.draw_resplits(risks, alpha, config)


def _plots(cal: Rows, eval_rows: Rows | None, entry: Entry, config: Config) -> dict[str, bytes]:
    """All plots of a certified entry but that of the re-splits."""
    certificate, drawn = entry.certificate, {}
    if certificate.thresholds is not None:
        curves = _class_curves(cal, config)
        drawn["risk.png"] = plots.draw_risk_per_class(curves, certificate, entry.classes, config)
    else:
        drawn["risk.png"] = plots.draw_risk(*_curves(cal, config), certificate, config)
    if eval_rows is not None and entry.class_metrics is not None:
        sets = prediction_sets(eval_rows.scores, certificate)
        drawn["sizes.png"] = plots.draw_sizes(sets, certificate.alpha, config)
        drawn["classes.png"] = plots.draw_classes(entry.class_metrics, certificate.alpha, config)
    return drawn


def _curves(cal: Rows, config: Config) -> tuple[np.ndarray, np.ndarray | None]:
    """(T,) risk on the calibration units, and (T,) its bound where the method has one."""
    losses = loss_table(cal.counting(config), config)
    risks, n = losses.mean(axis=0), len(losses)
    if config.method == "crc":
        return risks, corrected_risk(risks, n)
    if config.method == "ltt":
        return risks, None
    order, places = shuffled(n, config), np.arange(0, len(GRID), _CURVE)
    bounds = [wsr_bound(losses[order, place], config.delta) for place in places]
    return risks, np.interp(np.arange(len(GRID)), places, bounds)


def _class_curves(cal: Rows, config: Config) -> list[np.ndarray | None]:
    """The corrected risk of each class alone, (T,); None where no unit has it."""
    curves: list[np.ndarray | None] = []
    for k in range(cal.targets.shape[1]):
        alone = cal.with_class(k)
        losses = loss_table(alone, config) if len(alone.units) else None
        curves.append(None if losses is None else corrected_risk(losses.mean(axis=0), len(losses)))
    return curves
