"""The inputs of main.py's commands: checkpoint, rows with their split, decoded images."""

import os
from functools import partial
from pathlib import Path

import pandas as pd
from torch import nn

from chestxray.checkpoints.checkpoint import Checkpoint
from chestxray.checkpoints.lookup import Opened, open_to_resume, open_to_test, read_split
from chestxray.data.cache import describe_notes, load_images
from chestxray.data.entries import Entries, read_entries
from chestxray.data.splits import assign_splits, count_seen
from chestxray.data.summary import describe_change, summary
from chestxray.data.workset import Workset, keep_readable
from chestxray.models.network import weights_digest
from chestxray.options import Options
from chestxray.runtime.cli import say
from chestxray.runtime.files import file_digest
from chestxray.runtime.job import Job
from chestxray.runtime.text import plural
from chestxray.scores import ScoresOrigin


def open_checkpoint(options: Options) -> tuple[Options, Opened | None]:
    """Open the checkpoint that --resume or --test names, and take over its options.

    Returns:
        The options, the checkpoint's where none was typed; and the checkpoint, None for a new run.
    """
    if options.test:
        opened = open_to_test(str(options.ckpt), options.output)
    elif options.resume:
        opened = open_to_resume(options.ckpt, options.output)
    else:
        return options, None
    say(*opened.notes)
    stored = opened.checkpoint
    if stored is not None:
        options, differences = options.merged_with(stored.args, stored.images_done > 0)
        if options.resume and not _is_finished(options, stored):
            say(f"resuming from {opened.path}")
        if not _is_finished(options, stored):
            say(*differences)
    return options, opened


def is_finished(options: Options, opened: Opened | None) -> bool:
    """Say and return whether a bare --resume found a run that is done."""
    stored = opened.checkpoint if opened else None
    if opened is None or stored is None or not _is_finished(options, stored):
        return False
    say(f"nothing to finish: {opened.path} has all its {stored.epochs_planned} epochs")
    return True


def _is_finished(options: Options, stored: Checkpoint) -> bool:
    return options.finishes_only and stored.epochs_done >= stored.epochs_planned


def read_rows(options: Options, opened: Opened | None) -> tuple[Entries, pd.DataFrame]:
    """Read the data folder and give each image its part of the split.

    Returns:
        What the folder holds, and its rows with the column split.

    Raises:
        FileNotFoundError, ValueError: see read_entries and assign_splits.
    """
    stored = opened.checkpoint if opened else None
    found = read_entries(Path(options.data_path), Path(options.subset) if options.subset else None)
    say(
        *found.notes,
        *(describe_change(found, stored.table.files, stored.table.labels) if stored else []),
    )
    split = opened.split if opened else None
    rows, notes = assign_splits(
        found, split, options.split_seed, options.test, options.same_patients
    )
    say(*notes, summary(rows, options.test))
    if opened is None:
        say(_describe_weights(options.weights, rows, found.table_names))
    if options.test and options.split != "all":
        rows = rows[rows["split"] == options.split]
    if rows.empty:
        raise ValueError(f"no image of {options.data_path} is in the split {options.split!r}")
    return found, rows


def _describe_weights(weights: str, rows: pd.DataFrame, named: frozenset[str]) -> str | None:
    """Warn where the weights of a file know patients that are held out here."""
    if weights in ("imagenet", "none"):
        return None
    path = Path(weights)
    if not path.exists():
        raise FileNotFoundError(
            f"the weights {path} were not found; --weights takes imagenet, none or a file"
        )
    split = read_split(path)
    if split is None:
        return f"weights from {path}, which does not say which images they were trained on"
    seen = count_seen(rows, named, split)
    if seen is None:
        return f"weights from {path}, trained on no image here: their patients are other people"
    if not seen:
        return f"weights from {path}; it trained on no patient that is held out here"
    return (
        f"warning: weights from {path}, trained or chosen on {plural(seen, 'patient')} of "
        "validation and test here: their scores are no test; the same --split-seed keeps them apart"
    )


def read_images(options: Options, rows: pd.DataFrame, job: Job) -> Workset:
    """Decode the images of rows, or take them from the cache.

    Raises:
        ValueError: images that cannot be read, without --skip-bad-images.
        OSError: the cache cannot be written; a decoding process died.
    """
    with job.processes.local_rank_first(job.stop.check, at_once=options.no_cache):
        images = load_images(
            rows["path"].tolist(),
            options.size,
            source=Path(options.data_path),
            cache_dir=options.cache,
            workers=options.decoders,
            check=job.stop.check,
            bits=options.bits,
        )
    say(*describe_notes(images.notes))
    workset, notes = keep_readable(rows, images, options.skip_bad_images)
    say(*notes)
    return workset


def check_same(
    options: Options, opened: Opened | None, network: nn.Module, images: Workset, job: Job
) -> None:
    """Raise ValueError where a process of the job has other inputs than the first."""
    job.check_same(
        options=options.describe,
        checkpoint=opened.digest if opened else str,
        weights=partial(weights_digest, network),
        images=images.digest,
    )


def _digest(subset: str | None) -> str | None:
    """The SHA-256 of a list of images; None without one, and where it is missing, said later."""
    return file_digest(Path(subset)) if subset and Path(subset).is_file() else None


def scores_origin(options: Options, opened: Opened, path: Path) -> ScoresOrigin:
    """Say and return what a scores CSV comes from, as its metrics file states it."""
    stored = opened.checkpoint
    origin = ScoresOrigin(
        scores=path.name,
        checkpoint=opened.path.name,
        checkpoint_sha256=opened.digest(),
        split=options.split,
        run_id=opened.run_id,
        stage=stored.stage if stored else None,
        epochs_done=stored.epochs_done if stored else None,
        data_path=os.path.realpath(options.data_path),
        subset=_digest(options.subset),
        bits=options.bits,
        same_patients=options.same_patients,
    )
    say(*(f"note: {note}" for note in origin.notes[1:]))
    return origin
