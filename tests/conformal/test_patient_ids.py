"""A patient spelled in several ways is one: thresholds, cuts, sets and report do not change."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformal_helpers import Command, drawn, rows_of, strict_json

from chestxray.scores import read_scores, write_scores

TIMES = 10


def spell(number: int, rng: np.random.Generator) -> str:
    """One of the ways in which programs write a patient's number."""
    text = "0" * int(rng.integers(0, 9)) + str(number) + rng.choice(["", ".0"])
    return rng.choice(["", "'", " "]) + text + rng.choice(["", " "])


def respell(source: Path, to: Path, seed: int) -> None:
    """Copy a scores CSV, each row's patient spelled at random."""
    rng = np.random.default_rng(seed)
    head, *lines = source.read_text(encoding="utf-8").splitlines()
    cells = (line.split(",", 2) for line in lines)
    respelled = [f"{image},{spell(int(who), rng)},{rest}" for image, who, rest in cells]
    to.write_text("\n".join([head, *respelled]) + "\n", encoding="utf-8")


def outcome(folder: Path, csv: str) -> Any:
    """All that a calibration wrote, without the CSV's name and digest and the spelling of ids."""
    stored = strict_json(folder / "thresholds.json")
    stored["calibration"]["patients"] = [
        int(re.sub(r"[^0-9.]", "", name).removesuffix(".0"))
        for name in stored["calibration"]["patients"]
    ]
    del stored["sha256"]
    report = strict_json(folder / "report.json")
    report["notes"] = [note for note in report["notes"] if "several ways" not in note]
    sets = [{**row, "patient": row["image"][:8]} for row in rows_of(folder / "sets.csv")]
    return json.dumps([stored, report]).replace(csv, "s.csv"), sets


@pytest.mark.parametrize("words", [("--alpha", 0.2), ("--alpha", 0.3, "--method", "rcps")])
def test_spelling_changes_nothing(words: tuple, command: Command) -> None:
    words += ("--resplits", 5)
    assert command("s.csv", *words, "--out", "clean").code == 0
    for seed in range(3):
        respell(Path("s.csv"), Path(f"{seed}.csv"), seed)
        said = command(f"{seed}.csv", *words, "--out", f"o{seed}")
        assert said.code == 0 and "patients spelled in several ways" in said.out
        assert outcome(Path(f"o{seed}"), f"{seed}.csv") == outcome(Path("clean"), "s.csv")


def test_sets_show_the_first_spelling_met(command: Command) -> None:
    respell(Path("s.csv"), Path("r.csv"), 0)
    assert command("r.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").code == 0
    first: dict[int, str] = {}
    for row in rows_of(Path("r.csv")):
        first.setdefault(int(row["image"][:8]), row["patient"].strip(" '"))
    assert {int(r["image"][:8]): r["patient"] for r in rows_of(Path("o/sets.csv"))} == first


@pytest.mark.slow
def test_spelling_changes_nothing_on_25_000_rows(command: Command) -> None:
    """As many rows as the official test list has."""
    write_scores(Path("s.csv"), drawn(8500))
    assert 24_000 < len(read_scores(Path("s.csv")).image_names) < 27_000
    words = ("--alpha", 0.2, "--resplits", 0)
    assert command("s.csv", *words, "--out", "clean").code == 0
    clean = outcome(Path("clean"), "s.csv")
    for seed in range(TIMES):
        respell(Path("s.csv"), Path("r.csv"), seed)
        assert command("r.csv", *words, "--out", "o", "--overwrite").code == 0
        assert outcome(Path("o"), "r.csv") == clean


@pytest.mark.parametrize("text", ["{}.0", "{} ", "'{:08d}", "{:012d}"])
def test_stored_patients_are_recognised(
    text: str, command: Command, runs: Callable[[str], Path]
) -> None:
    rows = Path("s.csv").read_text(encoding="utf-8").splitlines()
    cells = [row.split(",", 2) for row in rows[1:]]
    lines = [f"new_{image},{text.format(int(who))},{rest}" for image, who, rest in cells]
    Path("later.csv").write_text("\n".join([rows[0], *lines]) + "\n", encoding="utf-8")
    said = command("later.csv", "--apply", runs("crc") / "thresholds.json", "--out", "o")
    assert "100 patients and 0 images of the calibration are here too" in said.out
    shown = text.format(int(lines[0][4:12])).strip(" '")
    assert said.code == 0 and f"({shown}, " in said.out  # as this file spells them
    assert strict_json(Path("o/report.json"))["promise_holds"] is False


def test_an_id_that_a_spreadsheet_rounded_is_refused(command: Command) -> None:
    text = Path("s.csv").read_text(encoding="utf-8").replace(",00000007,", ",1.3E+01,")
    Path("r.csv").write_text(text, encoding="utf-8")
    said = command("r.csv", "--alpha", 0.2, "--out", "o")
    assert (
        said.code == 1
        and "a spreadsheet has rounded or grouped, 1.3E+01" in said.err
        and not Path("o").exists()
    )
