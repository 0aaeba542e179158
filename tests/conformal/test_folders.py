"""Calibrations of one CSV with different choices: two folders, and none replaced in silence."""

from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import Command, drawn

from chestxray.scores import write_scores

BASE = ("--alpha", 0.3, "--resplits", 0)
NAMED = {  # choices that the default folder's name tells apart
    "method": ("--method", "rcps"),
    "ltt": ("--method", "ltt"),
    "risk": ("--risk", "fdr", "--alpha", 0.6),
    "per class": ("--per-class",),
    "split": ("--from", "a/b"),
}
DIFFERING = {  # choices that it does not, and how the refusal names them
    "alpha": (("--alpha", 0.2), "--alpha 0.3 there, 0.2 here"),
    "a further alpha": (("--alpha", 0.3, 0.4), "--alpha 0.3 there, 0.3 0.4 here"),
    "unit": (("--unit", "image"), "--unit patient there, image here"),
    "seed": (("--seed", 1), "--seed 0 there, 1 here"),
    "cal-fraction": (("--cal-fraction", 0.4), "--cal-fraction 0.5 there, 0.4 here"),
    "no-positive": (("--no-positive", "zero"), "--no-positive drop there, zero here"),
    "empty": (("--empty", 1), "--empty 0 there, 1 here"),
    "exclude": (("--exclude", "Mass"), "--exclude nothing there, Mass here"),
    "no finding": (("--include-no-finding",), "--include-no-finding off there, on here"),
    "resplits": (("--resplits", 2), "--resplits 0 there, 2 here"),
    "untouched": (("--from", "test", "--untouched"), "--untouched off there, on here"),
}


def everything() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", NAMED)
def test_the_default_folder_tells_choices_apart(what: str, command: Command) -> None:
    table = drawn()
    table.splits[table.patients >= "00000100"] = "a/b"
    write_scores(Path("s.csv"), table)
    assert command("s.csv", *BASE).code == 0
    before = everything()
    assert command("s.csv", *BASE, *NAMED[what]).code == 0
    assert before.items() < everything().items()


@pytest.mark.parametrize("what", DIFFERING)
def test_another_calibration_needs_overwrite(what: str, command: Command) -> None:
    words, message = DIFFERING[what]
    assert command("s.csv", *BASE).code == 0
    before = everything()
    said = command("s.csv", *BASE, *words)
    assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
    assert f"s_fnr_crc holds another calibration: {message}" in said.err
    assert "--out names another folder, --overwrite" in said.err and everything() == before
    assert command("s.csv", *BASE, *words, "--overwrite").code == 0
    assert (
        everything()[Path("s_fnr_crc/thresholds.json")]
        != (before[Path("s_fnr_crc/thresholds.json")])
    )


def test_the_choices_of_ltt_need_overwrite_too(command: Command) -> None:
    words = (*BASE, "--method", "ltt")
    assert command("s.csv", *words).code == 0
    for more in (("--delta", 0.2), ("--fwer", "holm")):
        said = command("s.csv", *words, *more)
        assert said.code == 1 and f"another calibration: {more[0]} " in said.err


def test_the_same_calibration_again_is_no_other(command: Command) -> None:
    assert command("s.csv", *BASE).code == 0
    before = everything()
    mine = {Path("s_fnr_crc", name): b"mine" for name in ("notes.txt", "risk_paper.png")}
    for path, content in mine.items():
        path.write_bytes(content)
    assert command("s.csv", *BASE).code == 0
    assert everything() == before | mine


def test_the_scores_are_not_replaced_by_what_is_made_of_them(command: Command) -> None:
    Path("o").mkdir()
    Path("s.csv").rename("o/sets.csv")
    before = everything()
    said = command("o/sets.csv", *BASE, "--out", "o", "--overwrite")
    assert said.code == 1 and "o/sets.csv would be replaced" in said.err
    assert everything() == before


@pytest.mark.parametrize("words", [(), ("--alpha", 0.3, "--out", "o")])
def test_npz_replaces_nothing_unless_asked(words: tuple, command: Command) -> None:
    Path("keep.json").write_text("mine")
    said = command("s.csv", "--npz", "keep.json", *words)
    assert said.code == 1 and "keep.json exists" in said.err and not Path("o").exists()
    assert Path("keep.json").read_text() == "mine"
    assert command("s.csv", "--npz", "keep.json", "--overwrite").code == 0


def test_scores_that_have_changed_need_overwrite(command: Command) -> None:
    assert command("s.csv", *BASE).code == 0
    write_scores(Path("s.csv"), drawn(seed=1))
    said = command("s.csv", *BASE)
    assert said.code == 1 and "other scores than s.csv holds now" in said.err


def test_a_folder_in_the_place_of_a_file_is_no_calibration(command: Command) -> None:
    Path("o/thresholds.json").mkdir(parents=True)
    said = command("s.csv", *BASE, "--out", "o")
    assert said.code == 1 and "o holds thresholds.json, and no calibration" in said.err


@pytest.mark.parametrize("name", ["thresholds.json", "notes.txt", ".hidden"])
def test_a_folder_with_anything_else_needs_overwrite(name: str, command: Command) -> None:
    Path("o").mkdir()
    Path("o", name).write_text("{}")
    said = command("s.csv", *BASE, "--out", "o")
    assert said.code == 1 and f"o holds {name}, and no calibration" in said.err
    assert command("s.csv", *BASE, "--out", "o", "--overwrite").code == 0
    assert Path("o", name).exists()  # a file of another name stays


def test_a_report_of_another_program_is_replaced_when_asked(command: Command) -> None:
    Path("o").mkdir()
    Path("o/report.json").write_text('{"levels": [{"plots": null}]}')
    assert command("s.csv", *BASE, "--out", "o").code == 1
    assert command("s.csv", *BASE, "--out", "o", "--overwrite").code == 0


def test_another_application_needs_overwrite(command: Command) -> None:
    table = drawn(100, seed=3, first=5000)
    table.splits[:30] = "second"
    write_scores(Path("new.csv"), table)
    assert command("s.csv", *BASE, "--out", "o").code == 0
    applied = ("new.csv", "--apply", "o/thresholds.json")
    assert command(*applied).code == command(*applied, "--from", "second").code == 0
    assert {path.name for path in Path("o").iterdir() if path.is_dir()} == {
        "applied_new",
        "applied_new_second",
    }
    said = command(*applied, "--from", "second", "--out", "o/applied_new")
    assert said.code == 1 and "from not typed there, second here" in said.err
    said = command(*applied, "--from", "second", "--untouched")
    assert said.code == 1 and "another application: untouched off there, on here" in said.err
    write_scores(Path("new.csv"), table.take(np.arange(len(table.splits)) > 9, [0, 1, 2, 3]))
    said = command(*applied)
    assert said.code == 1 and "another application: scores_sha256" in said.err
    assert command(*applied, "--overwrite").code == 0
