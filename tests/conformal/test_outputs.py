"""The files of a calibration: they agree with each other and with plain counts."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from conformal_helpers import (
    ALPHAS,
    COUNTED,
    FILES,
    RUNS,
    Command,
    averaged,
    chosen,
    plots,
    rows_of,
    strict_json,
)

from chestxray.scores import read_scores


@pytest.mark.parametrize("name", RUNS)
def test_all_files_and_plots_are_written(name: str, runs: Callable[[str], Path]) -> None:
    written = FILES | {"resplits.csv"} | plots(*ALPHAS[name])
    assert {path.name for path in runs(name).iterdir()} == written
    begins = {".png": b"\x89PNG", ".pdf": b"%PDF-"}
    for plot in plots(*ALPHAS[name]):
        assert (runs(name) / plot).read_bytes().startswith(begins[Path(plot).suffix])


@pytest.mark.parametrize("name", RUNS)
def test_sets_hold_the_classes_that_reach_their_threshold(
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


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("by", ["image", "patient"])
def test_realised_metrics_equal_a_plain_count_of_sets_csv(
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
            false = len(sets - labels) / len(sets) if sets else int(choices["empty"])
            if labels or choices["no_positive"] == "zero":
                found["fnr"].append((who, len(labels - sets) / max(len(labels), 1)))
            found["false"].append((who, false if sets else 0.0))
            found["fdr"].append((who, false))
            found["empty"].append((who, not sets))
            found["full"].append((who, len(sets) == len(classes)))
            found["size"].append((who, len(sets)))
            found["right"].append((who, len(sets & labels)))
            found["wanted"].append((who, len(labels)))
        expected = {what: averaged(values, by) for what, values in found.items()}
        expected["mfdr"] = 1 - expected["right"] / expected["size"]
        # A ratio of means: of the false shares, and of the sets that are not empty.
        expected["fdr_nonempty"] = expected.pop("false") / (1 - expected["empty"])
        expected["precision"] = expected["right"] / expected["size"]
        expected["recall"] = expected.pop("right") / expected.pop("wanted")
        realised = level["realised"][by]
        assert {k: v["value"] for k, v in realised.items()} == pytest.approx(expected, abs=1e-12)
        for share in realised.values():
            low, high = share["interval"]
            assert 0 <= low <= share["value"] <= high


@pytest.mark.parametrize("name", ["crc", "fst", "per-class"])
@pytest.mark.parametrize("by", ["image", "patient"])
def test_class_metrics_equal_a_plain_count_of_sets_csv(
    name: str, by: str, runs: Callable[[str], Path]
) -> None:
    """By patient: the mean over the patients with the class, which the guarantee is about."""
    level = strict_json(runs(name) / "report.json")["levels"][0]
    rows = [
        row
        for row in rows_of(runs(name) / "sets.csv")
        if row["role"] == "eval" and float(row["alpha"]) == float(level["alpha"])
    ]
    for column, metrics in level["classes"].items():
        having = [row for row in rows if column in chosen(row, "labels")]
        taking = [row for row in rows if column in chosen(row)]
        assert metrics["positives"] == len(having)
        assert metrics["patients"] == len({row["patient"] for row in having})
        assert metrics["selected"] == len(taking)
        recall = averaged([(r["patient"], column in chosen(r)) for r in having], by)
        false = averaged([(r["patient"], column not in chosen(r, "labels")) for r in taking], by)
        assert metrics[by]["recall"]["value"] == pytest.approx(recall, abs=1e-12)
        assert metrics[by]["fdr"]["value"] == pytest.approx(false, abs=1e-12)
        for share in (metrics[by]["recall"], metrics[by]["fdr"]):
            if share["value"] is not None:
                low, high = share["interval"]
                assert 0 <= low <= share["value"] <= high <= 1


def test_thresholds_json_holds_options_source_and_versions(
    runs: Callable[[str], Path],
) -> None:
    held = strict_json(runs("holm") / "thresholds.json")
    assert held["choices"] == {
        "risk": ["fdr"],
        "method": "ltt",
        "delta": 0.3,
        "unit": "patient",
        "no_positive": "drop",
        "empty": "1",
        "fwer": "holm",
        "pvalue": "wsr",
        "tune": None,
        "per_class": False,
        "by": None,
        "from": "test",
        "untouched": False,
        "exclude": [],
        "include_no_finding": False,
        "cal_fraction": 0.5,
        "resplits": 5,
        "seed": 0,
    }
    excluding = strict_json(runs("crc-zero") / "thresholds.json")["choices"]
    assert excluding["exclude"] == ["Mass"] and excluding["no_positive"] == "zero"
    assert strict_json(runs("per-class") / "thresholds.json")["choices"]["per_class"] is True
    assert held["classes"] == list(COUNTED)
    assert len(held["sha256"]) == 64 and {"chestxray", "numpy", "scipy"} <= set(held["versions"])
    assert strict_json(runs("crc-zero") / "thresholds.json")["classes"] == ["Effusion", "Hernia"]


def test_each_method_states_its_guarantee_and_for_whom(
    runs: Callable[[str], Path],
) -> None:
    expected = {
        "crc": ("in expectation", "0.1", "a new patient's images", "single ones lie above"),
        "crc-image": ("in expectation", "0.2", "a new image with a positive class", "images"),
        "rcps": ("probability at least 0.8", "0.25", "a new patient's images", "FNR"),
        "fst": ("probability at least 0.9", "0.5", "a new patient's images", "FDR"),
        "per-class": ("in expectation", "0.25", "each class by itself"),
    }
    for name, parts in expected.items():
        sentence = strict_json(runs(name) / "report.json")["levels"][0]["guarantee"]
        assert all(part in sentence for part in parts), sentence
        assert sentence.count(". ") == 1 and sentence.endswith(".")
        assert sentence in (runs(name) / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["crc", "per-class"])
def test_the_page_links_its_plots_and_shows_the_resplits(
    name: str, runs: Callable[[str], Path]
) -> None:
    page = (runs(name) / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)) == plots(*ALPHAS[name], formats=["png"])
    cuts = strict_json(runs(name) / "report.json")["levels"][0]["resplits"]
    by_class = cuts.get("parts", {"all classes": cuts})
    assert set(by_class) == ({"all classes"} if name == "crc" else set(COUNTED))
    for row, found in by_class.items():
        line = next(t for t in page.split("cuts by patient")[1].splitlines() if f"| {row} |" in t)
        assert f"{found['mean']:.3f} | {found['median']:.3f} |" in line
        assert found["interval"][0] <= found["median"] <= found["interval"][1]


def test_the_page_links_no_plot_that_is_missing(command: Command) -> None:
    words = ("--alpha", 0.2, "--cal-fraction", 1, "--out", "o")
    assert command("s.csv", *words).code == 0
    page = Path("o/report.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(([^)]+)\)", page) == ["risk_0.2.png"]


def test_the_page_shows_all_metrics_of_the_report(runs: Callable[[str], Path]) -> None:
    page = (runs("crc") / "report.md").read_text(encoding="utf-8")
    for level in strict_json(runs("crc") / "report.json")["levels"]:
        part = page.split(f"## alpha = {level['alpha']}\n")[1].split("\n## ")[0]
        for weighting in ("image", "patient"):
            for share in level["realised"][weighting].values():
                low, high = share["interval"]
                assert f"{share['value']:.3f} ({low:.3f}-{high:.3f})" in part
        for name, row in level["classes"].items():
            assert f"| {name} | {row['positives']} in {row['patients']} patients |" in part


def test_excluded_classes_are_in_no_set_and_count_nowhere(runs: Callable[[str], Path]) -> None:
    rows = rows_of(runs("crc-zero") / "sets.csv")
    assert not any("Mass" in row["set"] + row["labels"] for row in rows)
    level = strict_json(runs("crc-zero") / "report.json")["levels"][0]
    assert set(level["classes"]) == {"Effusion", "Hernia"}


@pytest.mark.parametrize("name", RUNS)
def test_no_finding_is_in_no_set_unless_it_is_asked_for(
    name: str, runs: Callable[[str], Path]
) -> None:
    rows = rows_of(runs(name) / "sets.csv")
    held = any("No Finding" in chosen(row) | chosen(row, "labels") for row in rows)
    report = strict_json(runs(name) / "report.json")
    assert held == (name == "no-finding")
    assert ("No Finding" in report["counted"]) == held
    assert any("No Finding takes no part" in note for note in report["notes"]) != held


def test_cal_fraction_1_reports_no_realised_metrics(
    command: Command,
) -> None:
    said = command("s.csv", "--alpha", 0.2, "--cal-fraction", 1, "--out", "o")
    assert said.code == 0 and "realised" not in said.out
    assert {row["role"] for row in rows_of(Path("o/sets.csv"))} == {"cal"}
    level = strict_json(Path("o/report.json"))["levels"][0]
    assert level["realised"] is None and level["classes"] is None
    assert {path.name for path in Path("o").iterdir()} == FILES | {"risk_0.2.png"}


def test_a_second_run_leaves_no_plot_of_the_first(command: Command) -> None:
    words = ("--resplits", 3, "--format", "svg", "png")
    assert command("s.csv", "--alpha", 0.2, 0.3, *words, "--out", "o").code == 0
    assert {path.name for path in Path("o").iterdir()} == FILES | {"resplits.csv"} | plots(
        0.2, 0.3, formats=["svg", "png"]
    )
    words = ("--alpha", 0.1, "--cal-fraction", 1, "--out", "o", "--overwrite")
    assert command("s.csv", *words).code == 0
    assert {path.name for path in Path("o").iterdir()} == FILES | {"risk_0.1.png"}


def test_resplits_are_in_the_report_and_near_alpha(command: Command) -> None:
    words = ("--alpha", 0.2, "--resplits", 200)
    assert command("s.csv", *words, "--out", "o").code == 0
    found = strict_json(Path("o/report.json"))["levels"][0]["resplits"]
    assert (found["times"], found["certified"]) == (200, 200)
    assert found["mean"] == pytest.approx(0.2, abs=0.03) and 0.1 < found["halves_above_alpha"] < 0.9


def test_the_same_command_twice_writes_the_same_bytes(command: Command) -> None:
    formats = ("--format", "pdf", "png", "svg")
    for name in ("one", "two"):
        words = ("--method", "rcps", "--alpha", 0.3, 0.4, "--resplits", 5, "--out", name)
        assert command("s.csv", *words, *formats).code == 0
    assert len(list(Path("one").glob("levels.*"))) == 3
    for path in Path("one").iterdir():
        assert path.read_bytes() == Path("two", path.name).read_bytes(), path.name
