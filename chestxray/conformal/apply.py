"""Stored thresholds on a new scores CSV, and what that leaves of the promise."""

from pathlib import Path

import numpy as np

from chestxray.conformal import artifacts, thresholds
from chestxray.conformal.calibrate import Rows
from chestxray.conformal.report import entry, lines
from chestxray.conformal.shift import describe_shift, patient_counts, patient_key
from chestxray.conformal.thresholds import StoredThresholds
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores


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
        FileExistsError: the folder holds a calibration, or somebody's files.
    """
    held = thresholds.read(stored)
    name = source.name.removesuffix(".gz").removesuffix(".csv")
    folder = folder or stored.parent / f"applied_{name}"
    artifacts.refuse_foreign_files(folder, application=True)
    table = _columns(
        source, of_split(source, read_scores(source, labels=False), split), held, stored
    )
    rows = Rows.of(table, held.choices.unit)
    labelled = table.targets.shape[1] > 0
    against = artifacts.selected_on(held.choices) + _against(held, table, thresholds.sha256(source))
    void = "No promise carries over to these rows" if against else ""
    judged = rows if labelled else None
    report = {
        "title": f"{stored.name} applied to {source.name}",
        "rows": f"{plural(len(rows.units), 'image')} of "
        f"{plural(len(np.unique(rows.patients)), 'patient')}"
        + ("." if labelled else ", without labels: no realised figures."),
        "warnings": against + _unchecked(held, table, split),
        "promise_holds": not against,
        "applied": {"thresholds": stored.name, "scores": source.name, "from": split},
        "choices": held.choices.plain(),
        "levels": [
            entry(level, held.choices, table.classes, judged, void) for level in held.levels
        ],
    }
    roles = np.full(len(table.image_names), "eval", dtype=object)
    written = artifacts.files_of(table, roles, held.levels, report)
    artifacts.save(folder, written)
    return [*lines(report), f"wrote {folder}/: {join_limited(written)}"]


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
            f"{join_limited(sorted(set(table.splits)))}: --from names one"
        )
    return table.take(keep, list(range(len(table.classes))))


def _columns(source: Path, table: Scores, held: StoredThresholds, stored: Path) -> Scores:
    """The classes of the thresholds, in their order."""
    missing = [name for name in held.classes if name not in table.classes]
    if missing:
        raise ValueError(
            f"{source} has no class {join_limited(missing)}, which {stored} has thresholds for"
        )
    columns = [table.classes.index(name) for name in held.classes]
    return table.take(np.ones(len(table.image_names), dtype=bool), columns)


def _against(held: StoredThresholds, table: Scores, sha256: str) -> list[str]:
    """What takes the promise back for these rows."""
    found = []
    if sha256 == held.sha256:
        found.append(
            "this is the very file that was calibrated on (same SHA-256): what its calibration "
            "rows show here is what they were fitted to"
        )
    both = sorted(_patients(held.patients) & _patients(table.patients))
    again = set(held.images) & set(table.image_names)
    if both or again:
        found.append(
            f"{plural(len(both), 'patient')} and {plural(len(again), 'image')} of the "
            f"calibration are here too ({join_limited(both or sorted(again), 3)}): these rows "
            "are not fresh"
        )
    if table.patients is None and held.choices.unit == "patient":
        found.append(
            "no patient column: the thresholds are for patients, and images stand for them here"
        )
    if table.targets.shape[1]:
        owners = table.image_names if table.patients is None else table.patients
        shifts = describe_shift(
            table.classes, held.counts, patient_counts(table.targets, owners)[1]
        )
        found += [f"{shift}: these rows are not drawn like those" for shift in shifts]
    return found


def _patients(names: np.ndarray | list[str] | None) -> set[str]:
    return set() if names is None else {patient_key(name) for name in names}


def _unchecked(held: StoredThresholds, table: Scores, split: str | None) -> list[str]:
    """What could not be compared."""
    found = []
    if split is not None and table.splits is None:
        found.append(f"no split column: not only the rows of {split}, all are used")
    if table.patients is None or held.patients is None:
        lacking = "these rows" if table.patients is None else "the calibration's rows"
        found.append(
            f"{lacking} name no patients: whether a patient of the calibration is here too could "
            "not be checked"
        )
    if not table.targets.shape[1]:
        found.append(
            "no labels: whether the classes are as frequent here as there could not be checked"
        )
    return found
