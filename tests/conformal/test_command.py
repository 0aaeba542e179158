"""The command from a scores CSV to guarantees: its files agree, its refusals are plain."""

import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import ROOT

from chestxray.conformal.__main__ import main
from chestxray.scores import Scores, read_scores, write_scores

CLASSES = ("Effusion", "No Finding", "Mass", "Hernia")
FILES = {"thresholds.json", "sets.csv", "report.json", "report.md"}
IMAGES = {"risk.png", "resplits.png", "sizes.png", "classes.png"}


class Answer(NamedTuple):
    """What the command said: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def drawn(patients: int = 200, seed: int = 0, shift: float = 0.0, first: int = 0) -> Scores:
    """Scores of 1 to 5 images a patient, all of the test split; some without positive class.

    Args:
        patients: how many.
        seed: of the draw.
        shift: makes every class more frequent.
        first: number of the first patient.
    """
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), rng.integers(1, 6, size=patients))
    n = len(whose)
    logits = rng.normal([-1, 0, -1.5, -5], 1.5, size=(n, 4)) + shift
    logits += rng.normal(size=(patients, 4))[whose]
    targets = (rng.uniform(size=(n, 4)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    seen = (logits + rng.normal(size=(n, 4))).astype(np.float32)
    return Scores(
        image_names=np.array([f"{first + p:08d}_{i:04d}.png" for i, p in enumerate(whose)], object),
        patients=np.array([f"{first + p:08d}" for p in whose], dtype=object),
        splits=np.full(n, "test", dtype=object),
        classes=CLASSES,
        targets=targets,
        logits=seen,
        scores=1 / (1 + np.exp(-seen)),
    )


@pytest.fixture
def command(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command as a function of its words, in a folder where s.csv lies."""
    monkeypatch.chdir(tmp_path)
    write_scores(Path("s.csv"), drawn())

    def call(*words: object) -> Answer:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Answer(code, *capsys.readouterr())

    return call


