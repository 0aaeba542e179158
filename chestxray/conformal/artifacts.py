"""The files of a calibration: thresholds.json, sets.csv, report.json, report.md, four plots."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from chestxray.conformal import plots, thresholds
from chestxray.conformal.bounds import wsr_bound
from chestxray.conformal.calibrate import Config, Level, Rows, loss_table, shuffled
from chestxray.conformal.control import corrected_risk
from chestxray.conformal.metrics import prediction_sets, summary
from chestxray.conformal.report import entry, lines, markdown
from chestxray.conformal.resplits import resplit, resplit_per_class
from chestxray.conformal.risks import GRID, miss_rates, unit_codes
from chestxray.runtime.files import whole_file
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores

PLOTS = ("risk.png", "resplits.png", "sizes.png", "classes.png")
_FILES = ("thresholds.json", "sets.csv", "report.json", "report.md", *PLOTS)
_CURVE = 20  # a bound is drawn at every so many-th threshold of the grid
_CALIBRATION, _APPLICATION = "a calibration", "applied thresholds"


def write_npz(path: Path, rows: Rows) -> None:
    """The arrays that the papers' notebooks read: sgmd (N, K) scores, labels (N, K)."""
    with whole_file(path, "wb") as file:
        np.savez(file, sgmd=rows.scores, labels=rows.targets)


def write(
    folder: Path,
    source: Path,
    table: Scores,
    calibrates: np.ndarray,
    levels: list[Level],
    choices: Config,
) -> list[str]:
    """Write everything about a calibration; returns what to tell the user.

    Args:
        folder: where to; see claim.
        source: the scores CSV.
        table: the chosen rows and classes.
        calibrates: (N,) bool, the images that calibrated; the others evaluate.
        levels: what calibrate found, at least one certified.
        choices: as typed.
    """
    rows = Rows.of(table, choices.unit)
    cal, others = rows.take(calibrates), rows.take(~calibrates)
    judged = others if len(others.units) else None
    seen = selected_on(choices)
    void = "No promise for fresh patients" if seen else ""
    entries = [entry(level, choices, table.classes, judged, void) for level in levels]
    which = next(number for number, level in enumerate(levels) if level.certified)
    drawn = _plots(cal, judged, levels[which], entries[which], choices)
    if choices.resplits and judged is not None:
        drawn["resplits.png"] = _resplits(rows, entries[which], table.classes, choices)
    entries[which]["plots"] = [name for name in PLOTS if name in drawn]
    report = {
        "title": f"{choices.risk.upper()} control of {source.name} by {choices.method.upper()}",
        "rows": f"Calibrated on {plural(len(cal.units), 'image')} of "
        f"{plural(len(np.unique(cal.patients)), 'patient')}, evaluated on "
        f"{plural(len(others.units), 'image')} of "
        f"{plural(len(np.unique(others.patients)), 'patient')}; the unit is the {choices.unit}.",
        "warnings": seen + _dependence(cal, choices),
        "promise_holds": not seen,
        "choices": choices.plain(),
        "levels": entries,
    }
    everything = list(range(len(table.classes)))
    held = thresholds.text(source, table.take(calibrates, everything), entries, choices)
    roles = np.where(calibrates, "cal", "eval")
    written = {"thresholds.json": held} | files_of(table, roles, levels, report) | drawn
    save(folder, written)
    return [*lines(report), f"wrote {folder}/: {join_limited(n for n in _FILES if n in written)}"]


def selected_on(choices: Config) -> list[str]:
    """What is wrong with calibrating on rows that the training has seen."""
    why = {
        "train": "the network was trained on these rows and scores them better than fresh ones",
        "val": "the epoch was chosen on these rows, so its scores suit them better than fresh ones",
    }
    if choices.split not in why:
        return []
    return [
        f"calibrated on the split {choices.split}: {why[choices.split]}; rows that trained or "
        "chose the network are no calibration rows, and the promise does not hold"
    ]


def _dependence(cal: Rows, choices: Config) -> list[str]:
    """What a promise for images leaves out where patients have several."""
    n_images, patients = len(cal.units), len(np.unique(cal.patients))
    if choices.unit != "image" or patients == n_images:
        return []
    return [
        f"{plural(n_images, 'image')} of {plural(patients, 'patient')} calibrated as if they "
        "were independent: images of a patient are not, and the promise is broken more often "
        "than it says"
    ]


