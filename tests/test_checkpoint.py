"""Checkpoints: names, contents, what is refused, and which file a name means."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from chestxray import checkpoint
from chestxray.labels import CLASSES


def made(**changes: Any) -> dict[str, Any]:
    """A small checkpoint with a two-number network."""
    return {
        "format": 1,
        "run_id": "r",
        "classes": list(CLASSES),
        "stage": 1,
        "lr": 1e-4,
        "epochs_done": 4,
        "model": {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        "history": [{"stage": 1, "lr": 1e-4, "epoch": 4}],
        "versions": checkpoint.versions(),
        "threads": torch.get_num_threads(),
        "precision": "fp32",
        **changes,
    }


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
    checkpoint.save(path, made())
    back = checkpoint.load(path)
    assert torch.equal(back["model"]["w"], torch.tensor([1.0, 2.0]))
    assert {k: v for k, v in back.items() if k != "model"} == {
        k: v for k, v in made().items() if k != "model"
    }
    assert os.listdir(tmp_path / "new") == ["a.pth"]


def test_every_flipped_bit_of_a_tensor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    checkpoint.save(path, made(model={"w": torch.arange(64.0)}))
    whole = bytearray(path.read_bytes())
    start = whole.index(torch.arange(64.0).numpy().tobytes())
    for place in range(start, start + 256, 17):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_the_beginning_of_a_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pth"
    checkpoint.save(path, made())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="no .pth in zip form"):
        checkpoint.load(path)


class Dangerous:
    """What a hostile file holds: unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_file_that_would_run_code_is_refused_and_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(made(args={"x": Dangerous(tmp_path / "ran")}), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="cannot be read as tensors and plain values"):
        checkpoint.load(tmp_path / "a.pth")
    assert checkpoint.run_of(tmp_path / "a.pth") is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this program reads up to 1"),
        ({"classes": list(reversed(CLASSES))}, "expected are, in this order, Atelectasis, Cardio"),
        ({"classes": list(CLASSES[:14])}, "has classes Atelectasis"),
        ({"model": {"w": torch.tensor([1.0, float("nan")])}}, "the weights w are not all finite"),
        ({"model": {"v": torch.tensor([float("-inf")])}}, "the weights v are not all finite"),
    ],
)
def test_a_checkpoint_that_is_not_ours_to_use_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    checkpoint.save(tmp_path / "a.pth", made(**changes))
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path / "a.pth")


def test_other_zips_and_state_dicts_are_no_checkpoints(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load(tmp_path / "a.zip")
    torch.save({"w": torch.zeros(1)}, tmp_path / "state.pth")
    with pytest.raises(ValueError, match="has no format.*--weights"):
        checkpoint.load(tmp_path / "state.pth")


def test_a_body_is_read_from_a_state_dict_a_parallel_one_or_a_checkpoint(tmp_path: Path) -> None:
    state = {"w": torch.tensor([1.0, 2.0])}
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"module.w": state["w"]}, tmp_path / "parallel.pth")
    checkpoint.save(tmp_path / "ours.pth", made(model=state))
    for name in ("bare.pth", "parallel.pth", "ours.pth"):
        body = checkpoint.load_body(tmp_path / name)
        assert list(body) == ["w"] and torch.equal(body["w"], state["w"])
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        checkpoint.load_body(tmp_path / "other.pth")


def test_a_name_is_looked_up_as_given_and_then_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    checkpoint.save(folder / "a.pth", made())
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "out/a.pth", str(folder / "a.pth")):
        path, note = checkpoint.find(name, Path("out"))
        assert path.resolve() == folder / "a.pth" and note is None
    (tmp_path / "a.pth").write_bytes(b"")
    assert checkpoint.find("a.pth", Path("out"))[0] == Path("a.pth")


def test_the_eighth_epoch_of_a_line_is_found_under_its_first_stages_name(tmp_path: Path) -> None:
    line = [{"stage": 1, "lr": 1e-4, "epoch": 4}, {"stage": 2, "lr": 1e-4, "epoch": 8}]
    checkpoint.save(tmp_path / "stage1_0001_04.pth", made())
    checkpoint.save(tmp_path / "stage2_0001_08.pth", made(stage=2, epochs_done=8, history=line))
    path, note = checkpoint.find("stage1_0001_08.pth", tmp_path)
    assert path == tmp_path / "stage2_0001_08.pth"
    assert note is not None and "stage1_0001_08.pth is not there" in note and str(path) in note
    for name in ("stage1_0003_08.pth", "stage1_0001_09.pth", "stage3_0001_08.pth"):
        with pytest.raises(FileNotFoundError):
            checkpoint.find(name, tmp_path)


def test_a_stand_in_is_looked_for_in_the_folder_that_was_named_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [{"stage": 1, "lr": 1e-4, "epoch": 4}, {"stage": 2, "lr": 1e-4, "epoch": 8}]
    checkpoint.save(Path("here/stage2_0001_08.pth"), made(stage=2, history=line))
    checkpoint.save(Path("there/stage1_0001_04.pth"), made())
    path, _ = checkpoint.find("here/stage1_0001_08.pth", Path("there"))
    assert path == Path("here/stage2_0001_08.pth")
    with pytest.raises(FileNotFoundError, match="in there there is stage1_0001_04.pth"):
        checkpoint.find("there/stage1_0001_08.pth", Path("here"))


def test_two_checkpoints_that_could_be_meant_are_no_answer(tmp_path: Path) -> None:
    for stage in (2, 3):
        line = [{"stage": 1, "lr": 1e-4, "epoch": 4}, {"stage": stage, "lr": 1e-4, "epoch": 8}]
        checkpoint.save(tmp_path / f"stage{stage}_0001_08.pth", made(stage=stage, history=line))
    with pytest.raises(FileNotFoundError, match="stage2_0001_08.pth, stage3_0001_08.pth"):
        checkpoint.find("stage1_0001_08.pth", tmp_path)


def test_a_missing_checkpoint_is_answered_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at all"):
        checkpoint.find("a.pth", tmp_path)
    with pytest.raises(FileNotFoundError, match="--resume finds no checkpoint"):
        checkpoint.locate(None, tmp_path)


def test_a_bare_resume_goes_on_from_last_else_from_the_newest(tmp_path: Path) -> None:
    for age, name in ((30, "stage1_0001_01.pth"), (10, "stage1_0001_02.pth"), (0, "best.pth")):
        checkpoint.save(tmp_path / name, made())
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert checkpoint.newest(tmp_path) == tmp_path / "stage1_0001_02.pth"
    checkpoint.save(tmp_path / "last.pth", made())
    os.utime(tmp_path / "last.pth", (1e9 - 99, 1e9 - 99))
    assert checkpoint.newest(tmp_path) == tmp_path / "last.pth"


def test_another_machine_is_said(tmp_path: Path) -> None:
    assert checkpoint.other_machine(made(), "fp32") == []
    elsewhere = made(threads=torch.get_num_threads() + 6)
    said = checkpoint.other_machine(elsewhere, "bf16")[0]
    assert f"threads {torch.get_num_threads() + 6} ->" in said
    assert "precision fp32 -> bf16" in said


def test_versions_are_plain_text(tmp_path: Path) -> None:
    assert json.loads(json.dumps(checkpoint.versions())) == checkpoint.versions()
    assert all(type(value) is str for value in checkpoint.versions().values())
