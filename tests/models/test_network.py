"""The network against torchvision's, what a stage freezes, and where first weights come from."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50

from chestxray.models import network as networks
from chestxray.models import pretrained
from chestxray.models.backbones import BACKBONES
from chestxray.training.losses import FocalLoss

STAGES = BACKBONES["resnet50"].stages
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 2, (4, 15), generator=torch.Generator().manual_seed(1)).float()


def test_the_network_is_torchvisions_resnet50_with_another_head() -> None:
    ours = networks.build_model(15, seed=0).eval()
    theirs = resnet50(num_classes=15).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours(IMAGES), theirs(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_seed_fixes_the_weights_and_leaves_torchs_generator() -> None:
    before = torch.get_rng_state()
    first, same, other = (networks.build_model(15, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("size", [32, 33])
def test_batches_of_one_image_train_where_torch_can(size: int) -> None:
    network = networks.build_model(15, seed=0)
    for stage, from_scratch in ((1, True), (3, False), (4, False)):
        network.set_stage(stage, from_scratch)
        maps = network.frozen_stem()(torch.zeros(1, 3, size, size))
        can = True
        try:
            network.train()(maps)
        except ValueError as error:
            assert "more than 1 value per channel" in str(error)
            can = False
        found = networks.trains_on_one(size, stage, from_scratch, BACKBONES["resnet50"])
        assert found == can == (size > 32 or stage == 4)


def test_a_body_is_taken_over_without_its_head() -> None:
    body = resnet50(num_classes=1000).state_dict()
    ours = networks.build_model(15, seed=0, body=body).state_dict()
    fresh = networks.build_model(15, seed=0).state_dict()
    assert all(torch.equal(ours[n], body[n]) for n in body if not n.startswith("fc."))
    assert torch.equal(ours["fc.weight"], fresh["fc.weight"])


@pytest.mark.parametrize("stage", STAGES)
def test_only_frozen_parts_are_the_same_bits_after_training(stage: int) -> None:
    network = networks.build_model(15, seed=0)
    network.set_stage(stage, from_scratch=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-3)
    network.train()
    maps = network.frozen_stem()(IMAGES)
    for _ in range(2):
        optimizer.zero_grad()
        FocalLoss()(network(maps), TARGETS).backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        frozen = name.partition(".")[0] not in STAGES[stage]
        assert torch.equal(value, before[name]) == frozen, name


@pytest.mark.parametrize("stage", STAGES)
def test_the_optimizer_gets_the_parameters_of_the_stage_only(stage: int) -> None:
    network = networks.build_model(15, seed=0)
    network.set_stage(stage, from_scratch=False)
    given = {id(parameter) for parameter in network.trainable_parameters()}
    for name, parameter in network.named_parameters():
        assert (id(parameter) in given) == (name.partition(".")[0] in STAGES[stage]), name


def test_from_scratch_stage_1_trains_everything() -> None:
    network = networks.build_model(15, seed=0)
    network.set_stage(1, from_scratch=True)
    assert len(network.trainable_parameters()) == len(list(network.parameters()))
    assert network.backbone.trained(2, from_scratch=True) == STAGES[2]


def test_logits_are_float32_in_bf16_too() -> None:
    network = networks.build_model(15, seed=0).eval()
    with torch.inference_mode():
        exact = network(IMAGES)
        network.bf16 = True
        rounded = network(IMAGES)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("stage", STAGES)
def test_the_frozen_and_the_trained_part_are_the_network(stage: int) -> None:
    network = lived_in(stage)
    theirs = resnet50(num_classes=15).eval()
    theirs.load_state_dict(network.state_dict())
    with torch.inference_mode():
        whole = theirs(IMAGES)
        frozen = network.frozen_stem()
        torch.testing.assert_close(network(frozen(IMAGES)), whole, rtol=1e-3, atol=1e-4)
        in_a_row = network.folded_head()(frozen(IMAGES))
    torch.testing.assert_close(in_a_row, whole, rtol=1e-3, atol=1e-4)


def lived_in(stage: int) -> networks.StagedNetwork:
    """A network in eval mode whose BatchNorm statistics are not those of a fresh one."""
    network = networks.build_model(15, seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, value in network.state_dict().items():
        if "running" in name or ("bn" in name and name.endswith(("weight", "bias"))):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    network.set_stage(stage, from_scratch=False)
    return network.eval()


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_frozen_part_gives_the_same_bits_in_every_batch(stage: int, bf16: bool) -> None:
    network = lived_in(stage)
    network.bf16 = bf16
    frozen = network.frozen_stem()
    images = torch.randn(35, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    images = images.contiguous(memory_format=torch.channels_last)
    whole = frozen(images)
    assert not whole.requires_grad
    assert whole.dtype == (torch.bfloat16 if bf16 and stage < 4 else torch.float32)
    for chosen in ([7], [3, 30], [1, 8, 2], list(range(34, -1, -1)), list(range(5, 21))):
        assert torch.equal(frozen(images[chosen]), whole[chosen]), chosen


def test_a_part_is_as_the_weights_were_when_it_was_made() -> None:
    network = lived_in(2)
    images = network.frozen_stem()(IMAGES)
    part = network.folded_head()
    before = part(images)
    with torch.no_grad():
        network.fc.weight.zero_()
    assert torch.equal(part(images), before)
    assert not torch.equal(network.folded_head()(images), before)


def test_a_folded_part_has_no_batch_norm_and_is_freed() -> None:
    part = lived_in(2).folded_head()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in part.modules())
    there = weakref.ref(part)
    gc.disable()  # an epoch's copy of the weights must not wait for a collection
    try:
        del part
        assert there() is None
    finally:
        gc.enable()


def test_weights_that_do_not_fit_are_refused_whole() -> None:
    network = networks.build_model(15, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    good = {name: value + 1 for name, value in before.items()}
    missing = {name: value for name, value in good.items() if name != "layer3.0.conv1.weight"}
    for state, message in (
        (missing, "misses layer3.0.conv1.weight"),
        (good | {"extra": torch.zeros(1)}, "has besides extra"),
        (good | {"fc.bias": torch.zeros(14)}, r"fc.bias is \(14,\), not \(15,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            networks.load_weights(network, state)
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())


def test_imagenet_weights_come_from_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = resnet50().state_dict()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub/checkpoints/resnet50-0676ba61.pth")
    assert torch.equal(
        pretrained.imagenet_weights()["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"]
    )


def test_a_damaged_file_in_torchs_cache_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints/resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    torch.save(resnet50().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match="resnet50-0676ba61.pth in .* is damaged.*delete it"):
        pretrained.imagenet_weights()


def test_offline_the_message_says_where_to_put_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(FileNotFoundError) as caught:
        pretrained.imagenet_weights()
    for part in ("resnet50-0676ba61.pth", str(tmp_path), "--weights FILE", "--weights none"):
        assert part in str(caught.value)
    assert not list(tmp_path.rglob("*.p*"))
