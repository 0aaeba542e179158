"""Weights of other programs as a type of their own, refused where they cannot be scored."""

import zipfile
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50

from chestxray.checkpoints import foreign
from chestxray.runtime.files import file_digest


def test_foreign_weights_know_their_file_and_what_is_assumed(tmp_path: Path) -> None:
    state = resnet50(num_classes=15).state_dict()
    path = tmp_path / "a.pth"
    torch.save({"state_dict": state, "epoch": 3}, path)
    found = foreign.read_foreign(path, foreign.read(path))
    assert (found.path, found.digest) == (path, file_digest(path))
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], state[name]) for name in state)
    outputs, images = found.caveats()
    assert "15 outputs are taken to be, in this order, Atelectasis, Cardio" in outputs
    assert "does not say which images it was trained on" in images


def test_foreign_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = resnet50(num_classes=15).state_dict()
    for content, message in (
        (resnet50(num_classes=14).state_dict(), "has 14 outputs; needed are 15, in this order: At"),
        (state | {"more": torch.zeros(1)}, "a.pth: weights do not fit resnet50: .* more"),
        ({"conv1.weight": torch.zeros(1)}, "a.pth: weights do not fit resnet50: it misses"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            foreign.read_foreign(path, foreign.read(path))


def test_the_classes_of_a_whole_model_cannot_be_called(tmp_path: Path) -> None:
    """Linear(8000, 8000), which the real class would turn into 256 MB."""
    path = tmp_path / "a.pth"
    call = b"\x80\x02ctorch.nn.modules.linear\nLinear\nM\x40\x1fM\x40\x1f\x86R."
    torch.save({}, path)
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, call if name.endswith("data.pkl") else content)
    assert path.stat().st_size < 1000
    with pytest.raises(ValueError, match="Linear.* takes no arguments"):
        foreign.read(path)
