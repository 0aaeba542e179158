"""The steps of a comparison: read, pair, calibrate each file, evaluate, write."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from chestxray.auc import undefined_aucs
from chestxray.conformal import comparison_page, comparison_plot, output_folder, plots
from chestxray.conformal.artifacts import (
    about_the_cut,
    declared,
    dependence,
    not_fresh,
    started_within,
)
from chestxray.conformal.calibrate import Calibration
from chestxray.conformal.certificate import Certificate
from chestxray.conformal.command import draw_calibration, select
from chestxray.conformal.compare import ENSEMBLE
from chestxray.conformal.comparison_page import Comparison, Level
from chestxray.conformal.differences import compare_aucs, compare_sets
from chestxray.conformal.metrics import RESAMPLES
from chestxray.conformal.options import Config, config_of, levels_of
from chestxray.conformal.paired_files import ScoresFile, mean_of, paired, same_files
from chestxray.conformal.report import classes_text, guarantee, rows_text
from chestxray.conformal.report_page import head_lines
from chestxray.conformal.rows import Rows
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import Scores, read_scores, write_scores

_CHOICE = (
    "each promise is for one file by itself; choosing the better one on these evaluation patients "
    "is a choice, after which its metrics here flatter it and its promise needs fresh rows"
)


def compare(args: argparse.Namespace) -> int:
    """Do what the flags ask for; returns the exit code."""
    config = config_of(args)
    if args.ensemble:
        _refuse_existing(args.ensemble, args.overwrite)
    files = [_read(path, name, args) for path, name in zip(args.csvs, args.names, strict=True)]
    _check_excluded(files, args.exclude)
    notes = same_files(files)
    mean = None
    if args.ensemble:
        mean, said = mean_of(files)
        notes += said
    if args.alpha:
        return _compare(files, mean, notes, args, config)
    assert mean is not None  # one of the two was asked for
    print("\n".join(head_lines(classes_text(mean.classes), [*notes, *_notes(files)])))
    print(_write_mean(args.ensemble, mean, files))
    return 0


def _compare(
    files: list[ScoresFile],
    mean: Scores | None,
    notes: list[str],
    args: argparse.Namespace,
    config: Config,
) -> int:
    """Calibrate and evaluate each file and the mean on the same patients."""
    entered = list(files)
    if mean is not None:
        entered.append(ScoresFile(ENSEMBLE, args.ensemble, None, mean))
    chosen, left_out = paired([_selected(file, args, config) for file in entered])
    config = replace(config, split=_split(chosen))
    alphas = levels_of(args)
    folder = args.out or output_folder.default_folder(args.csvs[0].with_name("compare"), config)
    compared = _compared(files, [file.name for file in chosen], alphas, config)
    if not args.overwrite:
        output_folder.refuse_another(folder, "comparison", compared)
    rows = [Rows.from_scores(file.table, config.unit) for file in chosen]
    rows[0].counting(config.target_risk)  # refuses what --no-positive error does, of any file
    calibrates = draw_calibration(rows[0], config)
    if calibrates.all():
        raise ValueError(f"all images are of one {rows[0].cut_by}: nobody is left to evaluate on")
    cal = [Calibration(own.take(calibrates), config) for own in rows]
    certificates = [[own.certificate(alpha) for own in cal] for alpha in alphas]
    notes = [*notes, *left_out, *_notes(chosen)]
    if not any(found.certified for level in certificates for found in level):
        print("\n".join(head_lines(classes_text(chosen[0].table.classes), notes)))
        return _refuse(chosen, cal, certificates)
    comparison = _evaluated(chosen, rows, calibrates, certificates, config)
    comparison = replace(comparison, notes=[*notes, *comparison.notes], compared=compared)
    said = [*comparison_page.lines(comparison), _write(folder, comparison, args)]
    if mean is not None:
        said.append(_write_mean(args.ensemble, mean, files))
    print("\n".join(said))
    return 0


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder: --ensemble names a file")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists: --ensemble names another file, --overwrite replaces it"
        )


def _read(path: Path, name: str, args: argparse.Namespace) -> ScoresFile:
    """A scores file with the classes that are needed; the mean has No Finding, too."""
    leaves_out = config_of(args).leaves_out

    def excluded(column: str) -> bool:
        return column in args.exclude if args.ensemble else leaves_out(column)

    table = read_scores(path, labels=bool(args.alpha), exclude=excluded)
    return ScoresFile(name, path, file_digest(path), table)


def _check_excluded(files: list[ScoresFile], names: list[str]) -> None:
    """Refuse a class of --exclude that no file has."""
    known = list(dict.fromkeys(n for f in files for n in (*f.table.classes, *f.table.excluded)))
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"--exclude {join_limited(unknown)}: the classes are {join_limited(known, 20)}"
        )


def _selected(file: ScoresFile, args: argparse.Namespace, config: Config) -> ScoresFile:
    """The rows of the split and the classes that count, as a calibration takes them."""
    table = file.table
    counts = [k for k, name in enumerate(table.classes) if not config.leaves_out(name)]
    others = [name for name in table.classes if config.leaves_out(name)]
    if not counts:
        raise ValueError(f"{file.path}: no class is left of {join_limited(table.classes, 20)}")
    counted = table.take(np.ones(len(table.image_names), dtype=bool), counts)
    counted = replace(counted, excluded=(*table.excluded, *others))
    known = [name for name in args.exclude if name in counted.excluded]
    own = argparse.Namespace(**vars(args) | {"csv": file.path, "exclude": known})
    return replace(file, table=select(counted, own))


def _split(files: list[ScoresFile]) -> str | None:
    """The split that the rows are of; None where no file tells."""
    told = (str(file.table.splits[0]) for file in files if file.table.splits is not None)
    return next(told, None)


def _notes(files: list[ScoresFile]) -> list[str]:
    """What reading and selecting said: once where it is of all files, else with the file's name."""
    everywhere = set.intersection(*(set(file.table.notes) for file in files))
    said = [
        note if note in everywhere else f"{file.name}: {note}"
        for file in files
        for note in file.table.notes
    ]
    return list(dict.fromkeys(said))


