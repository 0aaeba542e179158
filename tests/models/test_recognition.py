"""Networks are recognised by the names and shapes of their tensors."""

import pytest
import torch
import torchvision

from chestxray.models.recognition import recognise

NAMES = {
    "densenet121": "DenseNet-121",
    "densenet161": "DenseNet-161",
    "densenet169": "DenseNet-169",
    "densenet201": "DenseNet-201",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnet152": "ResNet-152",
    "wide_resnet50_2": "Wide ResNet-50",
    "resnext50_32x4d": "ResNeXt-50",
    "resnext101_32x8d": "a ResNet",
    "vgg11": "VGG-11",
    "vgg16_bn": "VGG-16",
    "vgg19": "VGG-19",
    "efficientnet_b0": "EfficientNet",
    "efficientnet_v2_s": "EfficientNet",
    "mobilenet_v2": "MobileNet",
    "mobilenet_v3_large": "MobileNet",
    "convnext_tiny": "ConvNeXt",
    "swin_t": "a Swin transformer",
    "vit_b_16": "ViT-B",
    "vit_l_32": "ViT-L",
    "squeezenet1_0": None,
    "alexnet": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_well_known_network_is_recognised_behind_any_prefix(name: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(num_classes=14).state_dict()
    for prefix in ("", "module.", "model.net."):
        assert recognise({f"{prefix}{key}": value for key, value in state.items()}) == NAMES[name]


def test_names_without_shapes_are_no_network() -> None:
    assert recognise({}) is None
    assert recognise({"layer1.0.conv2.weight": torch.zeros(())}) is None