def strict_json(path: Path) -> Any:
    """Parsed JSON without NaN or infinity, which JSON does not have."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path.name} holds {word}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def chosen(row: dict[str, str], column: str = "set") -> set[str]:
    return set(filter(None, row[column].split("|")))


RUNS = {
    "crc": ("--alpha", 0.1, 0.2),
    "crc-zero": ("--alpha", 0.15, "--no-positive", "zero", "--exclude", "No Finding"),
    "crc-image": ("--alpha", 0.2, "--unit", "image"),
    "rcps": ("--method", "rcps", "--alpha", 0.25, 0.3, "--delta", 0.2),
    "fst": ("--risk", "fdr", "--alpha", 0.5),
    "holm": ("--risk", "fdr", "--alpha", 0.75, "--fwer", "holm", "--empty", 1, "--delta", 0.3),
    "ltt-fnr": ("--method", "ltt", "--alpha", 0.3),
    "per-class": ("--per-class", "--alpha", 0.25),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The output folder of each of RUNS; made once, when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")
    write_scores(folder / "s.csv", drawn())

    def of(name: str) -> Path:
        if not (folder / name).is_dir():
            words = [folder / "s.csv", *RUNS[name], "--resplits", 5, "--out", folder / name]
            assert main([str(word) for word in words]) == 0
        return folder / name

    return of


@pytest.mark.parametrize("name", RUNS)
def test_all_files_and_images_are_written(name: str, runs: Callable[[str], Path]) -> None:
    assert {path.name for path in runs(name).iterdir()} == FILES | IMAGES
    for image in IMAGES:
        assert (runs(name) / image).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", RUNS)
def test_sets_are_the_classes_whose_scores_reach_the_stored_thresholds(
    name: str, runs: Callable[[str], Path]
) -> None:
    held, table = strict_json(runs(name) / "thresholds.json"), read_scores(runs(name) / "../s.csv")
    scores = dict(zip(table.image_names, table.scores.astype(float), strict=True))
    targets = dict(zip(table.image_names, table.targets, strict=True))
    rows = rows_of(runs(name) / "sets.csv")
    levels = {float(level["alpha"]): level["threshold"] for level in held["levels"]}
    assert len(rows) == len(levels) * len(table.image_names)
    assert list(rows[0]) == ["image", "patient", "role", "alpha", "set", "size", "labels"]
    for row in rows:
        limit = levels[float(row["alpha"])]
        expected, labels = [], []
        for k, column in enumerate(table.classes):
            if column not in held["classes"]:
                continue
            t = limit[column] if isinstance(limit, dict) else limit
            if t is None or scores[row["image"]][k] >= t:
                expected.append(column)
            if targets[row["image"]][k]:
                labels.append(column)
        assert (row["set"], row["size"]) == ("|".join(expected), str(len(expected)))
        assert row["labels"] == "|".join(labels)
        assert row["patient"] == row["image"][:8]


@pytest.mark.parametrize("name", RUNS)
def test_patients_are_cut_in_half_and_none_is_on_both_sides(
    name: str, runs: Callable[[str], Path]
) -> None:
    rows = rows_of(runs(name) / "sets.csv")
    sides = {role: {r["patient"] for r in rows if r["role"] == role} for role in ("cal", "eval")}
    assert len(sides["cal"]) == len(sides["eval"]) == 100
    assert not sides["cal"] & sides["eval"]


def averaged(values: list[tuple[str, float]], by: str) -> float | None:
    """The mean over images, or over patients of the mean over their images."""
    if not values:
        return None
    if by == "image":
        return sum(value for _, value in values) / len(values)
    own = defaultdict(list)
    for patient, value in values:
        own[patient].append(value)
    return sum(sum(v) / len(v) for v in own.values()) / len(own)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("by", ["image", "patient"])
def test_realised_figures_are_those_of_a_plain_count_of_sets_csv(
    name: str, by: str, runs: Callable[[str], Path]
) -> None:
    report = strict_json(runs(name) / "report.json")
    choices, classes = report["choices"], strict_json(runs(name) / "thresholds.json")["classes"]
    for level in report["levels"]:
        found: dict[str, list] = defaultdict(list)
        for row in rows_of(runs(name) / "sets.csv"):
            if row["role"] != "eval" or float(row["alpha"]) != float(level["alpha"]):
                continue
            who, sets, labels = row["patient"], chosen(row), chosen(row, "labels")
            false = len(sets - labels) / len(sets) if sets else choices["empty"]
            if labels or choices["no_positive"] == "zero":
                found["fnr"].append((who, len(labels - sets) / max(len(labels), 1)))
            if sets:
                found["fdr_nonempty"].append((who, false))
            found["fdr"].append((who, false))
            found["empty"].append((who, not sets))
            found["full"].append((who, len(sets) == len(classes)))
            found["size"].append((who, len(sets)))
            found["right"].append((who, len(sets & labels)))
            found["wanted"].append((who, len(labels)))
        expected = {what: averaged(values, by) for what, values in found.items()}
        expected["precision"] = expected["right"] / expected["size"]
        expected["recall"] = expected.pop("right") / expected.pop("wanted")
        assert level["realised"][by] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["crc", "fst", "per-class"])
@pytest.mark.parametrize("by", ["image", "patient"])
def test_the_class_table_is_that_of_a_plain_count_of_sets_csv(
    name: str, by: str, runs: Callable[[str], Path]
) -> None:
    """By patient: the mean over the patients with the class, which the guarantee is about."""
    level = strict_json(runs(name) / "report.json")["levels"][0]
    rows = [
        row
        for row in rows_of(runs(name) / "sets.csv")
        if row["role"] == "eval" and float(row["alpha"]) == float(level["alpha"])
    ]
    for column, figures in level["classes"].items():
        having = [row for row in rows if column in chosen(row, "labels")]
        taking = [row for row in rows if column in chosen(row)]
        assert figures["positives"] == len(having)
        assert figures["selected"] == len(taking)
        recall = averaged([(r["patient"], column in chosen(r)) for r in having], by)
        false = averaged([(r["patient"], column not in chosen(r, "labels")) for r in taking], by)
        assert figures[by]["recall"]["value"] == pytest.approx(recall, abs=1e-12)
        assert figures[by]["fdr"]["value"] == pytest.approx(false, abs=1e-12)
        for share in (figures[by]["recall"], figures[by]["fdr"]):
            if share["value"] is not None:
                low, high = share["interval"]
                assert 0 <= low <= share["value"] <= high <= 1


@pytest.mark.parametrize("name", [name for name in RUNS if name != "per-class"])
def test_bounds_at_the_thresholds_are_within_their_limits(
    name: str, runs: Callable[[str], Path]
) -> None:
    held = strict_json(runs(name) / "thresholds.json")
    for level in held["levels"]:
        limit = held["choices"]["delta"] if held["choices"]["method"] == "ltt" else level["alpha"]
        assert 0 <= level["bound"] <= limit + 1e-12


def test_the_numbers_of_units_and_images_are_those_that_count(
    runs: Callable[[str], Path],
) -> None:
    for name, counts in (("crc", True), ("crc-zero", False), ("fst", False)):
        held = strict_json(runs(name) / "thresholds.json")
        alpha = str(held["levels"][0]["alpha"])
        rows = [r for r in rows_of(runs(name) / "sets.csv") if r["alpha"] == alpha]
        own = [r for r in rows if r["role"] == "cal" and (r["labels"] or not counts)]
        assert held["levels"][0]["n_images"] == len(own)
        assert held["levels"][0]["n_units"] == len({r["patient"] for r in own})
    held = strict_json(runs("crc-image") / "thresholds.json")["levels"][0]
    assert held["n_units"] == held["n_images"]


def test_crc_is_the_papers_equation_on_the_calibration_rows(runs: Callable[[str], Path]) -> None:
    table = read_scores(runs("crc") / "../s.csv")
    scores = dict(zip(table.image_names, table.scores.astype(float), strict=True))
    held = strict_json(runs("crc") / "thresholds.json")["levels"][0]
    rows = [
        r
        for r in rows_of(runs("crc") / "sets.csv")
        if r["role"] == "cal" and r["alpha"] == "0.1" and r["labels"]
    ]

    def corrected(threshold: float) -> float:
        losses = []
        for row in rows:
            own = [scores[row["image"]][CLASSES.index(name)] for name in chosen(row, "labels")]
            losses.append((row["patient"], sum(p < threshold for p in own) / len(own)))
        n = len({row["patient"] for row in rows})
        return (n * averaged(losses, "patient") + 1) / (n + 1)

    assert held["bound"] == pytest.approx(corrected(held["threshold"]))
    assert corrected(held["threshold"]) <= 0.1 < corrected(np.nextafter(held["threshold"], 1))


def test_thresholds_json_holds_every_choice_the_source_and_the_versions(
    runs: Callable[[str], Path],
) -> None:
    held = strict_json(runs("holm") / "thresholds.json")
    assert held["choices"] == {
        "risk": "fdr",
        "method": "ltt",
        "delta": 0.3,
        "unit": "patient",
        "no_positive": "drop",
        "empty": 1,
        "fwer": "holm",
        "per_class": False,
        "from": "test",
        "exclude": [],
        "cal_fraction": 0.5,
        "resplits": 5,
        "seed": 0,
    }
    excluding = strict_json(runs("crc-zero") / "thresholds.json")["choices"]
    assert excluding["exclude"] == ["No Finding"] and excluding["no_positive"] == "zero"
    assert strict_json(runs("per-class") / "thresholds.json")["choices"]["per_class"] is True
    assert held["classes"] == list(CLASSES)
    assert len(held["sha256"]) == 64 and {"chestxray", "numpy", "scipy"} <= set(held["versions"])
    assert strict_json(runs("crc-zero") / "thresholds.json")["classes"] == [
        "Effusion",
        "Mass",
        "Hernia",
    ]


def test_each_method_says_what_it_guarantees_over_what_for_a_new_what(
    runs: Callable[[str], Path],
) -> None:
    expected = {
        "crc": ("Expectation", "0.1", "a new patient's images", "half of all calibrations"),
        "crc-image": ("Expectation", "0.2", "a new image that has a positive class", "images"),
        "rcps": ("probability at least 0.8", "0.25", "a new patient's images", "FNR"),
        "fst": ("probability at least 0.9", "0.5", "a new patient's images", "FDR"),
        "per-class": ("Expectation", "0.25", "each class by itself"),
    }
    for name, parts in expected.items():
        sentence = strict_json(runs(name) / "report.json")["levels"][0]["guarantee"]
        assert all(part in sentence for part in parts), sentence
        assert sentence.count(". ") == 0 and sentence.endswith(".")
        assert sentence in (runs(name) / "report.md").read_text(encoding="utf-8")
    probable = strict_json(runs("rcps") / "report.json")["levels"][0]["guarantee"]
    assert "Expectation" not in probable


@pytest.mark.parametrize("name", ["crc", "per-class"])
def test_the_page_links_the_images_there_are_and_shows_the_resplits(
    name: str, runs: Callable[[str], Path]
) -> None:
    page = (runs(name) / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)) == IMAGES
    cuts = strict_json(runs(name) / "report.json")["levels"][0]["resplits"]
    by_class = cuts.get("classes", {"all classes": cuts})
    assert set(by_class) == ({"all classes"} if name == "crc" else set(CLASSES))
    for row, found in by_class.items():
        line = next(t for t in page.split("cuts by patient")[1].splitlines() if f"| {row} |" in t)
        assert f"{found['mean']:.3f} | {found['median']:.3f} |" in line
        assert found["interval"][0] <= found["median"] <= found["interval"][1]


def test_the_page_links_no_image_that_is_not_there(command: Command) -> None:
    words = ("--alpha", 0.2, "--cal-fraction", 1, "--out", "o")
    assert command("s.csv", *words).code == 0
    page = Path("o/report.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(([^)]+)\)", page) == ["risk.png"]


def test_the_page_shows_all_figures_of_the_report(runs: Callable[[str], Path]) -> None:
    page = (runs("crc") / "report.md").read_text(encoding="utf-8")
    for level in strict_json(runs("crc") / "report.json")["levels"]:
        part = page.split(f"## alpha = {level['alpha']}\n")[1].split("\n## ")[0]
        for weighting in ("image", "patient"):
            for figure in level["realised"][weighting].values():
                assert f"{figure:.3f}" in part
        assert all(
            f"| {name} | {row['positives']} |" in part for name, row in level["classes"].items()
        )


def test_the_class_that_too_few_patients_have_is_null_and_in_every_set(
    command: Command,
) -> None:
    table = drawn()
    table.targets[:, 3] = 0
    table.targets[:2, 3] = 1
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.2, "--per-class", "--out", "o")
    assert said.code == 0
    thresholds = strict_json(Path("o/thresholds.json"))["levels"][0]["threshold"]
    assert thresholds["Hernia"] is None
    assert all(0 < thresholds[name] < 1 for name in CLASSES[:3])
    assert all("Hernia" in chosen(row) for row in rows_of(Path("o/sets.csv")))
    assert "Hernia" in said.out and "always" in said.out  # it is said, not only written
    assert "Hernia always in the set" in Path("o/report.md").read_text(encoding="utf-8")


def test_full_sets_for_want_of_patients_in_every_class_are_no_answer(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.005, "--per-class", "--out", "o")
    assert said.code == 3 and not Path("o").exists()
    least = said.err.split("on these rows: ")[1].split()[0]
    assert command("s.csv", "--alpha", least, "--per-class", "--out", "o").code == 0


def test_a_class_alone_is_calibrated_on_its_own_patients(runs: Callable[[str], Path]) -> None:
    table = read_scores(runs("per-class") / "../s.csv")
    scores = dict(zip(table.image_names, table.scores[:, 0].astype(float), strict=True))
    limit = strict_json(runs("per-class") / "thresholds.json")["levels"][0]["threshold"]["Effusion"]
    rows = [r for r in rows_of(runs("per-class") / "sets.csv") if r["role"] == "cal"]
    own = [r for r in rows if "Effusion" in chosen(r, "labels")]
    n = len({r["patient"] for r in own})

    def corrected(threshold: float) -> float:
        missed = [(r["patient"], scores[r["image"]] < threshold) for r in own]
        return (n * averaged(missed, "patient") + 1) / (n + 1)

    assert corrected(limit) <= 0.25 < corrected(np.nextafter(limit, 1))


WRONG_USAGE = {
    "crc is for monotone risks": (("--risk", "fdr", "--method", "crc", "--alpha", 0.5), "ltt"),
    "rcps too": (("--risk", "fdr", "--method", "rcps", "--alpha", 0.5), "ltt"),
    "alpha 0": (("--alpha", 0), "'0' is not a number above 0 and below 1"),
    "alpha 1": (("--alpha", 1), "'1' is not a number above 0 and below 1"),
    "alpha nan": (("--alpha", "nan"), "'nan' is not a number above 0 and below 1"),
    "alpha inf": (("--alpha", "inf"), "'inf' is not a number above 0 and below 1"),
    "alpha 2": (("--alpha", 2), "'2' is not a number above 0 and below 1"),
    "alpha below 0": (("--alpha=-0.1",), "'-0.1' is not a number above 0 and below 1"),
    "one alpha of many": (("--alpha", 0.1, 1.5), "'1.5' is not a number above 0 and below 1"),
    "a fraction by zero": (("--alpha", "1/0"), "'1/0' is not a number above 0 and below 1"),
    "two in one word": (("--alpha", "0.1,0.2"), "'0.1,0.2' is not a number"),
    "delta 1": (("--alpha", 0.1, "--delta", 1), "'1' is not a number above 0 and below 1"),
    "fst begins at empty sets": (
        ("--risk", "fdr", "--alpha", 0.5, "--empty", 1, "--fwer", "fst"),
        "--fwer holm",
    ),
    "no alpha": ((), "--alpha"),
    "per class by ltt": (("--alpha", 0.5, "--risk", "fdr", "--per-class"), "--per-class"),
    "alpha with apply": (("--alpha", 0.5, "--apply", "t.json"), "--alpha"),
    "another seed with apply": (("--apply", "t.json", "--seed", 1), "--seed"),
    "frontier on the rows to calibrate": (("--alpha", 0.1, "--frontier"), "--frontier is for"),
    "confidence for delta": (("--alpha", 0.1, "--delta", 0.95), "below 0.5"),
    "another risk with apply": (("--apply", "t.json", "--risk", "fdr"), "--risk"),
    "cal-fraction 0": (("--alpha", 0.1, "--cal-fraction", 0), "'0' is not"),
    "an unknown method": (("--alpha", 0.1, "--method", "CRC"), "invalid choice"),
    "a seed below 0": (("--alpha", 0.1, "--seed=-1"), "whole number"),
}


@pytest.mark.parametrize("what", WRONG_USAGE)
def test_wrong_usage_leaves_with_2_in_one_line_and_writes_nothing(
    what: str, command: Command
) -> None:
    words, message = WRONG_USAGE[what]
    said = command("s.csv", *words, "--out", "o")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1 and message in said.err
    assert not Path("o").exists()


def test_flags_may_have_underscores_as_those_of_main_do(command: Command) -> None:
    words = ("--alpha", 0.2, "--cal_fraction", 0.4, "--no_positive", "zero", "--resplits", 0)
    assert command("s.csv", *words, "--out", "o").code == 0
    assert strict_json(Path("o/thresholds.json"))["choices"]["cal_fraction"] == 0.4


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
    "NaN": (lambda: with_cell("p_Mass", "nan"), ["p_Mass of 000", "no finite number", "'nan'"]),
    "an empty cell": (lambda: with_cell("p_Mass", ""), ["p_Mass of 000", "no finite number"]),
    "p above 1": (lambda: with_cell("p_Mass", "1.01"), ["p_Mass of 000", "[0, 1]", "1.01"]),
    "p below 0": (lambda: with_cell("p_Mass", "-0.01"), ["p_Mass of 000", "[0, 1]", "-0.01"]),
    "y of 2": (lambda: with_cell("y_Mass", "2"), ["y_Mass of 000", "neither 0 nor 1", "2"]),
    "y of a half": (lambda: with_cell("y_Mass", "0.5"), ["y_Mass of 000", "neither 0 nor 1"]),
    "a image twice": (
        lambda: edited("\n00000001_", "\n00000000_0000.png,00000001,test" + ",0" * 12 + "\n1_"),
        ["images listed twice", "00000000_0000.png"],
    ),
    "y_ and p_ of other classes": (
        lambda: edited("y_Mass", "y_Nodule"),
        ["different classes", "Nodule", "Mass"],
    ),
    "no y_": (
        lambda: edited("y_Effusion,y_No Finding,y_Mass,y_Hernia", "a,b,c,d"),
        ["y_*", "none"],
    ),
    "no scores at all": (lambda: "image,patient\na.png,1\n", ["is not a scores CSV", "p_<class>"]),
    "nothing": (lambda: "", ["is not a scores CSV"]),
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
def test_wrong_files_are_refused_in_a_line_or_two_that_say_where(
    what: str, command: Command
) -> None:
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


def test_unknown_classes_are_refused_with_those_there_are(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.1, "--exclude", "No", "Finding")
    assert said.code in (1, 2) and "Effusion, No Finding, Mass, Hernia" in said.err
    assert command("s.csv", "--alpha", 0.1, "--exclude", *CLASSES).code in (1, 2)


def test_images_without_positive_class_can_be_refused(command: Command) -> None:
    for words in (("--alpha", 0.2, "--out", "o"), ("--frontier", "--from", "test")):
        said = command("s.csv", *words, "--no-positive", "error", "--npz", "a.npz")
        assert said.code == 1 and "without positive class" in said.err
        assert not Path("o").exists() and not Path("a.npz").exists()


def test_too_few_patients_for_alpha_leave_with_3_and_the_smallest_alpha(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.005, "--out", "o")
    assert said.code == 3 and not Path("o").exists()
    assert "alpha 0.005: nothing is certified" in said.err and "1/alpha - 1 = 199" in said.err
    assert "smallest certifiable alpha" in said.err and "fresh calibration rows" in said.err
    least = said.err.split("on these rows: ")[1].split()[0]
    assert command("s.csv", "--alpha", least, "--resplits", 0, "--out", "o").code == 0


NOT_CERTIFIABLE = {
    "crc": ("--alpha", 0.002),
    "crc-zero": ("--alpha", 0.002, "--no-positive", "zero"),
    "crc-image": ("--alpha", 0.001, "--unit", "image"),
    "per-class": ("--alpha", 0.005, "--per-class"),
    "rcps": ("--alpha", 0.01, "--method", "rcps"),
    "rcps-zero": ("--alpha", 0.01, "--method", "rcps", "--no-positive", "zero", "--delta", 0.3),
    "fst": ("--alpha", 0.02, "--risk", "fdr"),
    "holm": ("--alpha", 0.02, "--risk", "fdr", "--fwer", "holm", "--empty", 1),
    "ltt-fnr": ("--alpha", 0.01, "--method", "ltt"),
    "ltt-fnr-holm": ("--alpha", 0.01, "--method", "ltt", "--fwer", "holm"),
}


@pytest.mark.parametrize("what", NOT_CERTIFIABLE)
@pytest.mark.parametrize("patients", [200, 23])
def test_where_nothing_is_certifiable_it_leaves_with_3_and_the_smallest_alpha_that_is(
    what: str, patients: int, command: Command
) -> None:
    """What is printed certifies when it is typed, and a little less does not."""
    write_scores(Path("s.csv"), drawn(patients))
    _, alpha, *words = NOT_CERTIFIABLE[what]
    said = command("s.csv", "--alpha", alpha, *words, "--out", "o")
    assert said.code == 3 and not Path("o").exists()
    least = said.err.split("on these rows: ")[1].split()[0]
    below = Fraction(least) - Fraction(1, 1000)
    if "ltt" not in what and what not in ("fst", "holm"):
        below = Fraction(least) * Fraction(985, 1000)  # three digits
    typed = f"{float(below):.6f}"
    assert command("s.csv", "--alpha", typed, *words, "--out", "o").code == 3
    words += ["--resplits", 0, "--out", "o"]
    assert command("s.csv", "--alpha", least, *words).code == 0


def test_the_smallest_alpha_of_crc_is_one_over_n_plus_1(command: Command) -> None:
    table = drawn(162)  # 81 calibrate, all with a positive class
    table.targets[:, 1] = 1
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.001)
    assert 1 / 82 < float(said.err.split("on these rows: ")[1].split()[0]) < 1 / 82 + 1e-4


def test_one_certified_alpha_of_several_is_enough_and_the_others_are_marked(
    command: Command,
) -> None:
    said = command("s.csv", "--alpha", 0.001, 0.2, "--resplits", 3, "--out", "o")
    assert said.code == 0 and "nothing is certified" in said.out
    none, some = strict_json(Path("o/thresholds.json"))["levels"]
    assert (none["alpha"], none["threshold"]) == (0.001, None) and "1/alpha" in none["reason"]
    assert some["alpha"] == 0.2 and 0 < some["threshold"] < 1
    assert {row["alpha"] for row in rows_of(Path("o/sets.csv"))} == {"0.2"}
    page = Path("o/report.md").read_text(encoding="utf-8")
    assert "Nothing is certified" in page.split("## alpha = 0.001")[1].split("##")[0]


def test_the_same_alpha_twice_gives_one_set_a_image(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.2, "0.20", "--resplits", 0, "--out", "o")
    assert said.code in (0, 2)
    if said.code == 0:
        rows = [(row["image"], float(row["alpha"])) for row in rows_of(Path("o/sets.csv"))]
        assert len(rows) == len(set(rows))


def test_without_a_split_column_all_rows_are_used_and_that_is_said(command: Command) -> None:
    table = drawn()
    table.splits = None
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o")
    assert said.code == 0 and f"no split column: all {len(table.image_names)} rows" in said.out
    assert len(rows_of(Path("o/sets.csv"))) == len(table.image_names)


def test_only_the_rows_of_the_split_are_used(command: Command) -> None:
    table = drawn()
    table.splits[table.patients >= "00000100"] = "val"
    write_scores(Path("s.csv"), table)
    assert command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "t").code == 0
    assert max(row["patient"] for row in rows_of(Path("t/sets.csv"))) == "00000099"
    assert (
        command("s.csv", "--alpha", 0.2, "--from", "val", "--resplits", 0, "--out", "v").code == 0
    )
    assert min(row["patient"] for row in rows_of(Path("v/sets.csv"))) == "00000100"


def test_without_a_patient_column_the_image_must_be_asked_for_as_unit(command: Command) -> None:
    table = drawn()
    table.patients = None
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.2, "--out", "o")
    assert said.code in (1, 2) and "--unit image" in said.err and not Path("o").exists()
    assert command("s.csv", "--alpha", 0.2, "--unit", "image", "--out", "o").code == 0


def test_gz_and_other_peoples_classes_are_read(command: Command) -> None:
    table = drawn()
    table.classes, table.logits = ("dog", "old cat", "a/b", "ü"), None
    write_scores(Path("s.csv"), table)
    Path("theirs.csv.gz").write_bytes(gzip.compress(Path("s.csv").read_bytes()))
    assert command("theirs.csv.gz", "--alpha", 0.2, "--resplits", 3).code == 0
    rows = rows_of(Path("theirs_fnr_crc/sets.csv"))
    assert {name for row in rows for name in chosen(row)} == set(table.classes)


def test_excluded_classes_are_in_no_set_and_count_nowhere(runs: Callable[[str], Path]) -> None:
    rows = rows_of(runs("crc-zero") / "sets.csv")
    assert not any("No Finding" in row["set"] + row["labels"] for row in rows)
    level = strict_json(runs("crc-zero") / "report.json")["levels"][0]
    assert "No Finding" not in level["classes"]


def test_cal_fraction_1_calibrates_on_all_rows_and_claims_no_realised_figures(
    command: Command,
) -> None:
    said = command("s.csv", "--alpha", 0.2, "--cal-fraction", 1, "--out", "o")
    assert said.code == 0 and "realised" not in said.out
    assert {row["role"] for row in rows_of(Path("o/sets.csv"))} == {"cal"}
    level = strict_json(Path("o/report.json"))["levels"][0]
    assert level["realised"] is None and level["classes"] is None
    assert {path.name for path in Path("o").iterdir()} == FILES | {"risk.png"}


@pytest.mark.parametrize(
    "words",
    [("--alpha", 0.2), ("--alpha", 0.3, "--method", "rcps"), ("--alpha", 0.6, "--risk", "fdr")],
)
@pytest.mark.parametrize("part", [0.02, 0.98])
def test_cuts_that_leave_almost_nobody_on_one_side_are_answered(
    words: tuple, part: float, command: Command
) -> None:
    write_scores(Path("s.csv"), drawn(12))
    said = command("s.csv", *words, "--cal-fraction", part, "--resplits", 20, "--out", "o")
    assert said.code in (0, 3)
    assert Path("o").exists() == (said.code == 0)
    if said.code == 0:
        strict_json(Path("o/report.json"))


def test_a_second_run_leaves_no_image_of_the_first(command: Command) -> None:
    assert command("s.csv", "--alpha", 0.2, "--resplits", 3, "--out", "o").code == 0
    assert command("s.csv", "--alpha", 0.1, "--cal-fraction", 1, "--out", "o").code == 0
    assert not Path("o/resplits.png").exists() and not Path("o/sizes.png").exists()


def test_resplits_are_in_the_report_and_near_alpha(command: Command) -> None:
    words = ("--alpha", 0.2, "--resplits", 200)
    assert command("s.csv", *words, "--out", "o").code == 0
    found = strict_json(Path("o/report.json"))["levels"][0]["resplits"]
    assert (found["times"], found["certified"]) == (200, 200)
    assert found["mean"] == pytest.approx(0.2, abs=0.03) and 0.1 < found["above_alpha"] < 0.9


def test_the_same_command_twice_writes_the_same_bytes(command: Command) -> None:
    for name in ("one", "two"):
        words = ("--method", "rcps", "--alpha", 0.3, "--resplits", 5, "--out", name)
        assert command("s.csv", *words).code == 0
    for path in Path("one").iterdir():
        assert path.read_bytes() == Path("two", path.name).read_bytes(), path.name


def test_another_seed_cuts_other_patients(command: Command) -> None:
    for seed in (0, 1):
        words = ("--alpha", 0.2, "--resplits", 0, "--seed", seed, "--out", f"o{seed}")
        assert command("s.csv", *words).code == 0
    roles = [[row["role"] for row in rows_of(Path(f"o{seed}/sets.csv"))] for seed in (0, 1)]
    assert roles[0] != roles[1]


def test_the_frontier_is_printed_from_val_without_alpha_and_writes_nothing(
    command: Command,
) -> None:
    table = drawn()
    table.splits[:] = "val"
    write_scores(Path("s.csv"), table)
    before = sorted(Path().iterdir())
    said = command("s.csv", "--frontier")
    assert said.code == 0 and sorted(Path().iterdir()) == before
    lines = said.out.splitlines()
    assert lines.pop(0).startswith("FNR by crc on ")
    alphas = [line.split()[0] for line in lines[1:]]
    assert alphas == [f"{percent / 100:g}" for percent in range(5, 75, 5)]
    header, figures = lines[0].split(), [line.split() for line in lines[1:]]
    sizes = [float(row[header.index("size")]) for row in figures]
    misses = [float(row[header.index("FNR")]) for row in figures]
    assert sizes == sorted(sizes, reverse=True) and misses == sorted(misses)
    assert all(miss <= float(alpha) for miss, alpha in zip(misses, alphas, strict=True))


def test_the_frontier_of_fdr_says_where_nothing_is_certified(command: Command) -> None:
    write_scores(Path("s.csv"), drawn(20))
    said = command("s.csv", "--frontier", "--risk", "fdr", "--from", "test")
    assert said.code == 0 and len(said.out.splitlines()) == 16
    assert "certified" in said.out.splitlines()[2] and "nan" not in said.out


def test_npz_holds_the_arrays_of_the_papers_notebooks(command: Command) -> None:
    assert command("s.csv", "--npz", "a.npz").code == 0
    table = read_scores(Path("s.csv"))
    with np.load("a.npz") as arrays:
        assert sorted(arrays) == ["labels", "sgmd"]
        np.testing.assert_array_equal(arrays["sgmd"], table.scores)
        np.testing.assert_array_equal(arrays["labels"], table.targets)


def test_npz_does_not_replace_the_scores_file(command: Command) -> None:
    before = Path("s.csv").read_bytes()
    said = command("s.csv", "--npz", "s.csv")
    assert said.code in (1, 2) and Path("s.csv").read_bytes() == before


def without_labels(path: Path, to: Path) -> None:
    rows = rows_of(path)
    kept = [name for name in rows[0] if not name.startswith("y_")]
    lines = [",".join(kept), *(",".join(row[name] for name in kept) for row in rows)]
    to.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", ["crc", "fst", "per-class"])
def test_stored_thresholds_give_the_same_sets_with_labels_and_without(
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


def test_stored_thresholds_are_applied_to_the_split_that_is_asked_for(
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
    assert said.code == 0 and "no split column: not only the rows of val" in said.out


def test_images_as_units_are_warned_of_where_patients_have_several(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.2, "--unit", "image", "--out", "o")
    assert said.code == 0 and "as if they were independent" in said.out
    assert "as if they were independent" in Path("o/report.md").read_text()
    assert "warning" not in command("s.csv", "--alpha", 0.2, "--out", "p").out


def test_applied_columns_are_found_by_name_in_any_order_and_absent_ones_refused(
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


def test_a_patient_on_both_sides_and_a_shifted_prevalence_are_warned_of_with_numbers(
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


def test_thresholds_for_patients_on_a_file_without_patients_are_said_to_be_so(
    command: Command, runs: Callable[[str], Path]
) -> None:
    table = drawn()
    table.patients = None
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--apply", runs("crc") / "thresholds.json", "--out", "o")
    assert "patient column" in said.out + said.err


@pytest.mark.parametrize("name", ["report.json", "s.csv", "list.json", "absent.json"])
def test_what_is_no_thresholds_file_is_refused_by_name(
    name: str, command: Command, runs: Callable[[str], Path]
) -> None:
    shutil.copy(runs("crc") / "report.json", "report.json")
    Path("list.json").write_text("[]", encoding="utf-8")
    said = command("s.csv", "--apply", name, "--out", "o")
    assert said.code == 1 and name in said.err and said.err.count("\n") == 1
    assert not Path("o").exists()


@pytest.mark.parametrize(("split", "why"), [("val", "epoch was chosen"), ("train", "was trained")])
def test_rows_that_made_the_network_are_warned_of_as_calibration_rows_and_wherever_they_serve(
    split: str, why: str, command: Command
) -> None:
    table = drawn()
    table.splits[:] = split
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.2, "--from", split, "--resplits", 0, "--out", "o")
    assert said.code == 0 and f"warning: calibrated on the split {split}" in said.out
    assert why in said.out and "No promise for fresh patients" in said.out
    assert why in Path("o/report.md").read_text(encoding="utf-8")
    assert strict_json(Path("o/report.json"))["promise_holds"] is False
    write_scores(Path("fresh.csv"), drawn(150, seed=9, first=5000))
    later = command("fresh.csv", "--apply", "o/thresholds.json", "--out", "a")
    assert later.code == 0 and why in later.out and "No promise carries over" in later.out
    assert "warning" not in command("s.csv", "--frontier", "--from", split).out


def promise_of(folder: str) -> tuple[bool, str]:
    report = strict_json(Path(folder, "report.json"))
    return report["promise_holds"], report["levels"][0]["guarantee"]


def test_the_promise_is_taken_back_where_the_rows_are_no_fresh_or_other_ones(
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
        assert sentence.startswith("Expectation" if holds else "No promise carries over to these")
        assert sentence in Path(name, "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("spelled", ["{:d}", "{:03d}", "{:012d}"])
def test_a_patient_is_known_again_with_other_leading_zeros(
    spelled: str, command: Command, runs: Callable[[str], Path]
) -> None:
    table = drawn()
    table.patients = np.array([spelled.format(int(name)) for name in table.patients], object)
    table.image_names = np.array([f"new_{name}" for name in table.image_names], dtype=object)
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--apply", runs("crc") / "thresholds.json", "--out", "o")
    assert "100 patients and 0 images of the calibration are here too" in said.out


def test_without_patients_the_images_are_compared_and_what_cannot_be_is_said(
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


def test_the_very_file_of_the_calibration_is_known_by_its_sum(command: Command) -> None:
    assert command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").code == 0
    shutil.copy("s.csv", "renamed.csv")
    said = command("renamed.csv", "--apply", "o/thresholds.json")
    assert "warning: this is the very file that was calibrated on (same SHA-256)" in said.out
    Path("s.csv").write_text(Path("s.csv").read_text().replace("\n", "\r\n"))
    assert "SHA-256" not in command("s.csv", "--apply", "o/thresholds.json").out


def test_applying_does_not_replace_a_calibration_nor_anybody_elses_files(command: Command) -> None:
    assert command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").code == 0
    Path("theirs").mkdir()
    Path("theirs/sets.csv").write_text("mine")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for words in (
        ("--apply", "o/thresholds.json", "--out", "o"),
        ("--apply", "o/thresholds.json", "--out", "theirs"),
        ("--alpha", 0.2, "--out", "theirs"),
    ):
        said = command("s.csv", *words)
        assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
        assert "sets.csv" in said.err and "--out names another folder" in said.err
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for _ in range(2):  # what an application wrote, another may replace; a calibration may not
        assert command("s.csv", "--apply", "o/thresholds.json", "--out", "a").code == 0
    assert command("s.csv", "--alpha", 0.2, "--out", "a").code == 1


NOT_THRESHOLDS: dict[str, Callable[[str], str]] = {
    "cut short": lambda text: text[: len(text) // 2],
    "NaN": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": NaN', text, count=1),
    "too large": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": 1.5', text, count=1),
    "a word": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": "no"', text, count=1),
    "none at all": lambda text: re.sub(r'"threshold": [0-9.e-]+', '"threshold": null', text),
    "no class": lambda text: text.replace('"Effusion",', "", 1),
    "another unit": lambda text: text.replace('"unit": "patient"', '"unit": "patients"'),
    "a choice less": lambda text: text.replace('"risk": "fnr",', ""),
    "a choice more": lambda text: text.replace('"risk": "fnr",', '"risk": "fnr", "mood": 1,'),
    "no counts": lambda text: text.replace("images_and_positives_of_each", "counts"),
    "odd counts": lambda text: re.sub(r"_of_each\":\[\[\d+", '_of_each":[[0', text),
    "no images": lambda text: re.sub(r'"images":\[.*\]', '"images":null', text),
    "a worded seed": lambda text: text.replace('"seed": 0', '"seed": "zero"'),
    "worded units": lambda text: re.sub(r'"n_units": \d+', '"n_units": "many"', text),
    "no levels": lambda text: re.sub(r'"levels": \[.*?\n  \]', '"levels": []', text, flags=re.S),
    "a list as levels": lambda text: re.sub(r'"levels": \[', '"levels": [[], ', text),
}


@pytest.mark.parametrize("what", NOT_THRESHOLDS)
def test_thresholds_that_were_cut_or_edited_into_nonsense_are_refused(
    what: str, command: Command, runs: Callable[[str], Path]
) -> None:
    text = (runs("crc") / "thresholds.json").read_text(encoding="utf-8")
    changed = NOT_THRESHOLDS[what](text)
    assert changed != text
    Path("t.json").write_text(changed, encoding="utf-8")
    said = command("s.csv", "--apply", "t.json", "--out", "o")
    assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
    assert said.err.startswith("error: t.json is no thresholds.json"), said.err
    assert not Path("o").exists()


def test_a_threshold_less_by_class_is_refused(
    command: Command, runs: Callable[[str], Path]
) -> None:
    held = strict_json(runs("per-class") / "thresholds.json")
    del held["levels"][0]["threshold"]["Mass"]
    Path("t.json").write_text(json.dumps(held), encoding="utf-8")
    said = command("s.csv", "--apply", "t.json", "--out", "o")
    assert said.code == 1 and "no threshold for each of its classes" in said.err


ODD: dict[str, tuple[int, int, int | None, float | None]] = {  # images, classes, y, p
    "one image": (1, 3, 1, None),
    "one class": (60, 1, None, None),
    "no positive": (60, 3, 0, None),
    "all positive": (60, 3, 1, None),
    "equal scores": (60, 3, None, 0.5),
    "all 0": (60, 3, None, 0.0),
    "all 1": (60, 3, None, 1.0),
}
WAYS = {
    "crc": ("--alpha", 0.3),
    "zero": ("--alpha", 0.3, "--no-positive", "zero"),
    "all calibrate": ("--alpha", 0.3, "--cal-fraction", 1),
    "rcps": ("--alpha", 0.5, "--method", "rcps"),
    "ltt": ("--alpha", 0.5, "--method", "ltt"),
    "fdr": ("--alpha", 0.7, "--risk", "fdr"),
    "holm": ("--alpha", 0.7, "--risk", "fdr", "--fwer", "holm", "--empty", 1),
    "per class": ("--alpha", 0.3, "--per-class"),
    "frontier": ("--frontier", "--from", "test"),
    "frontier rcps": ("--frontier", "--from", "test", "--method", "rcps"),
    "frontier fdr": ("--frontier", "--from", "test", "--risk", "fdr"),
    "frontier per class": ("--frontier", "--from", "test", "--per-class"),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_rows_are_answered_in_every_way(odd: str, command: Command) -> None:
    n, classes, label, score = ODD[odd]
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (n, classes)) if label is None else np.full((n, classes), label)
    scores = rng.uniform(size=(n, classes)) if score is None else np.full((n, classes), score)
    table = Scores(
        image_names=np.array([f"{i:03d}.png" for i in range(n)], dtype=object),
        patients=np.array([f"{i // 2}" for i in range(n)], dtype=object),
        splits=np.full(n, "test", dtype=object),
        classes=tuple("abc"[:classes]),
        targets=targets.astype(np.uint8),
        logits=None,
        scores=scores,
    )
    write_scores(Path("odd.csv"), table)
    for name, words in WAYS.items():
        said = command("odd.csv", *words, "--resplits", 3, "--out", name)
        assert said.code in (0, 3), (name, said)
        assert "nan" not in said.out + said.err
        assert Path(name).exists() == (said.code == 0 and "frontier" not in name)
        if said.code == 3:
            assert 1 <= said.err.count("\n") <= 2 and "nothing is certified" in said.err
        elif "frontier" not in name:
            strict_json(Path(name, "report.json"))
            assert command("odd.csv", "--apply", f"{name}/thresholds.json").code == 0


def test_neither_torch_nor_matplotlib_is_imported_before_a_image_is_drawn(
    tmp_path: Path,
) -> None:
    write_scores(tmp_path / "s.csv", drawn(40))
    code = """if True:
        import sys
        import chestxray.conformal
        from chestxray.conformal.__main__ import main
        assert main(["s.csv", "--frontier", "--from", "test"]) == 0
        assert not {"torch", "torchvision", "matplotlib"} & set(sys.modules), "too early"
        assert main(["s.csv", "--alpha", "0.3", "--resplits", "2", "--out", "o"]) == 0
        assert "matplotlib" in sys.modules and "torch" not in sys.modules
        """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chestxray.conformal", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "--alpha" in done.stdout