def _compared(
    files: list[ScoresFile], names: list[str], alphas: list[str], config: Config
) -> dict[str, object]:
    """What was compared, by which a later comparison is told to be another one."""
    return {
        "files": [file.path.name for file in files],
        "sha256": [file.digest for file in files],
        "names": names,
        "alpha": [float(alpha) for alpha in alphas],
        **config.to_json(),
    }


def _refuse(
    files: list[ScoresFile],
    calibrations: list[Calibration],
    certificates: list[list[Certificate]],
) -> int:
    """Say why nothing is certified, and the smallest alpha of each file that would be (exit 3)."""
    for level in certificates:
        for file, found in zip(files, level, strict=True):
            said = f"{file.name}, alpha {found.alpha}: nothing is certified, {found.reason}"
            print(said, file=sys.stderr)
    for file, calibration in zip(files, calibrations, strict=True):
        least = calibration.smallest_alpha()
        hint = "none below 1" if least is None else f"{least} (needs fresh calibration rows)"
        said = f"{file.name}: the smallest certifiable alpha on these rows: {hint}"
        print(said, file=sys.stderr)
    return 3


def _evaluated(
    files: list[ScoresFile],
    rows: list[Rows],
    calibrates: np.ndarray,
    certificates: list[list[Certificate]],
    config: Config,
) -> Comparison:
    """Everything that is said about the files, but how they were read."""
    first, classes = files[0].table, files[0].table.classes
    evaluates = [own.take(~calibrates) for own in rows]
    seen = not_fresh("calibrated on", [config.split or ""], config)
    everything = list(range(len(classes)))
    sides = [rows_text(first.take(side, everything)) for side in (calibrates, ~calibrates)]
    risk, method = config.target_risk.abbreviation, config.method.upper()
    names = tuple(file.name for file in files)
    return Comparison(
        title=f"{risk} control of {join_limited(names, most=len(names))} by {method}",
        names=names,
        classes=classes_text(classes),
        rows=f"Each file calibrated on the same {sides[0]}, evaluated on the same {sides[1]}; the "
        f"unit is the {config.unit}.",
        notes=[
            *declared(config),
            about_the_cut(config),
            *_started_by(rows[0].take(calibrates), config),
            *_undefined(evaluates[0].targets, classes),
            _about_intervals(evaluates[0]),
            _CHOICE,
        ],
        warnings=seen + dependence(rows[0].take(calibrates), config),
        promise_holds=not seen,
        config=config,
        aucs=compare_aucs(evaluates, classes, config.seed),
        levels=[_level(found, evaluates, config, bool(seen)) for found in certificates],
    )


def _started_by(cal: Rows, config: Config) -> list[str]:
    """Say who chose where the tests start, the same for every file."""
    if not config.needs_start:
        return []
    starters = cal.patients[cal.starters()]
    return [started_within(plural(len(np.unique(starters)), cal.cut_by))]


def _undefined(targets: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    reasons = undefined_aucs(targets, classes).items()
    return [f"no AUC of {name}: {why} among the evaluation images" for name, why in reasons]


def _about_intervals(rows: Rows) -> str:
    drawn = plural(len(np.unique(rows.patients)), rows.cut_by)
    return (
        f"intervals are of 95 %, from {RESAMPLES:,} resamples of the {drawn} that evaluate, the "
        "same for AUC and sets of all files; each is meant alone, not all at once"
    )


def _level(
    certificates: list[Certificate], rows: list[Rows], config: Config, doubted: bool
) -> Level:
    """The answers for one alpha, and the promise that all files have alike."""
    certified = [found for found in certificates if found.certified]
    caveat = "No promise holds, see the warnings; without them it would read: " if doubted else ""
    promise = caveat + guarantee(certified[0], config) if certified else None
    found = compare_sets(rows, certificates, config)
    return Level(certificates[0].alpha, promise, certificates, found)


def _write(folder: Path, comparison: Comparison, args: argparse.Namespace) -> str:
    contents: dict[str, str | bytes] = {
        **comparison_page.contents_of(comparison),
        **plots.files(comparison_plot.draw(comparison), "comparison", ("png",)),
    }
    sources = [*args.csvs, *([args.ensemble] if args.ensemble else [])]
    output_folder.save(folder, contents, *sources)
    return f"wrote {folder}/: {join_limited(contents)}"


def _write_mean(path: Path, mean: Scores, files: list[ScoresFile]) -> str:
    write_scores(path, mean)
    names = join_limited((file.name for file in files), most=len(files))
    return f"wrote {path}: the mean logit of {names}, {rows_text(mean)}"
