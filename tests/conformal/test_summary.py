"""The summary of all levels, the figures of every cut, and the formats of the plots."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformal_helpers import (
    COUNTED,
    RUNS,
    Command,
    drawn,
    plots,
    rows_of,
    strict_json,
    without_labels,
)

from chestxray.conformal.summary import escaped
from chestxray.scores import read_scores, write_scores

METRICS = ("fnr", "fdr", "fdr_nonempty", "empty", "size")
ODD = "50% of_A&B {c} $1 #2 ~^\\"  # every special character of LaTeX


def number(cell: str) -> float | None:
    return float(cell) if cell else None


def equal(row: dict[str, str], name: str, share: dict[str, Any] | None) -> bool:
    """Whether the cells of a metric are the very numbers of the report."""
    cells = [number(row[f"{name}{end}"]) for end in ("", "_low", "_high")]
    if share is None:
        return cells == [None, None, None]
    return cells == [share["value"], *(share["interval"] or (None, None))]


@pytest.mark.parametrize("name", [*RUNS])
def test_summary_csv_holds_the_very_numbers_of_the_report(
    name: str, runs: Callable[[str], Path]
) -> None:
    report = strict_json(runs(name) / "report.json")
    rows = [row for row in rows_of(runs(name) / "summary.csv") if not row.get("class")]
    assert len(rows) == len(report["levels"])
    for row, level in zip(rows, report["levels"], strict=True):
        threshold = None if isinstance(level["threshold"], dict) else level["threshold"]
        assert row["alpha"] == level["alpha"] and int(row["n"]) == level["n_units"]
        assert number(row["threshold"]) == threshold and number(row["bound"]) == level["bound"]
        realised = level["realised"][report["choices"]["unit"]]
        assert all(equal(row, metric, realised[metric]) for metric in METRICS)


def test_each_class_has_its_row_under_that_of_the_whole(runs: Callable[[str], Path]) -> None:
    (level,) = strict_json(runs("per-class") / "report.json")["levels"]
    whole, *classes = rows_of(runs("per-class") / "summary.csv")
    assert whole["class"] == whole["threshold"] == "" and whole["size"]
    assert [row["class"] for row in classes] == list(COUNTED)
    for row in classes:
        assert number(row["threshold"]) == level["threshold"][row["class"]]
        assert int(row["n"]) == level["units_of_each"][row["class"]]
        recall = level["classes"][row["class"]]["patient"]["recall"]
        ends = [1 - end for end in reversed(recall["interval"])]
        assert equal(row, "fnr", {"value": 1 - recall["value"], "interval": ends})
        assert all(equal(row, metric, None) for metric in METRICS[1:])


def with_groups(patients: int = 200) -> None:
    table = drawn(patients)
    odd = np.array([int(patient) % 3 == 0 for patient in table.patients])
    groups = {"sex": np.where(odd, "F", "M").astype(object), "site": np.where(odd, ODD, "x")}
    write_scores(Path("s.csv"), replace(table, attributes=groups))


def test_each_group_has_its_row_with_its_realised_risk(command: Command) -> None:
    with_groups()
    words = ("--by", "sex", "--alpha", 0.2, 0.3, "--resplits", 5, "--out", "o")
    assert command("s.csv", *words).code == 0
    levels = strict_json(Path("o/report.json"))["levels"]
    rows = rows_of(Path("o/summary.csv"))
    assert [row["group"] for row in rows] == 2 * ["", "F", "M"]
    for row in (row for row in rows if row["group"]):
        level = next(level for level in levels if level["alpha"] == row["alpha"])
        assert number(row["threshold"]) == level["threshold"][row["group"]]
        assert int(row["n"]) == level["units_of_each"][row["group"]]
        assert equal(row, "fnr", level["groups"]["sex"][row["group"]]["risks"]["fnr"])
    cuts = rows_of(Path("o/resplits.csv"))
    assert list(cuts[0]) == ["alpha", "cut", "group", "threshold", "fnr"]
    assert len(cuts) == 2 * 2 * 5
    assert "groups_0.2.png" in {path.name for path in Path("o").iterdir()}


def test_what_is_not_certified_has_its_row_and_its_reason(command: Command) -> None:
    words = ("--alpha", 0.001, 0.3, "--resplits", 2, "--out", "o")
    assert command("s.csv", *words).code == 0
    none, some = rows_of(Path("o/summary.csv"))
    assert none["alpha"] == "0.001" and none["n"] == some["n"]
    assert not any(cell for name, cell in none.items() if name not in ("alpha", "n"))
    text = Path("o/summary.tex").read_text(encoding="utf-8")
    assert_structure(text)
    reason = strict_json(Path("o/report.json"))["levels"][0]["reason"]
    assert f"$\\alpha = 0.001$: nothing is certified, {reason}." in text
    assert f"0.001 & -- & {none['n']} & -- & -- &" in text
    assert not list(Path("o").glob("levels*"))  # of one level there is nothing to compare


def test_both_levels_of_a_joint_control_are_one_text(command: Command) -> None:
    words = ("--risk", "fnr", "fdr", "--alpha", 0.4, 0.8, "--resplits", 3, "--out", "o")
    assert command("s.csv", *words).code == 0
    (row,) = rows_of(Path("o/summary.csv"))
    cuts = rows_of(Path("o/resplits.csv"))
    assert row["alpha"] == "0.4 0.8" and len(cuts) == 3
    assert list(cuts[0]) == ["alpha", "cut", "threshold", "fnr", "fdr"]
    text = Path("o/summary.tex").read_text(encoding="utf-8")
    assert "$\\alpha$ (FNR, FDR)" in text and "\n0.4, 0.8 & " in text
    assert not list(Path("o").glob("levels*"))
    assert_structure(text)


def test_the_marginal_rate_has_columns_where_it_is_controlled(command: Command) -> None:
    words = ("--risk", "mfdr", "--alpha", 0.7, "--resplits", 0, "--out", "o")
    assert command("s.csv", *words).code == 0
    (row,) = rows_of(Path("o/summary.csv"))
    (level,) = strict_json(Path("o/report.json"))["levels"]
    assert equal(row, "mfdr", level["realised"]["patient"]["mfdr"])
    assert not Path("o/resplits.csv").exists()


def assert_structure(text: str) -> None:
    """A table environment with a tabular of equally long rows, its special characters escaped."""
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    assert text.index("\\begin{table}") < text.index("\\begin{tabular}")
    rules = [text.index(rule) for rule in ("\\toprule", "\\midrule", "\\bottomrule")]
    assert rules == sorted(rules) and text.count("rule\n") == 3
    body = text.split("\\toprule\n")[1].split("\\bottomrule")[0].replace("\\midrule\n", "")
    (spec,) = re.findall(r"\\begin\{tabular\}\{([lrc]+)\}", text)
    for line in body.splitlines():
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(spec) - 1
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#~]", plain)
    bare = re.sub(r"\\[{}]", "", plain)
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"(?<!\\)\$", plain)) % 2 == 0
    assert not re.search(r"(?<!\\)[_^]", re.sub(r"\$[^$]*\$", "", plain.replace(r"\$", "")))


def compiled(path: Path) -> None:
    """Compile a document that has the table, where a TeX is at hand."""
    programs = [shutil.which(name) for name in ("tectonic", "pdflatex")]
    program = next(filter(None, programs), None)
    if program is None:
        return
    path.with_name("paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{summary.tex}"
        "\\end{document}\n",
        encoding="utf-8",
    )
    quiet = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in program else []
    subprocess.run([program, *quiet, "paper.tex"], cwd=path.parent, check=True, timeout=200)


@pytest.mark.parametrize("name", ["crc", "rcps", "per-class", "holm"])
def test_summary_tex_is_a_table(name: str, runs: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copy(runs(name) / "summary.tex", tmp_path)
    text = (tmp_path / "summary.tex").read_text(encoding="utf-8")
    assert_structure(text)
    compiled(tmp_path / "summary.tex")
    digest = strict_json(runs(name) / "thresholds.json")["sha256"]
    assert text.startswith(f"% of 's.csv', SHA-256 {digest}\n")
    said = re.search(r"\\caption\{(.*)\}\n\\label\{tab:[A-Za-z0-9-]+\}", text)[1]
    parts = [RISK_AND_METHOD[name], "of 100 patients", "the unit is the patient", "95 \\%"]
    assert all(part in said for part in parts), said


RISK_AND_METHOD = {
    "crc": "FNR control of s.csv by CRC. Each level alone, the promise holds in expectation over",
    "rcps": "FNR control of s.csv by RCPS. Each level alone, the promise holds with probability at "
    "least 0.8",
    "per-class": "FNR control of s.csv by CRC. Each level alone, each class by itself, the promise",
    "holm": "FDR control of s.csv by LTT. Each level alone, the promise holds with probability at "
    "least 0.7",
}


def test_the_table_rounds_and_puts_intervals_below(runs: Callable[[str], Path]) -> None:
    text = (runs("crc") / "summary.tex").read_text(encoding="utf-8")
    for level in strict_json(runs("crc") / "report.json")["levels"]:
        shares = [level["realised"]["patient"][metric] for metric in METRICS]
        values = " & ".join(f"{share['value']:.3f}" for share in shares)
        ends = [share["interval"] for share in shares]
        below = " & ".join(f"{{\\scriptsize [{low:.3f}, {high:.3f}]}}" for low, high in ends)
        own = f"{level['threshold']:.3g} & {level['n_units']} & {level['bound']:.3g}"
        assert f"\n{level['alpha']} & {own} & {values} \\\\\n &  &  &  & {below} \\\\\n" in text


def test_special_characters_are_escaped(command: Command, tmp_path: Path) -> None:
    with_groups()
    Path("s.csv").rename("a_b%c&d.csv")
    words = ("--by", "site", "--alpha", 0.3, "--resplits", 0, "--out", "o")
    assert command("a_b%c&d.csv", *words).code == 0
    text = Path("o/summary.tex").read_text(encoding="utf-8")
    assert escaped(ODD) in text and ODD not in text and r"a\_b\%c\&d.csv" in text
    assert escaped(ODD) == (
        r"50\% of\_A\&B \{c\} \$1 \#2 \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escaped("p >= 1|<") == r"p \textgreater{}= 1\textbar{}\textless{}"
    assert_structure(text)
    compiled(tmp_path / "o/summary.tex")


def test_a_tiny_p_value_is_a_power_of_ten(command: Command) -> None:
    words = ("--risk", "fdr", "--fwer", "holm", "--alpha", 0.9, "--resplits", 0, "--out", "o")
    assert command("s.csv", *words).code == 0
    bound = strict_json(Path("o/report.json"))["levels"][0]["bound"]
    digits, power = f"{bound:.3g}".split("e-")
    text = Path("o/summary.tex").read_text(encoding="utf-8")
    assert f"& ${digits}\\cdot10^{{-{int(power)}}}$ &" in text


def test_an_application_to_labelled_rows_has_a_summary(command: Command) -> None:
    write_scores(Path("new.csv"), drawn(100, seed=3, first=5000))
    without_labels(Path("new.csv"), Path("plain.csv"))
    assert command("s.csv", "--alpha", 0.2, 0.3, "--resplits", 3, "--out", "o").code == 0
    for name in ("new", "plain"):
        assert command(f"{name}.csv", "--apply", "o/thresholds.json").code == 0
    report = strict_json(Path("o/applied_new/report.json"))
    rows = rows_of(Path("o/applied_new/summary.csv"))
    for row, level in zip(rows, report["levels"], strict=True):
        assert number(row["threshold"]) == level["threshold"]
        assert all(equal(row, name, level["realised"]["patient"][name]) for name in METRICS)
    text = Path("o/applied_new/summary.tex").read_text(encoding="utf-8")
    assert_structure(text)
    assert report["applied"]["scores_sha256"] in text and report["plots"] == []
    assert r"thresholds.json applied to new.csv." in text
    assert not list(Path("o/applied_plain").glob("summary*"))


def test_where_rows_name_no_patients_images_stand_for_them(command: Command) -> None:
    assert command("s.csv", "--alpha", 0.3, "--resplits", 0, "--out", "o").code == 0
    with_groups(patients=100)
    table = replace(read_scores(Path("s.csv")), patients=None)
    table.image_names[:] = [f"new_{name}" for name in table.image_names]
    write_scores(Path("new.csv"), table)
    assert command("new.csv", "--apply", "o/thresholds.json").code == 0
    (level,) = strict_json(Path("o/applied_new/report.json"))["levels"]
    (row,) = rows_of(Path("o/applied_new/summary.csv"))
    assert all(equal(row, name, level["realised"]["image"][name]) for name in METRICS)
    text = Path("o/applied_new/summary.tex").read_text(encoding="utf-8")
    assert "are means by image; in brackets 95 \\% intervals of a bootstrap over images" in text


def test_a_promise_that_is_taken_back_is_not_in_the_caption(command: Command) -> None:
    words = ("--alpha", 0.3, "--resplits", 0, "--out", "o")
    assert command("s.csv", *words).code == 0
    assert "does not hold" not in Path("o/summary.tex").read_text(encoding="utf-8")
    assert command("s.csv", "--apply", "o/thresholds.json").code == 0
    text = Path("o/applied_s/summary.tex").read_text(encoding="utf-8")
    assert "The promise does not hold for these rows." in text


@pytest.mark.parametrize("name", ["crc", "rcps", "fst", "per-class"])
def test_the_cuts_are_those_that_the_report_sums_up(name: str, runs: Callable[[str], Path]) -> None:
    report, rows = strict_json(runs(name) / "report.json"), rows_of(runs(name) / "resplits.csv")
    (risk,) = report["choices"]["risk"]
    for level in report["levels"]:
        own = [row for row in rows if row["alpha"] == level["alpha"]]
        found = level["resplits"].get("parts", {None: level["resplits"]})
        for part, summed in found.items():
            cuts = [row for row in own if row.get("class") == part]
            assert [int(row["cut"]) for row in cuts] == [1, 2, 3, 4, 5]
            risks = [float(row[risk]) for row in cuts if row[risk]]
            assert len(risks) == summed["certified"]
            if risks:
                assert np.mean(risks) == pytest.approx(summed["mean"], abs=1e-12)
            if name != "per-class":
                assert all(bool(row["threshold"]) == bool(row[risk]) for row in cuts)


@pytest.mark.parametrize("formats", [("svg",), ("pdf",), ("pdf", "svg"), ("png", "svg", "png")])
def test_plots_are_written_in_the_chosen_formats(formats: tuple, command: Command) -> None:
    words = ("--alpha", 0.2, 0.3, "--resplits", 2, "--out", "o")
    assert command("s.csv", *words, "--format", *formats).code == 0
    written = {path.name for path in Path("o").iterdir()}
    expected = plots(0.2, 0.3, formats=formats)
    assert {name for name in written if name.endswith((".png", ".pdf", ".svg"))} == expected
    report = strict_json(Path("o/report.json"))
    named = [*report["plots"], *(name for level in report["levels"] for name in level["plots"])]
    assert sorted(named) == sorted(expected) and "format" not in report["choices"]
    page = Path("o/report.md").read_text(encoding="utf-8")
    best = next(kind for kind in ("png", "svg", "pdf") if kind in formats)
    links = set(re.findall(r"(!?)\[[^]]+\]\(([^)]+)\)", page))
    mark = "" if best == "pdf" else "!"
    assert links == {(mark, name) for name in plots(0.2, 0.3, formats=[best])}


def test_other_formats_are_the_same_calibration_and_replace_the_plots(command: Command) -> None:
    words = ("--alpha", 0.2, 0.3, "--resplits", 2, "--out", "o")
    assert command("s.csv", *words, "--format", "png", "pdf", "svg").code == 0
    assert command("s.csv", *words, "--format", "svg").code == 0
    left = {path.suffix for path in Path("o").iterdir()}
    assert not left & {".png", ".pdf"} and Path("o/levels.svg").exists()
    assert command("s.csv", *words).code == 0
    default = {path.name: path.read_bytes() for path in Path("o").iterdir()}
    assert command("s.csv", *words[:-1], "fresh").code == 0
    assert default == {path.name: path.read_bytes() for path in Path("fresh").iterdir()}


def test_fonts_of_a_pdf_can_be_edited_and_no_date_is_in_it(runs: Callable[[str], Path]) -> None:
    content = (runs("crc") / "levels.pdf").read_bytes()
    assert b"/TrueType" in content or b"/CIDFontType2" in content
    assert b"/Type3" not in content and b"/CreationDate" not in content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--alpha", 0.3, "--format", "gif"), "invalid choice: 'gif'"),
        (("--apply", "t.json", "--format", "png"), "leave --format out"),
    ],
)
def test_wrong_formats_are_refused(words: tuple, message: str, command: Command) -> None:
    said = command("s.csv", *words)
    assert said.code == 2 and message in said.err and said.err.count("\n") == 1
