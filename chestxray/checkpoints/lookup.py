"""From a typed name to an opened checkpoint."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from chestxray.checkpoints import foreign, safe_load
from chestxray.checkpoints.checkpoint import (
    LAST,
    NAME,
    Checkpoint,
    load,
    lr_digits,
    verified,
    versions,
)
from chestxray.data.splits import Split
from chestxray.labels import CLASSES
from chestxray.models.backbones import BACKBONES
from chestxray.models.network import check_weights
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited


@dataclass(frozen=True)
class Opened:
    """A file whose weights fit this network, its outputs in the order of CLASSES.

    Attributes:
        path: the file.
        run_id: of the lineage; the digest of a file of another program.
        weights: a state dict on the CPU.
        checkpoint: what else the file holds; None where another program wrote it.
        notes: what a user should know of the opening, a sentence each.
    """

    path: Path
    run_id: str
    weights: dict[str, torch.Tensor]
    checkpoint: Checkpoint | None
    notes: list[str]

    @property
    def split(self) -> Split:
        """The split that the weights were trained with; empty where the file does not say."""
        return self.checkpoint.split if self.checkpoint else Split.empty()

    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self.path)


def open_to_resume(name: str | None, folder: Path) -> Opened:
    """Open the checkpoint that a run continues from.

    Args:
        name: as typed; None takes the newest in the folder that can be read.
        folder: where names are looked up.

    Raises:
        FileNotFoundError, ValueError: see find, foreign.read and checkpoint.verified.
    """
    if name is None:
        path, checkpoint, notes = _newest_readable(folder)
    else:
        path, note = find(name, folder)
        checkpoint, notes = verified(path, foreign.read(path)), [note] if note else []
    return _fitted(path, checkpoint, notes)


def open_to_test(name: str, folder: Path) -> Opened:
    """Open what --test scores with: a checkpoint of ours, or the weights of another program.

    Raises:
        FileNotFoundError, ValueError: see find, checkpoint.load and foreign.read_foreign.
    """
    path, note = find(name, folder)
    notes = [note] if note else []
    content = foreign.read(path)
    if not (isinstance(content, dict) and "format" in content):
        other = foreign.read_foreign(path, content)
        return Opened(path, other.digest[:16], other.state, None, notes + other.caveats())
    return _fitted(path, verified(path, content), notes)


def read_split(path: Path) -> Split | None:
    """The split that the weights of a checkpoint were trained on; None for weights of others.

    Raises:
        FileNotFoundError, ValueError: see foreign.read and verified.
    """
    content = foreign.read(path)
    ours = isinstance(content, dict) and "format" in content
    return verified(path, content).split if ours else None


def read_run_id(path: Path) -> str | None:
    """Read the run id of a checkpoint without its tensors; None where the file has none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except safe_load.CONTENT_FAULTS:
        return None  # not a file of ours
    return content.get("run_id") if isinstance(content, dict) else None


def _fitted(path: Path, stored: Checkpoint, notes: list[str]) -> Opened:
    """Check the weights of a checkpoint, and put its outputs in the order of CLASSES."""
    try:
        check_weights(stored.model, len(CLASSES), BACKBONES[stored.arch])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if tuple(stored.classes) != CLASSES:
        stored = _reordered(stored)
        notes.append(f"{path} has the classes in another order: its outputs were put in ours")
    return Opened(path, stored.run_id, stored.model, stored, notes)


def _reordered(stored: Checkpoint) -> Checkpoint:
    """Permute the outputs of the head, and their moments, into the order of CLASSES."""
    rows = torch.tensor([stored.classes.index(name) for name in CLASSES])
    head = {name: stored.model[name][rows] for name in BACKBONES[stored.arch].head_names}
    moments = dict(stored.optimizer["state"])
    for number in sorted(moments)[-2:]:  # the head is what every stage trains last
        moments[number] = {
            name: moment[rows] if moment.shape[:1] == rows.shape else moment  # or the step count
            for name, moment in moments[number].items()
        }
    return replace(
        stored,
        classes=list(CLASSES),
        model=stored.model | head,
        optimizer=stored.optimizer | {"state": moments},
    )


def find(name: str, folder: Path) -> tuple[Path, str | None]:
    """Find the file that a typed name means: as given, else in the folder, else a stand-in.

    The stand-in: after a stage 2 the eighth epoch of a run that began with stage 1 is called
    stage2_0001_08.pth, and stage1_0001_08.pth is taken to mean it if no other file could be meant.

    Returns:
        The path, and a sentence when it is a stand-in.

    Raises:
        FileNotFoundError: there is none; the message lists what is there.
    """
    for path in (Path(name), folder / name):
        if path.is_file():
            return path, None
        if path.exists():
            raise ValueError(f"{path} is a folder or a device, not a file")
    if Path(name).parent != Path():
        folder = Path(name).parent  # the folder that was named, and no other
    wanted = NAME.fullmatch(Path(name).name)
    if wanted is not None:
        descendants = [path for path in _numbered(folder) if _is_descendant(path, wanted)]
        if len(descendants) == 1:
            return descendants[0], (
                f"{wanted[0]} is not there; {descendants[0]} is used instead: epoch {wanted[3]} of "
                f"a lineage with a stage {wanted[1]} at that learning rate"
            )
    there = join_limited(sorted(path.name for path in folder.glob("*.pth")), most=20)
    raise FileNotFoundError(
        f"the checkpoint {name} was not found; {folder} holds {there or 'no checkpoint at all'}"
    )


def describe_other_machine(stored: Checkpoint, precision: str, processes: int) -> list[str]:
    """Say where this machine and job differ from those of a checkpoint, as far as numbers depend.

    Args:
        stored: the checkpoint.
        precision: fp32 or bf16, here.
        processes: how many share the batches here.
    """
    here = {**versions(), "threads": torch.get_num_threads(), "precision": precision}
    there = {**stored.versions, "threads": stored.threads, "precision": stored.precision}
    differing = [
        f"{name} {there[name]} -> {here[name]}"
        for name in ("torch", "cpu", "threads", "precision")
        if there.get(name) != here[name]
    ]
    notes = []
    if differing:
        notes.append(
            f"another machine than before ({join_limited(differing)}): exact but for the last bits"
        )
    if stored.processes != processes:
        notes.append(
            f"processes {stored.processes} -> {processes}: the order of the images continues, and "
            "a step takes another number of them"
        )
    return notes


def _newest_readable(folder: Path) -> tuple[Path, Checkpoint, list[str]]:
    """Open last.pth, else the numbered checkpoint written last; a damaged one is passed over."""
    numbered = sorted(_numbered(folder), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    found = [path for path in (folder / LAST, *numbered) if path.exists()]
    notes: list[str] = []
    for path in found:
        try:
            checkpoint = load(path)
            if notes:
                notes.append(f"{path} is the newest that can be read: what came after it is lost")
            return path, checkpoint, notes
        except ValueError as error:
            notes.append(f"passed over: {error}")
    if notes:
        raise ValueError("\n".join([f"no checkpoint in {folder} can be resumed", *notes]))
    raise FileNotFoundError(
        f"--resume finds no checkpoint in {folder}; leave it out to start a run"
    )


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("stage*.pth") if NAME.fullmatch(path.name))


def _is_descendant(path: Path, wanted: re.Match[str]) -> bool:
    found = NAME.fullmatch(path.name)
    if found is None or int(found[3]) != int(wanted[3]):
        return False
    return any(
        record.stage == int(wanted[1]) and lr_digits(record.lr) == wanted[2]
        for record in load(path).history
    )
