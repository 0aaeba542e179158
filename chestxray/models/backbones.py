"""Backbones as a table: a further torchvision network is an entry here.

An entry says how the network is built, which of its modules run one after the other, what each
stage trains, and which ImageNet weights it starts from.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision.models import ResNet50_Weights, WeightsEnum, resnet50

Step = str | nn.Module  # a module of the network by its name, or one without weights


@dataclass(frozen=True)
class Backbone:
    """A torchvision network whose forward pass is a row of modules.

    Attributes:
        name: as checkpoints have it in `arch`.
        build: torchvision's builder, called with `num_classes`.
        body: sections below the pooling by name, in their order; the unit of freezing. A BatchNorm
            that directly follows a convolution among its siblings is folded into it for scoring.
            The first section is scored in float32 even in bf16: most of what rounding does to a
            score is done there.
        pooling: from maps (N, C, h, w) to features (N, C), always in float32.
        head: name of the last linear layer, always in float32.
        stages: what each stage trains, sections of the body and the head; they reach to the end.
        cam_layer: name of the module whose maps the pooling takes, for class activation maps.
        weights: the ImageNet weights, whose file has the names of the network's state dict.
    """

    name: str
    build: Callable[..., nn.Module]
    body: dict[str, tuple[Step, ...]]
    pooling: tuple[Step, ...]
    head: str
    stages: dict[int, tuple[str, ...]]
    cam_layer: str
    weights: WeightsEnum

    @property
    def head_names(self) -> tuple[str, str]:
        """Names of the head's tensors in a state dict, one row for each class."""
        return f"{self.head}.weight", f"{self.head}.bias"

    def trained(self, stage: int, from_scratch: bool = False) -> tuple[str, ...]:
        """Name what a stage trains; without pretrained weights stage 1 trains everything."""
        return (*self.body, self.head) if stage == 1 and from_scratch else self.stages[stage]


# He et al. 2015, arXiv:1512.03385, in torchvision's form (stride in the 3 x 3 convolution).
_RESNET50 = Backbone(
    name="resnet50",
    build=resnet50,
    body={
        "stem": ("conv1", "bn1", "relu", "maxpool", "layer1.0"),
        "layer1": ("layer1.1", "layer1.2"),
        "layer2": ("layer2",),
        "layer3": ("layer3",),
        "layer4": ("layer4",),
    },
    pooling=("avgpool", nn.Flatten()),
    head="fc",
    stages={
        1: ("layer2", "layer3", "layer4", "fc"),
        2: ("layer3", "layer4", "fc"),
        3: ("layer4", "fc"),
        4: ("fc",),
    },
    cam_layer="layer4",
    weights=ResNet50_Weights.IMAGENET1K_V1,
)
BACKBONES: dict[str, Backbone] = {_RESNET50.name: _RESNET50}
DEFAULT_BACKBONE = _RESNET50.name


def default_backbone() -> Backbone:
    """The backbone of a new run, and of weights that do not name theirs."""
    return BACKBONES[DEFAULT_BACKBONE]
