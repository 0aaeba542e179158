"""Whose files are whose, and what an epoch leaves behind."""

import errno
import itertools
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import checkpoint_of
from PIL import Image

from chestxray.checkpoints import checkpoint
from chestxray.runtime import files
from chestxray.training import run_folder
from chestxray.training.run import Run, Validation, continue_run, new_run

PARTS = {part: {"images": "a.png", "patients": "1"} for part in ("val", "test")}
PARTS["train"] = {
    "images": "\n".join(f"{n:08d}_000.png" for n in range(16)),
    "patients": "\n".join(f"{n:08d}" for n in range(16)),
}
TEMPLATE = checkpoint_of(split={"seed": 0, "official": False, **PARTS}, history=[])


class Workshop:
    """A two-number network in an output folder."""

    def __init__(self, folder: Path) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.folder = run_folder.RunFolder(folder, TEMPLATE)

    def epoch(self, state: Run, auc: float | None) -> str:
        state.loss_sum = 8.0
        state.finish_epoch(16, Validation(0.1, auc, 14 if auc else 0))
        return self.folder.save_epoch(state, self.model, self.optimizer)


def test_an_epoch_leaves_checkpoint_last_best_log_and_curves(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 3)
    for auc in (0.6, 0.7, 0.65):
        line = shop.epoch(state, auc)
    assert line.startswith("epoch 3/3  loss 0.5000  validation loss 0.1000  AUC 0.650 (14 of 14")
    numbered = [f"stage1_0001_0{n}.pth" for n in (1, 2, 3)]
    visible = sorted(p.name for p in tmp_path.iterdir())
    assert visible == sorted([*numbered, "last.pth", "best.pth", "log.jsonl", "curves.png"])
    assert checkpoint.load(tmp_path / "last.pth").epochs_done == 3
    assert checkpoint.load(tmp_path / "best.pth").epochs_done == 2
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
    assert checkpoint.load(tmp_path / "best.pth").epochs_done == 2


def test_a_resumed_run_appends_to_its_log(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 4)
    for auc in (0.6, 0.7, 0.8):
        shop.epoch(state, auc)
    first = checkpoint.load(tmp_path / "stage1_0001_01.pth")
    again = continue_run(first, 2, 1e-4, 1, more=True)
    shop.epoch(again, 0.5)
    once_more = continue_run(first, 1, 1e-4, 1, more=True)
    shop.epoch(once_more, 0.55)
    log = run_folder.read_log(tmp_path / "log.jsonl")
    assert [(r["stage"], r["epoch"], r["val_auc"]) for r in log] == [
        (1, 1, 0.6),
        (1, 2, 0.55),
        (1, 3, 0.8),
        (2, 2, 0.5),
    ]


def test_only_its_own_lineage_may_replace_a_runs_files(
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
    run_folder.refuse_foreign_files(tmp_path, continue_run(stored, 2, 1e-4, 4, more=False))


def test_a_stopped_run_says_how_to_resume(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 2)
    assert shop.folder.resume_hint(state) == "no batch was done, and nothing new is written"
    shop.epoch(state, 0.6)
    state.images_done = 8
    shop.folder.save_partial_epoch(state, shop.model, shop.optimizer)
    shop.folder.resume_command = "python main.py --resume --output-dir here --precision fp32"
    said = shop.folder.resume_hint(state)
    assert "after 1 epoch and 8 images of the next" in said
    assert "python main.py --resume --output-dir here --precision fp32 finishes it" in said
    assert checkpoint.load(tmp_path / "last.pth").images_done == 8
    assert checkpoint.load(tmp_path / "stage1_0001_01.pth").images_done == 0


@pytest.mark.parametrize(
    ("aucs", "said"),
    [
        ((0.6, 0.7, 0.65), "best epoch: 2 (stage1_0001_02.pth, validation AUC 0.700)"),
        ((0.6, 0.7, 0.7), "best epoch: 3 (stage1_0001_03.pth, validation AUC 0.700)"),
        ((None, 0.5, None), "best epoch: 2 (stage1_0001_02.pth, validation AUC 0.500)"),
        ((None, None), "best epoch: 2 (stage1_0001_02.pth, the last one: no validation AUC)"),
    ],
)
def test_a_finished_run_names_the_epoch_that_best_holds(
    tmp_path: Path, aucs: tuple[float | None, ...], said: str
) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, len(aucs))
    lines = [shop.epoch(state, auc).splitlines() for auc in aucs]
    assert [len(each) for each in lines] == [*[1] * (len(aucs) - 1), 2]
    assert lines[-1][-1] == f"{said}; python main.py --test --ckpt best.pth tests it"
    assert f"best epoch: {checkpoint.load(tmp_path / 'best.pth').epochs_done} " in said


