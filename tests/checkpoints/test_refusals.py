"""Checkpoints that are damaged, hostile or not ours: refused in a sentence, nothing is run."""

import copy
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, checkpoint_of, load_plain, made_options, small_checkpoint

from chestxray.checkpoints import checkpoint, lookup
from chestxray.checkpoints.checkpoint import EpochRecord
from chestxray.checkpoints.schema import SCHEMA
from chestxray.labels import CLASSES
from chestxray.models.network import build_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pth"


def test_every_flipped_bit_is_refused_or_changes_nothing(path: Path) -> None:
    """Tensors, pickle and the headers of the archive; torch alone lets most of them through."""
    checkpoint.save(path, checkpoint_of(model={"w": torch.arange(64.0)}))
    whole = path.read_bytes()
    straight = load_plain(path)
    rng = np.random.default_rng(0)
    headers = len(whole) - 3000
    places = {*rng.integers(len(whole), size=300).tolist(), *range(headers, len(whole), 7)}
    refused = silently_other = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = load_plain(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        assert torch.equal(found["model"]["w"], straight["model"]["w"])
        assert {k: found[k] for k in ("args", "history", "split", "lr")} == {
            k: straight[k] for k in ("args", "history", "split", "lr")
        }
        silently_other += torch.load(path, weights_only=True)["lr"] != straight["lr"]
    assert refused > 250 and not silently_other


def test_every_flipped_bit_of_a_tensor_is_found(path: Path) -> None:
    checkpoint.save(path, checkpoint_of(model={"w": torch.arange(64.0)}))
    whole = path.read_bytes()
    start = whole.index(torch.arange(64.0).numpy().tobytes())
    for place in range(start, start + 256, 17):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert not torch.equal(
            torch.load(path, weights_only=True)["model"]["w"], torch.arange(64.0)
        )
        with pytest.raises(ValueError, match="has another checksum than when written"):
            checkpoint.load(path)


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.9, 0.999])
def test_the_beginning_of_a_checkpoint_is_refused(path: Path, share: float) -> None:
    checkpoint.save(path, checkpoint_of())
    content = path.read_bytes()
    path.write_bytes(content[: 1 + int(share * len(content))])
    with pytest.raises(ValueError, match="only the beginning of a file"):
        checkpoint.load(path)


