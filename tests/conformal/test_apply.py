"""Stored thresholds on other rows: the same sets, warnings, and damaged files."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import Command, chosen, drawn, rows_of, strict_json, without_labels

from chestxray.scores import write_scores


@pytest.mark.parametrize("name", ["crc", "fst", "per-class"])
def test_stored_thresholds_give_the_same_sets_without_labels(
    name: str, command: Command, runs: Callable[[str], Path]
) -> None:
    stored = runs(name) / "thresholds.json"
    without_labels(Path("s.csv"), Path("bare.csv"))
    said = [
        command(source, "--apply", stored, "--out", folder)
        for source, folder in (("s.csv", "with"), ("bare.csv", "without"))
    ]
    assert [answer.code for answer in said] == [0, 0]
    assert "realised by" in said[0].out and "realised by" not in said[1].out
    first = [(r["image"], float(r["alpha"]), r["set"]) for r in rows_of(runs(name) / "sets.csv")]
    for folder, labelled in (("with", True), ("without", False)):
        rows = rows_of(Path(folder, "sets.csv"))
        assert [(r["image"], float(r["alpha"]), r["set"]) for r in rows] == first
        assert any(row["labels"] for row in rows) == labelled
        level = strict_json(Path(folder, "report.json"))["levels"][0]
        assert (level["realised"] is not None) == labelled


def test_stored_thresholds_are_applied_to_the_chosen_split(
    command: Command, runs: Callable[[str], Path]
) -> None:
    table = drawn()
    table.splits[:7] = "val"
    write_scores(Path("two.csv"), table)
    stored = runs("crc") / "thresholds.json"
    assert command("two.csv", "--apply", stored, "--from", "val", "--out", "a").code == 0
    assert {row["image"] for row in rows_of(Path("a/sets.csv"))} == set(table.image_names[:7])
    assert command("two.csv", "--apply", stored, "--from", "train", "--out", "b").code == 1
    table.splits = None
    write_scores(Path("none.csv"), table)
    said = command("none.csv", "--apply", stored, "--from", "val", "--out", "c")
    assert said.code == 1 and "none.csv has no split column: leave --from out" in said.err
    assert not Path("c").exists()


def test_columns_are_found_by_name_and_missing_ones_refused(
    command: Command, runs: Callable[[str], Path]
) -> None:
    stored = runs("per-class") / "thresholds.json"
    table = drawn()
    other = table.take(np.ones(len(table.image_names), dtype=bool), [2, 0, 3, 1])
    write_scores(Path("turned.csv"), other)
    assert command("s.csv", "--apply", stored, "--out", "a").code == 0
    assert command("turned.csv", "--apply", stored, "--out", "b").code == 0
    assert [row["set"] for row in rows_of(Path("a/sets.csv"))] == [
        row["set"] for row in rows_of(Path("b/sets.csv"))
    ]
    write_scores(Path("fewer.csv"), table.take(np.ones(len(table.image_names), dtype=bool), [0, 1]))
    said = command("fewer.csv", "--apply", stored, "--out", "c")
    assert said.code == 1 and "Mass, Hernia" in said.err and not Path("c").exists()


def test_shared_patients_and_shifted_classes_are_warned_of(
    command: Command, runs: Callable[[str], Path]
) -> None:
    stored = runs("crc") / "thresholds.json"
    write_scores(Path("alike.csv"), drawn(300, seed=5, first=1000))
    said = command("alike.csv", "--apply", stored, "--out", "a")
    assert said.code == 0 and "warning" not in said.out + said.err
    write_scores(Path("other.csv"), drawn(300, seed=6, shift=1.0))
    said = command("other.csv", "--apply", stored, "--out", "b")
    assert said.code == 0
    warnings = strict_json(Path("b/report.json"))["warnings"]
    assert all(f"warning: {text}" in said.out + said.err for text in warnings)
    page = Path("b/report.md").read_text(encoding="utf-8")
    assert all(text in page for text in warnings)
    both = [text for text in warnings if "100 patients" in text]
    shifted = [text for text in warnings if text.startswith("Effusion: prevalence")]
    assert len(both) == len(shifted) == 1
    before = np.array(
        [
            ("Effusion" in chosen(r, "labels"))
            for r in rows_of(runs("crc") / "sets.csv")
            if r["role"] == "cal" and r["alpha"] == "0.1"
        ]
    ).mean()
    assert f"{before:.1%}" in shifted[0]
    assert f"{drawn(300, seed=6, shift=1.0).targets[:, 0].mean():.1%}" in shifted[0]


def test_applying_to_the_calibration_file_itself_is_warned_of(
    command: Command, runs: Callable[[str], Path]
) -> None:
    said = command("s.csv", "--apply", runs("crc") / "thresholds.json", "--out", "o")
    assert said.code == 0 and "100 patients" in said.out + said.err


def test_a_file_without_patients_is_warned_of(
    command: Command, runs: Callable[[str], Path]
) -> None:
    table = drawn()
    table.patients = None
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--apply", runs("crc") / "thresholds.json", "--out", "o")
    assert "patient column" in said.out + said.err


@pytest.mark.parametrize("name", ["report.json", "s.csv", "list.json", "absent.json"])
def test_other_files_than_thresholds_are_refused_by_name(
    name: str, command: Command, runs: Callable[[str], Path]
) -> None:
    shutil.copy(runs("crc") / "report.json", "report.json")
    Path("list.json").write_text("[]", encoding="utf-8")
    said = command("s.csv", "--apply", name, "--out", "o")
    assert said.code == 1 and name in said.err and said.err.count("\n") == 1
    assert not Path("o").exists()


@pytest.mark.parametrize(("split", "why"), [("val", "epoch was chosen"), ("train", "was trained")])
def test_calibration_on_training_rows_is_warned_of_for_good(
    split: str, why: str, command: Command
) -> None:
    table = drawn()
    table.splits[:] = split
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.2, "--from", split, "--resplits", 0, "--out", "o")
    assert said.code == 0 and f"warning: calibrated on rows of the split {split}: " in said.out
    assert why in said.out and "No promise holds" in said.out
    assert why in Path("o/report.md").read_text(encoding="utf-8")
    assert strict_json(Path("o/report.json"))["promise_holds"] is False
    write_scores(Path("fresh.csv"), drawn(150, seed=9, first=5000))
    later = command("fresh.csv", "--apply", "o/thresholds.json", "--out", "a")
    assert later.code == 0 and why in later.out and "No promise carries over" in later.out
    assert "warning" not in command("s.csv", "--frontier", "--from", split).out


def promise_of(folder: str) -> tuple[bool, str]:
    report = strict_json(Path(folder, "report.json"))
    return report["promise_holds"], report["levels"][0]["guarantee"]


def test_the_promise_is_taken_back_unless_rows_are_fresh(
    command: Command, runs: Callable[[str], Path]
) -> None:
    stored = runs("crc") / "thresholds.json"
    fresh, without, rarer = (drawn(300, seed=5, first=1000) for _ in range(3))
    without.patients = None
    rarer.targets[:, 0] = 0
    tables = {"fresh": fresh, "same": drawn(), "without": without, "rarer": rarer}
    for name, table in tables.items():
        write_scores(Path(f"{name}.csv"), table)
        said = command(f"{name}.csv", "--apply", stored, "--out", name)
        holds, sentence = promise_of(name)
        assert said.code == 0 and sentence in said.out
        assert holds == (name == "fresh")
        assert sentence.startswith("For a new" if holds else "No promise carries over to these")
        assert sentence in Path(name, "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("spelled", ["{:d}", "{:03d}", "{:012d}"])
def test_a_patient_is_recognised_with_other_leading_zeros(
    spelled: str, command: Command, runs: Callable[[str], Path]
) -> None:
    table = drawn()
    table.patients = np.array([spelled.format(int(name)) for name in table.patients], object)
    table.image_names = np.array([f"new_{name}" for name in table.image_names], dtype=object)
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--apply", runs("crc") / "thresholds.json", "--out", "o")
    assert "100 patients and 0 images of the calibration are here too" in said.out


def test_without_patients_the_images_are_compared(
    command: Command, runs: Callable[[str], Path]
) -> None:
    calibrated = [r for r in rows_of(runs("crc-image") / "sets.csv") if r["role"] == "cal"]
    table = drawn()
    table.patients = None
    write_scores(Path("bare.csv"), table)
    said = command("bare.csv", "--apply", runs("crc-image") / "thresholds.json", "--out", "o")
    again = f"0 patients and {len(calibrated)} images of the calibration are here too"
    assert again in said.out
    assert "these rows name no patients" in said.out and "could not be checked" in said.out
    words = ("--alpha", 0.2, "--unit", "image", "--resplits", 0, "--out", "nobody")
    assert command("bare.csv", *words).code == 0
    write_scores(Path("fresh.csv"), drawn(300, seed=5, first=1000))
    said = command("fresh.csv", "--apply", "nobody/thresholds.json", "--out", "p")
    assert "the calibration's rows name no patients" in said.out
    assert "here too (" not in said.out and promise_of("p")[0]


def test_the_calibration_file_is_recognised_by_its_digest(command: Command) -> None:
    assert command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").code == 0
    shutil.copy("s.csv", "renamed.csv")
    said = command("renamed.csv", "--apply", "o/thresholds.json")
    assert "warning: this is the very file that was calibrated on (same SHA-256)" in said.out
    Path("s.csv").write_text(Path("s.csv").read_text().replace("\n", "\r\n"))
    assert "SHA-256" not in command("s.csv", "--apply", "o/thresholds.json").out


def test_applying_replaces_no_calibration_nor_foreign_files(command: Command) -> None:
    assert command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").code == 0
    Path("theirs").mkdir()
    Path("theirs/sets.csv").write_text("mine")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for words in (
        ("--apply", "o/thresholds.json", "--out", "o"),
        ("--apply", "o/thresholds.json", "--out", "o", "--overwrite"),
        ("--apply", "o/thresholds.json", "--out", "theirs"),
        ("--alpha", 0.2, "--out", "theirs"),
        ("--alpha", 0.2, "--out", "theirs/sets.csv"),
    ):
        said = command("s.csv", *words)
        assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
        assert "--out names a" in said.err
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for _ in range(2):  # the same again is the same
        assert command("s.csv", "--apply", "o/thresholds.json", "--out", "a").code == 0
    assert command("s.csv", "--alpha", 0.2, "--out", "a").code == 1
    assert command("s.csv", "--alpha", 0.2, "--out", "a", "--overwrite").code == 0


NOT_THRESHOLDS: dict[str, Callable[[str], str]] = {
    "cut short": lambda text: text[: len(text) // 2],
    "NaN": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": NaN', text, count=1),
    "too large": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": 1.5', text, count=1),
    "a word": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": "no"', text, count=1),
    "none at all": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": null', text),
    "no class": lambda text: text.replace('"Effusion",', "", 1),
    "another unit": lambda text: text.replace('"unit": "patient"', '"unit": "patients"'),
    "a choice less": lambda text: text.replace('"method": "crc",', ""),
    "a choice more": lambda text: text.replace('"method": "crc",', '"method": "crc", "mood": 1,'),
    "no counts": lambda text: text.replace("images_and_positives_of_each", "counts"),
    "odd counts": lambda text: re.sub(r"_of_each\":\[\[\d+", '_of_each":[[0', text),
    "no images": lambda text: re.sub(r'"images":\[.*\]', '"images":null', text),
    "a worded seed": lambda text: text.replace('"seed": 0', '"seed": "zero"'),
    "worded units": lambda text: re.sub(r'"n_units": \d+', '"n_units": "many"', text),
    "no levels": lambda text: re.sub(r'"levels": \[.*?\n  \]', '"levels": []', text, flags=re.S),
    "a list as levels": lambda text: re.sub(r'"levels": \[', '"levels": [[], ', text),
}


@pytest.mark.parametrize("what", NOT_THRESHOLDS)
def test_damaged_thresholds_are_refused(
    what: str, command: Command, runs: Callable[[str], Path]
) -> None:
    text = (runs("crc") / "thresholds.json").read_text(encoding="utf-8")
    changed = NOT_THRESHOLDS[what](text)
    assert changed != text
    Path("t.json").write_text(changed, encoding="utf-8")
    said = command("s.csv", "--apply", "t.json", "--out", "o")
    assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
    assert said.err.startswith("error: t.json is not a thresholds.json"), said.err
    assert not Path("o").exists()


def test_a_missing_threshold_of_a_class_is_refused(
    command: Command, runs: Callable[[str], Path]
) -> None:
    held = strict_json(runs("per-class") / "thresholds.json")
    del held["levels"][0]["threshold"]["Mass"]
    Path("t.json").write_text(json.dumps(held), encoding="utf-8")
    said = command("s.csv", "--apply", "t.json", "--out", "o")
    assert said.code == 1 and "no threshold for each of its classes" in said.err
