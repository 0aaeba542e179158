"""A plain dict -> .pth and back, whole or not at all; and which file a name means.

A checkpoint is a zip of tensors and plain values that `torch.load(weights_only=True)` reads, so
that opening one runs no code (chestxray/checkpoints/schema.py has each key's kind and range):

    format 3 | run_id | arch | classes | stage | lr | epochs_done | epochs_planned
    images_done, loss_sum, seconds_done   of the epoch under way; 0 between epochs
    parent      the checkpoint that the run began from, None for a first stage from scratch
    split       see chestxray.data.splits.Split.to_plain
    size, mean, std                         of the images that the network sees
    args        the options of the run that are not this machine's
    model, optimizer                        state dicts
    history     the records of log.jsonl
    versions, threads, precision            of program and libraries; CPU threads; fp32 or bf16
    processes                               that shared the batches
    table       SHA-256 of the label tables, images by class
"""

import platform
import re
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import chestxray
from chestxray.checkpoints import safe_load, schema
from chestxray.labels import CLASSES
from chestxray.models.resnet import ARCH
from chestxray.runtime.files import whole_file
from chestxray.runtime.text import join_limited

FORMAT = 3
LAST, BEST = "last.pth", "best.pth"
NAME = re.compile(r"stage([1-4])_(\d+)_(\d{2,})\.pth")


def lr_digits(lr: float) -> str:
    """The digits of a learning rate below 1 after "0.": 1e-4 gives "0001", 1e-5 "00001"."""
    return format(Decimal(repr(lr)), "f").partition(".")[2]


def checkpoint_name(stage: int, lr: float, epochs_done: int) -> str:
    """Such as stage1_0001_04.pth: stage 1 at lr 1e-4 after four epochs in all."""
    return f"stage{stage}_{lr_digits(lr)}_{epochs_done:02d}.pth"


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint under its final name, whole or not at all.

    Raises:
        FloatingPointError: weights that are not finite, which must replace no good ones.
        OSError: see whole_file.
    """
    try:
        safe_load.check_finite(path, "weights", checkpoint["model"])
    except ValueError as error:
        raise FloatingPointError(f"not saved: {error}") from error
    with whole_file(path, "wb") as file:
        torch.save(checkpoint, file)


def load(path: Path) -> dict[str, Any]:
    """Read and verify a checkpoint of ours; tensors lie on the CPU.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: not a checkpoint of ours, damaged, of another format, with a key that is missing
            or has no allowed value, of another network or other classes, or with numbers that are
            not finite.
    """
    return verified(path, safe_load.read(path))


def verified(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(
            f"{path} is no checkpoint of this program (it has no format); a state dict of a "
            "ResNet-50 can start a new run with --weights, and be scored with --test"
        )
    if type(content["format"]) is int and content["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}, this program reads format {FORMAT}: it was "
            f"written by {'a newer' if content['format'] > FORMAT else 'an unreleased'} version"
        )
    try:
        schema.check(content)
    except ValueError as error:
        raise ValueError(f"{path} is no whole checkpoint: {error}") from error
    if content["arch"] != ARCH:
        raise ValueError(f"{path} is of the network {content['arch']!r}; this program has {ARCH}")
    if sorted(content["classes"]) != sorted(CLASSES):
        strange = sorted(set(content["classes"]) ^ set(CLASSES)) or content["classes"]
        raise ValueError(
            f"{path} has other classes than this program's 15; they differ in "
            f"{join_limited(strange, most=20)}"
        )
    strange = sorted(content["args"].keys() - schema.SCHEMA["args"].keys())
    if strange:
        raise ValueError(f"{path}: args.{strange[0]} is no option that a checkpoint keeps")
    if content["images_done"] > content["split"]["train"]["images"].count("\n") + 1:
        raise ValueError(
            f"{path}: images_done is {content['images_done']}, and fewer are for training"
        )
    safe_load.check_finite(path, "weights", content["model"])
    for number, moments in content["optimizer"]["state"].items():
        safe_load.check_finite(path, f"moments of parameter {number},", moments)
    return content


def versions() -> dict[str, str]:
    """Of the program, its libraries and the instructions that this CPU runs them with."""
    names = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pillow")
    return {
        "chestxray": chestxray.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
