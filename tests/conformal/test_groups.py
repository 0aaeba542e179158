"""--by COLUMN: a threshold for each group, who is in it; the realised risk by sex, view, age."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import Command, averaged, chosen, drawn, rows_of, strict_json

from chestxray.conformal.groups import NOT_GIVEN, Column, described
from chestxray.scores import Scores, read_scores, write_scores

FEW = ("--resplits", 3, "--out", "o")


def described_people(patients: int = 200, seed: int = 0, first: int = 0) -> Scores:
    """drawn() with sex and age by patient, view by image; one patient's age is not known."""
    table = drawn(patients, seed=seed, first=first)
    rng = np.random.default_rng(seed)
    codes = np.unique(table.patients, return_inverse=True)[1]
    ages = rng.integers(0, 95, patients).astype(str)
    ages[0] = ""
    values = {
        "sex": rng.choice(["F", "M"], patients)[codes],
        "age": ages[codes],
        "view": rng.choice(["PA", "AP"], len(codes)),
    }
    return replace(table, attributes={k: v.astype(object) for k, v in values.items()})


@pytest.fixture
def people(command: Command) -> Command:
    write_scores(Path("s.csv"), described_people())
    return command


@pytest.mark.parametrize("by", ["sex", "view", "age:18,40,60,80"])
def test_each_group_has_the_threshold_of_the_papers_equation(by: str, people: Command) -> None:
    said = people("s.csv", "--by", by, "--alpha", 0.25, *FEW)
    assert said.code == 0, said.err
    held = strict_json(Path("o/thresholds.json"))
    level, rows = held["levels"][0], rows_of(Path("o/sets.csv"))
    assert held["choices"]["by"] == by
    table = read_scores(Path("s.csv"))
    scores = {
        name: dict(zip(table.classes, row, strict=True))
        for name, row in zip(table.image_names, table.scores, strict=True)
    }
    assert {row["group"] for row in rows} <= set(level["threshold"])
    for group, threshold in level["threshold"].items():
        own = [r for r in rows if r["group"] == group and r["role"] == "cal" and r["labels"]]
        n = len({row["patient"] for row in own})
        assert n == level["units_of_each"][group]

        def corrected(t: float, own: list = own, n: int = n) -> float:
            losses = [
                (r["patient"], np.mean([scores[r["image"]][k] < t for k in chosen(r, "labels")]))
                for r in own
            ]
            return (n * averaged(losses, "patient") + 1) / (n + 1)

        if threshold is None:
            assert (n + 1) * 0.25 < 1
            assert f"{group} every class in the set".replace(" ", "") in said.out.replace(" ", "")
            continue
        assert corrected(threshold) <= 0.25 < corrected(np.nextafter(threshold, 1))
        for row in rows:
            if row["group"] == group:
                assert chosen(row) == {k for k in chosen_from(scores[row["image"]], threshold)}


def chosen_from(scores: dict[str, float], threshold: float) -> set[str]:
    return {k for k, p in scores.items() if p >= threshold and k != "No Finding"}


def test_one_group_is_plain_crc(people: Command) -> None:
    write_scores(
        Path("s.csv"),
        replace(drawn(), attributes={"site": np.full(len(drawn().image_names), "A", object)}),
    )
    assert people("s.csv", "--by", "site", "--alpha", 0.2, *FEW).code == 0
    assert people("s.csv", "--alpha", 0.2, "--resplits", 3, "--out", "p").code == 0
    by, plain = (strict_json(Path(f / "thresholds.json")) for f in (Path("o"), Path("p")))
    assert by["levels"][0]["threshold"] == {"A": plain["levels"][0]["threshold"]}
    sets = [[row["set"] for row in rows_of(Path(f"{f}/sets.csv"))] for f in "op"]
    assert sets[0] == sets[1]


def test_rows_without_a_value_are_a_group_and_it_is_named(people: Command) -> None:
    said = people("s.csv", "--by", "age:50", "--alpha", 0.25, *FEW)
    assert said.code == 0
    held = strict_json(Path("o/thresholds.json"))["levels"][0]
    assert list(held["threshold"]) == ["under 50", "50 and over", NOT_GIVEN]
    assert NOT_GIVEN in said.out


