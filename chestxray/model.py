"""ResNet-50 with one logit per class, its stages, and where its first weights come from.

Network: He et al. 2015, arXiv:1512.03385, in torchvision's form (stride in the 3 x 3 convolution).
"""

from collections.abc import Mapping
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torch import nn
from torchvision.models import ResNet50_Weights
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
    """ResNet-50 whose frozen parts stay frozen: no gradient, BatchNorm in eval, in training too.

    Args:
        num_classes: logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=num_classes)
        self.trainable: tuple[str, ...] = _PARTS
        self.bf16 = False  # compute everything below the head in bfloat16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, size, size) normalised pictures to (N, num_classes) logits in float32."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
            maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.fc(self.avgpool(maps.float()).flatten(1))

    def set_trainable(self, parts: tuple[str, ...]) -> None:
        """Freeze all but the named parts."""
        self.trainable = parts
        for name in _PARTS:
            self.get_submodule(name).requires_grad_(name in parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ChestResNet":
        """As nn.Module.train, but frozen parts stay in eval, so that their statistics do too."""
        super().train(mode)
        for name in _PARTS:
            if name not in self.trainable:
                self.get_submodule(name).eval()
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


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


def load_weights(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy a state dict into the model, whole or not at all.

    Raises:
        ValueError: keys or shapes that do not fit, the first of them named.
    """
    ours = model.state_dict()
    missing, extra = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in ours.items()
        if name in state and state[name].shape != value.shape
    ]
    for what, names in (("misses", missing), ("has besides", extra), ("differs:", shapes)):
        if names:
            raise ValueError(f"weights do not fit {ARCH}: it {what} {names[0]} (of {len(names)})")
    model.load_state_dict(state)


def trainable_parts(stage: int, from_scratch: bool) -> tuple[str, ...]:
    """The parts that a stage trains; without pretrained weights stage 1 trains everything."""
    return _PARTS if stage == 1 and from_scratch else STAGES[stage]


def imagenet_weights() -> Mapping[str, torch.Tensor]:
    """torchvision's IMAGENET1K_V1 weights (the recipe's), from its cache or the network.

    Raises:
        FileNotFoundError: not cached and not to be had; says where to put the file.
        ValueError: the cached file is damaged.
    """
    weights = ResNet50_Weights.IMAGENET1K_V1
    name = weights.url.rsplit("/", 1)[-1]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise FileNotFoundError(
            f"the ImageNet weights cannot be downloaded ({error}); put {name} into "
            f"{torch.hub.get_dir()}/checkpoints, or name it with --weights FILE; "
            "--weights none starts from random weights"
        ) from error
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{name} in {torch.hub.get_dir()}/checkpoints is damaged, or its download was; "
            "delete it and try again"
        ) from error


def pick_device(choice: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: it is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if choice == "auto":
        choice = next(name for name, available in there.items() if available)
    if not there[choice]:
        available = ", ".join(name for name, yes in there.items() if yes)
        raise ValueError(
            f"--device {choice}: not here, or torch was built without it; there is {available}"
        )
    return torch.device(choice)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16 itself, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
