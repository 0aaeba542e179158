"""Stored thresholds on a new scores CSV, and how much of the promise is left there."""

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from chestxray.conformal import artifacts, output_folder, thresholds
from chestxray.conformal.groups import Column, Groups
from chestxray.conformal.overlap import shown_patients
from chestxray.conformal.report import (
    Application,
    Report,
    classes_text,
    empty_set_warnings,
    left_out_note,
    make_entry,
    rows_text,
)
from chestxray.conformal.report_page import lines
from chestxray.conformal.rows import Rows
from chestxray.conformal.shift import describe_shift, patient_counts
from chestxray.conformal.thresholds import StoredThresholds
from chestxray.patients import patient_key
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import ScoredBy, Scores, read_scores, scored_by


def apply(args: argparse.Namespace) -> list[str]:
    """Use stored thresholds on a scores CSV, with or without labels.

    Args:
        args: csv, apply (a thresholds.json), split (None takes all rows), untouched, out (None is
            a folder beside the thresholds), overwrite.

    Returns:
        The lines for the user.

    Raises:
        ValueError: not a thresholds.json; a class or a split that the scores CSV does not have.
        FileExistsError: the folder holds anything else, without --overwrite.
    """
    source, split = args.csv, args.split
    stored = thresholds.read(args.apply)
    named = "_".join(["applied", output_folder.stem(source), *([split] if split else [])])
    folder = args.out or args.apply.parent / re.sub(r"[^\w.-]", "-", named)
    applied = Application(
        thresholds=args.apply.name,
        scores=source.name,
        split=split,
        untouched=args.untouched,
        thresholds_sha256=file_digest(args.apply),
        scores_sha256=file_digest(source),
        scored_by=scored_by(source),
    )
    if folder.resolve() == args.apply.resolve().parent:
        raise FileExistsError(f"{folder} holds the thresholds: --out names another folder")
    if not args.overwrite:
        output_folder.refuse_another(folder, "application", applied.to_json())
    whole = read_scores(source, labels=False, exclude=stored.config.leaves_out)
    if split and whole.splits is None:
        raise ValueError(f"{source} has no split column: leave --from out")
    found = apply_to(source, whole, stored, applied)
    output_folder.save(folder, found.contents(source), source)
    return [*lines(found.report), f"wrote {folder}/: {join_limited(found.contents(source))}"]


@dataclass(frozen=True)
class Applied:
    """Stored thresholds on some rows.

    Attributes:
        table: the rows, of the classes of the thresholds.
        rows: the same as arrays.
        report: what came of it.
    """

    table: Scores
    rows: Rows
    report: Report

    @property
    def roles(self) -> np.ndarray:
        """(N,) text: nobody calibrates here."""
        return np.full(len(self.table.image_names), "eval", dtype=object)

    def sets_text(self) -> str:
        """The content of sets.csv."""
        return artifacts.sets_text(self.table, self.rows, self.roles, self.report.certified)

    def contents(self, source: Path) -> dict[str, str | bytes]:
        """The contents of the files, by name; `source` is the scores CSV."""
        return artifacts.contents_of(source, self.table, self.rows, self.roles, self.report)


def apply_to(source: Path, whole: Scores, stored: StoredThresholds, how: Application) -> Applied:
    """Use stored thresholds on the rows of a split, or on all.

    Args:
        source: the scores CSV, named in errors.
        whole: its rows.
        stored: the thresholds.
        how: which split, and what is declared of it.

    Raises:
        ValueError: a class, a split or a group that is missing.
    """
    table = take_split(source, whole, how.split)
    shared = table.take(in_another_split(whole, table), [])
    table = _take_classes(source, table, stored, Path(how.thresholds))
    rows = Rows.from_scores(table, stored.config.unit, _groups(source, table, stored))
    return Applied(table, rows, _report(stored, table, rows, how, _rows_of_shared(shared)))


def _rows_of_shared(shared: Scores) -> list[str]:
    """Warn of patients who are in another split of the same file."""
    if not len(shared.image_names):
        return []
    return [f"{rows_text(shared)} are in another split of this file too: these rows are not fresh"]


def _groups(source: Path, table: Scores, stored: StoredThresholds) -> Groups | None:
    """The groups of the rows, of a calibration by groups.

    Raises:
        ValueError: no such column; a group that did not calibrate.
    """
    by = stored.config.by
    if by is None:
        return None
    groups = Column.parse(by).groups(source, table)
    parts = [item for found in stored.certificates for item in (found.parts or {}).items()]
    known = {name for name, part in parts if part.n_units}
    unknown = sorted(set(groups.of) - known)
    if unknown:
        raise ValueError(
            f"{source}: no threshold is known for {Column.parse(by).name} {join_limited(unknown)}, "
            f"in {plural(int(np.isin(groups.of, unknown).sum()), 'row')}; the calibration had "
            f"{join_limited(sorted(known))}"
        )
    return groups