def zip_of(path: Path, **names: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            archive.writestr(name.replace("__", "/"), content)


def twice(path: Path) -> None:
    torch.save({}, path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}q\x00.")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "or damaged: it is empty"),
        (lambda path: path.write_text("epoch,loss\n1,0.2\n"), "it is not in zip form"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "it is not in zip form"),
        (lambda path: path.mkdir(), "is a folder or a device"),
        (lambda path: os.mkfifo(path), "is a folder or a device"),
        (lambda path: zip_of(path, hello=b"hello"), "there is no data.pkl"),
        (lambda path: zip_of(path, a__data_pkl=b""), "there is no data.pkl"),
        (lambda path: zip_of(path, **{"a__data.pkl": b"\x80"}), "a.pth is not a .pth, or damaged"),
        (lambda path: zip_of(path, **{"a__data.pkl": b"\x80\x02."}), "cannot be read as tensors"),
        (twice, "a record is there twice"),
        (lambda path: torch.save([1, 2], path), "has no format"),
        (lambda path: torch.save(torch.zeros(3), path), "has no format"),
        (lambda path: torch.save({"w": torch.zeros(1)}, path), "has no format.*--weights"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(path)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(path)


class Dangerous:
    """What a hostile file holds: unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def raw(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def legacy_tar(content: Any, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            held = pickle.dumps(content)
            entry = tarfile.TarInfo(name)
            entry.size = len(held)
            archive.addfile(entry, io.BytesIO(held))


@pytest.mark.parametrize("form", [zipped, raw, legacy, legacy_tar])
@pytest.mark.parametrize("where", ["args", "history", "optimizer", "alone"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: Callable[[Any, Path], None],
    where: str,
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ran = tmp_path / "ran"
    content: Any = {
        "args": lambda bomb: small_checkpoint(args={"bs": bomb}),
        "history": lambda bomb: small_checkpoint(history=[bomb]),
        "optimizer": lambda bomb: small_checkpoint(
            optimizer={"state": {0: bomb}, "param_groups": []}
        ),
        "alone": lambda bomb: bomb,
    }[where](Dangerous(ran))
    form(content, path)
    for test in (False, True):
        with pytest.raises(ValueError) as refusal:
            (lookup.open_to_test if test else lookup.open_to_resume)(str(path), tmp_path)
    if form is zipped:
        assert "is not opened: besides tensors and plain values it names" in str(refusal.value)
        assert "pathlib" in str(refusal.value)
    assert lookup.read_run_id(path) is None
    assert not ran.exists()
    if form in (zipped, legacy):  # the injury is real: read without our guard it runs
        with pytest.warns(UserWarning, match="NO_WEIGHTS_ONLY_LOAD detected"):
            torch.load(path)
    else:
        pickle.loads(pickle.dumps(content))
    assert ran.exists()


PEAK = """
import re, sys
from pathlib import Path
from chestxray.checkpoints import checkpoint
from chestxray.checkpoints import lookup
def memory(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = memory("VmRSS")
try:
    checkpoint.load(Path(sys.argv[1]))
    print("opened", end=" ")
except ValueError as error:
    print("refused", end=" ")
print((memory("VmHWM") - before) // 1024)
"""


def rewritten(path: Path, pickled: bytes | None = None, method: int = zipfile.ZIP_STORED) -> None:
    """The same archive with another pickle, or packed in another way."""
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            replaced = pickled is not None and name.endswith("data.pkl")
            archive.writestr(name, pickled if replaced else content)


def deflated(path: Path) -> None:
    torch.save(small_checkpoint(model={"w": torch.zeros(100_000_000)}), path)
    rewritten(path, method=zipfile.ZIP_DEFLATED)


def endless_view(path: Path) -> None:
    torch.save(small_checkpoint(model={"w": torch.zeros(1).expand(10**12)}), path)


def many_steps(path: Path) -> None:
    """A pickle of a million and a half empty dicts, each of 64 bytes and a byte in the file."""
    torch.save(small_checkpoint(), path)
    rewritten(path, b"\x80\x02" + b"}" * 1_500_000 + b".")


def long_bytes(path: Path) -> None:
    """A pickle that calls bytearray(4 GB)."""
    torch.save(small_checkpoint(), path)
    size = struct.pack("<Q", 1 << 32)[:5]
    rewritten(path, b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + size + b"\x85R.")


@pytest.mark.parametrize("make", [deflated, endless_view, long_bytes, many_steps])
def test_a_small_file_does_not_become_large_in_memory(
    path: Path, make: Callable[[Path], None]
) -> None:
    make(path)
    assert path.stat().st_size < 2_000_000
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path], cwd=ROOT, capture_output=True, text=True
    )
    verdict, megabytes = done.stdout.split()
    assert verdict == "refused", done.stderr
    assert int(megabytes) < 60


@pytest.mark.parametrize("make", [long_bytes, many_steps])
def test_torch_alone_finds_large_pickles_safe(path: Path, make: Callable[[Path], None]) -> None:
    """Why the classes that a pickle names are read here; goes when torch finds these unsafe."""
    make(path)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []


def test_opening_takes_little_more_memory_than_the_file(path: Path) -> None:
    checkpoint.save(path, checkpoint_of(model={"w": torch.ones(50_000_000)}))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path], cwd=ROOT, capture_output=True, text=True
    )
    verdict, megabytes = done.stdout.split()
    assert verdict == "opened", done.stderr
    assert 190 < int(megabytes) < 330


def places(rule: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a checkpoint must have something: the way to each key."""
    if isinstance(rule, dict):
        for key, inner in rule.items():
            yield (*keys, key)
            yield from places(inner, (*keys, key))
    elif isinstance(rule, list):
        yield from places(rule[0], (*keys, 0))


def spelled(keys: tuple[Any, ...]) -> str:
    return ".".join(map(str, keys)).replace(".0", "[0]")


LATER = [("args", "bits")]  # keys that older files of this format lack


@pytest.mark.parametrize("keys", [k for k in places(SCHEMA) if k not in LATER], ids=spelled)
def test_a_checkpoint_without_one_key_is_refused_by_name(path: Path, keys: tuple[Any, ...]) -> None:
    content = copy.deepcopy(small_checkpoint())
    holder = content
    for key in keys[:-1]:
        holder = holder[key]
    del holder[keys[-1]]
    torch.save(content, path)
    message = "has no format" if keys == ("format",) else f"the key {spelled(keys)} is missing"
    with pytest.raises(ValueError) as refusal:
        checkpoint.load(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value)


def test_a_checkpoint_of_before_the_option_has_16_bits(path: Path) -> None:
    content = copy.deepcopy(small_checkpoint())
    del content["args"]["bits"]
    torch.save(content, path)
    assert checkpoint.load(path).args["bits"] == 16


def test_every_key_of_a_checkpoint_has_its_rule() -> None:
    assert set(small_checkpoint()) == set(SCHEMA)
    names = set(made_options().kept())
    assert names == set(SCHEMA["args"])
    assert {field.name for field in fields(EpochRecord)} == set(SCHEMA["history"][0])


NAN = torch.tensor([1.0, float("nan")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 4}, "format 4, this program reads format 3: it was written by a newer version"),
        ({"format": 2}, "format 2, this program reads format 3: it was written by an unreleased"),
        ({"format": "3"}, "format is '3', not one of"),
        ({"arch": "densenet121"}, "is of the network 'densenet121'; this program has resnet50"),
        ({"classes": list(CLASSES[:14])}, "they differ in Pneumothorax"),
        ({"classes": [*CLASSES[:14], "COVID"]}, "they differ in COVID, Pneumothorax"),
        ({"classes": [*CLASSES[:14], "Mass"]}, "they differ in Pneumothorax"),
        ({"classes": [*CLASSES, "Mass"]}, "they differ in Atelectasis"),
        ({"model": {"w": NAN}}, "the weights w are not all finite"),
        ({"model": {"v": -torch.inf * NAN[:1]}}, "the weights v are not all finite"),
        ({"model": {"v": NAN[:1].half() / 0}}, "the weights v are not all finite"),
        ({"model": {"v": 1.0}}, "model is <class 'dict'>, not tensors by name"),
        (
            {"optimizer": {"state": {3: {"exp_avg": NAN}}, "param_groups": []}},
            "the moments of parameter 3, exp_avg are not all finite",
        ),
        ({"stage": 5}, r"stage is 5, not one of \(1, 2, 3, 4\)"),
        ({"stage": True}, "stage is True"),
        ({"lr": 2.0}, "lr is 2.0, not a learning rate"),
        ({"lr": float("nan")}, "lr is nan, not a learning rate"),
        ({"epochs_done": "four"}, "epochs_done is 'four', not a whole number"),
        ({"epochs_done": -1}, "epochs_done is -1, not a whole number, at least 0"),
        ({"epochs_planned": 10**600}, "epochs_planned is 1000.*at most 100,000"),
        ({"images_done": 2}, "images_done is 2, and fewer images are for training"),
        (
            {"args": {**small_checkpoint()["args"], "overwrite": True}},
            "the key args.overwrite is not known",
        ),
        ({"loss_sum": float("inf")}, "loss_sum is inf, not a finite number"),
        ({"notes": 1}, "the key notes is not known"),
        ({"history": {}}, "history is not a list"),
        ({"history": [7]}, r"history\[0\] is not a dict"),
        ({"mean": [0.0, "x", 1.0]}, "mean is <class 'list'>, not a list of three numbers"),
        ({"precision": "fp8"}, "precision is 'fp8', not one of"),
    ],
)
def test_a_checkpoint_that_is_not_ours_to_use_is_refused(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    torch.save(small_checkpoint(**changes), path)
    with pytest.raises(ValueError, match=message) as refusal:
        checkpoint.load(path)
    assert str(path) in str(refusal.value)


def test_weights_of_another_shape_are_refused_before_images(path: Path, tmp_path: Path) -> None:
    state = build_model(15, 0).state_dict()
    for changed, message in (
        ({**state, "fc.weight": state["fc.weight"][:14]}, r"fc.weight is \(14, 2048\), not \(15"),
        ({k: v for k, v in state.items() if k != "layer4.0.conv1.weight"}, "misses layer4.0.conv1"),
        ({**state, "more": torch.zeros(1)}, "has besides more"),
        ({**state, "fc.bias": torch.zeros(15, dtype=torch.int64)}, "fc.bias is torch.int64, not"),
    ):
        checkpoint.save(path, checkpoint_of(model=changed))
        with pytest.raises(ValueError, match=f"{path}: weights do not fit resnet50: .*{message}"):
            lookup.open_to_resume(str(path), tmp_path)


def test_a_bare_resume_takes_last_else_the_newest_readable(
    tmp_path: Path,
) -> None:
    held = checkpoint_of(model=build_model(15, 0).state_dict())
    for age, name in ((30, "stage1_0001_01.pth"), (10, "stage1_0001_02.pth"), (0, "best.pth")):
        checkpoint.save(tmp_path / name, held)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))

    def resumed() -> tuple[str, list[str]]:
        opened = lookup.open_to_resume(None, tmp_path)
        path, notes = opened.path, opened.notes
        return path.name, notes

    assert resumed() == ("stage1_0001_02.pth", [])
    checkpoint.save(tmp_path / "last.pth", held)
    os.utime(tmp_path / "last.pth", (1e9 - 99, 1e9 - 99))
    assert resumed() == ("last.pth", [])
    (tmp_path / "last.pth").write_bytes((tmp_path / "last.pth").read_bytes()[:1000])
    name, (note, lost) = resumed()
    assert name == "stage1_0001_02.pth"
    assert lost.endswith(
        "stage1_0001_02.pth is the newest that can be read: what came after it is lost"
    )
    assert note.startswith("passed over: ") and "last.pth" in note and "beginning" in note
    (tmp_path / "stage1_0001_02.pth").write_bytes(b"")
    assert resumed()[0] == "stage1_0001_01.pth" and len(resumed()[1]) == 3
    (tmp_path / "stage1_0001_01.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in .* can be resumed\npassed over"):
        lookup.open_to_resume(None, tmp_path)
    with pytest.raises(ValueError, match="only the beginning"):  # a typed name means that file
        lookup.open_to_resume("last.pth", tmp_path)
