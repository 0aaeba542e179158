"""Which checkpoint a typed name means, and opening it."""

import re
from pathlib import Path
from typing import Any

import torch

from chestxray.checkpoints import foreign, safe_load
from chestxray.checkpoints.checkpoint import LAST, NAME, load, lr_digits, verified, versions
from chestxray.data.splits import Split
from chestxray.labels import CLASSES
from chestxray.models.resnet import check_weights
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited


def open_checkpoint(
    name: str | None, folder: Path, test: bool
) -> tuple[Path, dict[str, Any], list[str]]:
    """The checkpoint to go on from or to test, its classes in our order.

    Args:
        name: as typed; None takes the newest in the folder that can be read.
        folder: where names are looked up.
        test: weights of other programs may be opened too.

    Returns:
        Its path, what it holds, and what a user should know of it.

    Raises:
        FileNotFoundError, ValueError: see find and load; weights that are not this network's.
    """
    if name is None:
        path, stored, notes = _newest_readable(folder)
    else:
        path, note = find(name, folder)
        notes = [note] if note else []
        stored = _to_test(path) if test else load(path)
        if stored["stage"] is None:
            notes += [
                f"{path} was not written by this program: its {len(CLASSES)} outputs are taken to "
                f"be, in this order, {join_limited(CLASSES, most=len(CLASSES))}",
                "it does not say which images it was trained on: scores of those are no test",
            ]
    try:
        check_weights(stored["model"], len(CLASSES))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if tuple(stored["classes"]) != CLASSES:
        _put_in_our_order(stored)
        notes.append(f"{path} has the classes in another order: its outputs were put in ours")
    return path, stored, notes


def read_run_id(path: Path) -> str | None:
    """The run_id of a checkpoint; None where there is none. Reads the tensors' places only."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except safe_load.CONTENT_FAULTS:
        return None  # not a file of any run of ours
    return content.get("run_id") if isinstance(content, dict) else None


def _to_test(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, or the weights of another program as one that can be tested."""
    content = foreign.read(path)
    if isinstance(content, dict) and "format" in content:
        return verified(path, content)
    state = foreign.state_dict_of(path, content)
    outputs = state["fc.bias"].shape if "fc.bias" in state else None
    if outputs is not None and outputs != (len(CLASSES),):
        raise ValueError(
            f"{path} has {outputs.numel()} outputs; needed are {len(CLASSES)}, in this order: "
            f"{join_limited(CLASSES, most=len(CLASSES))}"
        )
    return {
        "run_id": file_digest(path)[:16],
        "classes": list(CLASSES),
        "stage": None,
        "epochs_done": None,
        "epochs_planned": 0,
        "images_done": 0,
        "args": {},
        "split": Split.empty().to_plain(),
        "table": None,
        "model": state,
    }


def _put_in_our_order(stored: dict[str, Any]) -> None:
    """Permute the outputs of the head, and their moments, into the order of CLASSES."""
    rows = torch.tensor([stored["classes"].index(name) for name in CLASSES])
    for name in ("fc.weight", "fc.bias"):
        stored["model"][name] = stored["model"][name][rows]
    state = stored["optimizer"]["state"]
    for number in sorted(state)[-2:]:  # the head is what every stage trains last
        for name, moment in state[number].items():
            if moment.shape[:1] == rows.shape:  # not the count of steps
                state[number][name] = moment[rows]
    stored["classes"] = list(CLASSES)


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
        if path.exists():
            raise ValueError(f"{path} is a folder or a device, and no file")
    if Path(name).parent != Path():
        folder = Path(name).parent  # the folder that was named, and no other
    wanted = NAME.fullmatch(Path(name).name)
    if wanted is not None:
        descendants = [path for path in _numbered(folder) if _is_descendant(path, wanted)]
        if len(descendants) == 1:
            return descendants[0], (
                f"{wanted[0]} is not there; {descendants[0]} is epoch {wanted[3]} of a line with a "
                f"stage {wanted[1]} at that learning rate: used instead"
            )
    there = join_limited(sorted(path.name for path in folder.glob("*.pth")), most=20)
    raise FileNotFoundError(
        f"the checkpoint {name} is not there; in {folder} there is "
        + (there or "no checkpoint at all")
    )


def other_machine(checkpoint: dict[str, Any], precision: str, processes: int) -> list[str]:
    """What differs from where the checkpoint was written, as far as the numbers depend on it."""
    here = {**versions(), "threads": torch.get_num_threads(), "precision": precision}
    there = {**checkpoint["versions"], **{k: checkpoint[k] for k in ("threads", "precision")}}
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
    if checkpoint["processes"] != processes:
        notes.append(
            f"processes {checkpoint['processes']} -> {processes}: the order of the images goes "
            "on, and a step takes another number of them"
        )
    return notes


def _newest_readable(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Where a bare --resume goes on: last.pth, else the numbered checkpoint written last.

    One that is damaged is passed over, and that is said.
    """
    numbered = sorted(_numbered(folder), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    found = [path for path in (folder / LAST, *numbered) if path.exists()]
    notes: list[str] = []
    for path in found:
        try:
            return path, load(path), notes
        except ValueError as error:
            notes.append(f"passed over: {error}")
    if notes:
        raise ValueError("\n".join([f"no checkpoint in {folder} can be gone on from", *notes]))
    raise FileNotFoundError(
        f"--resume finds no checkpoint in {folder}; leave it out to begin a run"
    )


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("stage*.pth") if NAME.fullmatch(path.name))


def _is_descendant(path: Path, wanted: re.Match[str]) -> bool:
    found = NAME.fullmatch(path.name)
    if found is None or int(found[3]) != int(wanted[3]):
        return False
    return any(
        record["stage"] == int(wanted[1]) and lr_digits(record["lr"]) == wanted[2]
        for record in load(path)["history"]
    )
