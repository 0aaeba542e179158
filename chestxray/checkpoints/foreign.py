"""Weights that other programs wrote -> a state dict of a ResNet-50.

Opened are state dicts, bare, under `state_dict` or `model`, or from DataParallel, and the whole
model that the published implementation of this recipe saves, {"epochs", "model", "losses_dict"}.
Of a whole model only the tensors are taken: in place of its classes, objects with their attributes
and no code are built. With torch's safe_globals and the real classes such files open too, but a
pickle may then call them: Linear(100000, 100000) is 40 GB from a file of 800 bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chestxray.checkpoints import safe_load
from chestxray.labels import CLASSES
from chestxray.models.backbones import default_backbone
from chestxray.models.network import check_body, check_weights
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
_STAND_INS = {name: type(name.rpartition(".")[2], (_StandIn,), {}) for name in _MODULES}
_MOST_TENSORS = 10_000  # a ResNet-50 has 320; a forged model may hold itself
_HOLDERS = ("model", "state_dict", "model_state_dict")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a file by name, floating ones as float32, without the prefix `module.`.

    Raises:
        FileNotFoundError, ValueError: see safe_load.read; no weights in it, not finite, or of
            another network, its head aside.
    """
    state = state_dict_of(path, read(path))
    try:
        check_body(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return state


def read_foreign(path: Path, content: Any) -> ForeignWeights:
    """Take the weights from what read has returned for a file of another program.

    Raises:
        ValueError: no weights in it, not finite, of another network or with other outputs.
    """
    state = state_dict_of(path, content)
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
    """Read a file that may name the modules of a whole model; see safe_load.read."""
    return safe_load.read(path, _STAND_INS)


def state_dict_of(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """Find the weights in what read has returned; as read_state_dict."""
    if isinstance(content, dict):
        content = next((content[key] for key in _HOLDERS if key in content), content)
    state = _state_of(content) if isinstance(content, _StandIn) else content
    if not isinstance(state, dict) or not state or not all(map(torch.is_tensor, state.values())):
        raise ValueError(
            f"{path} holds no state dict: names and tensors, as torch.save writes them"
        )
    state = {
        str(name).removeprefix("module."): value.detach().float()
        if value.is_floating_point()
        else value
        for name, value in state.items()
    }
    for name in [name for name in state if name.endswith(".running_var")]:
        # Files of before 2018 do not count the batches, which nothing depends on here.
        counter = name.removesuffix("running_var") + "num_batches_tracked"
        state.setdefault(counter, torch.tensor(0))
    safe_load.check_finite(path, "weights", state)
    return state


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
