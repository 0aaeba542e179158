"""One run: where it stands, and how it goes on from a checkpoint.

Runs that continue each other are a line and share one run_id: a stage 1, more epochs of it, a
stage 2 on top.
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

import torch

from chestxray.checkpoints.checkpoint import checkpoint_name
from chestxray.labels import FINDINGS

# Options that a line cannot change, since its images, weights and split depend on them; and those
# that an epoch under way cannot, since its order and its mean loss do.
FIXED_IN_LINEAGE = ("size", "seed", "split_seed")
FIXED_IN_EPOCH = ("max_per_class", "loss_func")


@dataclass
class Run:
    """Where a run stands; the names are those of the checkpoint."""

    run_id: str
    stage: int
    lr: float
    epochs_done: int
    epochs_planned: int
    parent: str | None = None
    images_done: int = 0
    loss_sum: float = 0.0
    seconds_done: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def finish_epoch(self, images: int, figures: dict[str, Any]) -> None:
        """Turn the epoch under way into a record of the history."""
        self.epochs_done += 1
        self.history.append(
            {
                "run_id": self.run_id,
                "stage": self.stage,
                "epoch": self.epochs_done,
                "lr": self.lr,
                "images": images,
                "train_loss": self.loss_sum / images,
                **figures,
                "seconds": round(self.seconds_done, 3),
            }
        )
        self.images_done, self.loss_sum, self.seconds_done = 0, 0.0, 0.0

    def last_epoch(self) -> str:
        """The last record in a line for people."""
        record = self.history[-1]
        line = f"epoch {record['epoch']}/{self.epochs_planned}  loss {record['train_loss']:.4f}"
        if record["val_loss"] is None:
            line += "  no validation images"
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
        checkpoint["images_done"] and typed.get("stage", checkpoint["stage"]) == checkpoint["stage"]
    )
    for name, value in checkpoint["args"].items():
        flag = f"--{name.replace('_', '-')}"
        if name not in typed:
            options[name] = value
        elif typed[name] == value:
            continue
        elif name in FIXED_IN_LINEAGE:
            raise ValueError(
                f"{flag} {typed[name]} is not the checkpoint's {value}, which the whole line "
                "keeps; leave it out, or start a new run"
            )
        elif name in FIXED_IN_EPOCH and within:
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
        run.images_done = checkpoint["images_done"]
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
