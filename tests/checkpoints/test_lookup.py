"""Checkpoints that are opened: classes in other orders, other programs' weights."""

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from helpers import checkpoint_of, small_checkpoint

from chestxray.checkpoints import checkpoint, foreign, lookup
from chestxray.labels import CLASSES
from chestxray.models import network as networks
from chestxray.scores import read_scores
from chestxray.training.run import restore_optimizer

Chest = Callable[..., int]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Weights of a network with 15 outputs."""
    return networks.build_model(15, 0).state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_classes_in_another_order_are_put_in_ours_by_name(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    network = networks.build_model(15, 0)
    network.set_stage(4)
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)
    network.fc(torch.randn(2, 2048)).square().sum().backward()
    optimizer.step()
    backwards = torch.arange(14, -1, -1)
    turned = {
        k: v[backwards] if k.startswith("fc.") else v for k, v in network.state_dict().items()
    }
    moments = {
        number: {k: v if k == "step" else v[backwards] for k, v in held.items()}
        for number, held in optimizer.state_dict()["state"].items()
    }
    content = checkpoint_of(
        classes=list(reversed(CLASSES)),
        model=turned,
        optimizer={**optimizer.state_dict(), "state": moments},
    )
    checkpoint.save(tmp_path / "a.pth", content)
    opened = lookup.open_to_resume("a.pth", tmp_path)
    assert opened.checkpoint is not None and opened.checkpoint.classes == list(CLASSES)
    assert same(opened.weights, network.state_dict())
    assert opened.notes == [
        f"{tmp_path / 'a.pth'} has the classes in another order: its outputs were put in ours"
    ]
    fresh = torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)
    restore_optimizer(fresh, opened.checkpoint.optimizer)
    for number, held_moments in optimizer.state_dict()["state"].items():
        assert same(fresh.state_dict()["state"][number], held_moments)


def test_moments_of_other_parameters_are_refused(state: dict[str, torch.Tensor]) -> None:
    network = networks.build_model(15, 0)
    network.set_stage(4)
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-4)
    moment = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    for moments in ({}, {0: moment}, {0: moment, 1: moment}, {0: {}, 1: {}}):
        with pytest.raises(ValueError, match="moments of Adam are not those of the parameters"):
            restore_optimizer(optimizer, {"state": moments, "param_groups": []})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_any_precision_are_read_as_float32(
    tmp_path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    held = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(held, tmp_path / "a.pth")
    found = foreign.read_state_dict(tmp_path / "a.pth")
    assert same(found, {k: v.float() if v.is_floating_point() else v for k, v in held.items()})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"net": state, "args": Namespace(lr=np.float64(0.1)), "optimizer": {}},
        lambda state: small_checkpoint(model=state),
    ],
)
def test_state_dicts_are_found_bare_wrapped_and_in_checkpoints(
    tmp_path: Path, state: dict[str, torch.Tensor], wrap: Callable[[Any], Any]
) -> None:
    torch.save(wrap(state), tmp_path / "a.pth")
    assert same(foreign.read_state_dict(tmp_path / "a.pth"), state)


def test_the_children_of_a_resnet_by_number_are_put_under_their_names(tmp_path: Path) -> None:
    network = torchvision.models.resnet50(weights=None)
    wanted = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    backbone = torch.nn.Sequential(*list(network.children())[:-1])
    held = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    assert "backbone.4.0.conv1.weight" in held
    torch.save(held, tmp_path / "a.pth")
    assert same(foreign.read_state_dict(tmp_path / "a.pth"), wanted)


def test_weights_that_lay_on_a_gpu_are_opened_on_the_cpu(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    """Storages are tagged with their device; here the tag of a whole file is made "cuda:0"."""
    torch.save(state, tmp_path / "a.pth")
    tag = b"X\x03\x00\x00\x00cpu"
    with torch_records(tmp_path / "a.pth") as records:
        assert records["data.pkl"].count(tag) == 1  # once written, then referred to
        records["data.pkl"] = records["data.pkl"].replace(tag, b"X\x06\x00\x00\x00cuda:0")
    assert b"cuda:0" in (tmp_path / "a.pth").read_bytes()
    assert same(foreign.read_state_dict(tmp_path / "a.pth"), state)


class torch_records:
    """The records of a .pth by name, written back at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> dict[str, bytes]:
        reader = torch._C.PyTorchFileReader(str(self.path))
        self.records = {name: reader.get_record(name) for name in reader.get_all_records()}
        return self.records

    def __exit__(self, *_: object) -> None:
        writer = torch._C.PyTorchFileWriter(str(self.path))
        for name, content in self.records.items():
            if name not in ("version", ".data/serialization_id"):
                writer.write_record(name, content, len(content))
        writer.write_end_of_file()


