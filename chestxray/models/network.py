"""A network in two parts, frozen and trained, and where its first weights come from."""

import copy
import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from chestxray.models.backbones import Backbone, default_backbone

_POOLING = "pooling"  # the section between the body and the head


class StagedNetwork(nn.Module):
    """A backbone in two parts: what is frozen is one constant function, the rest is trained.

    Frozen is frozen: frozen_stem has neither gradient nor batch statistics. The module alone is the
    trained part, and takes the output of frozen_stem. The state dict is torchvision's.

    Args:
        backbone: entry of the table.
        num_classes: logits.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        for name, child in backbone.build(num_classes=num_classes).named_children():
            self.add_module(name, child)
        self.backbone = backbone
        self.bf16 = False  # compute the body in bfloat16
        self._trained: tuple[str, ...] = (*backbone.body, backbone.head)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Run the part that is trained.

        Args:
            maps: the output of frozen_stem for (N, 3, size, size) normalised images; the images
                themselves where nothing is frozen.

        Returns:
            (N, num_classes) logits in float32.
        """
        for name, section in self._sections(frozen=False).items():
            rounded = self.bf16 and name in self.backbone.body
            with torch.autocast(maps.device.type, torch.bfloat16, rounded):
                maps = section(maps)
        return maps

    def set_stage(self, stage: int, from_scratch: bool = False) -> None:
        """Freeze what a stage does not train; from scratch, stage 1 trains everything."""
        self._trained = self.backbone.trained(stage, from_scratch)
        for name, section in self._all_sections().items():
            section.requires_grad_(name in self._trained)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def frozen_stem(self) -> "FoldedNetwork":
        """From normalised images to what forward takes; the identity where nothing is frozen."""
        return FoldedNetwork(self._sections(frozen=True), self._rounded())

    def folded_head(self) -> "FoldedNetwork":
        """Forward in eval mode as one function, with the weights as they are now; for scoring."""
        return FoldedNetwork(self._sections(frozen=False), self._rounded())

    def _sections(self, frozen: bool) -> dict[str, nn.Module]:
        """The frozen or the trained sections by name, in their order."""
        sections = self._all_sections()
        names = list(sections)
        first = next(number for number, name in enumerate(names) if name in self._trained)
        return {name: sections[name] for name in (names[:first] if frozen else names[first:])}

    def _all_sections(self) -> dict[str, nn.Module]:
        body, pooling, head = self.backbone.body, self.backbone.pooling, self.backbone.head
        rows = {**body, _POOLING: (Cast(torch.float32), *pooling), head: (head,)}
        return {
            name: nn.Sequential(
                *(self.get_submodule(step) if isinstance(step, str) else step for step in steps)
            )
            for name, steps in rows.items()
        }

    def _rounded(self) -> tuple[str, ...]:
        """The sections whose folded weights are kept in bfloat16."""
        return tuple(self.backbone.body)[1:] if self.bf16 else ()


class FoldedNetwork(nn.Module):
    """Sections of a network as one function that does not change: BatchNorm folded, no graph.

    On a CPU with two threads or more the maps of an image have the same bits in every batch. The
    logits, and the maps that one thread computes, do not: evaluation.predict keeps to one size.

    Args:
        sections: by name, in their order; they are copied.
        rounded: names of the sections that compute in bfloat16, with weights that are kept so.
    """

    def __init__(self, sections: dict[str, nn.Module], rounded: Collection[str]) -> None:
        super().__init__()
        self.parts = nn.Sequential()
        for name, section in sections.items():
            dtype = torch.bfloat16 if name in rounded else torch.float32
            section = copy.deepcopy(section).eval()
            _fold_batch_norm(section)
            self.parts += nn.Sequential(Cast(dtype), section.to(dtype))
        self.parts.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, size, size) images, or what the section before gives, to maps or logits."""
        if len(images) == 1:  # a batch of one takes another kernel, with other last bits
            return self.parts(torch.cat([images, images]))[:1]
        return self.parts(images)


class Cast(nn.Module):
    """Maps in another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.to(self.dtype)


