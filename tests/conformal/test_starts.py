"""Targets whose tests other patients start, and two risks at once, through the whole command."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import Command, chosen, drawn, rows_of, strict_json

from chestxray.scores import read_scores, write_scores

NONEMPTY = ("--risk", "fdr", "--empty", "drop", "--resplits", 3, "--out", "o")


@pytest.fixture
def many(command: Command) -> Command:
    write_scores(Path("s.csv"), drawn(600))
    tune = drawn(200, seed=3, first=5000)
    write_scores(Path("tune.csv"), replace(tune, splits=np.full(len(tune.splits), "val", object)))
    return command


def test_a_fifth_of_the_patients_starts_the_tests_and_counts_in_none(many: Command) -> None:
    said = many("s.csv", "--alpha", 0.55, *NONEMPTY)
    assert said.code == 0, said.err
    rows, held = rows_of(Path("o/sets.csv")), strict_json(Path("o/thresholds.json"))
    by_role = {role: {r["patient"] for r in rows if r["role"] == role} for role in ("cal", "start")}
    level, who = held["levels"][0], held["started_by"]
    assert len(by_role["start"]) == 60 and len(by_role["cal"]) == 240
    assert not by_role["start"] & by_role["cal"]
    assert level["n_units"] == 240 and level["start"]["n_units"] == 60
    assert who == {"file": None, "sha256": None, "patients": sorted(by_role["start"])}
    assert by_role["start"] < set(held["calibration"]["patients"])  # --apply knows them too
    assert level["start"]["threshold"] >= level["threshold"]
    assert level["bound"] <= held["choices"]["delta"]
    assert "chosen on 60 patients, a fifth of those that calibrate" in said.out
    assert "of 60 patients chose where the tests start), evaluated on" in said.out
    assert "patients chose where the tests start" in Path("o/summary.tex").read_text(
        encoding="utf-8"
    )
    assert "is at most 0.55 times the expected share of sets that are not empty" in said.out
    found = strict_json(Path("o/report.json"))["levels"][0]["realised"]["patient"]
    assert found["fdr"]["value"] < found["fdr_nonempty"]["value"]  # an empty set counts as 0 there
    assert "fdr_nonempty" in rows_of(Path("o/resplits.csv"))[0]
    groups = Path("o/report.md").read_text(encoding="utf-8").split("| realised | ")
    assert len(groups) == 1
    assert held["choices"]["empty"] == "drop"


@pytest.mark.parametrize("risk", [("fdr", "--empty", "drop"), ("mfdr",)])
def test_patients_of_another_file_start_the_tests(risk: tuple[str, ...], many: Command) -> None:
    said = many("s.csv", "--risk", *risk, "--alpha", 0.55, "--tune", "tune.csv", *NONEMPTY[4:])
    assert said.code == 0, said.err
    held = strict_json(Path("o/thresholds.json"))
    assert {row["role"] for row in rows_of(Path("o/sets.csv"))} == {"cal", "eval"}
    assert held["levels"][0]["n_units"] == 300 and held["levels"][0]["start"]["n_units"] == 200
    assert held["started_by"]["file"] == "tune.csv" and len(held["started_by"]["sha256"]) == 64
    assert "chosen on 200 patients of tune.csv" in said.out
    assert held["choices"]["tune"] == held["started_by"]["sha256"]


def test_of_the_tune_file_the_validation_rows_count(many: Command) -> None:
    tune, cal = read_scores(Path("tune.csv")), read_scores(Path("s.csv"))
    everything = list(range(len(tune.classes)))
    first = cal.take(np.arange(len(cal.image_names)) < 40, everything)
    both = replace(
        tune,
        **{
            name: np.concatenate([getattr(tune, name), getattr(first, name)])
            for name in ("image_names", "patients", "splits", "targets", "logits", "scores")
        },
    )
    write_scores(Path("both.csv"), both)  # its test rows calibrate, its val rows do not
    said = many("s.csv", "--alpha", 0.55, "--tune", "both.csv", *NONEMPTY)
    assert said.code == 0, said.err
    assert "chosen on 200 patients of both.csv" in said.out


def test_tune_patients_that_calibrate_or_are_evaluated_are_refused_by_name(many: Command) -> None:
    table = drawn(3, seed=9)  # patients 0 to 2, of other images
    names = np.array([f"other{i}.png" for i in range(len(table.image_names))], dtype=object)
    table = replace(
        table,
        image_names=names,
        patients=np.array([p.lstrip("0") or "0" for p in table.patients], object),
    )
    write_scores(Path("t.csv"), table)
    said = many("s.csv", "--alpha", 0.55, "--tune", "t.csv", *NONEMPTY)
    assert said.code == 1 and not Path("o").exists()
    assert (
        "--tune t.csv holds 3 patients and 0 images that calibrate or are evaluated (0, 1, 2)"
        in (said.err)
    )


def test_validation_rows_of_the_same_file_start_the_tests(many: Command) -> None:
    whole, tune = read_scores(Path("s.csv")), read_scores(Path("tune.csv"))
    names = ("image_names", "patients", "splits", "targets", "logits", "scores")
    both = {name: np.concatenate([getattr(whole, name), getattr(tune, name)]) for name in names}
    write_scores(Path("all.csv"), replace(whole, **both))
    said = many("all.csv", "--alpha", 0.55, "--tune", "all.csv", *NONEMPTY)
    assert said.code == 0 and "chosen on 200 patients of all.csv" in said.out
    said = many("s.csv", "--alpha", 0.55, "--tune", "s.csv", *NONEMPTY, "--overwrite")
    assert said.code == 1 and "--tune s.csv holds 600 patients and" in said.err


REFUSED = {
    "no start needed": (
        ("--risk", "fdr", "--tune", "tune.csv"),
        "--tune chooses where the tests of --empty drop and --risk mfdr start",
    ),
    "holm": (
        ("--risk", "mfdr", "--fwer", "holm", "--tune", "tune.csv"),
        "--tune chooses where the tests",
    ),
    "pvalue": (("--pvalue", "hb"), "--pvalue goes with --method ltt"),
    "crc": (("--risk", "mfdr", "--method", "crc"), "needs a monotone risk, which mFDR is not"),
    "one level": (("--risk", "fnr", "fdr"), "--alpha takes one level for each of --risk fnr fdr"),
    "one risk twice": (("--risk", "fdr", "fdr"), "names a risk twice"),
    "three": (("--risk", "fdr", "fnr", "mfdr"), "two risks at most"),
    "joint fst": (("--risk", "fnr", "fdr", "--fwer", "fst"), "no end of the grid"),
    "joint crc": (("--risk", "fnr", "fdr", "--method", "crc"), "at once is for --method ltt"),
    "joint by class": (("--risk", "fnr", "fdr", "--per-class"), "at once has one threshold"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_contradicts_itself_is_wrong_usage(what: str, many: Command) -> None:
    words, message = REFUSED[what]
    said = many("s.csv", "--alpha", 0.4, *words, "--out", "o")
    assert said.code == 2 and message in said.err and not Path("o").exists()


RANGES = ("0.2:0.1:0.1", "0.1:0.5:0", "0:0.5:0.1", "0.1:1:0.1", "0.1:0.5", "a:b:c", "0.1:0.9:1e-5")


@pytest.mark.parametrize("word", RANGES)
def test_a_range_that_is_none_is_wrong_usage(word: str, command: Command) -> None:
    said = command("s.csv", "--alpha", word, "--out", "o")
    assert said.code == 2 and repr(word) in said.err and not Path("o").exists()


def test_a_range_is_its_levels_taken_exactly(command: Command) -> None:
    words = ("--cal-fraction", 1, "--resplits", 0)
    assert command("s.csv", "--alpha", "0.1:0.4:0.1", *words, "--out", "o").code == 0
    assert command("s.csv", "--alpha", 0.1, 0.2, 0.3, 0.4, *words, "--out", "p").code == 0
    levels = [strict_json(Path(f"{f}/report.json"))["levels"] for f in "op"]
    assert levels[0] == levels[1]
    assert [level["alpha"] for level in levels[0]] == ["0.1", "0.2", "0.3", "0.4"]


def test_two_risks_at_once_hold_at_one_threshold(many: Command) -> None:
    words = ("--risk", "fnr", "fdr", "--alpha", 0.5, 0.5, "--resplits", 3)
    said = many("s.csv", *words, "--out", "o")
    assert said.code == 0, said.err
    report = strict_json(Path("o/report.json"))
    (level,) = report["levels"]
    assert level["alpha"] == "0.5 0.5" and report["choices"]["fwer"] == "holm"
    assert "(FNR) is at most 0.5 in expectation, among" in level["guarantee"]
    assert "both at once" in level["guarantee"]
    assert "among images with a positive class and the false share" in level["guarantee"]
    cal = [row for row in rows_of(Path("o/sets.csv")) if row["role"] == "cal"]
    positive = [row for row in cal if row["labels"]]
    each = {"fnr": positive, "fdr": cal}
    assert level["n_of_each"] == {
        name: {"n_units": len({row["patient"] for row in own}), "n_images": len(own)}
        for name, own in each.items()
    }
    assert f"(FNR: {level['n_of_each']['fnr']['n_units']} with {len(positive)}" in said.out
    found = level["realised"]["patient"]
    assert found["fnr"]["value"] < 0.5 and found["fdr"]["value"] < 0.5
    assert set(level["resplits"]["risks"]) == {"fnr", "fdr"}
    assert strict_json(Path("o/thresholds.json"))["levels"][0]["alpha"] == [0.5, 0.5]
    write_scores(Path("n.csv"), drawn(60, seed=5, first=9000))
    said = many("n.csv", "--apply", "o/thresholds.json", "--out", "a")
    assert said.code == 0, said.err
    table = read_scores(Path("n.csv"))
    rows = rows_of(Path("a/sets.csv"))
    assert {row["alpha"] for row in rows} == {"0.5 0.5"}
    for row, scores in zip(rows, table.scores, strict=True):
        names = {k for k, p in zip(table.classes, scores, strict=True) if p >= level["threshold"]}
        assert chosen(row) == names - {"No Finding"}


def test_laxer_levels_of_two_risks_are_met_where_stricter_ones_are(many: Command) -> None:
    """The largest certified threshold may lie above all scores; then another one is taken."""
    words = ("--no-positive", "zero", "--resplits", 0, "--overwrite", "--out", "o")
    found = []
    for risks, levels in ((("fnr", "fdr"), (0.9, 0.3)), (("fdr", "fnr"), (0.3, 0.9))):
        assert many("s.csv", "--risk", *risks, "--alpha", *levels, *words).code == 0
        level = strict_json(Path("o/report.json"))["levels"][0]
        assert level["realised"]["patient"]["empty"]["value"] < 1
        found.append(level["threshold"])
    assert found[0] == found[1]


def test_two_risks_that_want_small_sets_get_the_largest(many: Command) -> None:
    words = ("--alpha", 0.6, 0.65, "--resplits", 0, "--out", "o")
    assert many("s.csv", "--risk", "fdr", "mfdr", *words).code == 0
    level = strict_json(Path("o/report.json"))["levels"][0]
    assert level["bound"] > 1e-5  # the last certified place, not the safest
    assert level["realised"]["patient"]["empty"]["value"] < 0.5


def test_files_that_are_read_are_not_replaced(many: Command) -> None:
    said = many("s.csv", "--alpha", 0.55, "--tune", "tune.csv", "--npz", "tune.csv", *NONEMPTY)
    assert said.code == 2 and "--npz tune.csv is a scores file that is read" in said.err
    Path("o").mkdir()
    Path("tune.csv").rename("o/resplits.csv")
    before = Path("o/resplits.csv").read_bytes()
    words = ("--tune", "o/resplits.csv", "--overwrite", *NONEMPTY)
    said = many("s.csv", "--alpha", 0.55, *words)
    assert said.code == 1 and "o/resplits.csv would be replaced" in said.err
    assert Path("o/resplits.csv").read_bytes() == before
    assert {path.name for path in Path("o").iterdir()} == {"resplits.csv"}


def test_nothing_is_written_where_nothing_is_certified(many: Command) -> None:
    said = many("s.csv", "--alpha", 0.05, "--npz", "a.npz", *NONEMPTY)
    assert said.code == 3 and not Path("a.npz").exists() and not Path("o").exists()


def test_a_single_patient_can_start_the_tests_or_be_tested(many: Command) -> None:
    write_scores(Path("one.csv"), drawn(1))
    said = many("one.csv", "--risk", "mfdr", "--alpha", 0.6, "--out", "o")
    assert said.code == 3
    assert "every patient would choose where the tests start, and none is tested" in said.err


@pytest.mark.parametrize("words", [("--frontier", "--seed", 3), ("--npz", "a.npz", "--by", "sex")])
def test_flags_of_a_calibration_are_refused_where_none_is_made(
    words: tuple, command: Command
) -> None:
    said = command("s.csv", *words)
    assert said.code == 2 and f"{words[-2]} is for a calibration" in said.err
    assert not Path("a.npz").exists()


def test_two_risks_that_cannot_be_had_at_once_show_what_can(many: Command) -> None:
    words = ("--risk", "fnr", "fdr", "--alpha", 0.2, 0.2, "--resplits", 0, "--out", "o")
    said = many("s.csv", *words)
    assert said.code == 3 and not Path("o").exists()
    assert "alpha 0.2 0.2: nothing is certified" in said.err
    table = said.err.split("FNR at most")[1].splitlines()[1:]
    pairs = {line.split()[0]: line.split()[1] for line in table}
    assert len(pairs) == 14 and float(pairs["0.4"]) > 0.2
    words = ("--risk", "fnr", "fdr", "--resplits", 0, "--out", "o")
    assert many("s.csv", *words, "--alpha", 0.4, pairs["0.4"]).code == 0
    less = f"{float(pairs['0.4']) - 0.001:.3f}"
    assert many("s.csv", *words, "--alpha", 0.4, less, "--overwrite").code == 3


def test_what_cannot_be_certified_names_what_could(many: Command) -> None:
    said = many("s.csv", "--alpha", 0.05, *NONEMPTY)
    assert said.code == 3 and not Path("o").exists()
    least = said.err.split("on these rows: ")[1].split()[0]
    assert many("s.csv", "--alpha", least, *NONEMPTY).code == 0
