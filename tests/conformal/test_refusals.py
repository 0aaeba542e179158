"""Refusals of files and options in a line or two, before anything is written."""

import gzip
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conformal_helpers import CLASSES, FILES, Command, drawn, plots, rows_of, strict_json

from chestxray.conformal import artifacts, output_folder
from chestxray.scores import write_scores


def edited(find: str, put: str) -> str:
    """The scores file with one part of its text replaced."""
    text = Path("s.csv").read_text(encoding="utf-8")
    assert find in text
    return text.replace(find, put, 1)


def with_cell(column: str, value: str) -> str:
    rows = rows_of(Path("s.csv"))
    rows[7][column] = value
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


WRONG_FILES: dict[str, tuple[Callable[[], str], list[str]]] = {
    "NaN": (lambda: with_cell("p_Mass", "nan"), ["p_Mass of 000", "finite number", "'nan'"]),
    "an empty cell": (lambda: with_cell("p_Mass", ""), ["p_Mass of 000", "finite number"]),
    "p above 1": (lambda: with_cell("p_Mass", "1.01"), ["p_Mass of 000", "[0, 1]", "1.01"]),
    "p below 0": (lambda: with_cell("p_Mass", "-0.01"), ["p_Mass of 000", "[0, 1]", "-0.01"]),
    "y of 2": (lambda: with_cell("y_Mass", "2"), ["y_Mass of 000", "neither 0 nor 1", "2"]),
    "y of a half": (lambda: with_cell("y_Mass", "0.5"), ["y_Mass of 000", "neither 0 nor 1"]),
    "an image twice": (
        lambda: edited("\n00000001_", "\n00000000_0000.png,00000001,test" + ",0" * 12 + "\n1_"),
        ["twice", "00000000_0000.png"],
    ),
    "y_ and p_ of other classes": (
        lambda: edited("y_Mass", "y_Nodule"),
        ["different classes", "Nodule", "Mass"],
    ),
    "no y_": (
        lambda: edited("y_Effusion,y_No Finding,y_Mass,y_Hernia", "a,b,c,d"),
        ["has no labels", "y_<class>"],
    ),
    "no scores at all": (lambda: "image,patient\na.png,1\n", ["scores CSV", "p_<class>"]),
    "nothing": (lambda: "", ["scores CSV"]),
    "no rows": (
        lambda: Path("s.csv").read_text(encoding="utf-8").partition("\n")[0],
        ["has a header and no rows"],
    ),
    "another split": (
        lambda: Path("s.csv").read_text(encoding="utf-8").replace(",test,", ",val,"),
        ["no rows of the split 'test'", "val", "--from"],
    ),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_wrong_files_are_refused_in_two_lines_that_say_where(what: str, command: Command) -> None:
    make, parts = WRONG_FILES[what]
    Path("wrong.csv").write_text(make(), encoding="utf-8")
    said = command("wrong.csv", "--alpha", 0.2, "--out", "o")
    assert said.code == 1
    assert said.err.startswith("error: ") and 1 <= said.err.count("\n") <= 2
    assert all(part in said.err for part in ["wrong.csv", *parts]), said.err
    assert not Path("o").exists()


def test_a_file_that_is_absent_or_cut_off_is_refused(command: Command) -> None:
    said = command("absent.csv", "--alpha", 0.1)
    assert said.code == 1 and "absent.csv" in said.err and said.err.count("\n") == 1
    whole = gzip.compress(Path("s.csv").read_bytes())
    Path("half.csv.gz").write_bytes(whole[: len(whole) // 2])
    said = command("half.csv.gz", "--alpha", 0.1)
    assert said.code == 1 and "half.csv.gz" in said.err and said.err.count("\n") == 1


def test_unknown_classes_are_refused_with_the_known_ones(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.1, "--exclude", "No", "Finding")
    assert said.code in (1, 2) and "Effusion, Mass, Hernia, No Finding" in said.err
    assert command("s.csv", "--alpha", 0.1, "--exclude", *CLASSES).code in (1, 2)


def test_images_without_a_positive_class_can_be_refused(command: Command) -> None:
    for words in (("--alpha", 0.2, "--out", "o"), ("--frontier", "--from", "test")):
        said = command("s.csv", *words, "--no-positive", "error", "--npz", "a.npz")
        assert said.code == 1 and "without a positive class" in said.err
        assert not Path("o").exists() and not Path("a.npz").exists()


def test_without_patients_unit_image_must_be_typed(command: Command) -> None:
    table = drawn()
    table.patients = None
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.2, "--out", "o")
    assert said.code in (1, 2) and "--unit image" in said.err and not Path("o").exists()
    assert command("s.csv", "--alpha", 0.2, "--unit", "image", "--out", "o").code == 0


def test_npz_does_not_replace_the_scores_file(command: Command) -> None:
    before = Path("s.csv").read_bytes()
    said = command("s.csv", "--npz", "s.csv")
    assert said.code in (1, 2) and Path("s.csv").read_bytes() == before


@pytest.mark.parametrize("function", ["resplit", "whole_file"])
def test_ctrl_c_is_a_line_and_leaves_the_files_of_one_run(
    command: Command, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """While cutting anew, the earlier files stay; while files are written, all of them are."""
    words = ("s.csv", "--resplits", 5, "--out", "o")
    assert command(*words, "--alpha", 0.1).code == 0
    module = artifacts if function == "resplit" else output_folder
    plain = getattr(module, function)

    def interrupted(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    monkeypatch.setattr(module, function, interrupted)
    said = command(*words, "--alpha", 0.2, "--overwrite")
    assert (said.code, said.err) == (130, "stopped by SIGINT\n")
    report, stored = (strict_json(Path(f"o/{name}.json")) for name in ("report", "thresholds"))
    written = 0.1 if function == "resplit" else 0.2
    assert [float(level["alpha"]) for level in report["levels"] + stored["levels"]] == 2 * [written]
    assert {path.name for path in Path("o").iterdir()} == FILES | {"resplits.csv"} | plots(
        written, formats=["png"]
    )
