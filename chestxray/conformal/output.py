"""The files of a calibration: thresholds.json, sets.csv, report.json, report.md, four pictures."""

import csv
import hashlib
import json
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import chestxray
from chestxray.conformal import pictures
from chestxray.conformal.bounds import wsr_bound
from chestxray.conformal.calibrate import Choices, Level, Rows, loss_table, resplit
from chestxray.conformal.losses import GRID, unit_codes
from chestxray.conformal.report import (
    counting,
    guarantee,
    markdown,
    per_class,
    prediction_sets,
    realised,
    threshold_text,
)
from chestxray.conformal.shift import describe_shift, prevalences
from chestxray.files import whole_file
from chestxray.scores import Scores, read_scores
from chestxray.wording import counted, listed

PICTURES = ("risk.png", "resplits.png", "sizes.png", "classes.png")
_FILES = ("thresholds.json", "sets.csv", "report.json", "report.md", *PICTURES)
_CURVE = 20  # a bound is drawn at every so many-th threshold of the grid


def write_npz(path: Path, rows: Rows) -> None:
    """The arrays that the papers' notebooks read: sgmd (N, K) scores, labels (N, K)."""
    with whole_file(path, "wb") as file:
        np.savez(file, sgmd=rows.scores, labels=rows.targets)


def write(
    folder: Path,
    source: Path,
    table: Scores,
    rows: Rows,
    calibrates: np.ndarray,
    levels: list[Level],
    choices: Choices,
    fraction: float,
    resplits: int,
) -> list[str]:
    """Write everything about a calibration; returns what to tell the user.

    Args:
        folder: where to.
        source: the scores CSV.
        table: the chosen rows, in the order of `rows`.
        rows: all chosen pictures.
        calibrates: (N,) bool, the pictures that calibrated; the others evaluate.
        levels: what calibrate found.
        choices, fraction, resplits: as typed.
    """
    cal, others = rows.take(calibrates), rows.take(~calibrates)
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)  # none may be of an earlier calibration
    entries = [
        _entry(level, choices, table.classes, others if len(others.units) else None)
        for level in levels
    ]
    roles = np.where(calibrates, "cal", "eval")
    _write_thresholds(folder, source, cal, table.classes, entries, choices, fraction)
    certified = [level for level in levels if level.certified]
    _write_sets(folder / "sets.csv", table, rows, roles, certified)
    shown = next(entry for entry in entries if entry["certified"])
    if resplits and fraction < 1 and not isinstance(shown["threshold"], dict):
        risks, _ = resplit(rows, shown["alpha"], choices, fraction, resplits)
        known = risks[~np.isnan(risks)]
        shown["resplits"] = {
            "times": resplits,
            "certified": len(known),
            "mean": float(known.mean()) if len(known) else None,
            "above_alpha": float((known > float(shown["alpha"])).mean()) if len(known) else None,
        }
        with whole_file(folder / "resplits.png", "wb") as file:
            pictures.draw_resplits(file, risks, shown["alpha"], choices, fraction)
    report = {
        "title": f"{choices.risk.upper()} control of {source.name} by {choices.method.upper()}",
        "rows": f"Calibrated on {counted(len(cal.units), 'picture')} of "
        f"{counted(len(np.unique(cal.patients)), 'patient')}, evaluated on "
        f"{counted(len(others.units), 'picture')} of "
        f"{counted(len(np.unique(others.patients)), 'patient')}; the unit is the {choices.unit}.",
        "warnings": _dependence(cal, choices),
        "choices": asdict(choices) | {"cal_fraction": fraction},
        "levels": entries,
    }
    _write_report(folder, report)
    _draw(folder, cal, others, levels, entries, choices)
    return [
        *_lines(report),
        f"wrote {folder}/: {listed(n for n in _FILES if (folder / n).exists())}",
    ]