def test_bands_hold_their_lower_end() -> None:
    bands = Column.parse("age:18,40").of_values(np.array(["17.99", "18", "39", "40", ""], object))
    assert bands.of.tolist() == [
        "under 18",
        "18 to under 40",
        "18 to under 40",
        "40 and over",
        NOT_GIVEN,
    ]


def test_thresholds_of_groups_are_applied_by_group_and_unseen_ones_refused(
    people: Command,
) -> None:
    assert people("s.csv", "--by", "sex", "--alpha", 0.25, *FEW).code == 0
    fresh = described_people(60, seed=5, first=1000)
    write_scores(Path("n.csv"), fresh)
    said = people("n.csv", "--apply", "o/thresholds.json", "--out", "a")
    assert said.code == 0, said.err
    limits = strict_json(Path("o/thresholds.json"))["levels"][0]["threshold"]
    table = read_scores(Path("n.csv"))
    for row in rows_of(Path("a/sets.csv")):
        place = table.image_names.tolist().index(row["image"])
        assert row["group"] == table.attributes["sex"][place]
        own = dict(zip(table.classes, table.scores[place], strict=True))
        assert chosen(row) == chosen_from(own, limits[row["group"]])
    fresh.attributes["sex"][:4] = "U"
    write_scores(Path("u.csv"), fresh)
    said = people("u.csv", "--apply", "o/thresholds.json", "--out", "b")
    assert said.code == 1 and not Path("b").exists()
    assert "no threshold is known for sex U, in 4 rows; the calibration had F, M" in said.err
    write_scores(Path("w.csv"), replace(fresh, attributes={}))
    said = people("w.csv", "--apply", "o/thresholds.json", "--out", "b")
    assert said.code == 1 and "has no column 'sex'" in said.err and not Path("b").exists()


