"""Files of other kinds under the name of a checkpoint: called what they are."""

import json
import struct
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chestxray.checkpoints import checkpoint, foreign, lookup

STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.bias": torch.ones(2).half()}


def half_a_zip(path: Path) -> None:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:700])


PAGE = "<!DOCTYPE html><html><body>Sign in to download</body></html>"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102550000\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text(PAGE), r"a.pth is a web page \(HTML\) and not the file"),
        (lambda path: path.write_text("\ufeff\r\n <HTML>\r\n"), "a.pth is a web page"),
        (lambda path: path.write_text('<?xml version="1.0"?><Error/>'), "a.pth is a web page"),
        (lambda path: path.write_text(LFS), "a.pth is a Git LFS pointer.*`git lfs pull` fetches"),
        (half_a_zip, "it is only the beginning of a file; copy or download it again"),
    ],
)
def test_what_only_bears_the_name_is_called_what_it_is(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "a.pth")
    for read in (foreign.read_state_dict, checkpoint.load):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.pth")


def test_a_safetensors_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth"):
        save_file({f"model.{k}": v for k, v in STATE.items()}, tmp_path / name, {"by": "a test"})
        found = foreign.state_dict_of(tmp_path / name, foreign.read(tmp_path / name))
        assert {k: v.tolist() for k, v in found.items()} == {
            k: v.tolist() for k, v in STATE.items()
        }
        assert {value.dtype for value in found.values()} == {torch.float32}
        with pytest.raises(
            ValueError, match="it has no optimizer state; .* --weights .* a new run"
        ):
            lookup.open_to_resume(name, tmp_path)
        with pytest.raises(ValueError, match="no optimizer state: --weights .* starts a new run"):
            checkpoint.load(tmp_path / name)


def headed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE = {
    "cut": headed({"a": entry([2, 2], 0, 16)}, bytes(15)),
    "more behind": headed({"a": entry([2, 2], 0, 16)}, bytes(17)),
    "claims more": headed({"a": entry([10**6, 10**6], 0, 16)}, bytes(16)),
    "overflows": headed({"a": entry([2**63, 2**63], 0, 16)}, bytes(16)),
    "past the end": headed({"a": entry([4], 2**62, 2**62 + 16)}, bytes(16)),
    "backwards": headed({"a": entry([4], 16, 0)}, bytes(16)),
    "twice the same bytes": headed({n: entry([4], 0, 16) for n in "ab"}, bytes(16)),
    "a gap": headed({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "another dtype": headed({"a": entry([4], 0, 16, "PICKLE")}, bytes(16)),
    "no JSON": headed(b"{" + bytes(30)),
    "no tensors": headed({}),
    "only notes": headed({"__metadata__": {"a": "b"}}),
    "a long header": headed({f"{n:0100d}": entry([0], 0, 0) for n in range(20_000)}),
    "a header longer than the file": struct.pack("<Q", 10_000) + b'{"a"',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_safetensors_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match="safetensors.*(damaged|has .* bytes)|no state dict"):
        foreign.read_state_dict(path)


def test_a_bare_state_dict_to_resume_has_no_optimizer_state(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content, reason in (
        (STATE, "it has no optimizer state"),
        ({"state_dict": STATE, "epoch": 3}, "it has no optimizer state"),
        ({"net": STATE, "args": Namespace(lr=0.1)}, "it has no optimizer state"),
        ({"model": STATE, "optimizer": {}}, "its optimizer state is not ours"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"{reason}; if .* --weights {path} starts a new run"):
            lookup.open_to_resume("a.pth", tmp_path)
