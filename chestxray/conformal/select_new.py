"""The steps of a selection: read both files, draw one image a patient, select, report, write."""

import argparse
import csv
import io
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path

import numpy as np

from chestxray.conformal import output_folder, selection_report
from chestxray.conformal.artifacts import declared, not_fresh
from chestxray.conformal.command import chosen_rows
from chestxray.conformal.options import FRESH, Config, config_of
from chestxray.conformal.overlap import shared_rows
from chestxray.conformal.report import classes_text
from chestxray.conformal.selection import (
    benjamini_hochberg,
    calibration_needed,
    fewest_selected,
    one_image_each,
    ranks_among_negatives,
)
from chestxray.conformal.selection_report import Selection, SelectionReport, false_share, measure
from chestxray.conformal.shift import describe_shift, patient_counts
from chestxray.labels import is_no_finding
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores

_SHOWN = 3  # of the patients or images that a sentence names


@dataclass(frozen=True)
class Side:
    """The rows of a file that calibrate, or that are selected from."""

    path: Path
    table: Scores

    @cached_property
    def keys(self) -> np.ndarray | None:
        """(N,) of the patients; None where the file names none."""
        return self.table.patient_keys

    @cached_property
    def drawn(self) -> Scores:
        """One image of each patient; every image where the file names no patients."""
        names = self.table.image_names
        drawn = one_image_each(names if self.keys is None else self.keys, names)
        return self.table.take(drawn, list(range(len(self.table.classes))))

    @property
    def labelled(self) -> bool:
        return self.table.targets.shape[1] > 0


def select_new(args: argparse.Namespace) -> list[str]:
    """Select images of a new scores CSV, class by class; those of another calibrate.

    Args:
        args: csv, select (q, as typed), on, split, untouched, exclude, include_no_finding, out
            (None is a folder beside the new scores), overwrite.

    Returns:
        The lines for the user.

    Raises:
        ValueError: patients or images on both sides; a class or a split that a file lacks.
        FileExistsError: the folder holds anything else, without --overwrite.
    """
    config = config_of(args)
    whole = read_scores(args.csv, exclude=config.leaves_out)
    cal = Side(args.csv, chosen_rows(whole, args))
    splits = cal.table.splits
    config = replace(config, split=None if splits is None else str(splits[0]))
    new = Side(args.on, _same_classes(args.on, config, cal))
    selection = _asked(args, config)
    folder = args.out or _default_folder(args.on, config)
    if not args.overwrite:
        output_folder.refuse_another(folder, "selection", selection.to_json())
    _refuse_shared(cal, new)
    against = _against(whole, cal, new, config)
    ranks = ranks_among_negatives(cal.drawn.targets, cal.drawn.scores, new.drawn.scores)
    n = len(cal.drawn.image_names)
    selected = benjamini_hochberg(ranks, n, selection.select)
    report = _report(cal, new, selected, selection, against, declared(config))
    contents: dict[str, str | bytes] = {
        "selected.csv": _selected_csv(new.drawn, ranks / (n + 1), selected),
        "report.json": json.dumps(report.to_json(), indent=2) + "\n",
        "report.md": selection_report.markdown(report),
    }
    output_folder.save(folder, contents, args.csv, args.on)
    return [*selection_report.lines(report), f"wrote {folder}/: {join_limited(contents)}"]


def _asked(args: argparse.Namespace, config: Config) -> Selection:
    digests = file_digest(args.csv), file_digest(args.on)
    if digests[0] == digests[1]:
        raise ValueError(
            f"{args.on} is {args.csv} itself, or a copy (same SHA-256): --on names rows of other "
            "patients than those that calibrate"
        )
    return Selection(
        select=args.select,
        scores=args.csv.name,
        on=args.on.name,
        split=config.split,
        untouched=config.untouched,
        exclude=config.exclude,
        include_no_finding=config.include_no_finding,
        scores_sha256=digests[0],
        on_sha256=digests[1],
    )


def _default_folder(new: Path, config: Config) -> Path:
    """The folder beside the new scores, named after them and the split that calibrates."""
    parts = [output_folder.stem(new), "select"]
    parts += [config.split] if config.split not in (None, FRESH) else []
    return new.parent / re.sub(r"[^\w.-]", "-", "_".join(map(str, parts)))


def _same_classes(source: Path, config: Config, cal: Side) -> Scores:
    """The new scores of the classes that calibrate, in their order."""
    table = read_scores(source, labels=False, exclude=config.leaves_out)
    missing = [name for name in cal.table.classes if name not in table.classes]
    if missing:
        raise ValueError(
            f"{source} has no class {join_limited(missing)}, which {cal.path} has: --exclude "
            "leaves a class out of both"
        )
    more = [name for name in table.classes if name not in cal.table.classes]
    note = f"{source}: {join_limited(more)} left out, since {cal.path} has no such class"
    columns = [table.classes.index(name) for name in cal.table.classes]
    same = table.take(np.ones(len(table.image_names), dtype=bool), columns)
    return replace(same, notes=(*same.notes, *([note] if more else [])))


