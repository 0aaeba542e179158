"""The output folder of a run: checkpoints, last.pth, best.pth, log.jsonl, curves.png."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chestxray.checkpoints.checkpoint import BEST, LAST, checkpoint_name, save
from chestxray.checkpoints.lookup import read_run_id
from chestxray.runtime.files import link_or_copy, whole_file
from chestxray.runtime.text import join_limited, plural
from chestxray.training.curves import draw_curves
from chestxray.training.run import Run

LOG, CURVES = "log.jsonl", "curves.png"


def refuse_foreign_files(folder: Path, run: Run) -> None:
    """Refuse to go on where files of another line would be replaced.

    A line whose last.pth lies in the folder owns it: others' files are there because it was begun
    with --overwrite.

    Raises:
        FileExistsError: names them.
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


def checkpoint_bytes(model: nn.Module) -> int:
    """What a checkpoint of a model takes: its weights, and two moments of those that train."""
    weights = [*model.parameters(), *model.buffers()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum(tensor.nbytes for tensor in [*weights, *trained, *trained])


class RunFolder:
    """The output folder of a run.

    Args:
        folder: made when missing.
        fixed: what every checkpoint of the run says besides where it stands and its weights.
    """

    def __init__(self, folder: Path, fixed: dict[str, Any]) -> None:
        self.folder, self.fixed = folder, fixed
        self.saved = False  # whether anything of the run is on the disk by now

    def save_epoch(self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
        """Keep a finished epoch: its checkpoint, last.pth, best.pth, log.jsonl and curves.png.

        Returns:
            What was reached and kept, in a line for people.
        """
        path = self.folder / checkpoint_name(run.stage, run.lr, run.epochs_done)
        save(path, self._checkpoint(run, model, optimizer))
        records = self._write_log(run)
        if _last_is_best(run.history[-1], records):
            link_or_copy(path, self.folder / BEST)
        with whole_file(self.folder / CURVES, "wb") as file:
            draw_curves(run.history, file)
        link_or_copy(path, self.folder / LAST)  # at the end: a kill before repeats the epoch
        self.saved = True
        return f"{run.last_epoch()}  {path}"

    def save_partial_epoch(
        self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep an epoch under way, in last.pth."""
        save(self.folder / LAST, self._checkpoint(run, model, optimizer))
        self.saved = True

    def resume_hint(self, run: Run, command: str, options: str) -> str:
        """Where a stopped run stands, and the command that finishes it.

        Args:
            run: as it stopped.
            command: what starts the program.
            options: what else to type, since no checkpoint keeps it.
        """
        if not self.saved:
            return "no batch was done, and nothing new is written"
        where = f"after {plural(run.epochs_done, 'epoch')}"
        if run.images_done:
            where += f" and {plural(run.images_done, 'image')} of the next"
        return (
            f"{self.folder / LAST} holds the run {where}; {command} --resume{options} finishes it"
        )

    def _checkpoint(
        self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        return {
            **self.fixed,
            **asdict(run),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    def _write_log(self, run: Run) -> list[dict[str, Any]]:
        """Append what the log does not have yet; an epoch that was done again is replaced."""
        path = self.folder / LOG
        before = (
            [r for r in read_log(path) if r.get("run_id") == run.run_id] if path.exists() else []
        )
        records = {(r["stage"], r["lr"], r["epoch"]): r for r in [*before, *run.history]}
        with whole_file(path) as file:
            file.write("".join(json.dumps(record) + "\n" for record in records.values()))
        return list(records.values())


def _last_is_best(last: dict[str, Any], records: list[dict[str, Any]]) -> bool:
    """Whether an epoch has the best validation AUC of its line, or none has one."""
    known = [record["val_auc"] for record in records if record["val_auc"] is not None]
    return not known or (last["val_auc"] is not None and last["val_auc"] >= max(known))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl.

    Raises:
        ValueError: a line that is no JSON object.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number} is no JSON object")
        records.append(record)
    return records