REFUSED = {
    "no such column": (("--by", "ward"), 1, "has no column 'ward' for --by; it has sex, age, view"),
    "no numbers": (("--by", "sex:1,2"), 1, "sex is not a number in"),
    "falling": (("--by", "age:40,20"), 2, "'age:40,20' is neither COLUMN nor COLUMN:CUT,CUT"),
    "no cuts": (("--by", "age:"), 2, "'age:' is neither COLUMN nor COLUMN:CUT,CUT"),
    "per class": (("--by", "sex", "--per-class"), 2, "leave too few patients for each threshold"),
    "rcps": (("--by", "sex", "--method", "rcps"), 2, "--by is for --risk fnr --method crc"),
    "fdr": (("--by", "sex", "--risk", "fdr"), 2, "--by is for --risk fnr --method crc"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_groups_that_cannot_be_are_refused(what: str, people: Command) -> None:
    words, code, message = REFUSED[what]
    said = people("s.csv", "--alpha", 0.2, *words, "--out", "o")
    assert said.code == code and message in said.err and not Path("o").exists()


def test_a_column_that_is_empty_or_that_a_spreadsheet_would_run_makes_no_groups(
    people: Command,
) -> None:
    text = Path("s.csv").read_text(encoding="utf-8")
    header, *lines = text.splitlines()
    for value, message in (
        ("", "the column ward is empty"),
        ("=1+1", "like a formula"),
        ("a|b", "or |"),
    ):
        rows = [f"{header},ward", *(f"{line},{value}" for line in lines)]
        Path("w.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        said = people("w.csv", "--by", "ward", "--alpha", 0.2, "--out", "p")
        assert said.code == 1 and message in said.err and not Path("p").exists()
        assert people("w.csv", "--alpha", 0.2, *FEW, "--overwrite").code == 0  # else nobody minds


def test_the_realised_risk_by_sex_view_and_age_is_a_plain_count(people: Command) -> None:
    said = people("s.csv", "--alpha", 0.2, *FEW)
    assert said.code == 0
    level = strict_json(Path("o/report.json"))["levels"][0]
    table = read_scores(Path("s.csv"))
    columns = {
        name: dict(zip(table.image_names, of, strict=True)) for name, of in table.attributes.items()
    }
    rows = [r for r in rows_of(Path("o/sets.csv")) if r["role"] == "eval" and r["labels"]]
    assert list(level["groups"]) == ["sex", "view", "age"]
    for column, groups in level["groups"].items():
        counted = 0
        for name, group in groups.items():
            own = [r for r in rows if in_group(columns[column][r["image"]], column, name)]
            losses = [
                (r["patient"], len(chosen(r, "labels") - chosen(r)) / len(chosen(r, "labels")))
                for r in own
            ]
            assert group["images"] == len(own)
            assert group["patients"] == len({r["patient"] for r in own})
            assert group["risks"]["fnr"]["value"] == pytest.approx(averaged(losses, "patient"))
            low, high = group["risks"]["fnr"]["interval"]
            assert low <= group["risks"]["fnr"]["value"] <= high
            counted += len(own)
        assert counted == len(rows)
    page = Path("o/report.md").read_text(encoding="utf-8")
    few = level["groups"]["age"]["under 18"]
    assert few["patients"] < 30 <= level["groups"]["sex"]["F"]["patients"]
    assert '<span style="color:grey">age: under 18</span>' in page and "| sex: F |" in page
    assert "Grey: fewer than 30 patients." in page
    assert "realised FNR by sex: F " in said.out and f"under 18 {shown(few)}, few" in said.out
    assert "--by COLUMN gives one to each group" in page


def shown(group: dict) -> str:
    found = group["risks"]["fnr"]
    return f"{found['value']:.3f} ({found['interval'][0]:.3f}-{found['interval'][1]:.3f})"


def test_groups_of_a_column_that_is_shown_anyway_are_shown_as_they_were_asked_for(
    people: Command,
) -> None:
    for by in ("age", "age:50"):
        words = ("--by", by, "--alpha", 0.4, "--resplits", 0, "--overwrite", "--out", "o")
        assert people("s.csv", *words).code == 0
        level = strict_json(Path("o/report.json"))["levels"][0]
        assert list(level["groups"]) == [by, "sex", "view"]
        assert set(level["groups"][by]) <= set(level["threshold"])
        summary = [row for row in rows_of(Path("o/summary.csv")) if row["group"]]
        assert sum(row["fnr"] != "" for row in summary) == len(level["groups"][by])


def test_a_band_in_which_nobody_calibrated_is_refused_when_it_is_applied(people: Command) -> None:
    table = described_people()
    old = np.array([float(age or 0) >= 40 for age in table.attributes["age"]])
    write_scores(Path("old.csv"), table.take(old, [0, 1, 2, 3]))
    assert people("old.csv", "--by", "age:18,40", "--alpha", 0.2, *FEW).code == 0
    write_scores(Path("n.csv"), described_people(60, seed=5, first=1000))
    said = people("n.csv", "--apply", "o/thresholds.json", "--out", "a")
    assert said.code == 1 and not Path("a").exists()
    assert "no threshold is known for age 18 to under 40, not given, under 18" in said.err


def test_with_thresholds_by_class_no_promise_is_said_of_groups(people: Command) -> None:
    assert people("s.csv", "--per-class", "--alpha", 0.2, *FEW).code == 0
    page = Path("o/report.md").read_text(encoding="utf-8")
    assert "The promise is for each class by itself, not for a group." in page
    assert "for all together" not in page


def in_group(value: str, column: str, name: str) -> bool:
    if column != "age":
        return value == name
    if not value:
        return name == NOT_GIVEN
    ends = {
        "under 18": (0, 18),
        "18 to under 40": (18, 40),
        "40 to under 60": (40, 60),
        "60 to under 80": (60, 80),
        "80 and over": (80, 200),
        NOT_GIVEN: (0, 0),
    }
    low, high = ends[name]
    return low <= float(value) < high


def test_a_foreign_column_that_says_nothing_is_not_shown() -> None:
    table = described_people()
    table.attributes["age"][5] = "old"
    table.attributes["view"] = np.arange(len(table.image_names)).astype(str).astype(object)
    assert list(described(table)) == ["sex"]
    assert described(replace(table, attributes={})) == {}
