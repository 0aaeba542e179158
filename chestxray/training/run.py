"""The state of a run, and how it continues from a checkpoint.

Runs that continue each other are a lineage and share one run id: a stage 1, more epochs of it, a
stage 2 on top.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from chestxray.checkpoints.checkpoint import Checkpoint, EpochRecord, checkpoint_name
from chestxray.checkpoints.lookup import describe_other_machine
from chestxray.labels import FINDINGS
from chestxray.models.backbones import BACKBONES, DEFAULT_BACKBONE
from chestxray.models.network import trains_on_one
from chestxray.options import Options, refuse_usage
from chestxray.runtime.job import Job
from chestxray.runtime.text import join_limited


@dataclass(frozen=True)
class Validation:
    """Metrics of the validation images; None where there are none.

    Attributes:
        val_loss: mean loss.
        val_auc: mean ROC AUC over the findings that have both values.
        val_classes: how many findings those are.
    """

    val_loss: float | None
    val_auc: float | None
    val_classes: int


@dataclass
class Run:
    """The state of a run; its names are those of the checkpoint."""

    run_id: str
    stage: int
    lr: float
    epochs_done: int
    epochs_planned: int
    parent: str | None = None
    images_done: int = 0
    loss_sum: float = 0.0
    seconds_done: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)

    def position(self) -> tuple[int, int]:
        """Epochs done, and images done of the epoch under way."""
        return self.epochs_done, self.images_done

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds of the block as the epoch's, unless an exception ends it."""
        began = time.monotonic()
        yield
        self.seconds_done += time.monotonic() - began

    def finish_epoch(self, images: int, validation: Validation) -> None:
        """Turn the epoch under way into a record of the history."""
        self.epochs_done += 1
        self.history.append(
            EpochRecord(
                run_id=self.run_id,
                stage=self.stage,
                epoch=self.epochs_done,
                lr=self.lr,
                images=images,
                train_loss=self.loss_sum / images,
                **asdict(validation),
                seconds=round(self.seconds_done, 3),
            )
        )
        self.images_done, self.loss_sum, self.seconds_done = 0, 0.0, 0.0

    def describe_last_epoch(self) -> str:
        """The last record in a line for people."""
        record = self.history[-1]
        line = f"epoch {record.epoch}/{self.epochs_planned}  loss {record.train_loss:.4f}"
        if record.val_loss is None:
            line += "  no validation images"
        else:
            line += f"  validation loss {record.val_loss:.4f}  AUC "
            line += "n/a" if record.val_auc is None else f"{record.val_auc:.3f}"
            line += f" ({record.val_classes} of {len(FINDINGS)} findings)"
        return f"{line}  {record.seconds:.0f} s"


def new_run(lr: float, epochs: int) -> Run:
    """A first stage from its first weights."""
    return Run(secrets.token_hex(8), stage=1, lr=lr, epochs_done=0, epochs_planned=epochs)


def start_run(options: Options, stored: Checkpoint | None) -> Run:
    """The run that a command starts, or continues from a checkpoint.

    A batch size with which BatchNorm cannot train is wrong usage.
    """
    backbone = BACKBONES[stored.arch if stored else DEFAULT_BACKBONE]
    scratch = options.weights == "none"
    if options.bs == 1 and not trains_on_one(options.size, options.stage, scratch, backbone):
        refuse_usage(
            f"--bs 1 does not train stage {options.stage} at --size {options.size}: BatchNorm sees "
            "one value of a channel and needs two; --bs 2 does, and so does a larger --size"
        )
    if stored is None:
        return new_run(options.lr, options.epochs)
    more = "epochs" in options.typed
    return continue_run(stored, options.stage, options.lr, options.epochs, more)


def describe_start(options: Options, run: Run, stored: Checkpoint | None, job: Job) -> list[str]:
    """Say what a new stage trains, what it does not take over, where numbers may differ."""
    notes = describe_other_machine(stored, job.precision, job.processes.size) if stored else []
    if stored and stored.images_done and not run.images_done:
        notes.append("the epoch under way is not counted: a new stage begins between epochs")
    if stored is None or stored.stage != run.stage:
        backbone = BACKBONES[stored.arch if stored else DEFAULT_BACKBONE]
        trained = backbone.trained(run.stage, options.weights == "none")
        frozen = " (all layers)" if trained[:-1] == tuple(backbone.body) else "; the rest is frozen"
        notes.append(f"stage {run.stage} trains {join_limited(trained)}{frozen}")
    return notes


def continue_run(stored: Checkpoint, stage: int, lr: float, epochs: int, more: bool) -> Run:
    """The run that continues from a checkpoint.

    Another stage is a new run, between epochs. The same stage continues where it stands: to the
    planned end if it has not reached that and `more` is off, else by `epochs` from here.

    Args:
        stored: the checkpoint.
        stage, lr, epochs: of the run to come.
        more: `epochs` was typed.
    """
    done = stored.epochs_done
    run = Run(
        run_id=stored.run_id,
        stage=stage,
        lr=lr,
        epochs_done=done,
        epochs_planned=done + epochs,
        parent=checkpoint_name(stored.stage, stored.lr, done),
        history=list(stored.history),
    )
    if stage == stored.stage:
        if done < stored.epochs_planned:
            run.parent = stored.parent
            run.epochs_planned = run.epochs_planned if more else stored.epochs_planned
        run.images_done = stored.images_done
        run.loss_sum = stored.loss_sum
        run.seconds_done = stored.seconds_done
    return run


def make_optimizer(
    parameters: list[nn.Parameter], run: Run, stored: Checkpoint | None
) -> torch.optim.Optimizer:
    """Adam on the parameters that train, with a checkpoint's moments where its stage continues."""
    optimizer = torch.optim.Adam(parameters, lr=run.lr, fused=True)
    if stored is not None and stored.stage == run.stage:
        restore_optimizer(optimizer, stored.optimizer)
    return optimizer


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of a checkpoint; all else of the optimizer is this run's.

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