def test_weights_of_before_2018_are_opened(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    old = {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "a.pth")
    assert len(old) < len(state)
    weights = lookup.open_to_test("a.pth", tmp_path).weights
    assert same({name: weights[name] for name in old}, old)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no state dict"),
        ({}, "holds no state dict"),
        (
            {"conv1.weight": torch.zeros(1)},
            "a.pth: weights do not fit resnet50: it misses bn1.bias",
        ),
        ({"fc.bias": torch.tensor([float("nan")])}, "the weights fc.bias are not all finite"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        foreign.read_state_dict(tmp_path / "a.pth")


def published(outputs: int = 15) -> dict[str, Any]:
    """What the published implementation saves: the whole model, pickled."""
    network = torchvision.models.resnet50(weights=None)
    network.fc = torch.nn.Linear(2048, outputs)
    return {"epochs": 8, "model": network, "losses_dict": {"epoch_train_loss": {1: 0.3}}}


@pytest.mark.parametrize("parallel", [False, True])
def test_a_published_whole_model_gives_its_weights(tmp_path: Path, parallel: bool) -> None:
    content = published()
    wanted = content["model"].state_dict()
    if parallel:
        content["model"] = torch.nn.DataParallel(content["model"])
    torch.save(content, tmp_path / "a.pth")
    assert same(foreign.read_state_dict(tmp_path / "a.pth"), wanted)


def test_a_whole_model_that_names_another_class_is_refused(
    tmp_path: Path,
) -> None:
    content = published()
    content["model"].drop = torch.nn.Dropout()
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="names torch.nn.modules.dropout.Dropout, and building"):
        foreign.read_state_dict(tmp_path / "a.pth")


def test_a_model_that_holds_itself_ends(tmp_path: Path) -> None:
    content = published()
    content["model"]._modules["again"] = content["model"]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        lookup.open_to_test("a.pth", tmp_path)


def test_the_form_of_before_2020_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(published(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="form of before 2020") as refusal:
        lookup.open_to_test("old.pth", tmp_path)
    command = str(refusal.value).partition("rewrite it: ")[2]
    python = command.replace(" python ", f" {sys.executable} ")
    subprocess.run(["bash", "-c", python], cwd=tmp_path, check=True)
    assert lookup.open_to_test("old_zip.pth", tmp_path).weights["fc.bias"].shape == (15,)


def test_other_numbers_of_outputs_are_refused(
    tmp_path: Path,
) -> None:
    torch.save(published(outputs=14), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="has 14 outputs; needed are 15, in this order: Atelect"):
        lookup.open_to_test("a.pth", tmp_path)
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "b.pth")
    with pytest.raises(ValueError, match="has 1000 outputs; needed are 15"):
        lookup.open_to_test("b.pth", tmp_path)


def test_other_programs_weights_are_scored_as_ours_are(
    chest: Chest, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One network as a state dict and as a whole model gives the same scores; what is not known
    of it is said."""
    network = published()
    torch.save(network, "whole.pth")
    torch.save(network["model"].state_dict(), "bare.pth")
    words = ("--data_path", drawn, "--size", 32, "--precision", "fp32", "--workers", 0)
    tables = []
    for name in ("whole", "bare"):
        assert chest("--test", "--ckpt", f"{name}.pth", *words) == 0
        said = capsys.readouterr().out
        assert "15 outputs are taken to be, in this order, Atelectasis, Cardio" in said
        assert "does not say which images it was trained on" in said
        assert "split: the official lists; 0 patients shared" in said
        tables.append(read_scores(Path(f"checkpoints/{name}_test_scores.csv")))
    assert (tables[0].scores == tables[1].scores).all()
    wanted = sorted((drawn / "test_list.txt").read_text().split())
    assert tables[0].image_names.tolist() == wanted
    shutil.copytree(drawn, "no lists")
    for part in ("test", "train_val"):
        Path(f"no lists/{part}_list.txt").unlink()
    words = ("--data_path", "no lists", *words[2:])
    assert chest("--test", "--ckpt", "bare.pth", "--scores", "all.csv", *words) == 0
    assert "split: all test; 0 patients shared" in capsys.readouterr().out
    assert len(read_scores(Path("all.csv")).image_names) == 60
    assert chest("--resume", "--ckpt", "bare.pth", *words) == 1
    said = capsys.readouterr().err
    assert "it has no optimizer state; if its weights are a ResNet-50's, --weights bare.pth" in said
    shutil.rmtree("checkpoints")