def apply(source: Path, stored: Path, split: str | None, folder: Path | None) -> list[str]:
    """Use stored thresholds on a scores CSV, with or without labels.

    Args:
        source: the scores CSV.
        stored: a thresholds.json.
        split: the rows to use; None takes all.
        folder: where to; None is beside `stored`.

    Returns:
        What to tell the user.

    Raises:
        ValueError: no thresholds.json; a class or a split that the scores CSV does not have.
    """
    held = _read_thresholds(stored)
    table = of_split(source, read_scores(source, labels=False), split)
    missing = [name for name in held["classes"] if name not in table.classes]
    if missing:
        raise ValueError(
            f"{source} has no class {listed(missing)}, which {stored} has thresholds for"
        )
    columns = [table.classes.index(name) for name in held["classes"]]
    table = table.take(np.ones(len(table.images), dtype=bool), columns)
    patients = table.images if table.patients is None else table.patients
    choices = Choices(**{field.name: held["choices"][field.name] for field in fields(Choices)})
    units = patients if choices.unit == "patient" else table.images
    labelled = table.targets.shape[1] > 0
    targets = table.targets if labelled else np.zeros(table.scores.shape, dtype=np.uint8)
    rows = Rows(targets, table.scores.astype(np.float64), units, patients)
    levels = [_level(entry, table.classes) for entry in held["levels"]]
    entries = [_entry(lv, choices, table.classes, rows if labelled else None) for lv in levels]
    warnings = []
    if labelled:
        before = tuple(np.array(held["calibration"][k]) for k in ("prevalence", "standard_error"))
        now = prevalences(rows.targets, rows.patients)
        warnings += describe_shift(table.classes, (before[0], before[1]), now)
    both = sorted(set(held["calibration"]["patients"]) & set(patients.tolist()))
    if both:
        warnings.append(
            f"{counted(len(both), 'patient')} of the calibration are here too ({listed(both, 3)}): "
            "these rows are no fresh ones"
        )
    if table.patients is None and choices.unit == "patient":
        warnings.append(
            "no patient column: the thresholds are for patients, and pictures stand for them"
        )
    folder = (
        folder or stored.parent / f"applied_{source.name.removesuffix('.gz').removesuffix('.csv')}"
    )
    roles = np.full(len(table.images), "eval", dtype=object)
    _write_sets(folder / "sets.csv", table, rows, roles, [lv for lv in levels if lv.certified])
    report = {
        "title": f"{stored.name} applied to {source.name}",
        "rows": f"{counted(len(rows.units), 'picture')} of "
        f"{counted(len(np.unique(patients)), 'patient')}"
        + ("." if labelled else ", without labels: no realised figures."),
        "warnings": warnings,
        "choices": held["choices"],
        "levels": entries,
    }
    _write_report(folder, report)
    return [*_lines(report), f"wrote {folder}/: sets.csv, report.json, report.md"]


def of_split(source: Path, table: Scores, split: str | None) -> Scores:
    """The rows of one split; all where None is asked for.

    Raises:
        ValueError: there is none; names the splits there are.
    """
    if split is None or table.splits is None:
        return table
    keep = table.splits == split
    if not keep.any():
        raise ValueError(
            f"{source} has no rows of the split {split!r}; it has "
            f"{listed(sorted(set(table.splits)))}: --from names one"
        )
    return table.take(keep, list(range(len(table.classes))))


def _read_thresholds(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no thresholds.json: {error}") from error
    needed = {"choices", "classes", "levels", "calibration", "sha256"}
    if not isinstance(held, dict) or not needed <= held.keys():
        raise ValueError(f"{path} is no thresholds.json: it needs {listed(sorted(needed))}")
    absent = [field.name for field in fields(Choices) if field.name not in held["choices"]]
    if absent:
        raise ValueError(
            f"{path} is no thresholds.json of this version: no choice {listed(absent)}"
        )
    return held


def _dependence(cal: Rows, choices: Choices) -> list[str]:
    """What a promise for pictures leaves out where patients have several."""
    pictures_, patients = len(cal.units), len(np.unique(cal.patients))
    if choices.unit != "image" or patients == pictures_:
        return []
    return [
        f"{counted(pictures_, 'picture')} of {counted(patients, 'patient')} calibrated as if they "
        "were independent: pictures of a patient are not, and the promise is broken more often "
        "than it says"
    ]


def _entry(
    level: Level, choices: Choices, classes: tuple[str, ...], judged: Rows | None
) -> dict[str, Any]:
    """A level as plain values, with its realised figures on the judged rows."""
    threshold: Any = level.threshold
    if level.thresholds is not None:
        threshold = dict(zip(classes, level.thresholds, strict=True))
    entry: dict[str, Any] = {
        "alpha": level.alpha,
        "certified": level.certified,
        "reason": level.reason,
        "threshold": threshold,
        "units_by_class": (
            dict(zip(classes, level.units_by_class, strict=True)) if level.units_by_class else None
        ),
        "n_images": level.n_images,
        "n_units": level.n_units,
        "bound": level.bound,
        "realised": None,
        "classes": None,
    }
    if level.certified:
        entry["guarantee"] = guarantee(level, choices, level.thresholds is not None)
        if judged is not None:
            sets = prediction_sets(judged.scores, level)
            entry["realised"] = realised(judged, sets, choices)
            entry["classes"] = per_class(judged, sets, classes, choices.seed)
    return entry


def _level(entry: dict[str, Any], classes: tuple[str, ...]) -> Level:
    stored = entry["threshold"]
    by_class = [stored[name] for name in classes] if isinstance(stored, dict) else None
    return Level(
        alpha=str(entry["alpha"]),
        threshold=None if by_class else stored,
        n_images=entry["n_images"],
        n_units=entry["n_units"],
        bound=entry["bound"],
        reason=entry["reason"],
        thresholds=by_class,
        units_by_class=[entry["units_by_class"][name] for name in classes] if by_class else None,
    )


def _write_thresholds(
    folder: Path,
    source: Path,
    cal: Rows,
    classes: tuple[str, ...],
    entries: list[dict[str, Any]],
    choices: Choices,
    fraction: float,
) -> None:
    kept = ("alpha", "threshold", "n_images", "n_units", "units_by_class", "bound", "reason")
    shares, errors = prevalences(cal.targets, cal.patients)
    held = {
        "choices": asdict(choices) | {"cal_fraction": fraction},
        "classes": list(classes),
        "levels": [
            {name: entry[name] for name in kept} | {"alpha": float(entry["alpha"])}
            for entry in entries
        ],
        "calibration": {
            "prevalence": shares.tolist(),
            "standard_error": errors.tolist(),
            "patients": np.unique(cal.patients).tolist(),
        },
        "scores": source.name,
        "sha256": _sha256(source),
        "versions": {
            "chestxray": chestxray.__version__,
            **{name: metadata.version(name) for name in ("numpy", "scipy")},
        },
    }
    with whole_file(folder / "thresholds.json") as file:
        json.dump(held, file, indent=2)
        file.write("\n")


def _write_sets(
    path: Path, table: Scores, rows: Rows, roles: np.ndarray, levels: list[Level]
) -> None:
    names = np.array(table.classes, dtype=object)
    labelled = table.targets.shape[1] > 0
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "patient", "role", "alpha", "set", "size", "labels"])
        for level in levels:
            sets = prediction_sets(rows.scores, level)
            for row, image in enumerate(table.images):
                chosen = "|".join(names[sets[row]])
                labels = "|".join(names[rows.targets[row] == 1]) if labelled else ""
                size = int(sets[row].sum())
                patient = rows.patients[row]
                writer.writerow([image, patient, roles[row], level.alpha, chosen, size, labels])


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    with whole_file(folder / "report.json") as file:
        json.dump(report, file, indent=2)
        file.write("\n")
    with whole_file(folder / "report.md") as file:
        file.write(markdown(report))


