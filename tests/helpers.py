"""What several tests use: paths, a small checkpoint, a data set, comparisons."""

import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chestxray.checkpoints import checkpoint
from chestxray.data.dataset import ChestDataset
from chestxray.labels import CLASSES
from chestxray.options import Options, parse_options
from chestxray.training import run_folder

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

RECORD = {
    "run_id": "r",
    "stage": 1,
    "epoch": 4,
    "lr": 1e-4,
    "images": 9,
    "train_loss": 0.1,
    "val_loss": None,
    "val_auc": 0.5,
    "val_classes": 14,
    "seconds": 1.5,
}


def small_checkpoint(**changes: Any) -> dict[str, Any]:
    """The content of a small checkpoint file, with a two-number network."""
    return {
        "format": 3,
        "run_id": "r",
        "arch": "resnet50",
        "classes": list(CLASSES),
        "stage": 1,
        "lr": 1e-4,
        "epochs_done": 4,
        "epochs_planned": 4,
        "images_done": 0,
        "loss_sum": 0.0,
        "seconds_done": 0.0,
        "parent": None,
        "split": {
            "seed": 0,
            "official": False,
            **{part: {"images": "a.png", "patients": "1"} for part in ("train", "val", "test")},
        },
        "size": 64,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "args": {
            "data_path": "data",
            "subset": None,
            "split_seed": 0,
            "max_per_class": 0,
            "size": 64,
            "bits": 16,
            "skip_bad_images": False,
            "weights": "none",
            "stage": 1,
            "bs": 2,
            "lr": 1e-4,
            "epochs": 4,
            "loss_func": "FocalLoss",
            "seed": 0,
            "save_minutes": 10.0,
        },
        "model": {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        "optimizer": {"state": {0: {"exp_avg": torch.tensor([0.5, 0.25])}}, "param_groups": []},
        "history": [RECORD],
        "versions": checkpoint.versions(),
        "threads": torch.get_num_threads(),
        "processes": 1,
        "precision": "fp32",
        "table": {"files": {"a.csv": "0"}, "labels": {"Mass": 1}},
        **changes,
    }


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, weights and moments, by a name."""
    held = checkpoint.load(path)
    moments = {
        f"{key}.{name}": value
        for key, state in held.optimizer["state"].items()
        for name, value in state.items()
    }
    return {**held.model, **moments}


def log_values(folder: Path) -> list[dict[str, object]]:
    """The log without what no two runs share."""
    own = ("seconds", "run_id")
    return [
        {k: v for k, v in record.items() if k not in own}
        for record in run_folder.read_log(folder / "log.jsonl")
    ]


def assert_same_tensors(first: Path, second: Path) -> None:
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def random_dataset(n: int, size: int = 32, seed: int | None = None) -> ChestDataset:
    """A data set of n images of noise, with labels; seeded by n where no seed is given."""
    rng = np.random.default_rng(n if seed is None else seed)
    return ChestDataset(
        np.array([f"{i}.png" for i in range(n)], dtype=object),
        rng.integers(0, 256, (n, size, size)).astype(np.uint8),
        np.arange(n),
        (rng.uniform(size=(n, 15)) < 0.3).astype(np.uint8),
        torch.device("cpu"),
    )


def checkpoint_of(**changes: Any) -> checkpoint.Checkpoint:
    """The same as a value."""
    return checkpoint.Checkpoint.from_plain(small_checkpoint(**changes))


def load_plain(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds, verified, by key."""
    return checkpoint.load(path).to_plain()


def made_options(*words: object) -> Options:
    """Options as main.py gets them from a command line."""
    return parse_options([str(word) for word in words])


def noise_image(seed: int, side: int = 40) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(256, size=(side, side), dtype=np.uint8))


def never() -> None:
    pytest.fail("an image was decoded that is in the cache")


def with_header(whole: bytes, width: int, height: int) -> bytes:
    """A PNG's bytes with another width and height in its header."""
    header = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def with_wrong_checksum(whole: bytes) -> bytes:
    """The same pixels, but the checksum of the pixel data says that they are damaged."""
    checksum = len(whole) - 12 - 4  # before the 12 bytes of IEND
    return whole[:checksum] + bytes(4) + whole[checksum + 4 :]


# name -> the broken file made from the bytes of a good PNG, and what its reason says
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda whole: whole[: len(whole) // 2], "(?i)truncated"),
    "zero bytes": (lambda whole: b"", "empty file"),
    "a web page": (lambda whole: b"<html><body>404</body></html>", "starts with b'<html>"),
    "wrong checksum": (with_wrong_checksum, "checksum|broken|CRC"),
    "damaged pixels": (lambda whole: whole[:200] + bytes(50) + whole[250:], "broken|damaged"),
    "damaged header": (lambda whole: whole[:20] + b"????" + whole[24:], "PNG"),
    "81 million pixels": (lambda whole: with_header(whole, 9000, 9000), "64 million"),
    "900 million pixels": (lambda whole: with_header(whole, 30000, 30000), "pixels"),
}
