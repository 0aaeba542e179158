"""One run: where it stands, how a checkpoint continues it, and the files that it keeps.

Runs that continue each other are a line and share one run_id: a stage 1, more epochs of it, a
stage 2 on top.
"""

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chestxray.checkpoint import BEST, LAST, checkpoint_name, run_of, save
from chestxray.files import link_or_copy, whole_file
from chestxray.labels import FINDINGS
from chestxray.plots import draw_curves
from chestxray.wording import counted, listed

LOG, CURVES = "log.jsonl", "curves.png"
# Options that a line cannot change, since its pictures, weights and split depend on them; and those
# that an epoch under way cannot, since its order and its mean loss do.
_OF_THE_LINE = ("size", "seed", "split_seed")
_OF_THE_EPOCH = ("max_per_class", "loss_func")


@dataclass
class Run:
    """Where a run stands; the names are those of the checkpoint."""

    run_id: str
    stage: int
    lr: float
    epochs_done: int
    epochs_planned: int
    parent: str | None = None
    pictures_done: int = 0
    loss_sum: float = 0.0
    seconds_done: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def finish_epoch(self, pictures: int, figures: dict[str, Any]) -> None:
        """Turn the epoch under way into a record of the history."""
        self.epochs_done += 1
        self.history.append(
            {
                "run_id": self.run_id,
                "stage": self.stage,
                "epoch": self.epochs_done,
                "lr": self.lr,
                "pictures": pictures,
                "train_loss": self.loss_sum / pictures,
                **figures,
                "seconds": round(self.seconds_done, 3),
            }
        )
        self.pictures_done, self.loss_sum, self.seconds_done = 0, 0.0, 0.0

    def last_epoch(self) -> str:
        """The last record in a line for people."""
        record = self.history[-1]
        line = f"epoch {record['epoch']}/{self.epochs_planned}  loss {record['train_loss']:.4f}"
        if record["val_loss"] is None:
            line += "  no validation pictures"
        else:
            line += f"  validation loss {record['val_loss']:.4f}  AUC "
            line += "n/a" if record["val_auc"] is None else f"{record['val_auc']:.3f}"
            line += f" ({record['val_classes']} of {len(FINDINGS)} findings)"
        return f"{line}  {record['seconds']:.0f} s"


def new_run(lr: float, epochs: int) -> Run:
    """A first stage from its first weights."""
    return Run(secrets.token_hex(8), stage=1, lr=lr, epochs_done=0, epochs_planned=epochs)


def restore_options(
    options: dict[str, Any], typed: dict[str, Any], checkpoint: dict[str, Any]
) -> list[str]:
    """Fill `options` with those of a checkpoint where nothing was typed.

    Returns:
        The differences, as a user reads them.

    Raises:
        ValueError: a typed option that the line cannot change.
    """
    differences = []
    within = (
        checkpoint["pictures_done"]
        and typed.get("stage", checkpoint["stage"]) == checkpoint["stage"]
    )
    for name, value in checkpoint["args"].items():
        flag = f"--{name.replace('_', '-')}"
        if name not in typed:
            options[name] = value
        elif typed[name] == value:
            continue
        elif name in _OF_THE_LINE:
            raise ValueError(
                f"{flag} {typed[name]} is not the checkpoint's {value}, which the whole line "
                "keeps; leave it out, or start a new run"
            )
        elif name in _OF_THE_EPOCH and within:
            raise ValueError(
                f"{flag} {typed[name]} is not the checkpoint's {value}, which the epoch under way "
                "keeps; leave it out, or go on from the checkpoint of a finished epoch"
            )
        elif name == "weights":
            options[name] = value  # it also says what stage 1 trains
            differences.append(
                f"{flag} {typed[name]} has no effect: the weights come from the checkpoint, whose "
                f"line began with {value}"
            )
        else:
            differences.append(f"{flag} {typed[name]} instead of the checkpoint's {value}")
    return differences


def continue_run(checkpoint: dict[str, Any], options: dict[str, Any], more: bool) -> Run:
    """The run that goes on from a checkpoint.

    Another stage is a new run, between epochs. The same stage goes on where it stands: to the
    planned end if it has not reached that and `more` is off, else by `epochs` from here.

    Args:
        checkpoint: as loaded.
        options: `stage`, `lr` and `epochs` of the run to come.
        more: `epochs` was typed.
    """
    done, planned = checkpoint["epochs_done"], checkpoint["epochs_planned"]
    run = Run(
        run_id=checkpoint["run_id"],
        stage=options["stage"],
        lr=options["lr"],
        epochs_done=done,
        epochs_planned=done + options["epochs"],
        parent=checkpoint_name(checkpoint["stage"], checkpoint["lr"], done),
        history=list(checkpoint["history"]),
    )
    if options["stage"] == checkpoint["stage"]:
        if done < planned:
            run.parent = checkpoint["parent"]
            run.epochs_planned = run.epochs_planned if more else planned
        run.pictures_done = checkpoint["pictures_done"]
        run.loss_sum = checkpoint["loss_sum"]
        run.seconds_done = checkpoint["seconds_done"]
    return run


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on with the moments of a checkpoint; all else of the optimizer is this run's.

    Raises:
        ValueError: they are not those of the parameters that this stage trains.
    """
    (group,) = optimizer.param_groups
    moments = state["state"]
    if sorted(moments) != list(range(len(group["params"]))) or any(
        moments[number].keys() != {"step", "exp_avg", "exp_avg_sq"}
        or any(moments[number][name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq"))
        for number, parameter in enumerate(group["params"])
    ):
        raise ValueError(
            "the checkpoint's moments of Adam are not those of the parameters that its stage trains"
        )
    own = {**group, "params": list(range(len(moments)))}
    optimizer.load_state_dict({"state": moments, "param_groups": [own]})


def claim(folder: Path, run: Run) -> None:
    """Refuse to go on where files of another line would be replaced.

    A line whose last.pth lies in the folder owns it: others' files are there because it was begun
    with --overwrite.

    Raises:
        FileExistsError: names them.
    """
    owner = run_of(folder / LAST) if (folder / LAST).exists() else None
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
        if (folder / name).exists() and run_of(folder / name) != run.run_id
    ]
    if any(record.get("run_id") != run.run_id for record in records):
        others.append(LOG)
    if others:
        raise FileExistsError(
            f"{listed(others)} in {folder} would be replaced and belong to another run; "
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

    def save_within(self, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep an epoch under way, in last.pth."""
        save(self.folder / LAST, self._checkpoint(run, model, optimizer))
        self.saved = True

    def way_on(self, run: Run, command: str, options: str) -> str:
        """Where a stopped run stands, and the command that finishes it.

        Args:
            run: as it stopped.
            command: what starts the program.
            options: what else to type, since no checkpoint keeps it.
        """
        if not self.saved:
            return "no batch was done, and nothing new is written"
        where = f"after {counted(run.epochs_done, 'epoch')}"
        if run.pictures_done:
            where += f" and {counted(run.pictures_done, 'picture')} of the next"
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
