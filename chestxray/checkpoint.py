"""A plain dict -> .pth and back, whole or not at all; and which file a name means.

A checkpoint is a zip of tensors and plain values that `torch.load(weights_only=True)` reads, so
that opening one runs no code:

    format 1 | run_id | arch | classes | stage | lr | epochs_done | epochs_planned
    pictures_done, loss_sum, seconds_done   of the epoch under way; 0 between epochs
    parent      the checkpoint that the run began from, None for a first stage from scratch
    split       see chestxray.split.pack
    size, mean, std                         of the pictures that the network sees
    args        the options of the run that are not this machine's
    model, optimizer                        state dicts
    history     the records of log.jsonl
    versions, threads, precision            of program and libraries; CPU threads; fp32 or bf16
    table       SHA-256 of the label tables, pictures by class
"""

import platform
import re
import zipfile
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

import chestxray
from chestxray.files import whole_file
from chestxray.labels import CLASSES
from chestxray.wording import listed

FORMAT = 1
LAST, BEST = "last.pth", "best.pth"
_NAME = re.compile(r"stage([1-4])_(\d+)_(\d{2,})\.pth")


def lr_digits(lr: float) -> str:
    """The digits of a learning rate below 1 after "0.": 1e-4 gives "0001", 1e-5 "00001"."""
    return format(Decimal(repr(lr)), "f").partition(".")[2]


def checkpoint_name(stage: int, lr: float, epochs_done: int) -> str:
    """Such as stage1_0001_04.pth: stage 1 at lr 1e-4 after four epochs in all."""
    return f"stage{stage}_{lr_digits(lr)}_{epochs_done:02d}.pth"


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint under its final name, whole or not at all."""
    with whole_file(path, "wb") as file:
        torch.save(checkpoint, file)


def load(path: Path) -> dict[str, Any]:
    """Read and verify a checkpoint; tensors lie on the CPU.

    Raises:
        ValueError: not a checkpoint of ours, damaged, of a newer format, with other classes, or
            with weights that are not finite.
    """
    checkpoint = load_plain(path)
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise ValueError(
            f"{path} is no checkpoint of this program (it has no format); a state dict of a "
            "ResNet-50 can start a new run with --weights"
        )
    if checkpoint["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {checkpoint['format']}, this program reads up to {FORMAT}: it was "
            "written by a newer version"
        )
    if tuple(checkpoint["classes"]) != CLASSES:
        raise ValueError(
            f"{path} has classes {listed(checkpoint['classes'], most=20)}; expected are, in this "
            f"order, {listed(CLASSES, most=20)}"
        )
    _check_finite(path, checkpoint["model"])
    return checkpoint


def load_plain(path: Path) -> Any:
    """Whatever tensors and plain values a .pth holds, without running any code of it.

    Raises:
        ValueError: not a .pth in zip form, damaged, or with more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .pth in zip form, or only the beginning of one")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load does not look at the checksums
    if damaged is not None:
        raise ValueError(
            f"{path} is damaged: {damaged} in it has another checksum than when written"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as tensors and plain values: {reason}") from error


def load_body(path: Path) -> dict[str, torch.Tensor]:
    """ResNet-50 weights of a file: a state dict, bare or from DataParallel, or a checkpoint's."""
    content = load_plain(path)
    if isinstance(content, dict) and "format" in content:
        content = content["model"]
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise ValueError(
            f"{path} holds no state dict: names and tensors, as torch.save writes them"
        )
    state = {name.removeprefix("module."): value for name, value in content.items()}
    _check_finite(path, state)
    return state


def run_of(path: Path) -> str | None:
    """The run_id of a checkpoint; None where there is none. Reads the tensors' places only."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError):
        return None  # not a file of any run of ours
    return content.get("run_id") if isinstance(content, dict) else None


def find(name: str, folder: Path) -> tuple[Path, str | None]:
    """The file that a typed name means: as given, else in the folder, else its stand-in.

    The stand-in: after a stage 2 the eighth epoch of a run that began with stage 1 is called
    stage2_0001_08.pth, and stage1_0001_08.pth is taken to mean it if no other one could be meant.

    Returns:
        The path, and a sentence when it is a stand-in.

    Raises:
        FileNotFoundError: there is none; the message lists what is there.
    """
    for path in (Path(name), folder / name):
        if path.is_file():
            return path, None
    if Path(name).parent != Path():
        folder = Path(name).parent  # the folder that was named, and no other
    wanted = _NAME.fullmatch(Path(name).name)
    if wanted is not None:
        heirs = [path for path in _numbered(folder) if _descends(path, wanted)]
        if len(heirs) == 1:
            return heirs[0], (
                f"{wanted[0]} is not there; {heirs[0]} is epoch {wanted[3]} of a line with a stage "
                f"{wanted[1]} at that learning rate: used instead"
            )
    there = listed(sorted(path.name for path in folder.glob("*.pth")), most=20)
    raise FileNotFoundError(
        f"the checkpoint {name} is not there; in {folder} there is "
        + (there or "no checkpoint at all")
    )


def locate(name: str | None, folder: Path) -> tuple[Path, str | None]:
    """The file that a typed name means, or where a bare --resume goes on; see find and newest.

    Raises:
        FileNotFoundError: there is none.
    """
    if name is not None:
        return find(name, folder)
    path = newest(folder)
    if path is None:
        raise FileNotFoundError(
            f"--resume finds no checkpoint in {folder}; leave it out to begin a run"
        )
    return path, None


def versions() -> dict[str, str]:
    """Of the program, its libraries and the instructions that this CPU runs them with."""
    names = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pillow")
    return {
        "chestxray": chestxray.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def other_machine(checkpoint: dict[str, Any], precision: str) -> list[str]:
    """What differs from where the checkpoint was written, as far as the last bits depend on it."""
    here = {**versions(), "threads": torch.get_num_threads(), "precision": precision}
    there = {**checkpoint["versions"], **{k: checkpoint[k] for k in ("threads", "precision")}}
    differing = [
        f"{name} {there[name]} -> {here[name]}"
        for name in ("torch", "cpu", "threads", "precision")
        if there.get(name) != here[name]
    ]
    if not differing:
        return []
    return [f"another machine than before ({listed(differing)}): exact but for the last bits"]


def newest(folder: Path) -> Path | None:
    """Where a bare --resume goes on: last.pth, else the numbered checkpoint written last."""
    if (folder / LAST).is_file():
        return folder / LAST
    return max(_numbered(folder), key=lambda path: path.stat().st_mtime_ns, default=None)


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("stage*.pth") if _NAME.fullmatch(path.name))


def _descends(path: Path, wanted: re.Match[str]) -> bool:
    found = _NAME.fullmatch(path.name)
    if found is None or int(found[3]) != int(wanted[3]):
        return False
    return any(
        record["stage"] == int(wanted[1]) and lr_digits(record["lr"]) == wanted[2]
        for record in load(path)["history"]
    )


def _check_finite(path: Path, state: dict[str, torch.Tensor]) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{path}: the weights {name} are not all finite")