def test_a_run_with_overwrite_owns_the_folder_after_one_save(
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


def test_a_worse_epoch_done_again_does_not_become_the_best(tmp_path: Path) -> None:
    shop, state = Workshop(tmp_path), new_run(1e-4, 2)
    shop.epoch(state, 0.6)
    shop.epoch(state, 0.8)
    first = checkpoint.load(tmp_path / "stage1_0001_01.pth")
    again = continue_run(first, 1, 3e-4, 1, more=True)
    shop.epoch(again, 0.7)
    assert checkpoint.load(tmp_path / "best.pth").history[-1].val_auc == 0.8
    assert checkpoint.load(tmp_path / "last.pth").history[-1].val_auc == 0.7
    assert [r["val_auc"] for r in run_folder.read_log(tmp_path / "log.jsonl")] == [0.6, 0.8, 0.7]


def test_a_line_of_a_log_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"run_id": "r"}) + "\nhello\n")
    with pytest.raises(ValueError, match="log.jsonl, line 2 is not JSON"):
        run_folder.read_log(tmp_path / "log.jsonl")


class FailingCall:
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
                is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(words[0]).st_mode)
                self.failed = "fsync of a folder" if is_folder else name
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return plain(*words)

        return call


class _Failing:
    def __init__(self, file: Any, failing_call: FailingCall) -> None:
        self.file = file
        self.write = failing_call.failing("write", file.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_whichever_write_fails_all_files_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    folder = run_folder.RunFolder(tmp_path, TEMPLATE)

    def epoch(run: Run) -> Run:
        run.loss_sum = 1.0
        run.finish_epoch(2, Validation(0.5, 0.5, 14))
        return run

    def held(name: str) -> int:
        return int(torch.load(tmp_path / name, weights_only=True)["epochs_done"])

    run = epoch(Run("r", stage=1, lr=1e-4, epochs_done=0, epochs_planned=2))
    folder.save_epoch(run, model, optimizer)
    epoch(run)
    failed = []
    for number in itertools.count(1):
        with monkeypatch.context() as patch:
            failing_call = FailingCall(patch, number)
            try:
                folder.save_epoch(run, model, optimizer)
            except OSError as error:
                assert "Input/output error" in str(error)
                in_place = re.match("(.*) is complete and in its place", str(error))
                assert bool(in_place) == (failing_call.failed == "fsync of a folder")
                if in_place is None:
                    assert "cannot be written" in str(error) and "nothing was replaced" in str(
                        error
                    )
                elif in_place[1].endswith(".pth"):
                    assert held(Path(in_place[1]).name) == 2
        if not failing_call.failed:
            break
        failed.append(failing_call.failed)
        assert held("last.pth") in (1, 2) and held("best.pth") in (1, 2)
        assert held("stage1_0001_01.pth") == 1
        records = run_folder.read_log(tmp_path / "log.jsonl")
        assert [record["epoch"] for record in records] in ([1], [1, 2])
        assert not list(tmp_path.glob(".*.tmp"))
        with Image.open(tmp_path / "curves.png") as image:
            image.load()
    assert {"write", "fsync", "fsync of a folder", "replace", "link"} == set(failed) and len(
        failed
    ) > 15
    assert [held(n) for n in ("last.pth", "best.pth", "stage1_0001_02.pth")] == [2, 2, 2]


def test_last_and_best_cost_no_second_write(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    run = Run("r", stage=1, lr=1e-4, epochs_done=0, epochs_planned=1, loss_sum=1.0)
    run.finish_epoch(2, Validation(0.5, 0.5, 14))
    folder = run_folder.RunFolder(tmp_path, TEMPLATE)
    folder.save_epoch(run, model, torch.optim.Adam(model.parameters()))
    places = {(tmp_path / n).stat().st_ino for n in ("last.pth", "best.pth", "stage1_0001_01.pth")}
    assert len(places) == 1


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path) -> None:
    """A step of a finite loss may break them; the next loss would say so, after the saving."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    folder = run_folder.RunFolder(tmp_path, TEMPLATE)
    run = Run("r", stage=1, lr=1e-4, epochs_done=0, epochs_planned=2, loss_sum=1.0)
    folder.save_partial_epoch(run, model, optimizer)
    before = (tmp_path / "last.pth").read_bytes()
    torch.nn.init.constant_(model.bias, float("inf"))
    with pytest.raises(ValueError, match="not saved: .*last.pth: the weights bias are not"):
        folder.save_partial_epoch(run, model, optimizer)
    assert (tmp_path / "last.pth").read_bytes() == before
