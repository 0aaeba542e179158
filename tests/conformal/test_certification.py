"""Certificates: their bounds and counts, and the answer where nothing can be certified."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import (
    CLASSES,
    COUNTED,
    RUNS,
    Command,
    averaged,
    chosen,
    drawn,
    rows_of,
    strict_json,
)

from chestxray.scores import Scores, read_scores, write_scores


@pytest.mark.parametrize("name", [name for name in RUNS if name != "per-class"])
def test_bounds_at_the_thresholds_are_within_their_limits(
    name: str, runs: Callable[[str], Path]
) -> None:
    held = strict_json(runs(name) / "thresholds.json")
    for level in held["levels"]:
        limit = held["choices"]["delta"] if held["choices"]["method"] == "ltt" else level["alpha"]
        assert 0 <= level["bound"] <= limit + 1e-12


def test_units_and_images_are_those_that_count(
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


def test_a_class_of_too_few_patients_is_null_and_in_all_sets(
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
    assert all(0 < thresholds[name] < 1 for name in COUNTED[:2])
    assert all("Hernia" in chosen(row) for row in rows_of(Path("o/sets.csv")))
    assert "Hernia" in said.out and "always" in said.out  # it is said, not only written
    assert "| Hernia | always in the set | " in Path("o/report.md").read_text(encoding="utf-8")


def test_full_sets_in_every_class_are_not_an_answer(command: Command) -> None:
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


def test_too_few_patients_exit_3_with_the_smallest_alpha(command: Command) -> None:
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
    # The betting p-values of 11 patients cannot be as small as Holm's levels.
    "holm": ("--alpha", 0.02, "--risk", "fdr", "--fwer", "holm", "--empty", 1, "--pvalue", "hb"),
    "ltt-fnr": ("--alpha", 0.01, "--method", "ltt"),
    "ltt-fnr-holm": ("--alpha", 0.01, "--method", "ltt", "--fwer", "holm", "--pvalue", "hb"),
}


@pytest.mark.parametrize("what", NOT_CERTIFIABLE)
@pytest.mark.parametrize("patients", [200, 23])
def test_the_smallest_alpha_certifies_and_a_smaller_one_fails(
    what: str, patients: int, command: Command
) -> None:
    """The printed alpha certifies when it is typed, and a little less does not."""
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
    table.targets[:, 0] = 1
    write_scores(Path("s.csv"), table)
    said = command("s.csv", "--alpha", 0.001)
    assert 1 / 82 < float(said.err.split("on these rows: ")[1].split()[0]) < 1 / 82 + 1e-4


def test_one_certified_alpha_suffices_and_others_are_marked(
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


@pytest.mark.parametrize(
    "words",
    [("--alpha", 0.2), ("--alpha", 0.3, "--method", "rcps"), ("--alpha", 0.6, "--risk", "fdr")],
)
@pytest.mark.parametrize("part", [0.02, 0.98])
def test_a_side_with_almost_nobody_is_answered(words: tuple, part: float, command: Command) -> None:
    write_scores(Path("s.csv"), drawn(12))
    said = command("s.csv", *words, "--cal-fraction", part, "--resplits", 20, "--out", "o")
    assert said.code in (0, 3)
    assert Path("o").exists() == (said.code == 0)
    if said.code == 0:
        strict_json(Path("o/report.json"))


def test_images_as_units_get_a_warning_about_dependence(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.2, "--unit", "image", "--out", "o")
    assert said.code == 0 and "as if they were independent" in said.out
    assert "as if they were independent" in Path("o/report.md").read_text()
    assert "warning" not in command("s.csv", "--alpha", 0.2, "--out", "p").out


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
def test_odd_rows_are_answered_by_every_method(odd: str, command: Command) -> None:
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
        calibrates = "--frontier" not in words
        said = command("odd.csv", *words, *(("--resplits", 3, "--out", name) if calibrates else ()))
        assert said.code in (0, 3), (name, said)
        assert "nan" not in said.out + said.err
        assert Path(name).exists() == (said.code == 0 and calibrates)
        if said.code == 3:
            assert 1 <= said.err.count("\n") <= 2 and "nothing is certified" in said.err
        elif calibrates:
            strict_json(Path(name, "report.json"))
            assert command("odd.csv", "--apply", f"{name}/thresholds.json").code == 0
