"""The flags of the command: wrong usage, the rows that are used, the frontier, arrays."""

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import Command, chosen, drawn, rows_of, strict_json
from helpers import ROOT

from chestxray.scores import read_scores, write_scores

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
    "delta 1": (
        ("--alpha", 0.1, "--method", "rcps", "--delta", 1),
        "'1' is not a number above 0 and below 1",
    ),
    "fst begins at empty sets": (
        ("--risk", "fdr", "--alpha", 0.5, "--empty", 1, "--fwer", "fst"),
        "--fwer holm",
    ),
    "no alpha": ((), "--alpha"),
    "per class by ltt": (("--alpha", 0.5, "--risk", "fdr", "--per-class"), "--per-class"),
    "alpha with apply": (("--alpha", 0.5, "--apply", "t.json"), "--alpha"),
    "another seed with apply": (("--apply", "t.json", "--seed", 1), "--seed"),
    "frontier on the rows to calibrate": (("--alpha", 0.1, "--frontier"), "--frontier is for"),
    "confidence for delta": (("--alpha", 0.1, "--method", "ltt", "--delta", 0.95), "below 0.5"),
    "another risk with apply": (("--apply", "t.json", "--risk", "fdr"), "--risk"),
    "cal-fraction 0": (("--alpha", 0.1, "--cal-fraction", 0), "'0' is not"),
    "an unknown method": (("--alpha", 0.1, "--method", "CRC"), "invalid choice"),
    "delta of an expectation": (("--alpha", 0.1, "--delta", 0.05), "--delta goes with"),
    "fwer of another method": (("--alpha", 0.1, "--fwer", "holm"), "--fwer goes with"),
    "a scores file behind alpha": (("--alpha", 0.1, "s.csv"), "the scores stand before the flags"),
    "a flag near to one": (("--alfa", 0.1), "unknown argument --alfa; did you mean --alpha?"),
    "a flag far from all": (("--model", "resnet50"), "unknown argument --model (--help shows"),
    "a seed below 0": (("--alpha", 0.1, "--seed=-1"), "whole number"),
}


@pytest.mark.parametrize("what", WRONG_USAGE)
def test_wrong_usage_exits_2_in_one_line_and_writes_nothing(what: str, command: Command) -> None:
    words, message = WRONG_USAGE[what]
    said = command("s.csv", *words, "--out", "o")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1 and message in said.err
    assert not Path("o").exists()


def test_a_scores_file_swallowed_by_a_flag_is_asked_for(command: Command) -> None:
    said = command("--exclude", "Mass", "s.csv")
    assert said.code == 2 and "SCORES.csv is needed, before flags that take several" in said.err


def test_flags_may_have_underscores_like_those_of_main(command: Command) -> None:
    words = ("--alpha", 0.2, "--cal_fraction", 0.4, "--no_positive", "zero", "--resplits", 0)
    assert command("s.csv", *words, "--out", "o").code == 0
    assert strict_json(Path("o/thresholds.json"))["choices"]["cal_fraction"] == 0.4


def test_the_same_alpha_twice_gives_one_set_for_each_image(command: Command) -> None:
    said = command("s.csv", "--alpha", 0.2, "0.20", "--resplits", 0, "--out", "o")
    assert said.code in (0, 2)
    if said.code == 0:
        rows = [(row["image"], float(row["alpha"])) for row in rows_of(Path("o/sets.csv"))]
        assert len(rows) == len(set(rows))


def test_without_a_split_column_all_rows_are_used_and_it_says_so(command: Command) -> None:
    table = drawn()
    table.splits = None
    write_scores(Path("s.csv"), table)
    assert command("s.csv", "--alpha", 0.2, "--from", "val", "--out", "o").code == 1
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


def test_gz_and_other_peoples_classes_are_read(command: Command) -> None:
    table = drawn()
    table.classes, table.logits = ("dog", "old cat", "a/b", "ü"), None
    write_scores(Path("s.csv"), table)
    Path("theirs.csv.gz").write_bytes(gzip.compress(Path("s.csv").read_bytes()))
    assert command("theirs.csv.gz", "--alpha", 0.2, "--resplits", 3).code == 0
    rows = rows_of(Path("theirs_fnr_crc/sets.csv"))
    assert {name for row in rows for name in chosen(row)} == set(table.classes)


