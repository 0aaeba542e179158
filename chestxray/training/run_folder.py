"""The output folder of a run: checkpoints, last.pth, best.pth, log.jsonl, curves.png."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from chestxray.checkpoints.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    EpochRecord,
    TableRecord,
    checkpoint_name,
    save,
)
from chestxray.checkpoints.lookup import read_run_id
from chestxray.data.dataset import MEAN, STD
from chestxray.data.entries import Entries
from chestxray.data.splits import Split, check_training_part
from chestxray.labels import CLASSES
from chestxray.models.backbones import default_backbone
from chestxray.options import Options
from chestxray.runtime.files import check_room, link_or_copy, whole_file
from chestxray.runtime.job import Job
from chestxray.runtime.text import join_limited, plural
from chestxray.training.curves import draw_curves
from chestxray.training.run import Run

LOG, CURVES = "log.jsonl", "curves.png"
LogRecord = dict[str, Any]  # a line of log.jsonl, whoever wrote it


def refuse_foreign_files(folder: Path, run: Run) -> None:
    """Refuse a folder where files of another lineage would be replaced.

    The lineage whose last.pth lies in the folder owns it: others' files are there because it was
    started with --overwrite.

    Raises:
        FileExistsError: such files, named.
    """
    owner = read_run_id(folder / LAST) if (folder / LAST).exists() else None
    log = folder / LOG
    records = read_log(log) if log.exists() else []
    ours = bool(records) and all(record.get("run_id") == run.run_id for record in records)
    if owner == run.run_id or (owner is None and ours):  # None: damaged, or gone
        return
    epochs = range(run.epochs_done + 1, run.epochs_planned + 1)
    names = [checkpoint_name(run.stage, run.lr, epoch) for epoch in epochs]
    others = [
        name
        for name in (*names, LAST, BEST)
        if (folder / name).exists() and read_run_id(folder / name) != run.run_id
    ]
    if any(record.get("run_id") != run.run_id for record in records):
        others.append(LOG)
    if others:
        raise FileExistsError(
            f"{join_limited(others)} in {folder} would be replaced and belong to another run; "
            "--output-dir DIR names another folder, --overwrite replaces them"
        )


def check_room_for(model: nn.Module, folder: Path, job: Job) -> None:
    """Raise OSError where the folder cannot take two checkpoints of a model."""
    if job.writes:
        check_room(folder, 2 * checkpoint_bytes(model))


def checkpoint_bytes(model: nn.Module) -> int:
    """Size of a model's checkpoint: its weights, and two moments of those that train."""
    weights = [*model.parameters(), *model.buffers()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum(tensor.nbytes for tensor in [*weights, *trained, *trained])


def open_folder(
    run: Run,
    options: Options,
    job: Job,
    entries: Entries,
    rows: pd.DataFrame,
    stored: Checkpoint | None,
) -> "RunFolder | None":
    """The output folder of a run, for the process that writes; None for the others.

    Args:
        run: where it stands.
        options: of the command.
        job: that trains.
        entries: of the data folder.
        rows: of the images, with the column split.
        stored: the checkpoint that the run continues from.

    Raises:
        ValueError: see check_training_part.
    """
    if stored is not None and run.images_done:
        names = rows["image"][rows["split"] == "train"].to_numpy()
        check_training_part(names, stored.split, entries.fingerprint == stored.table.files)
    template = Checkpoint(
        **vars(run),
        arch=stored.arch if stored else default_backbone().name,
        classes=list(CLASSES),
        split=(
            stored.split
            if stored
            else Split.from_rows(rows, options.split_seed, entries.lists is not None)
        ),
        size=options.size,
        mean=list(MEAN),
        std=list(STD),
        args=options.kept(),
        table=TableRecord(entries.fingerprint, entries.label_counts()),
        precision=job.precision,
        processes=job.processes.size,
    )
    if not job.writes:
        return None
    program, flags = job.processes.command, options.typed_machine_flags()
    return RunFolder(
        options.output,
        template,
        f"{program} --resume{flags}",
        f"{program} --test --ckpt {BEST}{flags}",
    )


class RunFolder:
    """The files of a run in its output folder.

    Args:
        folder: made when missing.
        template: a checkpoint of the run; where it stands and its weights are put in at each save.
        resume_command: finishes the run after a stop.
        test_command: tests its best epoch.
    """

    def __init__(
        self,
        folder: Path,
        template: Checkpoint,
        resume_command: str = "python main.py --resume",
        test_command: str = f"python main.py --test --ckpt {BEST}",
    ) -> None:
        self.folder, self.template = folder, template
        self.resume_command, self.test_command = resume_command, test_command
        self.saved = False  # whether anything of the run is on the disk by now

    def save_epoch(self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
        """Keep a finished epoch: its checkpoint, last.pth, best.pth, log.jsonl and curves.png.

        Returns:
            A line for people: what was reached, and where it lies. After the last planned epoch
            another names the best one.
        """
        path = self.folder / checkpoint_name(run.stage, run.lr, run.epochs_done)
        save(path, self._checkpoint(run, model, optimizer))
        records = self._write_log(run.history)
        if _is_best(run.history[-1], records):
            link_or_copy(path, self.folder / BEST)
        with whole_file(self.folder / CURVES, "wb") as file:
            draw_curves(run.history, file)
        link_or_copy(path, self.folder / LAST)  # at the end: a kill before repeats the epoch
        self.saved = True
        line = f"{run.describe_last_epoch()}  {path}"
        last = run.epochs_done == run.epochs_planned
        return f"{line}\n{self._describe_best(records, run.history[-1])}" if last else line

    def save_partial_epoch(
        self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep an epoch under way, in last.pth."""
        save(self.folder / LAST, self._checkpoint(run, model, optimizer))
        self.saved = True

    def resume_hint(self, run: Run) -> str:
        """Say where a stopped run stands, and the command that finishes it."""
        if not self.saved:
            return "no batch was done, and nothing new is written"
        where = f"after {plural(run.epochs_done, 'epoch')}"
        if run.images_done:
            where += f" and {plural(run.images_done, 'image')} of the next"
        return f"{self.folder / LAST} holds the run {where}; {self.resume_command} finishes it"

    def _describe_best(self, records: list[LogRecord], last: EpochRecord) -> str:
        """Name the best epoch of a lineage, which best.pth holds, and the command that tests it."""
        known = [record for record in records if record["val_auc"] is not None]
        best = max(known or [asdict(last)], key=lambda record: (record["val_auc"], record["epoch"]))
        name = checkpoint_name(best["stage"], best["lr"], best["epoch"])
        why = (
            f"validation AUC {best['val_auc']:.3f}" if known else "the last one: no validation AUC"
        )
        return f"best epoch: {best['epoch']} ({name}, {why}); {self.test_command} tests it"

    def _checkpoint(
        self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> Checkpoint:
        return replace(
            self.template, **vars(run), model=model.state_dict(), optimizer=optimizer.state_dict()
        )

    def _write_log(self, history: list[EpochRecord]) -> list[LogRecord]:
        """Append what the log does not have yet; an epoch that was done again is replaced."""
        path = self.folder / LOG
        logged = read_log(path) if path.exists() else []
        ours = [record for record in logged if record.get("run_id") == history[0].run_id]
        epochs = [*ours, *map(asdict, history)]
        records = {(r["stage"], r["lr"], r["epoch"]): r for r in epochs}
        with whole_file(path) as file:
            file.write("".join(json.dumps(record) + "\n" for record in records.values()))
        return list(records.values())


def _is_best(last: EpochRecord, records: list[LogRecord]) -> bool:
    """Tell whether an epoch has the best validation AUC of its lineage, or none has one."""
    known = [record["val_auc"] for record in records if record["val_auc"] is not None]
    return not known or (last.val_auc is not None and last.val_auc >= max(known))


def read_log(path: Path) -> list[LogRecord]:
    """The records of a log.jsonl.

    Raises:
        ValueError: a line that is not a JSON object.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object")
        records.append(record)
    return records
