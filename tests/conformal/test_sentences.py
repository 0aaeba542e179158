"""Sentences of the report that must be true, and what they warn of."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import Command, drawn, rows_of, strict_json, without_labels
from scipy.stats import binomtest

from chestxray.conformal.calibrate import calibrate
from chestxray.conformal.losses import Misses
from chestxray.conformal.metrics import Estimate, bounded
from chestxray.conformal.options import Config
from chestxray.conformal.resplits import single_calibrations
from chestxray.conformal.rows import Rows
from chestxray.scores import write_scores


@pytest.mark.parametrize("seed", [1, 7, 12345])
def test_no_seed_moves_rcps_where_all_calibrate(seed: int, command: Command) -> None:
    words = ("--method", "rcps", "--alpha", 0.25, 0.4, "--cal-fraction", 1, "--resplits", 0)
    for name, number in (("a", 0), ("b", seed)):
        assert command("s.csv", *words, "--seed", number, "--out", name).code == 0
    first, second = (strict_json(Path(name, "thresholds.json")) for name in "ab")
    assert first["levels"] == second["levels"] and second["choices"]["seed"] == seed


def test_a_void_promise_excuses_no_risk(command: Command, runs: Callable[[str], Path]) -> None:
    table = drawn(100, seed=5, first=1000)
    table.splits[:] = "dev"
    write_scores(Path("new.csv"), replace(table, scores=table.scores / 2, logits=None))
    said = command("new.csv", "--apply", runs("crc") / "thresholds.json", "--out", "a").out
    found = strict_json(Path("a/report.json"))["levels"][0]
    assert found["realised"]["patient"]["fnr"]["value"] > 0.2 and found["notes"] == []
    assert "No promise carries over" in said and "chance" not in said


WAYS = {
    "calibration": ("--alpha", 0.3, "--out", "o"),
    "nothing certified": ("--alpha", 0.001),
    "frontier": ("--frontier", "--from", "test"),
    "arrays": ("--npz", "a.npz"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_answer_begins_with_the_classes_and_the_notes(way: str, command: Command) -> None:
    text = Path("s.csv").read_text(encoding="utf-8")
    Path("s.csv").write_text(text.replace("_0001.png,00000", "_0001.png,"), encoding="utf-8")
    lines = command("s.csv", *WAYS[way]).out.splitlines()
    assert lines[0] == "Classes that count (3): Effusion, Mass, Hernia."
    assert sum("spelled in several ways" in line for line in lines) == 1
    assert sum("No Finding takes no part" in line for line in lines) == 1


def test_a_patient_of_two_splits_is_left_out(command: Command) -> None:
    table = drawn()
    table.splits[[0, 1, 300]] = "train"
    write_scores(Path("s.csv"), table)
    words = ("--alpha", 0.3, "--resplits", 0)
    said = command("s.csv", *words, "--out", "o")
    shared = set(table.patients[[0, 1, 300]]) & set(np.delete(table.patients, [0, 1, 300]))
    used = {row["patient"] for row in rows_of(Path("o/sets.csv"))}
    assert shared and not used & shared and len(used | shared) == len(set(table.patients))
    assert "left out, since their patients are in another split too: " in said.out
    new = drawn(80, seed=4, first=900)
    new.splits[0] = "train"
    write_scores(Path("new.csv"), new)
    apply = ("new.csv", "--apply", "o/thresholds.json", "--from", "test")
    said = command(*apply, "--out", "a")
    assert strict_json(Path("a/report.json"))["promise_holds"] is False
    assert "of 1 patient are in another split of this file too" in said.out
    assert "too few to tell" not in said.out and "single calibrations" not in said.out
    table.splits[np.arange(len(table.splits)) % 2 == 0] = "train"
    table.patients[:] = "1"
    write_scores(Path("s.csv"), table)
    said = command("s.csv", *words, "--out", "p")
    assert said.code == 1 and "every patient of the chosen split is in another one too" in said.err


def test_few_patients_have_no_range(command: Command) -> None:
    write_scores(Path("s.csv"), drawn(30))
    said = command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o")
    (level,) = strict_json(Path("o/report.json"))["levels"]
    assert level["n_units"] < 20 and level["single_calibrations"] is None
    assert "are too few to tell the range of FNR of single calibrations" in said.out


def test_full_sets_are_said(command: Command) -> None:
    table = drawn()
    write_scores(Path("s.csv"), replace(table, scores=np.zeros_like(table.scores), logits=None))
    said = command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o")
    assert said.code == 0 and "100% of the sets hold every class, and so say nothing" in said.out


def test_the_seed_of_the_cut_is_to_be_chosen_beforehand(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.2, "--resplits", 0, "--seed", 4, "--out", "o")
    assert "--seed 4 drew who calibrates: choose the seed before looking at results" in said.out
    said = command("s.csv", "--alpha", 0.2, "--cal-fraction", 1, "--resplits", 0, "--out", "p")
    assert "seed" not in said.out


@pytest.mark.parametrize("split", ["train_val", "dev", "train", "val"])
def test_only_test_or_a_declaration_keeps_the_promise(split: str, command: Command) -> None:
    table = drawn()
    table.splits[:] = split
    write_scores(Path("s.csv"), table)
    words = ("--alpha", 0.2, "--resplits", 0, "--from", split)
    said = command("s.csv", *words, "--out", "o")
    assert said.code == 0 and f"warning: calibrated on rows of the split {split}: " in said.out
    assert strict_json(Path("o/report.json"))["promise_holds"] is False
    said = command("s.csv", *words, "--untouched", "--out", "d")
    declared = f"declared by --untouched: the rows of the split {split} trained nothing"
    report = strict_json(Path("d/report.json"))
    assert report["promise_holds"] is True and declared in said.out
    assert declared[1:] in Path("d/report.md").read_text(encoding="utf-8")
    assert command("s.csv", "--alpha", 0.2, "--untouched").code == 2  # of which rows?


def test_an_application_asks_for_fresh_rows_as_well(
    command: Command, runs: Callable[[str], Path]
) -> None:
    table = drawn(100, seed=5, first=1000)
    table.splits[table.patients < "00001020"] = "dev"
    write_scores(Path("new.csv"), table)
    apply = ("new.csv", "--apply", runs("crc") / "thresholds.json")
    said = command(*apply, "--out", "a")
    assert (
        "applied to rows of the split dev: nothing says" in said.out
        and "No promise carries" in said.out
    )
    said = command(*apply, "--from", "dev", "--untouched", "--out", "b")
    assert strict_json(Path("b/report.json"))["promise_holds"] is True
    assert "declared by --untouched: the rows of the split dev" in said.out
    table = drawn(100, seed=5, first=1000)
    table.splits = None
    write_scores(Path("none.csv"), table)
    none = ("none.csv", "--apply", runs("crc") / "thresholds.json", "--from", "dev", "--untouched")
    assert command(*none, "--out", "d").code == 1 and not Path("d").exists()
    without_labels(Path("new.csv"), Path("new.csv"))
    assert "rows of the split dev" in command(*apply, "--out", "c").out


@pytest.mark.parametrize("words", [("--alpha", 0.2, 0.3), ("--alpha", 0.3, "--per-class")])
def test_printed_thresholds_are_the_thresholds(words: tuple, command: Command) -> None:
    said = command("s.csv", *words, "--resplits", 0, "--out", "o")
    stored = [level["threshold"] for level in strict_json(Path("o/thresholds.json"))["levels"]]
    expected = [v for t in stored for v in (t.values() if isinstance(t, dict) else [t])]
    for text in (said.out, Path("o/report.md").read_text(encoding="utf-8")):
        assert [float(t) for t in re.findall(r"p >= ([0-9.e-]+)", text)] == expected


def test_tiny_thresholds_of_the_frontier_are_printed_in_full(command: Command) -> None:
    table = drawn()
    write_scores(Path("s.csv"), replace(table, scores=table.scores * 1e-9, logits=None))
    said = command("s.csv", "--frontier", "--from", "test")
    for alpha in ("0.2", "0.5"):
        line = next(t for t in said.out.splitlines() if t.split()[0] == alpha).split()
        assert 0 < float(line[1]) < 1e-9
        words = ("--alpha", alpha, "--cal-fraction", 1, "--resplits", 0, "--out", alpha)
        assert command("s.csv", *words).code == 0
        stored = strict_json(Path(alpha, "thresholds.json"))["levels"][0]
        assert stored["threshold"] == float(line[1])


def test_a_small_delta_keeps_its_digits(command: Command) -> None:
    words = ("--alpha", 0.6, "--method", "rcps", "--delta", "1e-7", "--resplits", 0)
    said = command("s.csv", *words, "--out", "o")
    assert said.code == 0 and "With probability at least 0.9999999 over" in said.out


def test_many_empty_sets_are_named_beside_their_fdr(command: Command) -> None:
    assert (
        command("s.csv", "--alpha", 0.4, "--risk", "fdr", "--resplits", 0, "--out", "o").code == 0
    )
    report = strict_json(Path("o/report.json"))
    found = report["levels"][0]["realised"]["image"]
    assert found["empty"]["value"] > 0.2
    (warning,) = (text for text in report["warnings"] if "are empty" in text)
    assert f"alpha 0.4: {found['empty']['value']:.0%} of the sets are empty" in warning
    assert f"the FDR of the others is {found['fdr_nonempty']['value']:.3f}" in warning
    assert report["promise_holds"] and "mean false share of a set" in report["definition"]
    without = command("s.csv", "--alpha", 0.3, "--resplits", 0, "--out", "p").out
    assert "are empty" not in without


def test_a_risk_by_image_above_alpha_is_explained(command: Command) -> None:
    """Patients with many images are harder here, and weigh as little as the others."""
    table, rng = drawn(300), np.random.default_rng(0)
    many = np.array([np.sum(table.patients == p) >= 4 for p in table.patients])
    scores = np.where(many[:, None], rng.uniform(size=table.scores.shape), table.targets * 0.9)
    write_scores(Path("s.csv"), replace(table, scores=scores, logits=None))
    said = command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o")
    found = strict_json(Path("o/report.json"))["levels"][0]
    value = found["realised"]["image"]["fnr"]["value"]
    assert value > 0.2 and f"by image the FNR is {value:.3f}, above alpha: the promise" in said.out


def test_a_half_above_alpha_is_explained_where_there_is_one(command: Command) -> None:
    above = []
    for seed in range(4):
        words = ("--alpha", 0.2, "--resplits", 0, "--seed", seed, "--out", seed)
        said = command("s.csv", *words).out
        found = strict_json(Path(str(seed), "report.json"))["levels"][0]["realised"]["patient"]
        above.append(found["fnr"]["value"] > 0.2)
        sentence = f"by patient the FNR is {found['fnr']['value']:.3f} on these rows, above alpha"
        assert (sentence in said) == above[-1]
    assert True in above and False in above


@pytest.mark.parametrize(("method", "name"), [("crc", "corrected risk"), ("ltt", "p-value")])
def test_the_bound_is_called_what_it_is(method: str, name: str, command: Command) -> None:
    words = ("--alpha", 0.3, "--method", method, "--resplits", 20, "--out", "o")
    said = command("s.csv", *words)
    (level,) = strict_json(Path("o/thresholds.json"))["levels"]
    counted = f"{level['n_units']} patients with {level['n_images']} images counted"
    assert f"{counted}; {name} {level['bound']:.4g} at the threshold" in said.out
    assert "of the evaluation halves above alpha, which errs with both halves" in said.out
    assert ("20 have a threshold" in said.out) == (method == "crc")


def test_the_threshold_comes_before_the_promise(command: Command) -> None:
    lines = command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").out.splitlines()
    assert lines[0] == "Classes that count (3): Effusion, Mass, Hernia."
    at = lines.index("alpha 0.2")
    assert lines[at + 1].startswith("  threshold: p >= ") and lines[at + 2].startswith("  For a")


@pytest.mark.parametrize("columns", [60, 120])
def test_lines_end_where_the_terminal_does(
    columns: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    said = command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").out
    lines = said.splitlines()[:-1]  # the last one names the files
    assert 0.8 * columns < max(map(len, lines)) <= columns


def test_rows_without_patients_speak_of_none(command: Command) -> None:
    write_scores(Path("s.csv"), replace(drawn(), patients=None))
    said = command("s.csv", "--alpha", 0.2, "--unit", "image", "--resplits", 5, "--out", "o")
    page = Path("o/report.md").read_text(encoding="utf-8")
    assert said.code == 0 and "patient" not in said.out + page and "5 cuts by image" in said.out
    assert list(strict_json(Path("o/report.json"))["levels"][0]["realised"]) == ["image"]


def test_every_certified_alpha_has_its_resplits_and_plots(
    runs: Callable[[str], Path],
) -> None:
    for level in strict_json(runs("crc") / "report.json")["levels"]:
        assert level["resplits"]["times"] == 5 and len(level["plots"]) == 8
        assert all(f"_{level['alpha']}.p" in name for name in level["plots"])


@pytest.mark.parametrize(("hits", "patients"), [(0, 62), (62, 62), (0, 1), (1, 1)])
def test_a_collapsed_interval_is_clopper_and_pearsons(hits: int, patients: int) -> None:
    share = hits / patients
    found = bounded(Estimate(share, (share, share)), patients).interval
    exact = binomtest(hits, patients).proportion_ci(0.95, "exact")
    assert found == pytest.approx((exact.low, exact.high)) and found[0] < found[1]


def test_an_interval_with_some_width_is_kept() -> None:
    assert bounded(Estimate(0.5, (0.4, 0.6)), 10) == Estimate(0.5, (0.4, 0.6))
    assert bounded(Estimate(None, None), 0) == Estimate(None, None)


def test_a_class_that_is_never_found_has_an_interval(command: Command) -> None:
    table = drawn()
    table.scores[:, 2] = 0.0
    write_scores(Path("s.csv"), replace(table, logits=None))
    assert command("s.csv", "--alpha", 0.7, "--resplits", 0, "--out", "o").code == 0
    mass = strict_json(Path("o/report.json"))["levels"][0]["classes"]["Mass"]
    assert mass["image"]["recall"]["value"] == 0.0
    assert mass["image"]["recall"]["interval"] == pytest.approx(
        [0, 1 - 0.025 ** (1 / mass["patients"])]
    )


def test_the_fnr_is_counted_over_findings_alone(runs: Callable[[str], Path]) -> None:
    report = strict_json(runs("crc") / "report.json")
    labels = {r["image"]: r for r in rows_of(runs("crc") / "../s.csv")}
    for level in report["levels"]:
        shares = []
        for row in rows_of(runs("crc") / "sets.csv"):
            if row["role"] != "eval" or row["alpha"] != level["alpha"]:
                continue
            names = ("Effusion", "Mass", "Hernia")
            true = {name for name in names if labels[row["image"]][f"y_{name}"] == "1"}
            if true:
                shares.append(len(true - set(row["set"].split("|"))) / len(true))
        assert level["realised"]["image"]["fnr"]["value"] == pytest.approx(np.mean(shares))


def test_the_range_of_single_calibrations_is_of_the_threshold(command: Command) -> None:
    assert command("s.csv", "--alpha", 0.2, "--resplits", 0, "--out", "o").code == 0
    level = strict_json(Path("o/report.json"))["levels"][0]
    low, high = level["single_calibrations"]["interval"]
    assert 0.1 < low < 0.2 < high < 0.3 and 0.2 < level["single_calibrations"]["above_alpha"] < 0.5
    assert f"single calibrations of this size have FNR {low:.3f} to {high:.3f} (95 %)" in (
        Path("o/report.md").read_text(encoding="utf-8").replace("Single", "single")
    )


def population(patients: int, rng: np.random.Generator) -> Rows:
    """Images of patients that resemble each other, each with a positive class."""
    whose = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    truth = rng.normal(size=(patients, 5))[whose] + rng.normal(size=(len(whose), 5)) - 1.5
    targets = rng.uniform(size=truth.shape) < 1 / (1 + np.exp(-truth))
    seen = truth + rng.normal(size=truth.shape) + rng.normal(size=(patients, 1))[whose]
    keep = targets.any(axis=1)
    scores, names = 1 / (1 + np.exp(-seen[keep])), whose[keep]
    return Rows(targets[keep].astype(np.uint8), scores, names, names)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "alpha"), [(100, "0.1"), (300, "0.2")])
def test_the_range_covers_19_of_20_single_calibrations(n: int, alpha: str) -> None:
    rng, config = np.random.default_rng(n), Config(resplits=0)
    whole = population(40_000, rng)
    names, codes = np.unique(whole.units, return_inverse=True)
    truth = Misses(whole.targets, whole.scores, codes)
    everyone, inside = np.ones(len(names), dtype=bool), []
    for draw in range(1000):
        chosen = np.zeros(len(names), dtype=bool)
        chosen[rng.choice(len(names), n, replace=False)] = True
        cal = whole.take(chosen[codes])
        threshold = calibrate(cal, alpha, config).threshold
        curves = Misses(cal.targets, cal.scores, np.unique(cal.units, return_inverse=True)[1])
        found = single_calibrations(curves, n, alpha, replace(config, seed=draw))
        assert threshold is not None and found is not None
        low, high = found.interval
        inside.append(low <= truth.risk(threshold, everyone) <= high)
    assert 0.90 <= np.mean(inside) <= 0.99
