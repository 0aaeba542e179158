"""The steps of a calibration: read, choose rows, cut by patient, calibrate, evaluate, write."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from chestxray.conformal import artifacts, output_folder
from chestxray.conformal.apply import in_another_split, take_split
from chestxray.conformal.calibrate import (
    Certificate,
    Rows,
    calibrate,
    risk_table,
    smallest_alpha,
)
from chestxray.conformal.metrics import prediction_sets, realised
from chestxray.conformal.options import FRESH, Config, config_of, unique_alphas
from chestxray.conformal.report import classes_text, head_lines, left_out_note, rows_text
from chestxray.conformal.resplits import cut_patients
from chestxray.conformal.risks import RISKS
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores

FRONTIER = [f"{percent / 100:g}" for percent in range(5, 75, 5)]


def calibrate_and_evaluate(args: argparse.Namespace) -> int:
    """Do what the flags ask for; returns the exit code."""
    alphas = unique_alphas(args.alpha or [])
    config = config_of(args)
    table = select(read_scores(args.csv, exclude=config.leaves_out), args)
    config = replace(config, split=None if table.splits is None else str(table.splits[0]))
    folder = args.out or output_folder.default_folder(args.csv, config)
    if alphas and not args.overwrite:
        digest = file_digest(args.csv)
        output_folder.refuse_other_calibration(folder, config, alphas, args.csv, digest)
    rows = Rows.from_scores(table, args.unit)
    if alphas or args.frontier:
        rows.counting(config)  # refuses what --no-positive error does, before anything is written
    if args.npz and args.npz.exists() and not args.overwrite:
        raise FileExistsError(
            f"{args.npz} exists: --npz names another file, --overwrite replaces it"
        )
    if not alphas:
        print("\n".join(head_lines(classes_text(table.classes), table.notes)))
    if args.npz:
        artifacts.write_npz(args.npz, table)
        print(f"wrote {args.npz}")
    if args.frontier:
        print(frontier(rows, config))
    if not alphas:
        return 0

    calibrates = draw_calibration(rows, config)
    cal = rows.take(calibrates)
    certificates = [calibrate(cal, alpha, config) for alpha in alphas]
    if not any(certificate.certified for certificate in certificates):
        print("\n".join(head_lines(classes_text(table.classes), table.notes)))
        return refuse(certificates, cal, config)
    print("\n".join(artifacts.write(folder, args.csv, table, calibrates, certificates, config)))
    return 0


def select(table: Scores, args: argparse.Namespace) -> Scores:
    """The rows of the split that is asked for."""
    notes = (*table.notes, *left_out_note(table.excluded))
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
    if args.unit == "patient" and table.patients is None:
        raise ValueError(f"{args.csv} has no patient column: --unit image must be typed")
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


def frontier(rows: Rows, config: Config) -> str:
    """The cost of each level on these rows, as a table."""
    losses = risk_table(rows, config)
    units = plural(len(np.unique(rows.units)), config.unit)
    columns = ["size", *(risk.abbreviation for risk in RISKS.values()), "empty"]
    lines = [
        f"{config.target_risk.abbreviation} by {config.method} on {units}, metrics on the same "
        "rows, which cannot calibrate once alpha is chosen on them",
        f"{'alpha':>6}{'threshold':>24}" + "".join(f"{name:>7}" for name in columns),
    ]
    for alpha in FRONTIER:
        certificate = calibrate(rows, alpha, config, losses)
        if not certificate.certified:
            lines.append(f"{alpha:>6}   {certificate.reason}")
            continue
        sets = prediction_sets(rows.scores, certificate)
        found = realised(rows, sets, config, resamples=0)[config.unit]
        values = "".join(
            f"{'n/a' if value is None else format(value, '.3f'):>7}"
            for value in (s.value for s in (found.size, *found.risks.values(), found.empty))
        )
        threshold = certificate.threshold
        where = "by class" if threshold is None else repr(threshold)
        lines.append(f"{alpha:>6}{where:>24}{values}")
    return "\n".join(lines)


def refuse(certificates: list[Certificate], cal: Rows, config: Config) -> int:
    """Say why nothing is certified, and the smallest alpha that would be (exit 3)."""
    for found in certificates:
        print(f"alpha {found.alpha}: nothing is certified, {found.reason}", file=sys.stderr)
    if not all(found.trivially_met for found in certificates):
        least = smallest_alpha(cal, config)
        hint = "none below 1" if least is None else f"{least} (needs fresh calibration rows)"
        print(f"the smallest certifiable alpha on these rows: {hint}", file=sys.stderr)
    return 3
