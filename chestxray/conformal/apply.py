"""Stored thresholds on a new scores CSV, and how much of the promise is left there."""

from pathlib import Path

import numpy as np

from chestxray.conformal import artifacts, thresholds
from chestxray.conformal.calibrate import Rows
from chestxray.conformal.report import Report, lines, make_entry, rows_text
from chestxray.conformal.shift import describe_shift, patient_counts, patient_key
from chestxray.conformal.thresholds import StoredThresholds
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores


def apply(source: Path, stored_path: Path, split: str | None, folder: Path | None) -> list[str]:
    """Use stored thresholds on a scores CSV, with or without labels.

    Args:
        source: the scores CSV.
        stored_path: a thresholds.json.
        split: the rows to use; None takes all.
        folder: where to; None is beside `stored_path`.

    Returns:
        The lines for the user.

    Raises:
        ValueError: not a thresholds.json; a class or a split that the scores CSV does not have.
        FileExistsError: the folder holds a calibration, or somebody's files.
    """
    stored = thresholds.read(stored_path)
    name = source.name.removesuffix(".gz").removesuffix(".csv")
    folder = folder or stored_path.parent / f"applied_{name}"
    artifacts.refuse_foreign_files(folder, application=True)
    table = take_split(
        source, read_scores(source, labels=False, exclude=stored.config.exclude), split
    )
    table = _take_classes(source, table, stored, stored_path)
    report = _report(source, stored_path, split, stored, table)
    roles = np.full(len(table.image_names), "eval", dtype=object)
    contents = artifacts.contents_of(table, roles, report)
    artifacts.save(folder, contents)
    return [*lines(report), f"wrote {folder}/: {join_limited(contents)}"]


def _report(
    source: Path, stored_path: Path, split: str | None, stored: StoredThresholds, table: Scores
) -> Report:
    config, labelled = stored.config, table.targets.shape[1] > 0
    eval_rows = Rows.from_scores(table, config.unit) if labelled else None
    against = artifacts.selected_on(config) + _against(stored, table, file_digest(source))
    caveat = "No promise carries over to these rows" if against else ""
    return Report(
        title=f"{stored_path.name} applied to {source.name}",
        rows=rows_text(table) + ("." if labelled else ", without labels: no realised metrics."),
        warnings=against + _unchecked(stored, table, split),
        promise_holds=not against,
        config=config,
        entries=[
            make_entry(certificate, config, table.classes, eval_rows, caveat)
            for certificate in stored.certificates
        ],
        applied={"thresholds": stored_path.name, "scores": source.name, "from": split},
    )


def take_split(source: Path, table: Scores, split: str | None) -> Scores:
    """The rows of one split; all where None is asked for.

    Raises:
        ValueError: there is no such split; names those there are.
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


def _take_classes(
    source: Path, table: Scores, stored: StoredThresholds, stored_path: Path
) -> Scores:
    """The classes of the thresholds, in their order."""
    missing = [name for name in stored.classes if name not in table.classes]
    if missing:
        raise ValueError(
            f"{source} has no class {join_limited(missing)}, which {stored_path} has thresholds for"
        )
    columns = [table.classes.index(name) for name in stored.classes]
    return table.take(np.ones(len(table.image_names), dtype=bool), columns)


def _against(stored: StoredThresholds, table: Scores, digest: str) -> list[str]:
    """Reasons that take the promise back for these rows."""
    found = []
    if digest == stored.digest:
        found.append(
            "this is the very file that was calibrated on (same SHA-256): the thresholds were "
            "fitted to its calibration rows"
        )
    both = sorted(_patient_keys(stored.patients) & _patient_keys(table.patients))
    again = set(stored.images) & set(table.image_names)
    if both or again:
        found.append(
            f"{plural(len(both), 'patient')} and {plural(len(again), 'image')} of the "
            f"calibration are here too ({join_limited(both or sorted(again), 3)}): these rows "
            "are not fresh"
        )
    if table.patients is None and stored.config.unit == "patient":
        found.append(
            "no patient column: the thresholds are for patients, and images stand for them here"
        )
    if table.targets.shape[1]:
        owners = table.image_names if table.patients is None else table.patients
        counts = patient_counts(table.targets, owners)[1]
        shifts = describe_shift(table.classes, stored.counts, counts)
        found += [f"{shift}: these rows are not drawn like those" for shift in shifts]
    return found


def _patient_keys(names: np.ndarray | list[str] | None) -> set[str]:
    return set() if names is None else {patient_key(name) for name in names}


def _unchecked(stored: StoredThresholds, table: Scores, split: str | None) -> list[str]:
    """Comparisons that could not be made."""
    found = []
    if split is not None and table.splits is None:
        found.append(f"no split column: not only the rows of {split}, all are used")
    if table.patients is None or stored.patients is None:
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
