"""A further torchvision network is an entry of the table: DenseNet-121 stands in for one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import load_plain
from torch import nn
from torchvision.models import DenseNet121_Weights, densenet121

from chestxray.models import backbones
from chestxray.models.backbones import BACKBONES, Backbone
from chestxray.models.network import StagedNetwork, build_model, check_weights
from chestxray.training.losses import FocalLoss

DENSENET121 = Backbone(
    name="densenet121",
    build=densenet121,
    body={
        "stem": ("features.conv0", "features.norm0", "features.relu0", "features.pool0"),
        "block1": ("features.denseblock1", "features.transition1"),
        "block2": ("features.denseblock2", "features.transition2"),
        "block3": ("features.denseblock3", "features.transition3"),
        "block4": ("features.denseblock4", "features.norm5", nn.ReLU()),
    },
    pooling=(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    head="classifier",
    stages={
        1: ("block2", "block3", "block4", "classifier"),
        2: ("block3", "block4", "classifier"),
        3: ("block4", "classifier"),
        4: ("classifier",),
    },
    cam_layer="features.norm5",
    weights=DenseNet121_Weights.IMAGENET1K_V1,
)
ENTRIES = [*BACKBONES.values(), DENSENET121]
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 2, (4, 15), generator=torch.Generator().manual_seed(1)).float()

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def trained_network(entry: Backbone) -> StagedNetwork:
    """A network in eval mode whose BatchNorms are not those of a fresh one."""
    network = build_model(15, seed=0, backbone=entry)
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.eval()


@each_entry
def test_an_entry_folds_to_what_torchvision_computes(entry: Backbone) -> None:
    network = trained_network(entry)
    theirs = entry.build(num_classes=15).eval()
    theirs.load_state_dict(network.state_dict())
    with torch.inference_mode():
        close = partial(torch.testing.assert_close, expected=theirs(IMAGES), rtol=1e-3, atol=1e-4)
        close(network(IMAGES))
        for stage in entry.stages:
            network.set_stage(stage)
            maps = network.frozen_stem()(IMAGES)
            close(network(maps))
            close(network.folded_head()(maps))
        network.bf16 = True
        rounded = network.folded_head()(network.frozen_stem()(IMAGES))
    assert rounded.dtype == torch.float32 and rounded.isfinite().all()


@each_entry
def test_an_entry_trains_the_stage_and_nothing_else(entry: Backbone) -> None:
    network = build_model(15, seed=0, backbone=entry)
    network.set_stage(3)
    trained = [step for name in entry.stages[3] for step in entry.body.get(name, ())]
    prefixes = (f"{entry.head}.", *(f"{step}." for step in trained if isinstance(step, str)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-3)
    maps = network.frozen_stem()(IMAGES)
    for _ in range(2):
        optimizer.zero_grad()
        FocalLoss()(network.train()(maps), TARGETS).backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(prefixes), name


@each_entry
def test_an_entry_names_its_own_layers_and_weights(entry: Backbone) -> None:
    network = build_model(15, seed=0, backbone=entry)
    names = {step for steps in entry.body.values() for step in steps if isinstance(step, str)}
    held = {name for name, _ in network.named_parameters()}
    assert all(name.startswith((*(f"{n}." for n in names), f"{entry.head}.")) for name in held)
    assert set(entry.head_names) < held
    assert network.get_submodule(entry.cam_layer) is not None
    assert type(entry.weights).__name__.lower().startswith(entry.name)
    with pytest.raises(ValueError, match=f"do not fit {entry.name}: it misses {entry.head}"):
        check_weights(
            {n: v for n, v in network.state_dict().items() if n[0] != entry.head[0]}, 15, entry
        )


@pytest.fixture
def by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, DENSENET121.name, DENSENET121)
    monkeypatch.setattr(backbones, "DEFAULT_BACKBONE", DENSENET121.name)


@pytest.mark.usefixtures("by_default")
def test_a_whole_run_takes_another_backbone(
    chest: Callable[..., int], drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--data_path", drawn, "--size", 32, "--workers", 0, "--precision", "fp32")
    assert chest(*words, "--weights", "none", "--epochs", 1) == 0
    monkeypatch.setattr(backbones, "DEFAULT_BACKBONE", "resnet50")  # the checkpoint decides
    assert chest("--resume", "--stage", 2, "--epochs", 1, "--workers", 0) == 0
    assert chest("--test", "--ckpt", "stage2_0001_02.pth", *words[:2], "--workers", 0) == 0
    first, second = (
        load_plain(Path(f"checkpoints/stage{stage}_0001_0{stage}.pth")) for stage in (1, 2)
    )
    assert first["arch"] == second["arch"] == "densenet121"
    for name, value in first["model"].items():
        frozen = name.startswith(
            tuple(f"features.{n}" for n in ("conv0", "denseblock2", "transition2"))
        )
        assert torch.equal(value, second["model"][name]) or not frozen, name
    assert not torch.equal(*(c["model"]["classifier.weight"] for c in (first, second)))
