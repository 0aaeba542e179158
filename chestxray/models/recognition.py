"""Which well-known network a state dict is of, by its names and shapes, for messages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class _Family:
    """Networks that share their names.

    Attributes:
        name: what it is called where the size is not known.
        sign: pattern of a tensor that only this family has; a wrapper may have put a prefix before.
        counted: pattern of the weights, of two dimensions or more, by whose number its networks
            differ.
        sizes: (number of those, two first sides of the sign's tensor) -> network.
    """

    name: str
    sign: str
    counted: str = "$^"
    sizes: dict[tuple[int, int, int], str] = field(default_factory=dict)

    def find(self, state: Mapping[str, torch.Tensor]) -> str | None:
        sign = next((name for name in state if re.search(self.sign, name)), None)
        if sign is None or state[sign].ndim < 2:
            return None
        number = sum(
            value.ndim > 1 and re.search(self.counted, name) is not None
            for name, value in state.items()
        )
        first, second = state[sign].shape[:2]
        return self.sizes.get((number, first, second), self.name)


# Names as torchvision has them, and timm where it has others.
_FAMILIES = (
    _Family(
        "a DenseNet",
        r"(^|\.)features\.denseblock1\.denselayer1\.conv1\.weight$",
        r"denseblock3\.denselayer\d+\.conv1\.weight$",
        {
            (24, 128, 64): "DenseNet-121",
            (32, 128, 64): "DenseNet-169",
            (48, 128, 64): "DenseNet-201",
            (36, 192, 96): "DenseNet-161",
        },
    ),
    _Family(
        "a ResNet",
        r"(^|\.)layer1\.0\.conv2\.weight$",
        r"(^|\.)layer[1-4]\.\d+\.conv\d\.weight$",
        {
            (16, 64, 64): "ResNet-18",
            (32, 64, 64): "ResNet-34",
            (48, 64, 64): "ResNet-50",
            (99, 64, 64): "ResNet-101",
            (150, 64, 64): "ResNet-152",
            (48, 128, 128): "Wide ResNet-50",
            (99, 128, 128): "Wide ResNet-101",
            (48, 128, 4): "ResNeXt-50",
        },
    ),
    _Family(
        "EfficientNet",
        r"(^|\.)(features\.1\.0\.block\.0\.0|blocks\.0\.0\.conv_dw|_conv_stem)\.weight$",
    ),
    _Family("MobileNet", r"(^|\.)features\.1\.(conv|block)\.0\.0\.weight$"),
    _Family("ConvNeXt", r"(^|\.)(features\.1|stages\.0\.blocks)\.0\.(block\.0|conv_dw)\.weight$"),
    _Family("a Swin transformer", r"\.attn\.(relative_position_bias_table|cpb_mlp\.0\.weight)$"),
    _Family(
        "ViT",
        r"(^|\.)(conv_proj|patch_embed\.proj)\.weight$",
        r"(self_attention\.in_proj_weight|attn\.qkv\.weight)$",
        {
            (12, 192, 3): "ViT-Ti",
            (12, 384, 3): "ViT-S",
            (12, 768, 3): "ViT-B",
            (24, 1024, 3): "ViT-L",
            (32, 1280, 3): "ViT-H",
        },
    ),
    _Family("Inception v3", r"(^|\.)Conv2d_1a_3x3\.conv\.weight$"),
    _Family(
        "VGG",
        r"(^|\.)classifier\.0\.weight$",
        r"(^|\.)features\.\d+\.weight$",
        {
            (8, 4096, 25088): "VGG-11",
            (10, 4096, 25088): "VGG-13",
            (13, 4096, 25088): "VGG-16",
            (16, 4096, 25088): "VGG-19",
        },
    ),
)


def recognise(state: Mapping[str, torch.Tensor]) -> str | None:
    """Name the network that a state dict is of; None where it is none of the well-known ones."""
    names = (family.find(state) for family in _FAMILIES)
    return next((name for name in names if name is not None), None)
