"""Weights of other programs as a type of their own, refused where they cannot be scored."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import densenet121, resnet50

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


def test_another_network_is_answered_with_a_name_of_each_and_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(densenet121(num_classes=14).state_dict(), path)
    message = (
        r"a.pth: weights do not fit resnet50: it misses bn1.bias and 317 more and has besides "
        r"classifier.bias and \d+ more; it looks like DenseNet-121$"
    )
    with pytest.raises(ValueError, match=message):
        foreign.read_state_dict(path)
    with pytest.raises(ValueError, match=message):
        foreign.read_foreign(path, foreign.read(path))
    torch.save({f"module.{k}": v for k, v in torch.load(path).items()}, path)
    theirs = r"DenseNet-121; the names in the file are like module.features.conv0.weight$"
    with pytest.raises(ValueError, match=theirs):
        foreign.read_state_dict(path)


# A few names of a ResNet-50, and the same of a Sequential of its children.
SMALL = {
    "conv1.weight": torch.ones(2, 2),
    "bn1.running_var": torch.ones(2),
    "layer1.0.conv1.weight": torch.ones(1, 1),
    "layer2.3.bn2.bias": torch.ones(3),
    "layer3.0.downsample.1.weight": torch.ones(4),
    "layer4.2.conv3.weight": torch.ones(5, 1),
    "fc.bias": torch.ones(15),
}
NUMBERS = {"conv1": "0", "bn1": "1", **{f"layer{k}": str(k + 3) for k in range(1, 5)}}
PREFIXES = ("module.", "model.", "net.", "backbone.", "encoder.", "_orig_mod.")
KEYS = st.one_of(st.none(), st.sampled_from(["model", "state_dict", "net", "weights"]), st.text())


def numbered(name: str) -> str:
    first, dot, rest = name.partition(".")
    return NUMBERS.get(first, first) + dot + rest


@settings(max_examples=300, deadline=None)
@given(
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=6),
    headless=st.booleans(),
    by_number=st.booleans(),
    key=KEYS,
)
def test_every_combination_of_prefixes_and_keys_is_read(
    prefixes: list[str], headless: bool, by_number: bool, key: str | None
) -> None:
    prefix = "".join(prefixes)
    theirs: dict[str, Any] = {
        f"{'' if headless and name == 'fc.bias' else prefix}"
        f"{numbered(name) if by_number else name}": value
        for name, value in SMALL.items()
    }
    beside = {"epoch": 3, "losses": {"train": torch.tensor(0.1)}, "optimizer": {"state": {}}}
    content = theirs if key is None else {**beside, key: theirs}
    found = foreign.state_dict_of(Path("a.pth"), content)
    assert found.pop("bn1.num_batches_tracked") == 0
    assert found.keys() == SMALL.keys()
    assert all(torch.equal(found[name], SMALL[name]) for name in SMALL)


def test_weights_of_two_networks_are_refused_with_both_names() -> None:
    state = {"fc.weight": torch.ones(2, 2)}
    for content, message in (
        ({"student": state, "teacher": state}, "under each of student, teacher: save the one"),
        ({"model": state, "state_dict": state}, "under each of model, state_dict"),
        (
            {"fc.weight": state["fc.weight"], "module.fc.weight": torch.ones(2, 2)},
            "fc.weight twice",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            foreign.state_dict_of(Path("a.pth"), content)
    usual = {"model": state, "model_ema": {"fc.weight": torch.zeros(2, 2)}}
    assert foreign.state_dict_of(Path("a.pth"), usual)["fc.weight"].sum() == 4


SCALARS = [
    *(np.dtype(kind).type(1) for kind in "?bhilqBHILQefdgFDG"),
    np.str_("resnet"),
    np.bytes_(b"resnet"),
    np.datetime64("2020-01-01"),
    np.timedelta64(3, "D"),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_numpy_scalars_and_a_namespace_beside_weights_are_let_be(
    tmp_path: Path, scalar: np.generic
) -> None:
    path = tmp_path / "a.pth"
    notes = argparse.Namespace(
        lr=0.1, folder=Path("runs/1"), best=scalar, nested=argparse.Namespace(), kind=scalar.dtype
    )
    held = {"net": {"fc.weight": torch.ones(2, 2)}, "args": notes, "best": [scalar, scalar]}
    torch.save(held, path)
    found = foreign.state_dict_of(path, foreign.read(path))
    assert found["fc.weight"].tolist() == [[1, 1], [1, 1]]


def numbers_in_the_old_spelling(path: Path) -> None:
    torch.save({"net": {"fc.weight": torch.ones(2, 2)}, "best": np.float64(0.5)}, path)
    with_pickle(path, lambda whole: whole.replace(b"numpy._core.multi", b"numpy.core.multi"))


def with_pickle(path: Path, change: Any) -> None:
    """Replace the pickle of a .pth by a changed one."""
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def test_scalars_of_numpy_before_2_are_let_be(tmp_path: Path) -> None:
    numbers_in_the_old_spelling(tmp_path / "a.pth")
    assert foreign.state_dict_of(tmp_path / "a.pth", foreign.read(tmp_path / "a.pth"))


def text(content: str) -> bytes:
    return b"X" + len(content).to_bytes(4, "little") + content.encode()


ENCODE = b"c_codecs\nencode\n"
# Calls of encode that are not those of a NumPy scalar: they could grow, unpack or import.
CALLS = {
    "another codec": ENCODE + text("ab") + text("punycode") + b"\x86R",
    "a codec out of the memo": text("hex_codec") + b"q\x02" + ENCODE + text("a") + b"h\x02\x86R",
    "a memo written twice": text("latin1")
    + b"q\x02"
    + text("idna")
    + b"q\x02"
    + ENCODE
    + text("a")
    + b"h\x02\x86R",
    "of what was encoded": 2 * ENCODE + text("a") + text("latin1") + b"\x86R\x86R",
    "three arguments": ENCODE + text("a") + text("latin1") + text("ignore") + b"\x87R",
    "one argument": ENCODE + text("a") + b"\x85R",
    "arguments of a list": ENCODE + b"]" + text("latin1") + b"\x86R",
    "a long text": ENCODE + text(257 * "a") + text("latin1") + b"\x86R",
    "the function alone": ENCODE,
    "the function out of the memo": ENCODE + b"q\x01" + text("a") + text("latin1") + b"\x86Rh\x01",
    "a new object of it": ENCODE + text("a") + text("latin1") + b"\x86\x81",
}


@pytest.mark.parametrize("name", CALLS)
def test_encode_is_called_for_the_bytes_of_a_scalar_only(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pth"
    torch.save({}, path)
    with_pickle(path, lambda _: b"\x80\x02" + CALLS[name] + b".")
    with pytest.raises(ValueError, match="is not opened: .* names _codecs.encode, and building"):
        foreign.read(path)


@pytest.mark.parametrize("name", ["scalar", "dtype"])
def test_a_forged_numpy_scalar_builds_nothing(tmp_path: Path, name: str) -> None:
    """NumPy would unpickle what a scalar of objects holds."""
    path, ran = tmp_path / "a.pth", tmp_path / "ran"
    torch.save({}, path)
    held = f"cos\nsystem\n(S'touch {ran}'\ntR."
    called = {
        "scalar": b"cnumpy\ndtype\nX\x02\0\0\0O8\x85R" + text(held)[: 5 + len(held)] + b"\x86R",
        "dtype": text("V8000000000") + b"\x85R",
    }[name]
    module = "numpy._core.multiarray" if name == "scalar" else "numpy"
    with_pickle(path, lambda _: b"\x80\x02" + f"c{module}\n{name}\n".encode() + called + b".")
    content = foreign.read(path)
    assert not isinstance(content, np.generic | np.dtype) and not ran.exists()
    with pytest.raises(ValueError, match="holds no state dict"):
        foreign.state_dict_of(path, content)


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