def refuse_foreign_files(folder: Path, application: bool = False) -> None:
    """Refuse a folder whose files are of something else than what is to be written.

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


def files_of(
    table: Scores, roles: np.ndarray, levels: list[Level], report: dict[str, Any]
) -> dict[str, str | bytes]:
    """The contents of sets.csv, report.json and report.md."""
    return {
        "sets.csv": _sets(table, roles, [level for level in levels if level.certified]),
        "report.json": json.dumps(report, indent=2) + "\n",
        "report.md": markdown(report),
    }


def save(folder: Path, written: dict[str, str | bytes]) -> None:
    """Write the files, once all are made; what an earlier run left there goes first."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for name, content in written.items():
        with whole_file(folder / name, "w" if isinstance(content, str) else "wb") as file:
            file.write(content)


def _sets(table: Scores, roles: np.ndarray, levels: list[Level]) -> str:
    names = np.array(table.classes, dtype=object)
    patients = table.image_names if table.patients is None else table.patients
    labels = [""] * len(table.image_names)
    if table.targets.shape[1]:
        labels = ["|".join(names[row]) for row in table.targets == 1]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "patient", "role", "alpha", "set", "size", "labels"])
    for level in levels:
        sets = prediction_sets(table.scores, level)
        for row, image in enumerate(table.image_names):
            chosen = names[sets[row]]
            writer.writerow(
                [image, patients[row], roles[row], level.alpha, "|".join(chosen), len(chosen)]
                + [labels[row]]
            )
    return file.getvalue()


def _resplits(
    rows: Rows, shown: dict[str, Any], classes: tuple[str, ...], choices: Config
) -> bytes:
    """The plot of the re-splits of a level, which gets their figures."""
    alpha = shown["alpha"]
    shown["resplits"] = {"times": choices.resplits}
    if choices.per_class:
        by_class = resplit_per_class(rows, alpha, choices)
        found = {name: summary(by_class[:, k], alpha) for k, name in enumerate(classes)}
        shown["resplits"]["classes"] = found
        return plots.draw_resplits_per_class(found, alpha, choices)
    risks, _ = resplit(rows, alpha, choices)
    shown["resplits"] |= summary(risks, alpha)
    return plots.draw_resplits(risks, alpha, choices)


def _plots(
    cal: Rows, judged: Rows | None, level: Level, shown: dict[str, Any], choices: Config
) -> dict[str, str | bytes]:
    """All plots of a certified level but that of the re-splits."""
    drawn: dict[str, str | bytes] = {}
    if level.thresholds is not None:
        drawn["risk.png"] = plots.draw_risk_per_class(_class_curves(cal), shown, choices)
    else:
        drawn["risk.png"] = plots.draw_risk(*_curves(cal, choices), shown, choices)
    if judged is not None:
        sets = prediction_sets(judged.scores, level)
        drawn["sizes.png"] = plots.draw_sizes(sets, level.alpha, choices)
        drawn["classes.png"] = plots.draw_classes(shown["classes"], level.alpha, choices)
    return drawn


def _curves(cal: Rows, choices: Config) -> tuple[np.ndarray, np.ndarray | None]:
    """(T,) risk on the calibration units, and (T,) its bound where the method has one."""
    counting = cal.counting(choices)
    losses = loss_table(counting, unit_codes(counting.units)[1], choices)
    risks, n = losses.mean(axis=0), len(losses)
    if choices.method == "crc":
        return risks, corrected_risk(risks, n)
    if choices.method == "ltt":
        return risks, None
    order, places = shuffled(n, choices), np.arange(0, len(GRID), _CURVE)
    bounds = [wsr_bound(losses[order, place], choices.delta) for place in places]
    return risks, np.interp(np.arange(len(GRID)), places, bounds)


def _class_curves(cal: Rows) -> list[np.ndarray | None]:
    """The corrected miss rate of each class alone, (T,); None where no unit has it."""
    curves: list[np.ndarray | None] = []
    for k in range(cal.targets.shape[1]):
        alone = cal.take(cal.targets[:, k] == 1)
        codes = unit_codes(alone.units)[1]
        losses = (
            miss_rates(alone.targets[:, [k]], alone.scores[:, [k]], codes) if len(codes) else None
        )
        curves.append(None if losses is None else corrected_risk(losses.mean(axis=0), len(losses)))
    return curves
