"""Several scores files side by side: the same patients, paired differences, their mean."""

import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformal_helpers import (
    CLASSES,
    COUNTED,
    Answer,
    Command,
    chosen,
    drawn,
    rows_of,
    strict_json,
)
from helpers import ROOT
from sklearn.metrics import roc_auc_score

from chestxray.conformal.__main__ import main as calibrate
from chestxray.conformal.compare import default_names, main
from chestxray.patients import patient_key
from chestxray.scores import Scores, read_scores, write_scores

FILES = {f"comparison.{ending}" for ending in ("json", "md", "csv", "png")}


def noisy(seed: int, noise: float) -> Scores:
    """The scores of `drawn` by another network: the same images and labels, noise on the logits."""
    table = drawn()
    rng = np.random.default_rng(seed)
    assert table.logits is not None
    logits = (table.logits + rng.normal(scale=noise, size=table.logits.shape)).astype(np.float32)
    return replace(table, logits=logits, scores=1 / (1 + np.exp(-logits)))


def only(table: Scores, rows: object, columns: tuple[int, ...] = (0, 1, 2, 3)) -> Scores:
    mask = np.zeros(len(table.image_names), dtype=bool)
    mask[rows] = True
    return table.take(mask, list(columns))


@pytest.fixture
def compare(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command as a function of its words, in a folder where a.csv and b.csv lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100000")
    write_scores(Path("a.csv"), drawn())
    write_scores(Path("b.csv"), noisy(1, 0.8))

    def call(*words: object) -> Answer:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three files, their mean, their comparison o, and calibrations of each."""
    folder = tmp_path_factory.mktemp("made")
    write_scores(folder / "a.csv", drawn())
    write_scores(folder / "b.csv", noisy(1, 0.8))
    table = noisy(2, 0.3)
    table.logits = None
    write_scores(folder / "c.csv", table)
    files = [folder / f"{name}.csv" for name in "abc"]
    flags = ["--alpha", "0.1", "0.25", "--no-positive", "zero", "--seed", "3"]
    words = [*files, *flags, "--ensemble", folder / "mean.csv", "--out", folder / "o"]
    assert main([str(word) for word in words]) == 0
    for file in (*files, folder / "mean.csv"):
        words = [file, *flags, "--resplits", 0, "--out", folder / file.stem]
        assert calibrate([str(word) for word in words]) == 0
    return folder


NAMES = {"a": "a", "b": "b", "c": "c", "ensemble": "mean"}  # and the calibration of each


def test_thresholds_and_metrics_are_those_of_the_calibration_of_each_file(made: Path) -> None:
    """The mean too, as it was written."""
    compared = strict_json(made / "o/comparison.json")
    assert [float(level["alpha"]) for level in compared["levels"]] == [0.1, 0.25]
    for name, own in NAMES.items():
        report = strict_json(made / own / "report.json")
        for level, expected in zip(compared["levels"], report["levels"], strict=True):
            found = level["files"][name]
            for key in ("threshold", "bound", "n_images", "n_units", "certified"):
                assert found[key] == expected[key]
            for weighting, metrics in expected["realised"].items():
                assert {
                    metric: {key: value[key] for key in ("value", "interval")}
                    for metric, value in found["realised"][weighting].items()
                } == metrics
            assert level["guarantee"] == expected["guarantee"]


def evaluation(made: Path, name: str) -> tuple[Scores, np.ndarray, np.ndarray]:
    """The evaluation rows of a file, their patient's number, and 1,000 resamples of patients."""
    table = read_scores(made / f"{NAMES[name]}.csv", exclude=lambda n: n == "No Finding")
    rows = rows_of(made / f"{NAMES[name]}/sets.csv")
    role = {row["image"]: row["role"] for row in rows}
    rest = np.array([role[image] == "eval" for image in table.image_names])
    table = table.take(rest, [0, 1, 2])
    keys = [patient_key(patient) for patient in table.patients]
    number = {key: n for n, key in enumerate(sorted(set(keys)))}
    rng, n = np.random.default_rng([3, 2]), len(number)
    return table, np.array([number[key] for key in keys]), rng.multinomial(n, [1 / n] * n, 1000)


def assert_is(found: dict[str, Any], value: float, draws: np.ndarray, prefix: str = "") -> None:
    interval = f"{prefix}_interval" if prefix else "interval"
    assert found[prefix or "value"] == pytest.approx(value, abs=1e-12)
    expected = np.nanquantile(draws, [0.025, 0.975])
    assert found[interval] == pytest.approx(expected.tolist(), abs=1e-12)


def areas(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The AUC under each row of weights, by counting all pairs."""
    ahead = p[y == 1][:, None] - p[y == 0]
    won = ((ahead > 0) + (ahead == 0) / 2) @ weights[:, y == 0].T
    pairs = weights[:, y == 1].sum(axis=1) * weights[:, y == 0].sum(axis=1)
    return (weights[:, y == 1].T * won).sum(axis=0) / pairs


def test_auc_differences_are_those_of_a_plain_paired_bootstrap(made: Path) -> None:
    found = strict_json(made / "o/comparison.json")["auc"]
    drawn_aucs, values = {}, {}
    for name in ("a", "c"):
        table, whose, times = evaluation(made, name)
        pairs = list(zip(table.targets.T, table.scores.T, strict=True))
        values[name] = np.array([roc_auc_score(y, p) for y, p in pairs])
        drawn_aucs[name] = np.column_stack([areas(y, p, times[:, whose]) for y, p in pairs])
        for row in range(3):
            assert [
                roc_auc_score(y, p, sample_weight=times[row, whose]) for y, p in pairs
            ] == pytest.approx(drawn_aucs[name][row], abs=1e-12)
    apart, difference = drawn_aucs["c"] - drawn_aucs["a"], values["c"] - values["a"]
    for k, column in enumerate(COUNTED):
        assert_is(found["a"]["classes"][column], values["a"][k], drawn_aucs["a"][:, k])
        assert_is(found["c"]["classes"][column], values["c"][k], drawn_aucs["c"][:, k])
        assert_is(found["c"]["classes"][column], difference[k], apart[:, k], "difference")
    assert_is(found["c"]["mean"], difference.mean(), apart.mean(axis=1), "difference")


def test_differences_of_set_metrics_are_those_of_a_plain_paired_bootstrap(made: Path) -> None:
    """Of set size and FNR by patient, and of the FDR of non-empty sets by image."""
    found = strict_json(made / "o/comparison.json")["levels"][0]["files"]["b"]["realised"]
    sizes, misses, shares = {}, {}, {}
    for name in ("a", "b"):
        table, whose, times = evaluation(made, name)
        level = strict_json(made / "o/comparison.json")["levels"][0]["files"][name]
        sets, images = table.scores >= level["threshold"], np.bincount(whose)
        right, wanted, size = (x.sum(axis=1) for x in (sets & table.targets, table.targets, sets))
        missed = np.where(wanted > 0, 1 - right / np.maximum(wanted, 1), 0)
        times = np.vstack([np.ones(len(images)), times])
        patients = times.sum(axis=1)
        sizes[name] = times @ (np.bincount(whose, size) / images) / patients
        misses[name] = times @ (np.bincount(whose, missed) / images) / patients
        false = np.where(size > 0, 1 - right / np.maximum(size, 1), 0)
        shares[name] = (times[:, whose] @ false) / (times[:, whose] @ (size > 0))
    for metric, by, own in (
        ("size", "patient", sizes),
        ("fnr", "patient", misses),
        ("fdr_nonempty", "image", shares),
    ):
        apart = own["b"] - own["a"]
        assert_is(found[by][metric], apart[0], apart[1:], "difference")


def test_the_mean_is_the_mean_logit_and_a_scores_file(made: Path) -> None:
    tables = [read_scores(made / f"{name}.csv") for name in "abc"]
    tables[2].logits = np.log(tables[2].scores / (1 - tables[2].scores))  # it has no z_ columns
    logits = np.mean([table.logits for table in tables], axis=0)
    mean = read_scores(made / "mean.csv")
    np.testing.assert_allclose(mean.logits, logits, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(mean.scores, 1 / (1 + np.exp(-logits)), rtol=1e-7)
    assert mean.classes == CLASSES  # No Finding too
    for name in ("image_names", "patients", "splits", "targets"):
        np.testing.assert_array_equal(getattr(mean, name), getattr(tables[0], name))


def test_the_csv_holds_the_numbers_of_the_json(made: Path) -> None:
    stored = strict_json(made / "o/comparison.json")
    expected = {}

    def put(key: tuple[str, ...], found: dict[str, Any]) -> None:
        low, high = found["interval"] or (None, None)
        apart = found["difference_interval"] or (None, None)
        expected[key] = (found["value"], low, high, found["difference"], *apart)

    for file, aucs in stored["auc"].items():
        for metric, found in {"mean": aucs["mean"], **aucs["classes"]}.items():
            put(("", file, f"auc_{metric}", "image"), found)
    for level in stored["levels"]:
        for file, own in level["files"].items():
            key = (level["alpha"], file, "threshold", "")
            expected[key] = (own["threshold"], *[None] * 5)
            for weighting, metrics in own["realised"].items():
                for metric, found in metrics.items():
                    put((level["alpha"], file, metric, weighting), found)
    with open(made / "o/comparison.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[4:] == [
        "value",
        "low",
        "high",
        *(f"difference{x}" for x in ("", "_low", "_high")),
    ]
    numbers = {tuple(r[:4]): tuple(float(x) if x else None for x in r[4:]) for r in rows}
    assert numbers == expected and len(rows) == len(expected)


def test_a_page_and_a_plot_come_along(made: Path) -> None:
    assert {path.name for path in (made / "o").iterdir()} == FILES
    assert (made / "o/comparison.png").read_bytes().startswith(b"\x89PNG")
    page = (made / "o/comparison.md").read_text(encoding="utf-8")
    stored = strict_json(made / "o/comparison.json")
    for level in stored["levels"]:
        part = page.split(f"## alpha = {level['alpha']}\n")[1].split("\n## ")[0]
        assert f"Each file by itself: {level['guarantee']}" in part
        for own in level["files"].values():
            assert f"| {own['threshold']!r} |" in f"{part} |"
            size = own["realised"]["image"]["size"]
            low, high = size["interval"]
            assert f"| {size['value']:.3f} ({low:.3f}, {high:.3f}) |" in part
    mean = stored["auc"]["b"]["mean"]
    low, high = mean["difference_interval"]
    assert f"| mean | {mean['difference']:+.3f} ({low:+.3f}, {high:+.3f}) |" in page
    assert all(f"{note[0].upper()}{note[1:]}." in page for note in stored["notes"])


def test_the_plot_shows_risk_and_size_of_each_file(
    compare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chestxray.conformal import plots

    figures = []
    plain = plots.files
    monkeypatch.setattr(plots, "files", lambda *words: figures.append(words[0]) or plain(*words))
    assert compare("a.csv", "b.csv", "--alpha", 0.2, 0.004, "--out", "o").code == 0
    level = strict_json(Path("o/comparison.json"))["levels"][0]
    for axes, metric in zip(figures[0].axes, ("fnr", "size"), strict=True):
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        bars = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
        found = [own["realised"]["patient"][metric] for own in level["files"].values()]
        assert dots == [own["value"] for own in found]
        assert bars == [own["interval"] for own in found]
        assert [t.get_text() for t in axes.texts].count("nothing is certified") == 2
    assert [t.get_text() for t in figures[0].axes[0].get_yticklabels()] == ["a", "b"] * 2


def test_the_answer_fits_100_columns_with_three_files(
    compare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    long = "stage2_0001_08_densenet_test_scores"
    write_scores(Path(f"{long}.csv"), noisy(2, 0.3))
    said = compare("a.csv", "b.csv", f"{long}.csv", "--alpha", 0.2, "--out", "o")
    assert said.code == 0
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 100
    stored = strict_json(Path("o/comparison.json"))
    (row,) = (line for line in lines if line.startswith("  threshold"))
    found = [own["threshold"] for own in stored["levels"][0]["files"].values()]
    assert [float(word) for word in row.split()[1:]] == found
    sizes = [line.split() for line in lines if line.startswith("  set size")]
    assert [len(words) for words in sizes] == [2 + 9, 2 + 6]  # values of three, differences of two
    heads = [line.split() for line in lines if line.lstrip().startswith(("a  ", "b  "))]
    assert heads[0][:2] == ["a", "b"] and long.startswith(heads[0][2])
    assert sum("difference to a" in line for line in lines) == 2


def test_more_files_than_the_terminal_has_room_for_go_below(
    compare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "o")
    assert said.out.count("  set size") == 3  # a file, a file, and a difference
    assert max(len(line) for line in said.out.splitlines() if "wrote" not in line) <= 60


def test_a_file_compared_with_itself_differs_by_nothing(compare: Command) -> None:
    words = ("--alpha", 0.2, "--risk", "fnr", "--out", "o")
    said = compare("a.csv", "a.csv", *words)
    assert said.code == 0 and "a and a 2 are the same file (SHA-256)" in said.out
    stored = strict_json(Path("o/comparison.json"))
    aucs = stored["auc"]["a 2"]
    metrics = stored["levels"][0]["files"]["a 2"]["realised"]
    for found in (
        aucs["mean"],
        *aucs["classes"].values(),
        *metrics["image"].values(),
        *metrics["patient"].values(),
    ):
        assert (found["difference"], found["difference_interval"]) == (0, [0, 0])
    assert stored["auc"]["a"]["mean"]["difference"] is None
    write_scores(Path("c.csv"), noisy(3, 0.1))
    assert "the same file" not in compare("a.csv", "c.csv", *words, "--overwrite").out


def test_a_class_without_positives_has_no_auc_and_leaves_the_mean(compare: Command) -> None:
    for name in "ab":
        table = read_scores(Path(f"{name}.csv"))
        table.targets[:, CLASSES.index("Hernia")] = 0
        write_scores(Path(f"{name}.csv"), table)
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "o")
    assert "no AUC of Hernia: no positives among the evaluation images" in said.out
    aucs = strict_json(Path("o/comparison.json"))["auc"]["b"]
    rest = [aucs["classes"][name]["value"] for name in ("Effusion", "Mass")]
    assert aucs["mean"]["value"] == pytest.approx(np.mean(rest), abs=1e-12)
    assert set(aucs["classes"].pop("Hernia").values()) == {None}
    assert "  Hernia" in said.out and "nan" not in said.out


def test_images_and_classes_that_not_all_files_have_are_left_out_and_counted(
    compare: Command,
) -> None:
    n = len(drawn().image_names)
    write_scores(Path("a.csv"), only(drawn(), slice(5, n)))
    write_scores(Path("b.csv"), only(noisy(1, 0.8), slice(0, n - 7), (3, 0, 1)))
    words = ("--alpha", 0.2, "--ensemble", "m.csv", "--out", "o")
    said = compare("a.csv", "b.csv", *words)
    assert said.code == 0
    for note in (
        "a: 7 images left out, not among the rows of every file",
        "b: 5 images left out, not among the rows of every file",
        "a: left out the classes that not every file has: Mass",
        "for the mean, b: 5 images left out, not among the rows of every file",
    ):
        assert note in said.out.splitlines()
    assert "Classes that count (2): Effusion, Hernia." in said.out
    mean = read_scores(Path("m.csv"))
    assert mean.classes == ("Effusion", "No Finding", "Hernia")
    assert mean.image_names.tolist() == drawn().image_names[5 : n - 7].tolist()
    write_scores(Path("s.csv"), only(drawn(), slice(5, n - 7)))  # as if it had been alone
    flags = ("--exclude", "Mass", "--resplits", "0", "--out", "s")
    assert calibrate(["s.csv", "--alpha", "0.2", *flags]) == 0
    alone = strict_json(Path("s/report.json"))["levels"][0]["threshold"]
    assert strict_json(Path("o/comparison.json"))["levels"][0]["files"]["a"]["threshold"] == alone


def test_patients_are_one_however_they_are_spelled(compare: Command) -> None:
    table = noisy(1, 0.8)
    table.patients = np.array([str(int(patient)) for patient in table.patients], dtype=object)
    assert compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "o").code == 0
    write_scores(Path("b.csv"), table)
    assert compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "p").code == 0
    plain, respelled = (strict_json(Path(f"{name}/comparison.json")) for name in "op")
    assert plain["levels"] == respelled["levels"] and plain["auc"] == respelled["auc"]


def changed(**columns: Any) -> Callable[[], Scores]:
    """b.csv with the first cells of some columns changed."""

    def make() -> Scores:
        table = noisy(1, 0.8)
        for name, value in columns.items():
            getattr(table, name)[0] = value
        return table

    return make


FIRST = drawn().targets[0, 0]
REFUSED: dict[str, tuple[Callable[[], Scores], str]] = {
    "labels": (
        changed(targets=1 - drawn().targets[0]),
        f"00000000_0000.png has Effusion {FIRST} in a.csv and {1 - FIRST} in b.csv (3 such labels):"
        " files are compared by the same labels",
    ),
    "patients": (
        changed(patients="00000199"),
        "00000000_0000.png is of patient 00000000 in a.csv and of 00000199 in b.csv (1 such image)"
        ": files are compared by the same patients",
    ),
    "images": (lambda: drawn(first=5000), "no image is in all of a.csv, b.csv"),
    "classes": (
        lambda: replace(noisy(1, 0.8), classes=("A", "B", "C", "D")),
        "no class is in all of a.csv, b.csv",
    ),
    "one patient": (
        lambda: only(noisy(1, 0.8), slice(0, 1)),
        "all images are of one patient: nobody is left to evaluate on",
    ),
    "no patients": (
        lambda: replace(noisy(1, 0.8), patients=None),
        "b.csv has no patient column: --unit image must be typed",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_files_that_do_not_agree_are_refused_by_name(what: str, compare: Command) -> None:
    make, message = REFUSED[what]
    write_scores(Path("b.csv"), make())
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "o")
    assert (said.code, said.err.count("\n")) == (1, 1) and message in said.err, said.err
    assert not Path("o").exists()


def test_a_score_of_0_or_1_without_logits_has_no_mean(compare: Command) -> None:
    table = noisy(1, 0.8)
    table.logits = None
    table.scores[3, 2] = 1
    write_scores(Path("b.csv"), table)
    said = compare("a.csv", "b.csv", "--ensemble", "m.csv")
    assert said.code == 1 and not Path("m.csv").exists()
    image = table.image_names[3]
    assert f"b.csv: p_Mass of {image} is 1 (1 such value), whose logit is infinite" in said.err
    assert compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "o").code == 0  # it ranks


def test_the_mean_alone_needs_no_labels_and_calibrates_nothing(compare: Command) -> None:
    for name in "ab":
        table = read_scores(Path(f"{name}.csv"))
        table.targets = table.targets[:, :0]
        write_scores(Path(f"{name}.csv"), table)
    before = set(Path().iterdir())
    said = compare("a.csv", "b.csv", "--ensemble", "m.csv", "--exclude", "Mass")
    n, written = len(drawn().image_names), "wrote m.csv: the mean logit of a, b"
    assert said.code == 0 and f"{written}, {n} images of 200 patients" in said.out
    assert set(Path().iterdir()) - before == {Path("m.csv")}
    mean = read_scores(Path("m.csv"), labels=False)
    assert mean.classes == ("Effusion", "No Finding", "Hernia") and mean.targets.shape[1] == 0
    assert "--ensemble" in compare("a.csv", "b.csv", "--alpha", 0.2, "--ensemble", "m.csv").err


def test_the_mean_leaves_out_what_one_network_may_have_been_trained_on(compare: Command) -> None:
    """Image 0 is for training in b; so are other images, not in a, of the patient of image 9."""
    table = noisy(1, 0.8)
    owner = table.patients[9]
    table.splits[0] = "train"
    more = replace(table.take(table.patients == owner, [0, 1, 2, 3]))
    more.image_names = np.array([f"{name}_more" for name in more.image_names], dtype=object)
    more.splits[:] = "train"
    both = {
        name: np.concatenate([getattr(table, name), getattr(more, name)])
        for name in ("image_names", "patients", "splits", "targets", "logits", "scores")
    }
    write_scores(Path("b.csv"), replace(table, **both))
    said = compare("a.csv", "b.csv", "--ensemble", "m.csv")
    left = ~np.isin(table.patients, [table.patients[0], owner])
    assert read_scores(Path("m.csv")).image_names.tolist() == table.image_names[left].tolist()
    count = int((~left).sum())
    assert f"for the mean, {count} images left out, since the image or its patient" in said.out
    write_scores(Path("b.csv"), replace(table, splits=np.full(len(left), "train", dtype=object)))
    said = compare("a.csv", "b.csv", "--ensemble", "n.csv")
    assert said.code == 1 and "every image or patient of a.csv is in several splits" in said.err


def test_rows_of_a_split_and_files_without_one(compare: Command) -> None:
    table = noisy(1, 0.8)
    table.splits = None
    write_scores(Path("b.csv"), table)
    first = drawn()
    first.splits[first.patients >= "00000150"] = "val"
    write_scores(Path("a.csv"), first)
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "o")
    assert said.code == 0 and f"b: b.csv has no split column: all {len(first.splits)}" in said.out
    assert "on the same" in said.out and "of 75 patients" in said.out
    assert strict_json(Path("o/comparison.json"))["compared"]["from"] == "test"
    assert compare("a.csv", "b.csv", "--alpha", 0.2, "--from", "val").code == 1
    write_scores(Path("b.csv"), replace(noisy(1, 0.8), splits=first.splits))
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--from", "val")
    assert "warning: calibrated on rows of the split val" in said.out
    stored = strict_json(Path("compare_fnr_crc_val/comparison.json"))
    assert stored["promise_holds"] is False and "from the split" not in stored["rows"]
    assert stored["levels"][0]["guarantee"].startswith("No promise holds, see the warnings")
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--from", "val", "--untouched", "--out", "u")
    assert "warning" not in said.out and "declared by --untouched" in said.out


def test_images_as_units_take_patients_from_the_file_that_names_them(compare: Command) -> None:
    write_scores(Path("a.csv"), replace(drawn(), patients=None))
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--unit", "image", "--out", "o")
    assert said.code == 0 and "patients calibrated as if they were independent" in said.out
    write_scores(Path("b.csv"), replace(noisy(1, 0.8), patients=None))
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--unit", "image", "--out", "p")
    assert said.code == 0 and "images that evaluate" in said.out


def test_what_is_not_certified_is_said_in_its_column(compare: Command) -> None:
    """At FDR 0.2: nothing for scores that know nothing, something for those that know all."""
    write_scores(Path("a.csv"), noisy(4, 20))
    perfect = drawn()
    perfect.scores = np.where(perfect.targets == 1, 0.9, 0.1) + perfect.scores / 100
    perfect.logits = None
    write_scores(Path("b.csv"), perfect)
    words = ("--risk", "fdr", "--alpha", 0.02, 0.2, "--out", "o")
    said = compare("a.csv", "b.csv", *words)
    assert said.code == 0
    levels = strict_json(Path("o/comparison.json"))["levels"]
    assert [own["certified"] for own in levels[1]["files"].values()] == [False, True]
    assert levels[1]["files"]["a"]["realised"] is None
    found = levels[1]["files"]["b"]["realised"]["patient"]["fdr"]
    assert found["value"] is not None and found["difference"] is None
    part = said.out.split("\nalpha 0.2")[1]
    (row,) = (line for line in part.splitlines() if line.startswith("  threshold"))
    assert row.split()[1:4] == ["nothing", "is", "certified"] and "0." in row
    assert f"\na: nothing is certified, {levels[1]['files']['a']['reason']}\n" in part
    rows = rows_of(Path("o/comparison.csv"))
    own = [r for r in rows if r["alpha"] == "0.2" and r["file"] == "a"]
    assert [(r["metric"], r["value"]) for r in own] == [("threshold", "")]
    page = Path("o/comparison.md").read_text(encoding="utf-8")
    assert "| threshold | nothing is certified | 0." in page


def test_nothing_certified_for_any_file_exits_3_and_writes_nothing(compare: Command) -> None:
    said = compare("a.csv", "b.csv", "--alpha", 0.001, "--ensemble", "m.csv", "--out", "o")
    assert said.code == 3 and not Path("o").exists() and not Path("m.csv").exists()
    for name in ("a", "b", "ensemble"):
        assert f"{name}, alpha 0.001: nothing is certified, " in said.err
        assert f"{name}: the smallest certifiable alpha on these rows: 0.0" in said.err


def test_each_file_has_its_promise_and_choosing_needs_fresh_rows(compare: Command) -> None:
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--method", "rcps", "--delta", 0.2)
    assert "each promise is for one file by itself" in said.out
    assert "choosing the better one on these evaluation patients is a choice" in said.out
    assert "needs fresh rows" in said.out and "1,000 resamples of the 100 patients" in said.out
    assert "Each file by itself: With probability at least 0.8" in said.out
    assert Path("compare_fnr_rcps").is_dir()


WRONG_USAGE = {
    "one file": (("a.csv", "--alpha", 0.2), "two scores files or more"),
    "no file": (("--alpha", 0.2), "SCORES.csv"),
    "nothing to do": (("a.csv", "b.csv"), "--alpha A compares, --ensemble OUT.csv writes the mean"),
    "too few names": (("a.csv", "b.csv", "--names", "x", "--alpha", 0.2), "as the scores files, 2"),
    "a name twice": (("a.csv", "b.csv", "--names", "x", "x", "--alpha", 0.2), "differ from each"),
    "a formula": (("a.csv", "b.csv", "--names", "x", "=x", "--alpha", 0.2), "'=x' is empty, has"),
    "a column": (("a.csv", "b.csv", "--names", "x", "x|y", "--alpha", 0.2), "'x|y' is empty, has"),
    "no name": (("a.csv", "b.csv", "--names", "x", "", "--alpha", 0.2), "'' is empty, has"),
    "the name of the mean": (
        ("a.csv", "b.csv", "--names", "x", "ensemble", "--ensemble", "m.csv"),
        "'ensemble' is that of the mean",
    ),
    "the mean over a file": (("a.csv", "b.csv", "--ensemble", "b.csv"), "is one of the scores"),
    "the mean packed": (("a.csv", "b.csv", "--ensemble", "m.csv.gz"), "ends in .csv"),
    "rows for the mean": (
        ("a.csv", "b.csv", "--ensemble", "m.csv", "--from", "val"),
        "--from is for a comparison: add --alpha A",
    ),
    "nobody evaluates": (("a.csv", "b.csv", "--alpha", 0.2, "--cal-fraction", 1), "nobody"),
    "untouched": (("a.csv", "b.csv", "--alpha", 0.2, "--untouched"), "add --from NAME"),
    "per class": (("a.csv", "b.csv", "--alpha", 0.2, "--per-class"), "unknown argument"),
    "delta of crc": (("a.csv", "b.csv", "--alpha", 0.2, "--delta", 0.2), "--delta goes with"),
    "fdr by crc": (
        ("a.csv", "b.csv", "--alpha", 0.2, "--risk", "fdr", "--method", "crc"),
        "--method ltt",
    ),
}


@pytest.mark.parametrize("what", WRONG_USAGE)
def test_wrong_usage_exits_2_in_one_line_and_writes_nothing(what: str, compare: Command) -> None:
    words, message = WRONG_USAGE[what]
    before = {path: path.read_bytes() for path in Path().iterdir()}
    said = compare(*words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert message in said.err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_names_are_those_typed_or_the_files_each_once(compare: Command) -> None:
    paths = [Path("x/s.csv"), Path("y/s.csv.gz"), Path("s 2.csv"), Path("ensemble.csv")]
    assert default_names(paths) == ["s", "s 2", "s 2 2", "ensemble"]
    assert default_names(paths[3:], ("ensemble",)) == ["ensemble 2"]
    words = ("--names", "one", "the other", "--alpha", 0.2, "--out", "o")
    assert compare("a.csv", "b.csv", *words).code == 0
    assert list(strict_json(Path("o/comparison.json"))["auc"]) == ["one", "the other"]


def test_an_unknown_class_to_exclude_is_refused(compare: Command) -> None:
    write_scores(Path("b.csv"), only(noisy(1, 0.8), slice(None), (0, 1, 2)))
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--exclude", "Masss")
    assert said.code == 1 and "--exclude Masss: the classes are Effusion, " in said.err
    words = ("--alpha", 0.2, "--exclude", "Hernia", "--out", "o")  # which b.csv does not have
    assert "Classes that count (2): Effusion, Mass." in compare("a.csv", "b.csv", *words).out
    words = ("--alpha", 0.2, "--exclude", *COUNTED, "--ensemble", "m.csv")
    said = compare("a.csv", "b.csv", *words)
    assert said.code == 1 and "a.csv: no class is left of No Finding" in said.err


def test_another_comparison_or_anything_else_needs_overwrite(compare: Command) -> None:
    words = ("--alpha", 0.2, "--out", "o")
    assert compare("a.csv", "b.csv", *words).code == 0
    assert compare("a.csv", "b.csv", *words).code == 0  # the same again
    before = {path: path.read_bytes() for path in Path("o").iterdir()}
    for more, message in (
        (("a.csv", "b.csv", "--seed", 1), "another comparison: seed 0 there, 1 here"),
        (("a.csv", "b.csv", "--alpha", 0.3), "another comparison: alpha 0.2 there, 0.3 here"),
        (("a.csv", "b.csv", "--names", "a", "x"), "names a b there, a x here"),
        (("b.csv", "a.csv"), "another comparison: files a.csv b.csv there, b.csv a.csv here"),
    ):
        files, flags = more[:2], more[2:]
        said = compare(*files, *words, *flags)
        assert said.code == 1 and "o holds another comparison: " in said.err
        assert message in said.err and "--overwrite" in said.err
    assert {path: path.read_bytes() for path in Path("o").iterdir()} == before
    write_scores(Path("b.csv"), noisy(9, 0.8))
    said = compare("a.csv", "b.csv", *words)
    assert said.code == 1 and "another comparison: sha256" in said.err
    assert compare("a.csv", "b.csv", *words, "--overwrite").code == 0
    assert calibrate(["a.csv", *map(str, words)]) == 1  # a calibration is something else
    Path("c").mkdir()
    Path("c/notes.txt").write_text("mine")
    said = compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "c")
    assert said.code == 1 and "c holds notes.txt, and no comparison" in said.err
    assert compare("a.csv", "b.csv", "--alpha", 0.2, "--out", "c", "--overwrite").code == 0
    assert Path("c/notes.txt").read_text() == "mine"


def test_a_folder_holds_the_files_of_one_run(compare: Command) -> None:
    words = ("--alpha", "0.2", "--out", "o", "--overwrite")
    assert calibrate(["a.csv", *words, "--resplits", "0"]) == 0
    assert compare("a.csv", "b.csv", *words).code == 0
    assert {path.name for path in Path("o").iterdir()} == FILES
    assert calibrate(["a.csv", *words, "--resplits", "0"]) == 0
    assert not FILES & {path.name for path in Path("o").iterdir()}


def test_no_scores_are_replaced(compare: Command) -> None:
    Path("o").mkdir()
    Path("b.csv").rename("o/comparison.csv")
    before = Path("o/comparison.csv").read_bytes()
    words = ("--alpha", 0.2, "--out", "o", "--overwrite")
    said = compare("a.csv", "o/comparison.csv", *words)
    assert (said.code, said.out) == (1, "") and "o/comparison.csv would be replaced" in said.err
    assert Path("o/comparison.csv").read_bytes() == before
    Path("m.csv").write_text("mine")
    for out, fault in (("m.csv", "m.csv exists: --ensemble names another"), ("o", "is a folder")):
        said = compare("a.csv", "o/comparison.csv", "--ensemble", f"{out}")
        assert said.code == (1 if out == "m.csv" else 2)
        assert out == "o" or fault in said.err
    assert Path("m.csv").read_text() == "mine"
    Path("d.csv").mkdir()
    said = compare("a.csv", "o/comparison.csv", "--ensemble", "d.csv", "--overwrite")
    assert said.code == 1 and "d.csv is a folder" in said.err
    assert compare("a.csv", "o/comparison.csv", "--ensemble", "m.csv", "--overwrite").code == 0
    assert len(read_scores(Path("m.csv")).image_names) == len(drawn().image_names)


def test_the_mean_makes_sets_with_the_threshold_of_the_comparison(made: Path) -> None:
    threshold = strict_json(made / "o/comparison.json")["levels"][0]["files"]["ensemble"]
    mean = read_scores(made / "mean.csv")
    row = rows_of(made / "mean/sets.csv")[0]
    expected = {
        name
        for name, score in zip(mean.classes, mean.scores[0], strict=True)
        if score >= threshold["threshold"] and name in COUNTED
    }
    assert chosen(row) == expected


def test_help_and_wrong_usage_answer_without_pandas_and_scipy(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from chestxray.conformal.compare import main
        for words in (["--help"], ["a.csv", "--alpha", "0.1"]):
            try:
                main(words)
            except SystemExit as leaving:
                print(leaving.code)
        assert not {"torch", "pandas", "scipy", "matplotlib", "sklearn"} & set(sys.modules)
        """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--ensemble OUT.csv" in done.stdout and done.stdout.endswith("0\n2\n")