def test_another_seed_cuts_other_patients(command: Command) -> None:
    for seed in (0, 1):
        words = ("--alpha", 0.2, "--resplits", 0, "--seed", seed, "--out", f"o{seed}")
        assert command("s.csv", *words).code == 0
    roles = [[row["role"] for row in rows_of(Path(f"o{seed}/sets.csv"))] for seed in (0, 1)]
    assert roles[0] != roles[1]


def test_the_frontier_reads_val_and_writes_nothing(
    command: Command,
) -> None:
    table = drawn()
    table.splits[:] = "val"
    write_scores(Path("s.csv"), table)
    before = sorted(Path().iterdir())
    said = command("s.csv", "--frontier")
    assert said.code == 0 and sorted(Path().iterdir()) == before
    lines = said.out.splitlines()[2:]  # behind the classes, and No Finding
    assert lines.pop(0).startswith("FNR by crc on ")
    alphas = [line.split()[0] for line in lines[1:]]
    assert alphas == [f"{percent / 100:g}" for percent in range(5, 75, 5)]
    header, rows = lines[0].split(), [line.split() for line in lines[1:]]
    sizes = [float(row[header.index("size")]) for row in rows]
    misses = [float(row[header.index("FNR")]) for row in rows]
    assert sizes == sorted(sizes, reverse=True) and misses == sorted(misses)
    assert all(miss <= float(alpha) for miss, alpha in zip(misses, alphas, strict=True))


def test_the_frontier_of_fdr_says_where_nothing_is_certified(command: Command) -> None:
    write_scores(Path("s.csv"), drawn(20))
    said = command("s.csv", "--frontier", "--risk", "fdr", "--from", "test")
    assert said.code == 0 and len(said.out.splitlines()) == 18
    assert "certified" in said.out.splitlines()[4] and "nan" not in said.out


def test_npz_holds_the_arrays_of_the_papers_notebooks_and_whose_rows_they_are(
    command: Command,
) -> None:
    table = drawn()
    table.splits[table.patients >= "00000100"] = "val"
    write_scores(Path("s.csv"), table)
    assert command("s.csv", "--npz", "a.npz", "--from", "val").code == 0
    table = read_scores(Path("s.csv"))
    table = table.take(table.splits == "val", [0, 2, 3])  # without No Finding
    with np.load("a.npz", allow_pickle=False) as arrays:
        names = ["classes", "images", "labels", "patients", "sgmd", "split"]
        assert sorted(arrays) == names
        np.testing.assert_array_equal(arrays["sgmd"], table.scores)
        np.testing.assert_array_equal(arrays["labels"], table.targets)
        assert arrays["classes"].tolist() == ["Effusion", "Mass", "Hernia"]
        assert arrays["images"].tolist() == table.image_names.tolist()
        assert arrays["patients"].tolist() == table.patients.tolist()
        assert arrays["split"].tolist() == ["val"] * len(table.image_names)
        kinds = {name: arrays[name].dtype.kind for name in names}
    assert {name for name, kind in kinds.items() if kind == "U"} == set(names) - {"labels", "sgmd"}


def test_npz_of_a_file_without_patients_and_splits_says_so(command: Command) -> None:
    write_scores(Path("s.csv"), replace(drawn(), patients=None, splits=None))
    assert command("s.csv", "--npz", "a.npz", "--unit", "image").code == 0
    with np.load("a.npz", allow_pickle=False) as arrays:
        assert "patients" not in arrays
        assert arrays["split"].tolist() == [""] * len(arrays["images"])


def test_npz_spells_patients_as_the_file_does(command: Command) -> None:
    table = drawn(3)
    table.patients = np.array([f"Ä-{int(text)}" for text in table.patients], dtype=object)
    write_scores(Path("s.csv"), table)
    assert command("s.csv", "--npz", "a.npz").code == 0
    with np.load("a.npz", allow_pickle=False) as arrays:
        assert arrays["patients"].tolist() == table.patients.tolist()


def test_torch_is_never_and_matplotlib_late_imported(
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
