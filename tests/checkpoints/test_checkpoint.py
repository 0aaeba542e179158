"""Checkpoints: names, contents, what is refused, and which file a name means."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import RECORD, checkpoint_of, load_plain, small_checkpoint

from chestxray.checkpoints import checkpoint, lookup


def lineage(*ends: tuple[int, int]) -> list[dict[str, Any]]:
    """The history of a lineage with these (stage, epoch) at lr 1e-4."""
    return [{**RECORD, "stage": stage, "epoch": epoch} for stage, epoch in ends]


@pytest.mark.parametrize(
    ("lr", "digits"),
    [
        (1e-4, "0001"),
        (3e-4, "0003"),
        (1e-5, "00001"),
        (0.1, "1"),
        (2.5e-4, "00025"),
        (1e-7, "0000001"),
    ],
)
def test_a_learning_rate_is_named_by_its_decimal_digits(lr: float, digits: str) -> None:
    assert checkpoint.lr_digits(lr) == digits
    assert checkpoint.checkpoint_name(2, lr, 8) == f"stage2_{digits}_08.pth"


def test_epochs_above_99_keep_all_their_digits() -> None:
    assert checkpoint.checkpoint_name(1, 1e-4, 100) == "stage1_0001_100.pth"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.pth"
    checkpoint.save(path, checkpoint_of())
    back = load_plain(path)
    assert torch.equal(back["model"]["w"], torch.tensor([1.0, 2.0]))
    tensors = ("model", "optimizer")
    assert {k: v for k, v in back.items() if k not in tensors} == {
        k: v for k, v in small_checkpoint().items() if k not in tensors
    }
    assert os.listdir(tmp_path / "new") == ["a.pth"]


def test_a_name_is_looked_up_as_given_and_then_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    checkpoint.save(folder / "a.pth", checkpoint_of())
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "out/a.pth", str(folder / "a.pth")):
        path, note = lookup.find(name, Path("out"))
        assert path.resolve() == folder / "a.pth" and note is None
    (tmp_path / "a.pth").write_bytes(b"")
    assert lookup.find("a.pth", Path("out"))[0] == Path("a.pth")


def test_a_later_stage_is_found_under_its_first_stages_name(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "stage1_0001_04.pth", checkpoint_of())
    checkpoint.save(
        tmp_path / "stage2_0001_08.pth",
        checkpoint_of(stage=2, epochs_done=8, history=lineage((1, 4), (2, 8))),
    )
    path, note = lookup.find("stage1_0001_08.pth", tmp_path)
    assert path == tmp_path / "stage2_0001_08.pth"
    assert note is not None and "stage1_0001_08.pth is not there" in note and str(path) in note
    for name in ("stage1_0003_08.pth", "stage1_0001_09.pth", "stage3_0001_08.pth"):
        with pytest.raises(FileNotFoundError):
            lookup.find(name, tmp_path)


def test_a_stand_in_is_looked_for_in_the_named_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save(
        Path("here/stage2_0001_08.pth"), checkpoint_of(stage=2, history=lineage((1, 4), (2, 8)))
    )
    checkpoint.save(Path("there/stage1_0001_04.pth"), checkpoint_of())
    path, _ = lookup.find("here/stage1_0001_08.pth", Path("there"))
    assert path == Path("here/stage2_0001_08.pth")
    with pytest.raises(FileNotFoundError, match="there holds stage1_0001_04.pth"):
        lookup.find("there/stage1_0001_08.pth", Path("here"))


def test_two_checkpoints_that_could_be_meant_are_no_answer(tmp_path: Path) -> None:
    for stage in (2, 3):
        held = checkpoint_of(stage=stage, history=lineage((1, 4), (stage, 8)))
        checkpoint.save(tmp_path / f"stage{stage}_0001_08.pth", held)
    with pytest.raises(FileNotFoundError, match="stage2_0001_08.pth, stage3_0001_08.pth"):
        lookup.find("stage1_0001_08.pth", tmp_path)


def test_a_missing_checkpoint_is_answered_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint at all"):
        lookup.find("a.pth", tmp_path)
    with pytest.raises(FileNotFoundError, match="--resume finds no checkpoint"):
        lookup.open_to_resume(None, tmp_path)


def test_another_machine_is_said(tmp_path: Path) -> None:
    assert lookup.describe_other_machine(checkpoint_of(), "fp32", 1) == []
    elsewhere = checkpoint_of(threads=torch.get_num_threads() + 6)
    said = lookup.describe_other_machine(elsewhere, "bf16", 1)[0]
    assert f"threads {torch.get_num_threads() + 6} ->" in said
    assert "precision fp32 -> bf16" in said
    (said,) = lookup.describe_other_machine(checkpoint_of(processes=2), "fp32", 3)
    assert said.startswith("processes 2 -> 3: the order of the images continues")


def test_versions_are_plain_text(tmp_path: Path) -> None:
    assert json.loads(json.dumps(checkpoint.versions())) == checkpoint.versions()
    assert all(type(value) is str for value in checkpoint.versions().values())
