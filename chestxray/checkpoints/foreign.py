"""Weights that other programs wrote -> a state dict of a ResNet-50.

Opened are state dicts, bare or under one key, with the prefixes of wrappers, of a Sequential of a
ResNet's children, in a safetensors file, and the whole model that the published implementation of
this recipe saves, {"epochs", "model", "losses_dict"}. Only the tensors are taken: in place of
classes, objects without code are built. With torch's safe_globals and the real classes such files
open too, but a pickle may then call them: Linear(100000, 100000) is 40 GB from a file of 800 bytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestxray.checkpoints import file_kinds, safe_load
from chestxray.checkpoints.safetensors_load import read_safetensors
from chestxray.labels import CLASSES
from chestxray.models.backbones import default_backbone
from chestxray.models.network import check_body, check_weights
from chestxray.models.recognition import recognise
from chestxray.runtime.files import file_digest
from chestxray.runtime.text import join_limited


@dataclass(frozen=True)
class ForeignWeights:
    """Weights of another program that fit this network and can be scored, and nothing else.

    Attributes:
        path: the file.
        digest: its SHA-256, which names it as the run id names a checkpoint of ours.
        state: a state dict of the network, with one output for each of CLASSES.
    """

    path: Path
    digest: str
    state: dict[str, torch.Tensor]

    def caveats(self) -> list[str]:
        """Sentences about what the file does not say and is assumed."""
        return [
            f"{self.path} was not written by this program: its {len(CLASSES)} outputs are taken to "
            f"be, in this order, {join_limited(CLASSES, most=len(CLASSES))}",
            "it does not say which images it was trained on: scores of those are no test",
        ]


class _StandIn:
    """Stand-in for a module of a whole model: attributes, and no code."""


_MODULES = (
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.pooling.AdaptiveAvgPool2d",
    "torch.nn.modules.pooling.AvgPool2d",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.parallel.data_parallel.DataParallel",
    "torchvision.models.resnet.Bottleneck",
    "torchvision.models.resnet.ResNet",
)
_MOST_TENSORS = 10_000  # a ResNet-50 has 320; a forged model may hold itself
_HOLDERS = ("model", "state_dict", "model_state_dict")


class _Note:
    """Stand-in for what lies beside the weights; what it is built from is dropped."""

    __slots__ = ()

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NOTES = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.PurePosixPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    *(f"numpy.dtypes.{name}" for name in np.dtypes.__all__),
)
_STAND_INS = {
    **{name: type(name.rpartition(".")[2], (_StandIn,), {}) for name in _MODULES},
    **dict.fromkeys(_NOTES, _Note),
}
# What DataParallel, Lightning, torch.compile and others put before a name.
_WRAPPERS = re.compile(r"(?:(?:module|model|net|backbone|encoder|_orig_mod)\.)*")
# Children of torchvision's ResNet by number, as in nn.Sequential(*resnet.children()).
_CHILDREN = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a file by their names here, floating ones as float32.

    Raises:
        FileNotFoundError, ValueError: see read; no weights in it, not finite, or of another
            network, its head aside.
    """
    content = read(path)
    state = state_dict_of(path, content)
    _check_body(path, state, content)
    return state


def read_foreign(path: Path, content: Any) -> ForeignWeights:
    """Take the weights from what read has returned for a file of another program.

    Raises:
        ValueError: no weights in it, not finite, of another network or with other outputs.
    """
    state = state_dict_of(path, content)
    _check_body(path, state, content)
    bias = state.get(default_backbone().head_names[1])
    if bias is not None and bias.shape != (len(CLASSES),):
        raise ValueError(
            f"{path} has {bias.numel()} outputs; needed are {len(CLASSES)}, in this order: "
            f"{join_limited(CLASSES, most=len(CLASSES))}"
        )
    try:
        check_weights(state, len(CLASSES))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return ForeignWeights(path, file_digest(path), state)