def _fold_batch_norm(module: nn.Module) -> None:
    """Fold each BatchNorm into the convolution that directly precedes it among its siblings.

    Others stay: that siblings run in their order is tested for each backbone.
    """
    previous_name, previous = "", module
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            setattr(module, previous_name, fuse_conv_bn_eval(previous, child))
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norm(child)
        previous_name, previous = name, child


def build_model(
    num_classes: int,
    seed: int,
    body: Mapping[str, torch.Tensor] | None = None,
    backbone: Backbone | None = None,
) -> StagedNetwork:
    """Build a network with a fresh head, and a fresh body where none is given.

    Args:
        num_classes: logits.
        seed: of the fresh weights; the process's own random state is left alone.
        body: a state dict of the backbone; its head, of whatever size, is not used.
        backbone: entry of the table; None takes the default.

    Raises:
        ValueError: the state dict is not the backbone's.
    """
    backbone = backbone or default_backbone()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StagedNetwork(backbone, num_classes)
    if body is not None:
        fresh = network.state_dict()
        head = {name: fresh[name] for name in backbone.head_names}
        load_weights(network, _without_head(body, backbone) | head)
    return network.to(memory_format=torch.channels_last)


def trains_on_one(size: int, stage: int, from_scratch: bool, backbone: Backbone) -> bool:
    """Tell whether a stage can train on batches of one image.

    BatchNorm in training needs two values of a channel: it cannot where the maps of an image have
    shrunk to a single one.

    Args:
        size: side of the image in pixels.
        stage, from_scratch: see StagedNetwork.set_stage.
        backbone: entry of the table.
    """
    with torch.device("meta"):  # shapes without numbers
        network = StagedNetwork(backbone, num_classes=1)
        maps = torch.empty(1, 3, size, size)
    network.set_stage(stage, from_scratch)
    seen: list[torch.Size] = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad:
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    for section in network._all_sections().values():
        maps = section.eval()(maps)
    return all(shape[2:].numel() > 1 for shape in seen)


def weights_digest(network: nn.Module) -> str:
    """Digest of a network's weights, by which two machines compare theirs."""
    found = hashlib.sha256()
    for value in network.state_dict().values():
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def load_weights(network: StagedNetwork, state: Mapping[str, torch.Tensor]) -> None:
    """Copy a state dict into the network, whole or not at all.

    Raises:
        ValueError: keys, shapes or kinds of number that do not fit, the first of them named.
    """
    _check_fit(network.backbone.name, network.state_dict(), state)
    network.load_state_dict(state)


def check_weights(
    state: Mapping[str, torch.Tensor], num_classes: int, backbone: Backbone | None = None
) -> None:
    """Raise ValueError where a state dict does not fit a network, before one is built."""
    backbone = backbone or default_backbone()
    with torch.device("meta"):
        expected = StagedNetwork(backbone, num_classes).state_dict()
    _check_fit(backbone.name, expected, state)


def check_body(state: Mapping[str, torch.Tensor], backbone: Backbone | None = None) -> None:
    """As check_weights, the head left out."""
    backbone = backbone or default_backbone()
    with torch.device("meta"):
        expected = StagedNetwork(backbone, num_classes=1).state_dict()
    _check_fit(backbone.name, *(_without_head(each, backbone) for each in (expected, state)))


def _without_head(state: Mapping[str, torch.Tensor], backbone: Backbone) -> dict[str, torch.Tensor]:
    return {k: value for k, value in state.items() if not k.startswith(f"{backbone.head}.")}


def _check_fit(
    name: str, expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> None:
    both = [(key, value, state[key]) for key, value in expected.items() if key in state]
    differing = [
        f"{key} is {tuple(found.shape)}, not {tuple(value.shape)}"
        for key, value, found in both
        if found.shape != value.shape
    ] + [
        f"{key} is {found.dtype}, not {value.dtype}"
        for key, value, found in both
        if found.is_floating_point() != value.is_floating_point()
    ]
    missing, more = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    faults = [
        f"{verb} {keys[0]}" + (f" and {len(keys) - 1:,} more" if len(keys) > 1 else "")
        for verb, keys in (("misses", missing), ("has besides", more), ("differs:", differing))
        if keys
    ]
    if faults:
        shown = faults[:2] if missing and more else faults[:1]
        raise ValueError(f"weights do not fit {name}: it {' and '.join(shown)}")
