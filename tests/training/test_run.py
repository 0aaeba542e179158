"""How a checkpoint is continued, whose files are whose, and what an epoch leaves behind."""

import errno
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_checkpoint
from PIL import Image

from chestxray.checkpoints import checkpoint
from chestxray.runtime import files
from chestxray.training import run_folder
from chestxray.training.run import Run, continue_run, new_run, restore_optimizer, restore_options

STORED = {"stage": 1, "bs": 32, "lr": 1e-4, "epochs": 4, "size": 224, "seed": 0, "split_seed": 0}
STORED |= {"weights": "none", "data_path": "data", "max_per_class": 10000}

# What every checkpoint of a run says besides where it stands and its weights.
FIXED = {
    name: value
    for name, value in small_checkpoint().items()
    if name not in (*vars(new_run(1e-4, 1)), "model", "optimizer")
}
FIXED["split"]["train"] = {
    "images": "\n".join(f"{n:08d}_000.png" for n in range(16)),
    "patients": "\n".join(f"{n:08d}" for n in range(16)),
}


def held(**changes: Any) -> dict[str, Any]:
    """What continue_run reads of a checkpoint: a stage 1 that has done all its four epochs."""
    base = {"run_id": "r", "stage": 1, "lr": 1e-4, "epochs_done": 4, "epochs_planned": 4}
    base |= {"images_done": 0, "loss_sum": 0.0, "seconds_done": 0.0, "parent": None}
    return base | {"history": [{"epoch": n} for n in range(1, 5)]} | changes


