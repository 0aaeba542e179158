"""The benchmarks of speed run and write what they say; their figures are not judged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT


def written(tmp_path: Path, *words: str) -> dict:
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", *words, "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content: dict = json.loads(path.read_text(encoding="utf-8"))
    assert {"cpu", "cores", "torch", "date"} <= content["machine"].keys()
    return content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["training", "evaluation"])
def test_a_race_writes_its_two_ratios(tmp_path: Path, name: str) -> None:
    words = ("--images", "32", "--rounds", "2")
    content = written(tmp_path, f"benchmarks.{name}", *words)
    speeds = {k: v["images_per_second"] for k, v in content["contestants"].items()}
    assert all(len(values) == 2 and min(values) > 0 for values in speeds.values())
    for key, below in (("project_over_plain", "plain"), ("project_over_ceiling", "ceiling")):
        pairs = zip(speeds["project"], speeds[below], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        assert content[key] == pytest.approx(sum(ratios) / 2)  # the median of two


@pytest.mark.slow
def test_the_stages_are_timed_with_their_maps_kept(tmp_path: Path) -> None:
    stages = written(tmp_path, "benchmarks.stages", "--images", "40")["stages"]
    assert list(stages) == ["1", "2", "3", "4"]
    assert all("is kept" in stages[number]["kept"] for number in "234")
    assert all(
        stages[number]["times_stage_1"]
        == pytest.approx(np.median(stages["1"]["epochs"]) / np.median(stages[number]["epochs"]))
        for number in "1234"
    )


@pytest.mark.slow
def test_what_keeping_an_epoch_costs_is_a_share_of_the_epoch(tmp_path: Path) -> None:
    words = ("--images", "32", "--rounds", "3")
    content = written(tmp_path, "benchmarks.saving", *words)
    shares = [s / e for s, e in zip(content["saves"], content["epochs"], strict=True)]
    assert content["share"] == pytest.approx(sorted(shares)[1])
    assert 0 < content["share"] < 1


@pytest.mark.slow
def test_the_efficiency_of_two_processes_is_of_their_speed_over_twice_that_of_one(
    tmp_path: Path,
) -> None:
    content = written(tmp_path, "benchmarks.processes", "--images", "32", "--rounds", "1")
    (one,), *_, (two,) = content["images_per_second"].values()
    assert content["efficiency"]["torchrun, 2 processes"] == pytest.approx(two / (2 * one))


@pytest.mark.slow
def test_speeds_are_given_for_each_batch_size(tmp_path: Path) -> None:
    words = ("--images", "36", "--batches", "32", "36")
    found = written(tmp_path, "benchmarks.batches", *words)["found"]
    whats = ["stage 1", "everything trains", "scoring"]
    assert [row["what"] for row in found] == 2 * whats
    assert [row["batch"] for row in found] == 3 * [32] + 3 * [36]
    assert all(row["images_per_second"] > 0 for row in found)
