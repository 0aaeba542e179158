"""The steps of a calibration: read, choose rows, cut by patient, calibrate, evaluate, write."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from chestxray.conformal import artifacts, output_folder
from chestxray.conformal.apply import in_another_split, take_split
from chestxray.conformal.calibrate import Calibration
from chestxray.conformal.certificate import Certificate
from chestxray.conformal.frontier import frontier, joint_frontier
from chestxray.conformal.groups import Column
from chestxray.conformal.options import FRESH, Config, config_of, levels_of
from chestxray.conformal.overlap import shared_rows
from chestxray.conformal.report import classes_text, left_out_note, rows_text
from chestxray.conformal.report_page import head_lines
from chestxray.conformal.resplits import cut_patients
from chestxray.conformal.rows import Rows
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores

TUNING = "val"  # the split by which the start of the tests is chosen, where a file has it


def calibrate_and_evaluate(args: argparse.Namespace) -> int:
    """Do what the flags ask for; returns the exit code."""
    alphas = levels_of(args)
    config = config_of(args)
    table = select(read_scores(args.csv, exclude=config.leaves_out), args)
    split = None if table.splits is None else str(table.splits[0])
    config = replace(config, split=split, tune=file_digest(args.tune) if args.tune else None)
    folder = args.out or output_folder.default_folder(args.csv, config)
    if alphas and not args.overwrite:
        digest = file_digest(args.csv)
        output_folder.refuse_other_calibration(folder, config, alphas, args.csv, digest)
    groups = Column.parse(args.by).groups(args.csv, table) if args.by else None
    rows = Rows.from_scores(table, args.unit, groups)
    tune = read_tune(args.tune, table, config) if args.tune else None
    tune_rows = None if tune is None else Rows.from_scores(tune, config.unit)
    if alphas or args.frontier:
        for risk in config.target_risks:  # refuse what --no-positive error does, before writing
            rows.counting(risk)
    if args.npz and args.npz.exists() and not args.overwrite:
        raise FileExistsError(
            f"{args.npz} exists: --npz names another file, --overwrite replaces it"
        )
    if not alphas:
        print("\n".join(head_lines(classes_text(table.classes), table.notes)))
    if args.frontier:
        print(frontier(Calibration(rows, config, tune_rows)))
    if not alphas:
        write_npz(args.npz, table)
        return 0

    calibrates = draw_calibration(rows, config)
    calibration = Calibration(rows.take(calibrates), config, tune_rows)
    certificates = [calibration.certificate(alpha) for alpha in alphas]
    if not any(certificate.certified for certificate in certificates):
        print("\n".join(head_lines(classes_text(table.classes), table.notes)))
        return refuse(certificates, calibration)
    outcome = artifacts.Outcome(
        source=args.csv,
        table=table,
        rows=rows,
        calibrates=calibrates,
        calibration=calibration,
        certificates=certificates,
        tune=None if tune is None else (args.tune, tune),
        formats=tuple(dict.fromkeys(args.format)),
    )
    write_npz(args.npz, table)
    print("\n".join(artifacts.write(folder, outcome)))
    return 0


def write_npz(path: Path | None, table: Scores) -> None:
    """Write the arrays of --npz, where they are asked for."""
    if path:
        artifacts.write_npz(path, table)
        print(f"wrote {path}")


def read_tune(path: Path, table: Scores, config: Config) -> Scores:
    """The rows by which the start of the tests is chosen: those of val where the file has them.

    Args:
        path: of --tune.
        table: the rows that calibrate or are evaluated.
        config: of the calibration.

    Raises:
        ValueError: other classes; patients or images that are among the rows of `table` too.
    """
    tune = read_scores(path, exclude=config.leaves_out)
    if tune.splits is not None and (tune.splits == TUNING).any():
        tune = take_split(path, tune, TUNING)
    if tune.classes != table.classes:
        raise ValueError(
            f"--tune {path} has the classes {join_limited(tune.classes, 20)}, the scores have "
            f"{join_limited(table.classes, 20)}: the same in the same order are needed"
        )
    refuse_shared(f"--tune {path}", tune, table)
    if config.unit == "patient" and tune.patients is None:
        raise ValueError(f"--tune {path} has no patient column, which --unit patient needs")
    return tune


def refuse_shared(name: str, other: Scores, table: Scores) -> None:
    """Refuse another file's rows whose patients, or images, are among those of `table` too."""
    patients, images = shared_rows(table, other)
    if patients or images:
        raise ValueError(
            f"{name} holds {plural(len(patients), 'patient')} and {plural(len(images), 'image')} "
            f"that calibrate or are evaluated ({join_limited(patients or images, 3)}): leave them "
            "out of it"
        )


def select(table: Scores, args: argparse.Namespace) -> Scores:
    """The rows of the split that is asked for, for a calibration."""
    chosen = chosen_rows(replace(table, notes=(*table.notes, *left_out_note(table.excluded))), args)
    if args.unit == "patient" and table.patients is None:
        raise ValueError(f"{args.csv} has no patient column: --unit image must be typed")
    return chosen


def chosen_rows(table: Scores, args: argparse.Namespace) -> Scores:
    """The rows of the split that is asked for, without patients who are in another split too."""
    notes = table.notes
    if table.splits is None:
        if args.split:
            raise ValueError(f"{args.csv} has no split column: leave --from out")
        count = plural(len(table.image_names), "row")
        notes += (f"{args.csv} has no split column: all {count} are used",)
    split = args.split or ("val" if args.frontier else FRESH)
    chosen, more = leave_out_shared(args.csv, table, take_split(args.csv, table, split))
    notes += more
    classes = (*table.classes, *table.excluded)
    unknown = sorted(set(args.exclude) - set(classes))
    if unknown:
        raise ValueError(
            f"--exclude {join_limited(unknown)}: the classes are {join_limited(classes, 20)}"
        )
    return replace(chosen, notes=notes)


def leave_out_shared(source: Path, table: Scores, chosen: Scores) -> tuple[Scores, tuple[str, ...]]:
    """The chosen rows without patients who are in another split too; and a note on these."""
    elsewhere = in_another_split(table, chosen)
    if not elsewhere.any():
        return chosen, ()
    if elsewhere.all():
        raise ValueError(f"{source}: every patient of the chosen split is in another one too")
    shared, rest = (
        chosen.take(rows, list(range(len(chosen.classes)))) for rows in (elsewhere, ~elsewhere)
    )
    return rest, (f"left out, since their patients are in another split too: {rows_text(shared)}",)


def draw_calibration(rows: Rows, config: Config) -> np.ndarray:
    """(N,) bool, the images of a random share of the patients."""
    names, codes = np.unique(rows.patients, return_inverse=True)
    rng = np.random.default_rng(config.seed)
    return cut_patients(len(names), config.cal_fraction, rng)[codes]


def refuse(certificates: list[Certificate], calibration: Calibration) -> int:
    """Say why nothing is certified, and the smallest alpha that would be (exit 3)."""
    for found in certificates:
        print(f"alpha {found.alpha}: nothing is certified, {found.reason}", file=sys.stderr)
    if calibration.config.joint:
        print("what is feasible on these rows (needs fresh calibration rows)", file=sys.stderr)
        print("\n".join(joint_frontier(calibration)), file=sys.stderr)
    elif not all(found.trivially_met for found in certificates):
        least = calibration.smallest_alpha()
        hint = "none below 1" if least is None else f"{least} (needs fresh calibration rows)"
        print(f"the smallest certifiable alpha on these rows: {hint}", file=sys.stderr)
    return 3