def held_with(stored: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return held(args=stored, **changes)


def test_options_that_are_not_typed_come_from_the_checkpoint() -> None:
    options = {name: "default" for name in STORED} | {"workers": 3}
    assert restore_options(options, {}, held_with(STORED)) == []
    assert options == STORED | {"workers": 3}


def test_typed_options_win_and_each_difference_is_said() -> None:
    options: dict[str, Any] = {**STORED, "lr": 3e-4, "bs": 32}
    said = restore_options(options, {"lr": 3e-4, "bs": 32}, held_with(STORED))
    assert options["lr"] == 3e-4
    assert said == ["--lr 0.0003 instead of the checkpoint's 0.0001"]


@pytest.mark.parametrize("name", ["size", "seed", "split_seed"])
def test_what_the_line_depends_on_cannot_be_changed(name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} 7 is not the checkpoint's"):
        restore_options(dict(STORED), {name: 7}, held_with(STORED))
    assert restore_options(dict(STORED), {name: STORED[name]}, held_with(STORED)) == []


def test_typed_weights_have_no_effect_and_that_is_said() -> None:
    options: dict[str, Any] = dict(STORED, weights="imagenet")
    said = restore_options(options, {"weights": "imagenet"}, held_with(STORED))
    assert options["weights"] == "none"
    assert len(said) == 1 and "has no effect" in said[0]


@pytest.mark.parametrize(
    ("changes", "stage", "more", "planned", "images"),
    [
        ({"epochs_done": 2, "images_done": 64}, 1, False, 4, 64),  # unfinished: to its end
        ({"epochs_done": 2, "images_done": 64}, 1, True, 5, 64),  # --epochs counts from here
        ({}, 1, False, 7, 0),  # finished: --epochs more
        ({}, 1, True, 7, 0),
        ({}, 2, False, 7, 0),  # another stage: a run of its own
        ({"epochs_done": 2, "images_done": 64}, 2, False, 5, 0),  # ... between epochs
    ],
)
def test_how_far_a_continued_run_goes(
    changes: dict[str, Any], stage: int, more: bool, planned: int, images: int
) -> None:
    options = {"stage": stage, "lr": 1e-4, "epochs": 3}
    found = continue_run(held(**changes), options, more)
    assert found.epochs_planned == planned
    assert found.images_done == images
    assert found.run_id == "r"
    assert len(found.history) == 4


def test_a_run_remembers_the_checkpoint_that_it_began_from() -> None:
    options = {"stage": 1, "lr": 1e-4, "epochs": 3}
    unfinished = held(epochs_done=2, parent="before.pth")
    assert continue_run(unfinished, options, False).parent == "before.pth"
    assert continue_run(held(), options, False).parent == "stage1_0001_04.pth"
    later = continue_run(held(), options | {"stage": 2}, False)
    assert later.parent == "stage1_0001_04.pth"


@pytest.mark.parametrize(("name", "value"), [("max_per_class", 5), ("loss_func", "BCE")])
def test_what_an_epoch_under_way_depends_on_can_change_between_epochs_only(
    name: str, value: object
) -> None:
    stored = STORED | {"loss_func": "FocalLoss"}
    with pytest.raises(ValueError, match="which the epoch under way keeps"):
        restore_options(dict(stored), {name: value}, held_with(stored, images_done=64))
    typed = {name: value, "stage": 2}
    said = restore_options(dict(stored), typed, held_with(stored, images_done=64))
    assert len(said) == 2
    assert len(restore_options(dict(stored), {name: value}, held_with(stored))) == 1


class Workshop:
    """A two-number network in an output folder."""

    def __init__(self, folder: Path) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.folder = run_folder.RunFolder(folder, FIXED)

    def epoch(self, state: Run, auc: float | None) -> str:
        state.loss_sum = 8.0
        figures = {"val_loss": 0.1, "val_auc": auc, "val_classes": 14 if auc else 0}
        state.finish_epoch(16, figures)
        return self.folder.save_epoch(state, self.model, self.optimizer)


def test_an_epoch_leaves_checkpoint_last_best_log_and_curves(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 3)
    for auc in (0.6, 0.7, 0.65):
        line = shop.epoch(state, auc)
    assert line.startswith("epoch 3/3  loss 0.5000  validation loss 0.1000  AUC 0.650 (14 of 14")
    numbered = [f"stage1_0001_0{n}.pth" for n in (1, 2, 3)]
    visible = sorted(p.name for p in tmp_path.iterdir())
    assert visible == sorted([*numbered, "last.pth", "best.pth", "log.jsonl", "curves.png"])
    assert checkpoint.load(tmp_path / "last.pth")["epochs_done"] == 3
    assert checkpoint.load(tmp_path / "best.pth")["epochs_done"] == 2
    records = run_folder.read_log(tmp_path / "log.jsonl")
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert set(records[0]) == {
        *("run_id", "stage", "epoch", "lr", "images", "train_loss", "val_loss", "val_auc"),
        *("val_classes", "seconds"),
    }
    assert (records[0]["train_loss"], records[0]["images"]) == (0.5, 16)


def test_without_validation_the_best_is_the_last(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 2)
    shop.epoch(state, None)
    shop.epoch(state, None)
    assert checkpoint.load(tmp_path / "best.pth")["epochs_done"] == 2


def test_a_resumed_line_appends_to_its_log_and_replaces_epochs_done_again(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 4)
    for auc in (0.6, 0.7, 0.8):
        shop.epoch(state, auc)
    first = checkpoint.load(tmp_path / "stage1_0001_01.pth")
    again = continue_run(first, {"stage": 2, "lr": 1e-4, "epochs": 1}, True)
    shop.epoch(again, 0.5)
    once_more = continue_run(first, {"stage": 1, "lr": 1e-4, "epochs": 1}, True)
    shop.epoch(once_more, 0.55)
    log = run_folder.read_log(tmp_path / "log.jsonl")
    assert [(r["stage"], r["epoch"], r["val_auc"]) for r in log] == [
        (1, 1, 0.6),
        (1, 2, 0.55),
        (1, 3, 0.8),
        (2, 2, 0.5),
    ]


def test_a_new_run_does_not_replace_another_lines_files_and_its_own_line_may(
    tmp_path: Path,
) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 2)
    run_folder.refuse_foreign_files(tmp_path, state)
    shop.epoch(state, 0.6)
    with pytest.raises(FileExistsError) as caught:
        run_folder.refuse_foreign_files(tmp_path, new_run(1e-4, 2))
    for word in (
        "stage1_0001_01.pth, last.pth, best.pth, log.jsonl",
        "--overwrite",
        "--output-dir",
    ):
        assert word in str(caught.value)
    run_folder.refuse_foreign_files(tmp_path, state)
    stored = checkpoint.load(tmp_path / "last.pth")
    run_folder.refuse_foreign_files(tmp_path, continue_run(stored, STORED | {"stage": 2}, False))


def test_a_stopped_run_says_how_to_go_on(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 2)
    assert (
        shop.folder.resume_hint(state, "python main.py", "")
        == "no batch was done, and nothing new is written"
    )
    shop.epoch(state, 0.6)
    state.images_done = 8
    shop.folder.save_partial_epoch(state, shop.model, shop.optimizer)
    said = shop.folder.resume_hint(state, "python main.py", " --output-dir here --precision fp32")
    assert "after 1 epoch and 8 images of the next" in said
    assert "python main.py --resume --output-dir here --precision fp32 finishes it" in said
    assert checkpoint.load(tmp_path / "last.pth")["images_done"] == 8
    assert checkpoint.load(tmp_path / "stage1_0001_01.pth")["images_done"] == 0


def test_a_line_begun_with_overwrite_owns_the_folder_before_it_has_replaced_every_file(
    tmp_path: Path,
) -> None:
    shop, old = Workshop(tmp_path), new_run(1e-4, 4)
    for _ in range(4):
        shop.epoch(old, 0.6)
    new = new_run(1e-4, 4)  # --overwrite: not claimed
    shop.folder.save_partial_epoch(new, shop.model, shop.optimizer)
    run_folder.refuse_foreign_files(tmp_path, new)
    with pytest.raises(FileExistsError):
        run_folder.refuse_foreign_files(tmp_path, old)