def _report(
    stored: StoredThresholds, table: Scores, rows: Rows, applied: Application, against: list[str]
) -> Report:
    config, labelled = stored.config, table.targets.shape[1] > 0
    here = replace(config, split=applied.split, untouched=applied.untouched)
    splits = [] if table.splits is None else sorted(set(table.splits))
    against = against + artifacts.not_fresh("calibrated on", [config.split or ""], config)
    against += artifacts.not_fresh("applied to", splits, here)
    against += _against(stored, table, applied)
    caveat = "No promise carries over to these rows" if against else ""
    entries = [
        make_entry(certificate, config, rows if labelled else None, caveat)
        for certificate in stored.certificates
    ]
    return Report(
        title=f"{applied.thresholds} applied to {applied.scores}",
        classes=classes_text(table.classes),
        rows=rows_text(table) + ("." if labelled else ", without labels: no realised metrics."),
        notes=[*table.notes, *artifacts.declared(config), *artifacts.declared(here)],
        warnings=against + _unchecked(stored, table, applied) + empty_set_warnings(entries, config),
        promise_holds=not against,
        config=config,
        cut_by=rows.cut_by,
        entries=entries,
        applied=applied,
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


def in_another_split(table: Scores, chosen: Scores) -> np.ndarray:
    """(N,) bool, the chosen rows whose patients are in another split of the file too."""
    keys, own = table.patient_keys, chosen.patient_keys
    if table.splits is None or keys is None or own is None or chosen.splits is None:
        return np.zeros(len(chosen.image_names), dtype=bool)
    chosen_splits = set(chosen.splits)
    elsewhere = {
        k for k, split in zip(keys, table.splits, strict=True) if split not in chosen_splits
    }
    return np.array([key in elsewhere for key in own])


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
    unread = [name for name in table.classes if stored.config.leaves_out(name)]
    notes = (*table.notes, *left_out_note((*table.excluded, *unread)))
    return replace(table.take(np.ones(len(table.image_names), dtype=bool), columns), notes=notes)


def _against(stored: StoredThresholds, table: Scores, applied: Application) -> list[str]:
    """Reasons that take the promise back for these rows."""
    found: list[str] = []
    ours, theirs = applied.scored_by, stored.scored_by
    if ours and theirs and ours.sha256 != theirs.sha256:
        found.append(
            f"these scores are of the checkpoint {ours.checkpoint}, and the thresholds are for "
            f"those of {theirs.checkpoint} (SHA-256 differs): other networks score otherwise"
        )
    if applied.scores_sha256 == stored.digest:
        found.append(
            "this is the very file that was calibrated on (same SHA-256): the thresholds were "
            "fitted to its calibration rows"
        )
    both = _shared_patients(stored, table) if not _are_numbered(ours) else []
    again = _images_again(stored.images, table.image_names)
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
        keys = table.patient_keys
        counts = patient_counts(table.targets, table.image_names if keys is None else keys)[1]
        shifts = describe_shift(table.classes, stored.counts, counts)
        found += [f"{shift}: these rows are not drawn like those" for shift in shifts]
    return found


def _images_again(stored: list[str], here: np.ndarray) -> set[str]:
    """The images here that calibrated, by their names; without folders where one side has none."""
    whole, bare = set(stored), {name for name in stored if "/" not in name}
    files = {name.rpartition("/")[2] for name in stored}
    return {
        name
        for name in here
        if name in whole or name.rpartition("/")[2] in (bare if "/" in name else files)
    }


def _are_numbered(by: ScoredBy | None) -> bool:
    """Return whether the names of patients are numbers of this one file."""
    return by is not None and by.patients_numbered


def _shared_patients(stored: StoredThresholds, table: Scores) -> list[str]:
    """The patients of the calibration that are in these rows, as these spell them."""
    if stored.patients is None or table.patient_keys is None:
        return []
    both = {patient_key(name) for name in stored.patients} & set(table.patient_keys)
    return shown_patients(table, sorted(both))


def _unchecked(stored: StoredThresholds, table: Scores, applied: Application) -> list[str]:
    """Comparisons that could not be made."""
    found = []
    if (applied.scored_by is None) != (stored.scored_by is None):
        unknown = "these scores" if applied.scored_by is None else "the calibration's scores"
        found.append(
            f"nothing tells which checkpoint gave {unknown}: whether it is the same could not be "
            "checked"
        )
    if table.patients is not None and _are_numbered(applied.scored_by):
        found.append(
            "the patients are numbered as they appear: whether one of the calibration is here too "
            "could not be checked"
        )
    elif table.patients is None or stored.patients is None:
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
