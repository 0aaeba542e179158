"""`make demo` from drawing to risk control, stopped on its way: minutes, so it is marked slow."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, wait_until

from chestxray.labels import FINDINGS

STAGE_1, STAGE_2 = "stage1_0005_03.pth", "stage2_0001_04.pth"


def make(folder: Path, *words: str) -> "subprocess.Popen[str]":
    """make in a session of its own, so that a Ctrl-C can go to its whole group."""
    places = {"DATA": "drawn", "OUT": "out", "CACHE": "cache"}
    variables = [f"DEMO_{name}={folder / place}" for name, place in places.items()]
    # Not a part of the make that runs the tests.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.Popen(
        ["make", *words, *variables],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    wait_until(lambda: condition() or process.poll() is not None, seconds=900)
    assert condition(), process.communicate()


def stopped_by_ctrl_c(process: "subprocess.Popen[str]") -> str:
    """What it has printed."""
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    return printed


def ended_well(process: "subprocess.Popen[str]") -> str:
    """What it has printed."""
    printed, said = process.communicate(timeout=1500)
    assert process.returncode == 0, said
    return printed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_learns_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    drawn, out = tmp_path / "drawn", tmp_path / "out"
    process = make(tmp_path, "demo")
    wait_for(process, lambda: len(list((drawn / "images").glob("*.png"))) > 100)
    stopped_by_ctrl_c(process)
    assert not (drawn / "Data_Entry_2017.csv").exists()

    process = make(tmp_path, "demo")
    wait_for(process, (out / "last.pth").exists)
    printed = stopped_by_ctrl_c(process)
    assert "finishes it" in printed
    assert not (out / STAGE_1).exists()

    printed = ended_well(make(tmp_path, "demo"))
    print(printed)
    assert f"resuming from {out}/last.pth" in printed and "3,000 drawn images" not in printed
    assert_it_has_learned(out, printed)
    assert_images_from_elsewhere_have_sets(out / "elsewhere", printed)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    printed = ended_well(make(tmp_path, "demo"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "The demo is complete" in printed and str(out / STAGE_2) in printed
    assert "main.py" not in printed
    ended_well(make(tmp_path, "clean-demo"))
    assert not list(tmp_path.iterdir())


def assert_it_has_learned(out: Path, printed: str) -> None:
    """The mean AUC is good, files are where the output says, both levels are certified."""
    metrics = json.loads((out / STAGE_2.replace(".pth", "_test_metrics.json")).read_text())
    rows = [metrics["classes"][name] for name in FINDINGS]
    areas = [row["auc"] for row in rows if row["positives"] >= 5]
    assert len(areas) >= 10
    assert np.mean(areas) > 0.75
    wrote = [line[6:] for line in printed.splitlines() if line.startswith("wrote ")]
    assert [Path(name).is_file() for name in wrote[:2]] == [True, True]
    assert_nonempty_sets_are_controlled(
        out / STAGE_2.replace(".pth", "_test_scores_fdr_ltt_nonempty")
    )
    conformal = out / STAGE_2.replace(".pth", "_test_scores_fnr_crc")
    assert wrote[2].startswith(f"{conformal}/: thresholds.json, sets.csv, report.json, report.md")
    levels = json.loads((conformal / "thresholds.json").read_text())["levels"]
    assert [level["alpha"] for level in levels] == [0.1, 0.2]
    assert 0 < levels[0]["threshold"] < levels[1]["threshold"] < 1
    assert_the_fnr_counts_findings_alone(
        out / STAGE_2.replace(".pth", "_test_scores.csv"), conformal
    )
    assert "drawn" in printed


def assert_images_from_elsewhere_have_sets(folder: Path, printed: str) -> None:
    """Three images without labels, one of them DICOM as the extra is there; a line for each."""
    sets = pd.read_csv(folder / "sets.csv", keep_default_na=False)
    assert sets.groupby("alpha")["image"].nunique().tolist() == [3, 3]
    told = json.loads((folder / "predict.json").read_text())["read_as"]
    assert {kind: found["images"] for kind, found in told.items()} == {"DICOM": 1, "PNG": 2}
    shown = [line for line in printed.splitlines() if "(highest: " in line]
    assert [line.split()[0] for line in shown] == sets["image"].unique().tolist()


def assert_nonempty_sets_are_controlled(folder: Path) -> None:
    """Some levels are certified, with sets that are not all empty; their figure is there."""
    choices = json.loads((folder / "thresholds.json").read_text())["choices"]
    assert (choices["risk"], choices["empty"]) == (["fdr"], "drop")
    levels = json.loads((folder / "report.json").read_text())["levels"]
    certified = [level for level in levels if level["certified"]]
    assert len(certified) > 1 and (folder / "levels.png").is_file()
    assert all(level["realised"]["patient"]["empty"]["value"] < 0.9 for level in certified)


def assert_the_fnr_counts_findings_alone(scores: Path, conformal: Path) -> None:
    table = pd.read_csv(scores, dtype={"patient": str}).set_index("image")
    sets = pd.read_csv(conformal / "sets.csv", keep_default_na=False)
    assert not sets["set"].str.contains("No Finding").any()
    for level in json.loads((conformal / "report.json").read_text())["levels"]:
        judged = sets[(sets["role"] == "eval") & (sets["alpha"] == float(level["alpha"]))]
        missed = []
        for row in judged.itertuples():
            true = {name for name in FINDINGS if table.at[row.image, f"y_{name}"]}
            if true:
                missed.append(len(true - set(row.set.split("|"))) / len(true))
        assert level["realised"]["image"]["fnr"]["value"] == pytest.approx(np.mean(missed))


@pytest.mark.slow
def test_a_demo_stopped_in_stage_2_resumes_that_stage(tmp_path: Path) -> None:
    """With few images, and a save after each batch to wait for."""
    first, second, last = (tmp_path / "out" / name for name in (STAGE_1, STAGE_2, "last.pth"))
    words = (str(second), "DEMO_IMAGES=60", "DEMO_FLAGS=--save-minutes 0")
    process = make(tmp_path, *words)
    wait_for(process, lambda: first.exists() and first.samefile(last))
    wait_for(process, lambda: not first.samefile(last))
    assert "finishes it" in stopped_by_ctrl_c(process)
    before = first.stat()
    printed = ended_well(make(tmp_path, *words))
    assert f"resuming from {last}" in printed and "stage 2" not in printed.partition("resuming")[0]
    assert second.samefile(last) and first.stat() == before
