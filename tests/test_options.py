"""Options: what a checkpoint adds to a command line, and what it cannot change."""

import os
from typing import Any

import pytest
from helpers import made_options

from chestxray.options import COMMAND, MACHINE, Options

STORED: dict[str, Any] = made_options("--bs", 8, "--weights", "none").kept()


def resumed(*words: object) -> Options:
    return made_options("--resume", "--ckpt", "a.pth", *words)


def test_options_not_typed_come_from_the_checkpoint() -> None:
    typed = resumed("--workers", 3)
    merged, differences = typed.merged_with(STORED, epoch_under_way=False)
    assert differences == [] and merged.kept() == STORED
    assert (merged.workers, merged.resume, merged.ckpt) == (3, True, "a.pth")
    assert typed.bs == 32  # options are values: nothing was changed


def test_typed_options_win_and_each_difference_is_said() -> None:
    merged, said = resumed("--lr", 3e-4, "--bs", 8).merged_with(STORED, epoch_under_way=False)
    assert (merged.lr, merged.bs) == (3e-4, 8)
    assert said == ["--lr 0.0003 instead of the checkpoint's 0.0001"]


def test_bits_are_of_the_lineage_and_a_test_may_have_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        resumed("--bits", 12).merged_with(STORED, epoch_under_way=False)
    assert "--bits 12 is not the checkpoint's 16" in capsys.readouterr().err
    testing = made_options("--test", "--ckpt", "a.pth", "--bits", 12)
    merged, said = testing.merged_with(STORED, epoch_under_way=False)
    assert merged.bits == 12 and said == ["--bits 12 instead of the checkpoint's 16"]
    testing = made_options("--test", "--ckpt", "a.pth")
    assert testing.merged_with(STORED | {"bits": 12}, epoch_under_way=False)[0].bits == 12


@pytest.mark.parametrize("flag", ["--size", "--seed", "--split-seed"])
def test_what_a_lineage_depends_on_cannot_be_changed(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        resumed(flag, 77).merged_with(STORED, epoch_under_way=False)
    assert leaving.value.code == 2
    assert f"{flag} 77 is not the checkpoint's" in capsys.readouterr().err
    same = STORED[flag[2:].replace("-", "_")]
    assert resumed(flag, same).merged_with(STORED, epoch_under_way=False)[1] == []


def test_typed_weights_have_no_effect_and_that_is_said() -> None:
    merged, said = resumed("--weights", "imagenet").merged_with(STORED, epoch_under_way=False)
    assert merged.weights == "none"
    assert len(said) == 1 and "has no effect" in said[0]


@pytest.mark.parametrize(("flag", "value"), [("--max-per-class", 5), ("--loss-func", "BCE")])
def test_what_an_epoch_depends_on_can_change_between_epochs(
    flag: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        resumed(flag, value).merged_with(STORED, epoch_under_way=True)
    assert leaving.value.code == 2
    assert "which is fixed for the epoch under way" in capsys.readouterr().err
    another_stage = resumed(flag, value, "--stage", 2)
    assert len(another_stage.merged_with(STORED, epoch_under_way=True)[1]) == 2
    assert len(resumed(flag, value).merged_with(STORED, epoch_under_way=False)[1]) == 1


@pytest.mark.parametrize("elsewhere", ["other", "data/other", "/data"])
def test_a_test_of_another_folder_leaves_the_list_of_images_out(elsewhere: str) -> None:
    stored = {**STORED, "subset": "list.txt"}
    words = ("--test", "--ckpt", "a.pth", "--data-path")
    for folder in ("data", "./data/", "other/../data", os.path.abspath("data")):
        merged, said = made_options(*words, folder).merged_with(stored, epoch_under_way=False)
        assert merged.subset == "list.txt"
    merged, said = made_options(*words, elsewhere).merged_with(stored, epoch_under_way=False)
    assert merged.subset is None
    reason = f"it lists images of data, not of {elsewhere}"
    assert said[0] == f"the checkpoint's --subset list.txt is left out: {reason}"
    typed = made_options(*words, elsewhere, "--subset", "b.txt")
    assert typed.merged_with(stored, epoch_under_way=False)[0].subset == "b.txt"
    moved = resumed("--data-path", elsewhere).merged_with(stored, epoch_under_way=False)[0]
    assert moved.subset == "list.txt"


def test_flags_of_the_machine_are_typed_again_to_resume() -> None:
    options = made_options(
        "--no-cache", "--output-dir", "my runs", "--precision", "fp32", "--bs", 4
    )
    assert options.typed_machine_flags() == " --precision fp32 --output-dir 'my runs' --no-cache"


def test_a_checkpoint_keeps_no_option_of_a_machine_or_command() -> None:
    assert not STORED.keys() & {*MACHINE, *COMMAND, "typed"}