def read(path: Path) -> Any:
    """Read a file that may name the modules of a whole model, or notes beside the weights.

    Raises:
        FileNotFoundError, ValueError: see safe_load.read and read_safetensors.
    """
    if file_kinds.is_safetensors(path):
        return read_safetensors(path)
    return safe_load.read(path, _STAND_INS)


def state_dict_of(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """Find the weights in what read has returned; as read_state_dict."""
    state = {
        name: value.detach().float() if value.is_floating_point() else value
        for name, value in _by_our_names(path, _held_state(path, content)).items()
    }
    for name in [name for name in state if name.endswith(".running_var")]:
        # Files of before 2018 do not count the batches, which nothing depends on here.
        counter = name.removesuffix("running_var") + "num_batches_tracked"
        state.setdefault(counter, torch.tensor(0))
    safe_load.check_finite(path, "weights", state)
    return state


def _check_body(path: Path, state: dict[str, torch.Tensor], content: Any) -> None:
    """Raise ValueError where weights, their head aside, are not this network's; name theirs."""
    try:
        check_body(state)
    except ValueError as error:
        network = recognise(state)
        theirs = f"; it looks like {network}" if network not in (None, "ResNet-50") else ""
        name = next(map(str, _held_state(path, content)))
        if name not in state:  # a prefix was taken off
            theirs += f"; the names in the file are like {name}"
        raise ValueError(f"{path}: {error}{theirs}") from error


def _held_state(path: Path, content: Any) -> dict[Any, torch.Tensor]:
    """The state dict in a file: all of it, or under one key."""
    content = _state_of(content) if isinstance(content, _StandIn) else content
    if _is_state(content):
        return content
    values = content.items() if isinstance(content, dict) else ()
    states = {k: _state_of(v) if isinstance(v, _StandIn) else v for k, v in values}
    states = {
        k: v for k, v in states.items() if _is_state(v) and any(t.ndim > 1 for t in v.values())
    }
    usual = [key for key in states if key in _HOLDERS]
    keys = usual or list(states)
    if len(keys) > 1:
        raise ValueError(
            f"{path} holds a state dict under each of {join_limited(keys)}: save the one that is "
            "meant alone"
        )
    if not keys:
        raise ValueError(
            f"{path} holds no state dict: names and tensors, as torch.save writes them"
        )
    return states[keys[0]]


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(torch.is_tensor, value.values()))


def _by_our_names(path: Path, state: dict[Any, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without the prefixes of wrappers, and with names in place of numbers."""
    bare = {name: _WRAPPERS.sub("", str(name), count=1) for name in state}
    numbered = "0.weight" in bare.values() and "conv1.weight" not in bare.values()
    found: dict[str, torch.Tensor] = {}
    for theirs, name in bare.items():
        first, dot, rest = name.partition(".")
        ours = _CHILDREN.get(first, first) + dot + rest if numbered else name
        if ours in found:
            raise ValueError(
                f"{path} holds {ours} twice, once as {theirs}: save the network that is meant alone"
            )
        found[ours] = state[theirs]
    return found


def _state_of(module: _StandIn) -> dict[str, Any]:
    """The tensors of a module and those below it, named as in its state dict."""
    found: dict[str, Any] = {}
    remaining = [("", module)]
    while remaining and len(found) + len(remaining) < _MOST_TENSORS:
        prefix, parent = remaining.pop()
        named = {f"{prefix}{name}": value for name, value in _held_by(parent)}
        remaining += [(f"{name}.", v) for name, v in named.items() if isinstance(v, _StandIn)]
        found |= {name: v for name, v in named.items() if not isinstance(v, _StandIn | None)}
    return found


def _held_by(parent: _StandIn) -> Iterator[tuple[object, object]]:
    """Parameters, buffers and modules of a module, by name."""
    for kind in ("_parameters", "_buffers", "_modules"):
        held = vars(parent).get(kind)
        if isinstance(held, dict):
            yield from held.items()
