"""Selection from a batch: the procedure by definition, its promise, the command and its files."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import COUNTED, Command, drawn, rows_of, strict_json, without_labels
from scipy.stats import false_discovery_control

from chestxray.conformal import benjamini_hochberg, one_image_each, ranks_among_negatives
from chestxray.conformal.selection import calibration_needed, fewest_selected
from chestxray.scores import Scores, read_scores, write_scores

SELECT = ("s.csv", "--select", "0.3", "--on", "new.csv")
FILES = {"selected.csv", "report.json", "report.md"}


# The procedure


def by_definition(
    targets: list[int], known: list[float], scores: list[float], q: str
) -> tuple[list[Fraction], list[bool]]:
    """The p-values of one class, and who is selected, in fractions and loops."""
    n, m = len(known), len(scores)
    p_values = [
        Fraction(1 + sum(y == 0 and p >= own for y, p in zip(targets, known, strict=True)), n + 1)
        for own in scores
    ]
    for r in range(m, 0, -1):
        limit = Fraction(q) * r / m
        if sum(p <= limit for p in p_values) >= r:
            return p_values, [p <= limit for p in p_values]
    return p_values, [False] * m


def test_ranks_and_selection_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    selections = 0
    for _ in range(200):
        n, m, classes = rng.integers(1, 25), rng.integers(1, 25), rng.integers(1, 4)
        targets = (rng.uniform(size=(n, classes)) < rng.choice([0, 0.3, 1])).astype(np.uint8)
        values = rng.integers(2, 12)  # the fewer, the more ties
        known, scores = (rng.integers(values, size=(k, classes)) / values for k in (n, m))
        q = str(rng.choice(["0.05", "0.2", "0.25", "0.5", "0.9", "0.29"]))
        ranks = ranks_among_negatives(targets, known, scores)
        selected = benjamini_hochberg(ranks, int(n), q)
        for k in range(classes):
            p_values, chosen = by_definition(
                targets[:, k].tolist(), known[:, k].tolist(), scores[:, k].tolist(), q
            )
            assert [Fraction(int(rank), int(n) + 1) for rank in ranks[:, k]] == p_values
            assert selected[:, k].tolist() == chosen
            # In floats, a p-value at its level may fall on either side of it.
            adjusted = false_discovery_control(ranks[:, k] / (n + 1), method="bh")
            clear = np.abs(adjusted - float(q)) > 1e-12
            assert (selected[:, k] == (adjusted <= float(q)))[clear].all()
            selections += any(chosen)
    assert 50 < selections < 350


def test_q_is_taken_exactly_as_typed() -> None:
    """0.29 * 100 is below 29 in floats: 29 of 100 would not be selected at 0.29."""
    ranks = np.array([[29]])
    assert benjamini_hochberg(ranks, 99, "0.29").all()
    assert not benjamini_hochberg(ranks, 99, "0.28999999999999999999999").any()
    assert benjamini_hochberg(ranks, 99, "0.29000000000000000000001").all()


@pytest.mark.parametrize("q", ["0.05", "0.2", "0.3", "0.9"])
def test_the_fewest_that_can_be_selected(q: str) -> None:
    """Brute force over batches in which r images have the smallest p-value that there is."""
    for n in range(1, 30):
        for m in range(1, 12):
            sizes = [
                r
                for r in range(1, m + 1)
                if benjamini_hochberg(np.array([[1]] * r + [[n + 1]] * (m - r)), n, q).any()
            ]
            assert min(fewest_selected(n, m, q), m + 1) == (sizes[0] if sizes else m + 1)
            assert bool(sizes) == (n >= calibration_needed(q))


def test_one_image_a_patient_is_drawn_whatever_the_order() -> None:
    table = drawn(300)
    mask = one_image_each(table.patients, table.image_names)
    assert sorted(table.patients[mask]) == sorted(set(table.patients))
    order = np.random.default_rng(0).permutation(len(mask))
    again = one_image_each(table.patients[order], table.image_names[order])
    np.testing.assert_array_equal(again, mask[order])
    first = np.r_[True, table.patients[1:] != table.patients[:-1]]
    assert (first & mask).sum() < 300 * 0.6  # the images of a patient have the same chance
    assert (first & mask).sum() > 300 * 0.3


# The promise


@cache
def population() -> tuple[np.ndarray, np.ndarray]:
    """(P, K) labels and scores of one image, drawn, of each of 20,000 patients with three alike."""
    rng = np.random.default_rng(1)
    patients, images, classes, shared = 20_000, 3, 6, 0.7

    def normal(width: int) -> np.ndarray:
        own = rng.normal(size=(patients, images, width))
        return np.sqrt(shared) * rng.normal(size=(patients, 1, width)) + np.sqrt(1 - shared) * own

    truth = 1.5 * normal(classes) + np.linspace(-4, -1, classes)  # 4 to 33 % have a class
    scores = 1 / (1 + np.exp(-(truth + 1.5 * normal(classes) + normal(1))))
    targets = (rng.uniform(size=truth.shape) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    whose = np.repeat(np.arange(patients), images)
    mask = one_image_each(whose, np.arange(len(whose)))
    return targets.reshape(-1, classes)[mask], scores.reshape(-1, classes)[mask]


def false_shares(n: int, m: int, q: str, draws: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """The false share of each class, (draws, K), and of all together, (draws,)."""
    targets, scores = population()
    rng = np.random.default_rng(0)
    by_class, together = np.zeros((draws, targets.shape[1])), np.zeros(draws)
    for draw in range(draws):
        cal, new = (rng.integers(len(targets), size=size) for size in (n, m))
        ranks = ranks_among_negatives(targets[cal], scores[cal], scores[new])
        selected = benjamini_hochberg(ranks, n, q)
        false = selected & (targets[new] == 0)
        by_class[draw] = false.sum(axis=0) / np.maximum(selected.sum(axis=0), 1)
        together[draw] = false.sum() / max(selected.sum(), 1)
    return by_class, together


@pytest.mark.parametrize(("n", "m", "q"), [(300, 300, "0.3"), (200, 150, "0.2"), (60, 400, "0.4")])
def test_the_mean_false_share_of_each_class_is_at_most_q(n: int, m: int, q: str) -> None:
    by_class, _ = false_shares(n, m, q)
    errors = by_class.std(axis=0, ddof=1) / np.sqrt(len(by_class))
    assert (by_class.mean(axis=0) <= float(q) + 3 * errors).all()
    assert by_class.mean(axis=0).max() > float(q) / 2  # not an empty promise


def test_all_classes_together_are_not_controlled() -> None:
    _, together = false_shares(300, 300, "0.2")
    assert together.mean() > 0.2 + 3 * together.std(ddof=1) / np.sqrt(len(together))


def test_without_positives_the_promise_is_met_exactly() -> None:
    """One new image, none with the class: it is selected, and false, in a share q of draws."""
    rng = np.random.default_rng(0)
    n, draws = 19, 4000
    scores = rng.uniform(size=(draws, n + 1, 1))
    false = [
        benjamini_hochberg(
            ranks_among_negatives(np.zeros((n, 1), np.uint8), own[:n], own[n:]), n, "0.2"
        ).any()
        for own in scores
    ]
    assert np.mean(false) == pytest.approx(0.2, abs=3 * np.sqrt(0.2 * 0.8 / draws))


# The command


@pytest.fixture
def select(command: Command) -> Command:
    """The command beside s.csv and a new.csv of other patients."""
    write_scores(Path("new.csv"), drawn(150, seed=5, first=5000))
    return command


def images_drawn(table: Scores) -> np.ndarray:
    return one_image_each(table.patients, table.image_names)


def report_in(folder: str) -> dict:
    return strict_json(Path(folder, "report.json"))


def test_selected_csv_holds_the_definition_for_each_image_and_class(select: Command) -> None:
    said = select(*SELECT)
    assert said.code == 0 and said.err == ""
    assert said.out.endswith("wrote new_select/: selected.csv, report.json, report.md\n")
    assert {path.name for path in Path("new_select").iterdir()} == FILES
    cal, new = (read_scores(Path(name)) for name in ("s.csv", "new.csv"))
    cal, new = (t.take(images_drawn(t), [t.classes.index(k) for k in COUNTED]) for t in (cal, new))
    rows = rows_of(Path("new_select/selected.csv"))
    assert list(rows[0]) == ["image", "patient", "class", "p_value", "selected"]
    assert [(row["image"], row["patient"], row["class"]) for row in rows] == [
        (image, patient, name)
        for image, patient in zip(new.image_names, new.patients, strict=True)
        for name in COUNTED
    ]
    for k, name in enumerate(COUNTED):
        own = [row for row in rows if row["class"] == name]
        p_values, chosen = by_definition(
            cal.targets[:, k].tolist(), cal.scores[:, k].tolist(), new.scores[:, k].tolist(), "0.3"
        )
        assert [row["p_value"] for row in own] == [repr(float(p)) for p in p_values]
        assert [row["selected"] for row in own] == [str(int(one)) for one in chosen]


def test_the_report_counts_what_was_selected(select: Command) -> None:
    said = select(*SELECT)
    report, page = report_in("new_select"), Path("new_select/report.md").read_text()
    cal, new = (read_scores(Path(name)) for name in ("s.csv", "new.csv"))
    mask = images_drawn(new)
    rows = rows_of(Path("new_select/selected.csv"))
    assert (report["n_calibration"], report["m"]) == (200, 150)
    assert "200 of 632 images of s.csv calibrated, 150 of" in report["rows"]
    pairs = false = 0
    for name in COUNTED:
        found, k = report["classes"][name], cal.classes.index(name)
        chosen = np.array([row["selected"] == "1" for row in rows if row["class"] == name])
        labels, scores = new.targets[mask, k], new.scores[mask, k]
        assert found["negatives"] == (cal.targets[images_drawn(cal), k] == 0).sum()
        assert (found["selected"], found["positives"]) == (chosen.sum(), labels.sum())
        assert found["threshold"] == (scores[chosen].min() if chosen.any() else None)
        assert (scores[~chosen] < (found["threshold"] or 2)).all()
        share = (labels[chosen] == 0).mean() if chosen.any() else None
        assert found["false_share"] == pytest.approx(share)
        assert found["recall"] == pytest.approx(chosen[labels == 1].mean())
        threshold = "none" if found["threshold"] is None else f"p >= {found['threshold']!r}"
        assert f"| {name} | {found['selected']} | {threshold} | {found['negatives']} |" in page
        assert threshold in next(line for line in said.out.splitlines() if f"  {name} " in line)
        pairs, false = pairs + chosen.sum(), false + (labels[chosen] == 0).sum()
    assert pairs and report["together"] == pytest.approx(false / pairs)
    assert f"Of all selected pairs of image and class {false / pairs:.3f} are false." in said.out


def test_the_output_says_for_whom_it_holds(select: Command) -> None:
    said = select(*SELECT)
    report, page = report_in("new_select"), Path("new_select/report.md").read_text()
    assert report["promise_holds"] and report["warnings"] == [] and "warning" not in said.out
    for part in (
        "For each class by itself, in expectation over the draw of the calibration patients and of "
        "the new ones, the share of the selected images that do not have the class is at most 0.3",
        "It holds for patients drawn like those that calibrated, one image each",
        "Nothing is promised for all classes together",
        "0.39 to 0.54 was measured at 0.2",
        "a class has at least 3 selected images or none: no p-value can be below 1/(n + 1) = 0.005",
        "No Finding is not selected",
    ):
        assert part in said.out
        assert part in page or f"{part[0].upper()}{part[1:]}" in page
    assert said.out.splitlines()[0] == "Classes that count (3): Effusion, Mass, Hernia."


def test_none_selected_is_an_answer(select: Command) -> None:
    said = select("s.csv", "--select", "0.01", "--on", "new.csv")
    assert said.code == 0 and "None selected is an answer" in said.out
    assert {row["selected"] for row in rows_of(Path("new_select/selected.csv"))} == {"0"}
    found = report_in("new_select")["classes"]["Effusion"]
    assert (found["selected"], found["threshold"], found["false_share"]) == (0, None, None)
    assert report_in("new_select")["together"] is None


def test_too_few_calibration_patients_are_told(select: Command) -> None:
    table = drawn(200)
    for patients, enough in ((18, False), (19, True)):
        few = table.take(table.patients < f"{patients:08d}", [0, 1, 2, 3])
        write_scores(Path("few.csv"), few)
        said = select("few.csv", "--select", "0.05", "--on", "new.csv", "--overwrite")
        told = (
            "nothing can be selected: no p-value can be below 1/(n + 1) = 0.053, and at 0.05 at "
            "least 19 calibration patients are needed"
        )
        assert said.code == 0 and (told in said.out) == (not enough)
        assert ("None selected is an answer" in said.out) == enough


def test_labels_and_the_order_of_rows_draw_nothing(select: Command) -> None:
    assert select(*SELECT).code == 0
    before = Path("new_select/selected.csv").read_bytes()
    head, *lines = Path("new.csv").read_text().splitlines()
    Path("new.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert select(*SELECT, "--out", "reversed").code == 0
    table = read_scores(Path("new.csv"))
    table.targets = 1 - table.targets
    write_scores(Path("new.csv"), table)
    assert select(*SELECT, "--out", "other").code == 0
    for folder in ("reversed", "other"):
        assert Path(folder, "selected.csv").read_bytes() == before
    table = read_scores(Path("s.csv"))
    table.targets[:] = 0  # of the calibration they count, and who is drawn stays
    write_scores(Path("s.csv"), table)
    assert select(*SELECT, "--out", "none").code == 0
    drawn_images = [row["image"] for row in rows_of(Path("none/selected.csv"))]
    assert drawn_images == [row["image"] for row in rows_of(Path("reversed/selected.csv"))]


def test_classes_can_be_left_out_and_counted(select: Command) -> None:
    assert select(*SELECT, "--exclude", "Mass", "--include-no-finding").code == 0
    assert list(report_in("new_select")["classes"]) == ["Effusion", "No Finding", "Hernia"]
    said = select(*SELECT, "--exclude", "Dog", "--out", "o")
    assert said.code == 1 and "--exclude Dog: the classes are" in said.err


def test_classes_are_found_by_name(select: Command) -> None:
    assert select(*SELECT).code == 0
    new = read_scores(Path("new.csv"))
    turned = new.take(np.ones(len(new.splits), dtype=bool), [3, 1, 0, 2])
    write_scores(Path("new.csv"), turned)
    assert select(*SELECT, "--out", "o").code == 0
    assert Path("o/selected.csv").read_bytes() == Path("new_select/selected.csv").read_bytes()
    write_scores(Path("new.csv"), replace(turned, classes=("Hernia", "A", "Effusion", "B")))
    said = select(*SELECT, "--exclude", "Mass", "--out", "p")
    assert said.code == 0 and "new.csv: A, B left out, since s.csv has no such class" in said.out


def test_new_scores_need_no_labels_and_no_patients(select: Command) -> None:
    without_labels(Path("new.csv"), Path("bare.csv"))
    said = select("s.csv", "--select", "0.3", "--on", "bare.csv")
    report = report_in("bare_select")
    assert said.code == 0 and report["promise_holds"]
    assert "bare.csv has no labels: whether the classes are as frequent there" in said.out
    assert report["classes"]["Effusion"]["positives"] is None and report["together"] is None
    assert "recall" not in said.out and "recall" not in Path("bare_select/report.md").read_text()
    assert select(*SELECT).code == 0
    assert (
        Path("bare_select/selected.csv").read_bytes()
        == Path("new_select/selected.csv").read_bytes()
    )
    new = read_scores(Path("new.csv"))
    write_scores(Path("nobody.csv"), replace(new, patients=None))
    said = select("s.csv", "--select", "0.3", "--on", "nobody.csv")
    rows = rows_of(Path("nobody_select/selected.csv"))
    assert said.code == 0 and len(rows) == 3 * len(new.image_names)
    assert all(row["patient"] == row["image"] for row in rows)
    assert "nobody.csv has no patient column: whether a patient is on both sides" in said.out
    assert not report_in("nobody_select")["promise_holds"]


def test_the_calibrating_file_may_name_no_patients_and_no_splits(select: Command) -> None:
    cal = read_scores(Path("s.csv"))
    write_scores(Path("s.csv"), replace(cal, patients=None, splits=None))
    said = select(*SELECT)
    assert said.code == 0 and "s.csv has no patient column: whether a patient" in said.out
    assert "s.csv has no split column: all 632 rows are used" in said.out
    assert report_in("new_select")["n_calibration"] == 632
    said = select(*SELECT, "--from", "test", "--out", "o")
    assert said.code == 1 and "s.csv has no split column: leave --from out" in said.err


# What takes the promise back


def warned(select: Command, *words: str) -> list[str]:
    """The warnings of a selection, after checking that they stand everywhere."""
    said = select(*SELECT, *words, "--overwrite", "--out", "w")
    report, page = report_in("w"), Path("w/report.md").read_text()
    assert said.code == 0 and not report["promise_holds"]
    assert "No promise holds, see the warnings; without them it would read: For each" in said.out
    assert all(f"warning: {text}" in said.out and text in page for text in report["warnings"])
    return report["warnings"]


def test_rows_that_trained_or_chose_take_the_promise_back(select: Command) -> None:
    cal, new = (read_scores(Path(name)) for name in ("s.csv", "new.csv"))
    write_scores(Path("s.csv"), replace(cal, splits=np.full(len(cal.splits), "val", object)))
    (text,) = warned(select, "--from", "val")
    assert text.startswith("calibrated on rows of the split val: the epoch was chosen on these")
    said = select(*SELECT, "--from", "val", "--untouched")
    assert said.code == 0 and report_in("new_select_val")["promise_holds"]
    assert "declared by --untouched: the rows of the split val trained nothing" in said.out
    write_scores(Path("new.csv"), replace(new, splits=np.full(len(new.splits), "val", object)))
    assert select(*SELECT, "--from", "val", "--untouched", "--out", "o").code == 0
    assert report_in("o")["promise_holds"]  # it declares the split in both files
    write_scores(Path("s.csv"), cal)
    for split, why in (("train", "the network was trained on"), ("val", "the epoch was chosen on")):
        new.splits[:5] = split
        write_scores(Path("new.csv"), new)
        (text,) = warned(select)
        assert text.startswith(f"selected from rows of the split {split}: {why}")


def test_patients_of_training_rows_are_not_fresh(select: Command) -> None:
    cal, new = (read_scores(Path(name)) for name in ("s.csv", "new.csv"))
    cal.patients[:9], cal.splits[:9] = new.patients[0].lstrip("0"), "train"
    cal.image_names[8] = new.image_names[0]
    write_scores(Path("s.csv"), cal)
    (text,) = warned(select)
    assert text == (
        "1 patient and 1 image of new.csv are in another split of s.csv (00005000): these rows "
        "are not fresh"
    )
    cal.splits[:9] = "test"
    cal.splits[9:] = "dev"
    write_scores(Path("s.csv"), cal)  # who is fresh there is fresh here
    assert select(*SELECT, "--from", "dev", "--untouched", "--out", "o").code == 0
    assert report_in("o")["promise_holds"]


def test_other_prevalences_take_the_promise_back(select: Command) -> None:
    new = drawn(300, seed=6, shift=1.0, first=5000)
    write_scores(Path("new.csv"), new)
    texts = warned(select)
    shares = [t.targets[images_drawn(t), 0].mean() for t in (read_scores(Path("s.csv")), new)]
    assert texts[0].startswith(
        f"Effusion: prevalence {shares[0]:.1%} where it was calibrated, {shares[1]:.1%} here"
    )
    assert texts[0].endswith("these rows are not drawn like those")


# Refusals


def both_sides(spelled: str) -> str:
    """One patient of s.csv among those of new.csv, in other images and another spelling."""
    table = read_scores(Path("new.csv"))
    table.patients[4:6] = spelled
    write_scores(Path("new.csv"), table)
    return ""


def rewritten(change: Callable[[Scores], Scores]) -> Callable[[], None]:
    return lambda: write_scores(Path("new.csv"), change(read_scores(Path("new.csv"))))


def with_an_image_of_the_calibration(table: Scores) -> Scores:
    table.image_names[0] = read_scores(Path("s.csv")).image_names[7]
    return table


WRONG_FILES: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "a patient on both sides": (
        lambda: both_sides("00000013"),
        ("1 patient on both sides (00000013), in s.csv and in new.csv",),
    ),
    "in another spelling": (lambda: both_sides("13"), ("1 patient on both sides (13)",)),
    "in a spreadsheet's": (lambda: both_sides("13.0"), ("1 patient on both sides (13.0)",)),
    "many patients on both sides": (
        rewritten(lambda table: drawn(40, seed=8)),
        ("40 patients on both sides (00000000, 00000001, 00000002 and 37 more)",),
    ),
    "an image on both sides": (
        rewritten(with_an_image_of_the_calibration),
        ("1 image on both sides (00000001_0007.png)", "leave them out of one"),
    ),
    "images where no patients are named": (
        rewritten(lambda table: replace(drawn(40, seed=8), patients=None)),
        ("images on both sides (00000000_0000.png",),
    ),
    "a copy": (
        lambda: shutil.copy("s.csv", "new.csv"),
        ("new.csv is s.csv itself, or a copy (same SHA-256)", "--on names rows of other patients"),
    ),
    "a class less": (
        rewritten(lambda table: table.take(np.ones(len(table.splits), dtype=bool), [0, 1])),
        ("new.csv has no class Mass, Hernia, which s.csv has", "--exclude"),
    ),
    "no file": (lambda: Path("new.csv").unlink(), ("the file new.csv does not exist",)),
    "a folder": (
        lambda: (Path("new.csv").unlink(), Path("new.csv").mkdir()),
        ("new.csv is a folder, not a file",),
    ),
    "no scores": (
        lambda: Path("new.csv").write_text("image,patient\na.png,1\n"),
        ("new.csv", "is not a scores CSV"),
    ),
    "no rows": (
        lambda: Path("new.csv").write_text(Path("new.csv").read_text().partition("\n")[0]),
        ("new.csv has a header and no rows",),
    ),
    "a formula": (
        rewritten(
            lambda table: replace(table, patients=np.full(len(table.splits), "=1+1", object))
        ),
        ("beginning like a formula",),
    ),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_wrong_files_are_refused_in_a_line(what: str, select: Command) -> None:
    make, parts = WRONG_FILES[what]
    make()
    before = sorted(Path().rglob("*"))
    said = select(*SELECT)
    assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
    assert all(part in said.err for part in parts), said.err
    assert sorted(Path().rglob("*")) == before


def test_the_calibrating_file_itself_is_refused_and_needs_labels(select: Command) -> None:
    said = select("s.csv", "--select", "0.3", "--on", "s.csv")
    assert said.code == 1 and "s.csv is s.csv itself" in said.err
    without_labels(Path("s.csv"), Path("bare.csv"))
    said = select("bare.csv", "--select", "0.3", "--on", "new.csv")
    assert said.code == 1 and "bare.csv has no labels" in said.err
    said = select(*SELECT, "--from", "dev")
    assert said.code == 1 and "s.csv has no rows of the split 'dev'" in said.err
    assert not Path("new_select").exists()


WRONG_USAGE = {
    "no batch": (("--select", 0.2), "--select needs --on NEW.csv"),
    "no level": (("--on", "new.csv"), "--on goes with --select Q"),
    "level 0": (("--select", 0, "--on", "new.csv"), "'0' is not a number above 0 and below 1"),
    "per cent": (("--select", 20, "--on", "new.csv"), "'20' is not a number above 0 and below 1"),
    "turned": (("--select", "new.csv", "--on", 0.2), "'new.csv' is not a number"),
    "apply": (("--select", 0.2, "--on", "new.csv", "--apply", "t.json"), "leave --on out"),
    "undeclared": (("--select", 0.2, "--on", "new.csv", "--untouched"), "add --from NAME"),
} | {
    flag: (("--select", 0.2, "--on", "new.csv", *words), f"leave {flag} out")
    for flag, *words in (
        ("--alpha", "--alpha", 0.1),
        ("--risk", "--risk", "fdr"),
        ("--method", "--method", "ltt"),
        ("--delta", "--delta", 0.1),
        ("--unit", "--unit", "image"),
        ("--per-class", "--per-class"),
        ("--fwer", "--fwer", "holm"),
        ("--no-positive", "--no-positive", "drop"),
        ("--empty", "--empty", 1),
        ("--cal-fraction", "--cal-fraction", 1),
        ("--seed", "--seed", 0),
        ("--resplits", "--resplits", 5),
        ("--npz", "--npz", "a.npz"),
        ("--frontier", "--frontier"),
    )
}


@pytest.mark.parametrize("what", WRONG_USAGE)
def test_wrong_usage_exits_2_in_one_line(what: str, select: Command) -> None:
    words, message = WRONG_USAGE[what]
    before = sorted(Path().iterdir())
    said = select("s.csv", *words)
    assert (said.code, said.out) == (2, "") and said.err.count("\n") == 1
    assert message in said.err and sorted(Path().iterdir()) == before


# The folder


def everything() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


DIFFERING: dict[str, tuple[tuple[str, ...], str]] = {
    "q": (("--select", "0.2"), "select 0.3 there, 0.2 here"),
    "classes": (("--exclude", "Mass"), "exclude nothing there, Mass here"),
    "no finding": (("--include-no-finding",), "include_no_finding off there, on here"),
    "untouched": (("--from", "test", "--untouched"), "untouched off there, on here"),
}


@pytest.mark.parametrize("what", DIFFERING)
def test_another_selection_needs_overwrite(what: str, select: Command) -> None:
    words, message = DIFFERING[what]
    assert select(*SELECT).code == 0
    before = everything()
    said = select(*SELECT, *words)
    assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1
    assert f"new_select holds another selection: {message}" in said.err
    assert everything() == before
    assert select(*SELECT, *words, "--overwrite").code == 0
    assert everything() != before


def test_the_same_selection_again_is_no_other(select: Command) -> None:
    assert select(*SELECT).code == 0
    Path("new_select/notes.txt").write_text("mine")
    before = everything()
    assert select("s.csv", "--select", "0.30", "--on", "new.csv").code == 0
    assert everything().keys() == before.keys()
    write_scores(Path("new.csv"), drawn(150, seed=7, first=5000))
    said = select(*SELECT)
    assert said.code == 1 and "another selection: on_sha256" in said.err


def test_the_default_folder_tells_files_and_splits_apart(select: Command) -> None:
    table = drawn()
    table.splits[table.patients >= "00000100"] = "a/b"
    write_scores(Path("s.csv"), table)
    Path("there").mkdir()
    Path("there/new.csv.gz").write_bytes(gzip.compress(Path("new.csv").read_bytes()))
    for words in (SELECT, (*SELECT, "--from", "a/b"), (*SELECT[:-1], "there/new.csv.gz")):
        assert select(*words).code == 0
    folders = [str(path) for path in Path().rglob("new_*") if path.is_dir()]
    assert sorted(folders) == ["new_select", "new_select_a-b", "there/new_select"]


@pytest.mark.parametrize("name", ["selected.csv", "notes.txt", "report.json"])
def test_a_folder_with_anything_else_needs_overwrite(name: str, select: Command) -> None:
    Path("o").mkdir()
    Path("o", name).write_text('{"selection": 3}')
    said = select(*SELECT, "--out", "o")
    assert (
        said.code == 1
        and f"o holds {name}, and no selection of this version; --out names another" in said.err
    )
    assert select(*SELECT, "--out", "o", "--overwrite").code == 0
    assert {path.name for path in Path("o").iterdir()} == FILES | {name}


def test_a_selection_and_a_calibration_replace_each_other_only_when_asked(
    select: Command,
) -> None:
    calibration = ("s.csv", "--alpha", 0.3, "--cal-fraction", 1, "--out", "o")
    selection = (*SELECT, "--out", "o")
    assert select(*calibration).code == 0
    before = everything()
    said = select(*selection)
    assert (
        said.code == 1 and "and no selection of this version" in said.err and everything() == before
    )
    assert select(*selection, "--overwrite").code == 0
    assert {path.name for path in Path("o").iterdir()} == FILES
    said = select(*calibration)
    assert said.code == 1 and "and no calibration" in said.err
    assert select(*calibration, "--overwrite").code == 0
    assert not Path("o/selected.csv").exists() and Path("o/thresholds.json").exists()
    Path("o/selected.csv").write_text("mine")  # in a calibration's folder it is not ours
    assert select(*calibration).code == 0 and Path("o/selected.csv").read_text() == "mine"


@pytest.mark.parametrize("name", ["s.csv", "new.csv"])
def test_the_scores_are_not_replaced(name: str, select: Command) -> None:
    Path("o").mkdir()
    Path(name).rename("o/selected.csv")
    before = everything()
    words = ["o/selected.csv" if word == name else word for word in SELECT]
    said = select(*words, "--out", "o", "--overwrite")
    assert said.code == 1 and "o/selected.csv would be replaced" in said.err
    assert everything() == before


def test_names_with_commas_and_quotes_survive_the_csv(select: Command) -> None:
    table = read_scores(Path("new.csv"))
    table.patients = np.array([f'{name}, "the {name}th"' for name in table.patients], object)
    write_scores(Path("new.csv"), table)
    assert select(*SELECT).code == 0
    with open("new_select/selected.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {5} and rows[1][1] == table.patients[0]


def test_report_json_can_be_read_by_others(select: Command) -> None:
    assert select(*SELECT).code == 0
    text = Path("new_select/report.json").read_text(encoding="utf-8")
    report = strict_json(Path("new_select/report.json"))
    assert text == json.dumps(report, indent=2) + "\n"
    assert report["title"] == "Selection from new.csv at FDR 0.3, with s.csv"
    assert {k: v for k, v in report["selection"].items() if "sha256" not in k} == {
        "select": 0.3,
        "scores": "s.csv",
        "on": "new.csv",
        "from": "test",
        "untouched": False,
        "exclude": [],
        "include_no_finding": False,
    }