def _draw(
    folder: Path,
    cal: Rows,
    others: Rows,
    levels: list[Level],
    entries: list[dict[str, Any]],
    choices: Choices,
) -> None:
    """The pictures of the first certified level."""
    level, entry = next((lv, en) for lv, en in zip(levels, entries, strict=True) if lv.certified)
    if level.thresholds is None:
        counted_rows = cal.counting(choices)
        losses = loss_table(counted_rows, unit_codes(counted_rows.units)[1], choices)
        risks, n = losses.mean(axis=0), len(losses)
        bound = None
        if choices.method == "crc":
            bound = (n * risks + 1) / (n + 1)
        elif choices.method == "rcps":
            order = np.random.default_rng(choices.seed).permutation(n)
            places = np.arange(0, len(GRID), _CURVE)
            drawn = [wsr_bound(losses[order, place], choices.delta) for place in places]
            bound = np.interp(np.arange(len(GRID)), places, drawn)
        with whole_file(folder / "risk.png", "wb") as file:
            pictures.draw_risk(file, risks, bound, entry, choices)
    if len(others.units):
        sets = prediction_sets(others.scores, level)
        with whole_file(folder / "sizes.png", "wb") as file:
            pictures.draw_sizes(file, sets, level.alpha, choices)
        with whole_file(folder / "classes.png", "wb") as file:
            pictures.draw_classes(file, entry["classes"], level.alpha, choices)


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [report["rows"], *(f"warning: {warning}" for warning in report["warnings"])]
    for level in report["levels"]:
        lines += ["", f"alpha {level['alpha']}"]
        if not level["certified"]:
            lines.append(f"  nothing is certified: {level['reason']}")
            continue
        lines.append(f"  {level['guarantee']}")
        lines.append(f"  threshold: {threshold_text(level)}")
        lines.append(f"  {counting(level)}")
        for name in ("picture", "patient") if level["realised"] else ():
            shown = {
                k: "n/a" if v is None else f"{v:.3f}" for k, v in level["realised"][name].items()
            }
            lines.append(
                f"  realised by {name:<8} FNR {shown['fnr']}  FDR {shown['fdr']} (non-empty "
                f"{shown['fdr_nonempty']})  empty {shown['empty']}  full {shown['full']}  "
                f"classes {shown['size']}"
            )
        if level.get("resplits"):
            cuts = level["resplits"]
            lines.append(
                f"  {cuts['times']} cuts by patient: {cuts['certified']} certify, mean realised "
                f"risk {cuts['mean']:.4f}, above alpha in {cuts['above_alpha']:.1%}"
                if cuts["certified"]
                else f"  {cuts['times']} cuts by patient: none certifies"
            )
    return lines


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