def test_a_worse_epoch_done_again_does_not_become_the_best_of_the_line(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 2)
    shop.epoch(state, 0.6)
    shop.epoch(state, 0.8)
    first = checkpoint.load(tmp_path / "stage1_0001_01.pth")
    again = continue_run(first, {"stage": 1, "lr": 3e-4, "epochs": 1}, True)
    shop.epoch(again, 0.7)
    assert checkpoint.load(tmp_path / "best.pth")["history"][-1]["val_auc"] == 0.8
    assert checkpoint.load(tmp_path / "last.pth")["history"][-1]["val_auc"] == 0.7
    assert [r["val_auc"] for r in run_folder.read_log(tmp_path / "log.jsonl")] == [0.6, 0.8, 0.7]


def test_a_log_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"run_id": "r"}) + "\nhello\n")
    with pytest.raises(ValueError, match="log.jsonl, line 2 is no JSON"):
        run_folder.read_log(tmp_path / "log.jsonl")


def test_the_optimizer_goes_on_with_its_moments_at_the_new_rate() -> None:
    model = torch.nn.Linear(2, 1)
    old = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.ones(1, 2)).sum().backward()
    old.step()
    new = torch.optim.Adam(model.parameters(), lr=1e-4)
    restore_optimizer(new, old.state_dict())
    assert new.param_groups[0]["lr"] == 1e-4
    for parameter in model.parameters():
        assert torch.equal(new.state[parameter]["exp_avg"], old.state[parameter]["exp_avg"])


class Injury:
    """Lets the N-th call of what writes fail, whichever of them that is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left, self.failed = number, ""
        for name in ("fsync", "replace", "link"):
            monkeypatch.setattr(os, name, self.failing(name, getattr(os, name)))

        def opened(path: Any, mode: str = "r", **words: Any) -> Any:
            file = open(path, mode, **words)
            return _Failing(file, self) if mode[0] == "w" else file

        monkeypatch.setattr(files, "open", opened, raising=False)

    def failing(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.failed = name
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return plain(*words)

        return call


class _Failing:
    def __init__(self, file: Any, injury: Injury) -> None:
        self.file = file
        self.write = injury.failing("write", file.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_whichever_write_fails_the_files_are_whole_and_the_next_try_makes_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    folder = run_folder.RunFolder(tmp_path, {"format": 1})

    def epoch(run: Run) -> Run:
        run.loss_sum = 1.0
        run.finish_epoch(2, {"val_loss": 0.5, "val_auc": 0.5, "val_classes": 14})
        return run

    def held(name: str) -> int:
        return int(torch.load(tmp_path / name, weights_only=True)["epochs_done"])

    run = epoch(Run("r", stage=1, lr=1e-4, epochs_done=0, epochs_planned=2))
    folder.save_epoch(run, model, optimizer)
    epoch(run)
    failed = []
    for number in itertools.count(1):
        with monkeypatch.context() as patch:
            injury = Injury(patch, number)
            try:
                folder.save_epoch(run, model, optimizer)
            except OSError as error:
                assert "cannot be written (Input/output error)" in str(error)
        if not injury.failed:
            break
        failed.append(injury.failed)
        assert held("last.pth") in (1, 2) and held("best.pth") in (1, 2)
        assert held("stage1_0001_01.pth") == 1
        records = run_folder.read_log(tmp_path / "log.jsonl")
        assert [record["epoch"] for record in records] in ([1], [1, 2])
        assert not list(tmp_path.glob(".*.tmp"))
        with Image.open(tmp_path / "curves.png") as image:
            image.load()
    assert {"write", "fsync", "replace", "link"} == set(failed) and len(failed) > 15
    assert [held(n) for n in ("last.pth", "best.pth", "stage1_0001_02.pth")] == [2, 2, 2]


def test_last_and_best_cost_no_second_write(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    run = Run("r", stage=1, lr=1e-4, epochs_done=0, epochs_planned=1, loss_sum=1.0)
    run.finish_epoch(2, {"val_loss": 0.5, "val_auc": 0.5, "val_classes": 14})
    run_folder.RunFolder(tmp_path, {}).save_epoch(run, model, torch.optim.Adam(model.parameters()))
    places = {(tmp_path / n).stat().st_ino for n in ("last.pth", "best.pth", "stage1_0001_01.pth")}
    assert len(places) == 1


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path) -> None:
    """A step of a finite loss may break them; the next loss would say so, after the saving."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    folder = run_folder.RunFolder(tmp_path, FIXED)
    run = Run("r", stage=1, lr=1e-4, epochs_done=0, epochs_planned=2, loss_sum=1.0)
    folder.save_partial_epoch(run, model, optimizer)
    before = (tmp_path / "last.pth").read_bytes()
    torch.nn.init.constant_(model.bias, float("inf"))
    with pytest.raises(FloatingPointError, match="not saved: .*last.pth: the weights bias are not"):
        folder.save_partial_epoch(run, model, optimizer)
    assert (tmp_path / "last.pth").read_bytes() == before
