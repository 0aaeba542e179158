"""ResNet-50 with one logit per class, its stages, and where its first weights come from.

Network: He et al. 2015, arXiv:1512.03385, in torchvision's form (stride in the 3 x 3 convolution).
"""

import copy
import hashlib
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck, ResNet

ARCH = "resnet50"
# What a stage trains; everything else is frozen.
STAGES: dict[int, tuple[str, ...]] = {
    1: ("layer2", "layer3", "layer4", "fc"),
    2: ("layer3", "layer4", "fc"),
    3: ("layer4", "fc"),
    4: ("fc",),
}
_PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


class ChestResNet(ResNet):
    """ResNet-50 in two parts: what is frozen is one constant function, the rest is trained.

    Frozen is frozen: frozen_stem has neither gradient nor batch statistics. The module alone is the
    trained part, and takes what frozen_stem makes of images.

    Args:
        num_classes: logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=num_classes)
        self.trainable: tuple[str, ...] = _PARTS
        self.bf16 = False  # compute everything below the head in bfloat16

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The part that is trained.

        Args:
            maps: what frozen_stem makes of (N, 3, size, size) normalised images; these
                themselves where nothing is frozen.

        Returns:
            (N, num_classes) logits in float32.
        """
        for name, section in self._sections(frozen=False).items():
            with torch.autocast(maps.device.type, torch.bfloat16, self.bf16 and _is_body(name)):
                maps = section(maps)
        return maps

    def set_trainable(self, parts: tuple[str, ...]) -> None:
        """Freeze all but the named parts, which reach to the end of the network."""
        self.trainable = parts
        for name in _PARTS:
            self.get_submodule(name).requires_grad_(name in parts)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def frozen_stem(self) -> "FoldedNetwork":
        """From normalised images to what forward takes; the identity where nothing is frozen."""
        return FoldedNetwork(self._sections(frozen=True), self.bf16)

    def folded_head(self) -> "FoldedNetwork":
        """What forward computes in eval mode, as the weights are now; for scoring."""
        return FoldedNetwork(self._sections(frozen=False), self.bf16)

    def _sections(self, frozen: bool) -> dict[str, nn.Module]:
        """The frozen or the trained sections in their order, each named by its first part."""
        sections = {
            "conv1": nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool, self.layer1[0]),
            "layer1": self.layer1[1:],
            "layer2": self.layer2,
            "layer3": self.layer3,
            "layer4": self.layer4,
            "pool": nn.Sequential(Cast(torch.float32), self.avgpool, nn.Flatten()),
            "fc": self.fc,
        }
        names = list(sections)
        first = next(number for number, name in enumerate(names) if name in self.trainable)
        return {name: sections[name] for name in (names[:first] if frozen else names[first:])}


class FoldedNetwork(nn.Module):
    """Sections of a network as one function that does not change: BatchNorm folded, no graph.

    What it makes of a image does not depend on the others in the batch: on one CPU they are the
    same bits in every batch.

    Args:
        sections: by name, in their order; they are copied.
        bf16: compute in bfloat16 what lies below the pooling, with weights that are kept so, but
            for the first section: most of what rounding does to a score is done there.
    """

    def __init__(self, sections: dict[str, nn.Module], bf16: bool) -> None:
        super().__init__()
        self.parts = nn.Sequential()
        for name, section in sections.items():
            rounded = bf16 and _is_body(name) and name != "conv1"
            dtype = torch.bfloat16 if rounded else torch.float32
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
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.to(self.dtype)


def _fold_batch_norm(module: nn.Module) -> None:
    """Fold each BatchNorm into the convolution that stands before it among its siblings."""
    before, last = "", module
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            setattr(module, before, fuse_conv_bn_eval(last, child))
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norm(child)
        before, last = name, child


def _is_body(section: str) -> bool:
    """Whether a section lies below the pooling; from there on all is float32."""
    return section not in ("pool", "fc")


def build_model(
    num_classes: int, seed: int, body: Mapping[str, torch.Tensor] | None = None
) -> ChestResNet:
    """A network with a fresh head, and a fresh body where none is given.

    Args:
        num_classes: logits.
        seed: of the fresh weights; the process's own random state is left alone.
        body: a ResNet-50 state dict; its head, of whatever size, is not used.

    Raises:
        ValueError: the state dict is none of a ResNet-50.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ChestResNet(num_classes)
    if body is not None:
        head = {name: value for name, value in model.state_dict().items() if name.startswith("fc.")}
        load_weights(model, {k: v for k, v in body.items() if not k.startswith("fc.")} | head)
    return model.to(memory_format=torch.channels_last)


def weights_digest(network: nn.Module) -> str:
    """A short name of a network's weights, by which two machines compare theirs."""
    found = hashlib.sha256()
    for value in network.state_dict().values():
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def load_weights(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy a state dict into the model, whole or not at all.

    Raises:
        ValueError: keys, shapes or kinds of number that do not fit, the first of them named.
    """
    _check_fit(model.state_dict(), state)
    model.load_state_dict(state)


def check_weights(state: Mapping[str, torch.Tensor], num_classes: int) -> None:
    """Raise ValueError where a state dict is not this network's, before one is built."""
    with torch.device("meta"):
        _check_fit(ChestResNet(num_classes).state_dict(), state)


def check_body(state: Mapping[str, torch.Tensor]) -> None:
    """As check_weights, the head left out."""
    with torch.device("meta"):
        ours = ChestResNet(1).state_dict()
    _check_fit(*({k: v for k, v in s.items() if not k.startswith("fc.")} for s in (ours, state)))


def _check_fit(ours: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    missing, extra = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in ours.items()
        if name in state and state[name].shape != value.shape
    ]
    kinds = [
        f"{name} is {state[name].dtype}, not {value.dtype}"
        for name, value in ours.items()
        if name in state and state[name].is_floating_point() != value.is_floating_point()
    ]
    for what, names in (
        ("misses", missing),
        ("has besides", extra),
        ("differs:", shapes + kinds),
    ):
        if names:
            raise ValueError(f"weights do not fit {ARCH}: it {what} {names[0]} (of {len(names)})")


def trainable_parts(stage: int, from_scratch: bool) -> tuple[str, ...]:
    """The parts that a stage trains; without pretrained weights stage 1 trains everything."""
    return _PARTS if stage == 1 and from_scratch else STAGES[stage]