def _refuse_shared(cal: Side, new: Side) -> None:
    """Refuse a batch that has patients or images of the calibration."""
    patients, images = shared_rows(cal.table, new.table)
    for noun, found in (("patient", patients), ("image", images)):
        if found:
            raise ValueError(
                f"{plural(len(found), noun)} on both sides ({join_limited(found, _SHOWN)}), in "
                f"{cal.path} and in {new.path}: leave them out of one, since who calibrates "
                "cannot be selected"
            )


def _against(whole: Scores, cal: Side, new: Side, config: Config) -> list[str]:
    """Reasons that take the promise back."""
    found = not_fresh("calibrated on", [config.split or ""], config)
    declared_too = {config.split} if config.untouched else set()
    splits = [] if new.table.splits is None else sorted({*new.table.splits} - declared_too)
    found += not_fresh("selected from", splits, replace(config, untouched=False))
    found += _of_other_splits(whole, cal, new, config)
    found += [
        f"{side.path} has no patient column: whether a patient is on both sides could not be "
        "checked, and each of its images stands for a patient"
        for side in (cal, new)
        if side.table.patients is None
    ]
    if new.labelled:
        before, now = (patient_counts(t.targets, t.image_names)[1] for t in (cal.drawn, new.drawn))
        shifts = describe_shift(cal.table.classes, before, now)
        found += [f"{shift}: these rows are not drawn like those" for shift in shifts]
    return found


def _of_other_splits(whole: Scores, cal: Side, new: Side, config: Config) -> list[str]:
    """Warn of a batch with patients of whom the network may have seen images."""
    if whole.splits is None:
        return []
    seen = ~np.isin(whole.splits.astype(str), [FRESH, str(config.split)])
    patients, images = shared_rows(whole.take(seen, []), new.table)
    if not (patients or images):
        return []
    return [
        f"{plural(len(patients), 'patient')} and {plural(len(images), 'image')} of {new.path} are "
        f"in another split of {cal.path} ({join_limited(patients or images, _SHOWN)}): these rows "
        "are not fresh"
    ]


def _report(
    cal: Side,
    new: Side,
    selected: np.ndarray,
    selection: Selection,
    against: list[str],
    declarations: list[str],
) -> SelectionReport:
    n, m = len(cal.drawn.image_names), len(new.drawn.image_names)
    targets = new.drawn.targets if new.labelled else None
    found = measure(new.drawn.scores, selected, (cal.drawn.targets == 0).sum(axis=0), targets)
    notes = [*cal.table.notes, *new.table.notes, *_no_finding(cal.table.excluded), *declarations]
    unlabelled = (
        f"{new.path} has no labels: whether the classes are as frequent there could not be checked"
    )
    return SelectionReport(
        title=f"Selection from {selection.on} at FDR {selection.select}, with {selection.scores}",
        classes_text=classes_text(cal.table.classes),
        rows=f"One image a patient, drawn by the SHA-256 of its name: {n:,} of "
        f"{plural(len(cal.table.image_names), 'image')} of {selection.scores} calibrated, {m:,} "
        f"of {plural(len(new.table.image_names), 'image')} of {selection.on} could be selected.",
        notes=[*notes, _resolution(n, m, selection.select)],
        warnings=against + ([] if new.labelled else [unlabelled]),
        promise_holds=not against,
        selection=selection,
        n=n,
        m=m,
        classes=dict(zip(cal.table.classes, found, strict=True)),
        together=None if targets is None else false_share(targets, selected),
    )


def _no_finding(excluded: tuple[str, ...]) -> list[str]:
    if not any(map(is_no_finding, excluded)):
        return []
    return ["No Finding is not selected (--include-no-finding counts it as a class)"]


def _resolution(n: int, m: int, q: str) -> str:
    """Say how few images can be selected: no p-value is below 1 / (n + 1)."""
    least = f"no p-value can be below 1/(n + 1) = {1 / (n + 1):.2g}"
    fewest = fewest_selected(n, m, q)
    if fewest > m:
        needed = plural(calibration_needed(q), "calibration patient")
        return f"nothing can be selected: {least}, and at {q} at least {needed} are needed"
    return f"a class has at least {plural(fewest, 'selected image')} or none: {least}"


def _selected_csv(table: Scores, p_values: np.ndarray, selected: np.ndarray) -> str:
    """A row for each image and class; p-values in the shortest text that reads back the same."""
    classes = table.classes
    patients = table.image_names if table.patients is None else table.patients
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "patient", "class", "p_value", "selected"])
    names = (np.repeat(column, len(classes)).tolist() for column in (table.image_names, patients))
    numbers = p_values.ravel().tolist(), selected.ravel().astype(int).tolist()
    writer.writerows(zip(*names, cycle(classes), *numbers, strict=False))  # the classes go round
    return file.getvalue()
