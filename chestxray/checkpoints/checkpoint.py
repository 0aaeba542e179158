"""A checkpoint: its content and its name, written and read whole or not at all.

A checkpoint is a zip of tensors and plain values that `torch.load(weights_only=True)` reads, so
that opening one runs no code (chestxray/checkpoints/schema.py has each key's kind and range).
"""

import platform
import re
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import chestxray
from chestxray.checkpoints import safe_load, schema
from chestxray.data.splits import Split
from chestxray.labels import CLASSES
from chestxray.models.backbones import BACKBONES, default_backbone
from chestxray.runtime.files import whole_file
from chestxray.runtime.text import join_limited

FORMAT = 3
LAST, BEST = "last.pth", "best.pth"
NAME = re.compile(r"stage([1-4])_(\d+)_(\d{2,})\.pth")


@dataclass(frozen=True)
class EpochRecord:
    """A finished epoch, as log.jsonl has it; None where there was nothing to validate on."""

    run_id: str
    stage: int
    epoch: int  # counted from 1 across stages
    lr: float
    images: int  # seen in training
    train_loss: float
    val_loss: float | None
    val_auc: float | None  # mean over the findings that have both values
    val_classes: int  # how many findings those are
    seconds: float


@dataclass(frozen=True)
class TableRecord:
    """The label tables of a run: SHA-256 by file name, images by class."""

    files: dict[str, str]
    labels: dict[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """A run between two batches, with all that resuming takes; its fields are the file's keys.

    Attributes:
        run_id: of the lineage.
        arch, classes: of the network.
        stage, lr, epochs_done, epochs_planned: where the run stands.
        images_done, loss_sum, seconds_done: of the epoch under way; 0 between epochs.
        parent: the checkpoint that the run began from; None for a first stage.
        split: of the lineage.
        size, mean, std: of the images that the network sees.
        args: the options of the run that are not this machine's.
        model, optimizer: state dicts.
        history: the records of log.jsonl.
        versions, threads, precision: of program and libraries; CPU threads; fp32 or bf16.
        processes: that shared the batches.
        table: the label tables.
    """

    run_id: str
    classes: list[str]
    stage: int
    lr: float
    epochs_done: int
    epochs_planned: int
    parent: str | None
    split: Split
    size: int
    mean: list[float]
    std: list[float]
    args: dict[str, object]
    table: TableRecord
    precision: str
    processes: int
    images_done: int = 0
    loss_sum: float = 0.0
    seconds_done: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)
    model: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    threads: int = field(default_factory=torch.get_num_threads)
    arch: str = field(default_factory=lambda: default_backbone().name)
    format: int = FORMAT

    def to_plain(self) -> dict[str, Any]:
        """Plain values and tensors by key, as the file holds them."""
        plain = {key.name: getattr(self, key.name) for key in fields(self)}
        records = [asdict(record) for record in self.history]
        return plain | {
            "split": self.split.to_plain(),
            "history": records,
            "table": asdict(self.table),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Checkpoint":
        """Build a checkpoint from what `to_plain` gives, checked before."""
        history = [EpochRecord(**record) for record in plain["history"]]
        typed = {
            "split": Split.from_plain(plain["split"]),
            "history": history,
            "table": TableRecord(**plain["table"]),
        }
        return cls(**plain | typed)


def lr_digits(lr: float) -> str:
    """Digits of a learning rate below 1 after "0.": 1e-4 gives "0001", 1e-5 "00001"."""
    return format(Decimal(repr(lr)), "f").partition(".")[2]


def checkpoint_name(stage: int, lr: float, epochs_done: int) -> str:
    """Name of a checkpoint: stage1_0001_04.pth is stage 1 at lr 1e-4 after four epochs in all."""
    return f"stage{stage}_{lr_digits(lr)}_{epochs_done:02d}.pth"


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint under its final name, whole or not at all.

    Raises:
        ValueError: weights that are not finite, which must not replace good ones.
        OSError: see whole_file.
    """
    try:
        safe_load.check_finite(path, "weights", checkpoint.model)
    except ValueError as error:
        raise ValueError(f"not saved: {error}") from error
    with whole_file(path, "wb") as file:
        torch.save(checkpoint.to_plain(), file)


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint of ours; tensors lie on the CPU.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: not a checkpoint of ours, damaged, of another format, with a key that is missing
            or whose value is not allowed, of another network or other classes, or with numbers
            that are not finite.
    """
    return verified(path, safe_load.read(path))


def verified(path: Path, content: Any) -> Checkpoint:
    """Check what a file holds key by key; errors as in load."""
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(_describe_foreign(path, content))
    if type(content["format"]) is int and content["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}, this program reads format {FORMAT}: it was "
            f"written by {'a newer' if content['format'] > FORMAT else 'an unreleased'} version"
        )
    if isinstance(content.get("args"), dict):
        content["args"].setdefault("bits", 16)  # a file of before that option
    try:
        schema.check(content)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error}") from error
    if content["arch"] not in BACKBONES:
        raise ValueError(
            f"{path} is of the network {content['arch']!r}; this program has "
            f"{join_limited(list(BACKBONES))}"
        )
    if sorted(content["classes"]) != sorted(CLASSES):
        strange = sorted(set(content["classes"]) ^ set(CLASSES)) or content["classes"]
        raise ValueError(
            f"{path} has other classes than this program's 15; they differ in "
            f"{join_limited(strange, most=20)}"
        )
    if content["images_done"] > content["split"]["train"]["images"].count("\n") + 1:
        raise ValueError(
            f"{path}: images_done is {content['images_done']}, and fewer images are for training"
        )
    safe_load.check_finite(path, "weights", content["model"])
    for number, moments in content["optimizer"]["state"].items():
        safe_load.check_finite(path, f"moments of parameter {number},", moments)
    return Checkpoint.from_plain(content)


def _describe_foreign(path: Path, content: Any) -> str:
    """Why a file of another program cannot be resumed, and what can be done with it."""
    held = isinstance(content, dict) and any("optim" in str(key) for key in content)
    state = "its optimizer state is not ours" if held else "it has no optimizer state"
    return (
        f"{path} is not a checkpoint of this program (it has no format) and cannot be resumed: "
        f"{state}; if its weights are a ResNet-50's, --weights {path} starts a new run with them, "
        "and --test scores them"
    )


def versions() -> dict[str, str]:
    """Versions of the program and its libraries, and the instructions that this CPU has."""
    names = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pillow")
    return {
        "chestxray": chestxray.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
