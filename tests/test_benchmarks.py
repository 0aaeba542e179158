"""The benchmarks run and write what they measure; the results themselves are not judged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from chestxray.phantom import draw_dataset

# A benchmark starts up to seven processes, one after the other; a busy core takes five minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MACHINE = {"cpu", "cores", "torch", "date"}


def run_benchmark(tmp_path: Path, *words: str) -> dict:
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", *words, "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content: dict = json.loads(path.read_text(encoding="utf-8"))
    assert content["machine"].keys() >= MACHINE
    return content


def test_network_writes_the_ratios_of_its_two_parts(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", 32, size=64)
    words = ("--images", "32", "--rounds", "2", "--data_path", str(tmp_path / "drawn"))
    content = run_benchmark(tmp_path, "benchmarks.network", *words)
    for name in ("training", "evaluation"):
        part = content[name]
        assert part["machine"].keys() >= MACHINE
        speeds = {k: v["images_per_second"] for k, v in part["contestants"].items()}
        assert all(len(values) == 2 and min(values) > 0 for values in speeds.values())
        for key, below in (("project_over_plain", "plain"), ("project_over_ceiling", "ceiling")):
            pairs = zip(speeds["project"], speeds[below], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs]
            assert part[key] == pytest.approx(sum(ratios) / 2)  # the median of two
            assert part["ratios"][key]["max"] == pytest.approx(max(ratios))


def test_stages_are_timed_with_their_maps_kept(tmp_path: Path) -> None:
    stages = run_benchmark(tmp_path, "benchmarks.stages", "--images", "10")["stages"]
    assert list(stages) == ["1", "2", "3", "4"]
    assert all("is kept" in stages[number]["kept"] for number in "234")
    assert all(
        stages[number]["times_stage_1"]
        == pytest.approx(np.median(stages["1"]["epochs"]) / np.median(stages[number]["epochs"]))
        for number in "1234"
    )


def test_cost_of_saving_is_a_share_of_the_epoch(tmp_path: Path) -> None:
    content = run_benchmark(tmp_path, "benchmarks.saving", "--images", "8", "--rounds", "3")
    shares = [s / e for s, e in zip(content["saves"], content["epochs"], strict=True)]
    assert content["share"] == pytest.approx(sorted(shares)[1])
    assert 0 < content["share"] < 1


def test_efficiency_of_two_processes_is_over_twice_one(tmp_path: Path) -> None:
    words = ("benchmarks.processes", "--images", "32", "--rounds", "1")
    content = run_benchmark(tmp_path, *words)
    (one,), *_, (two,) = content["images_per_second"].values()
    assert content["efficiency"]["torchrun, 2 processes"] == pytest.approx(two / (2 * one))


def test_speeds_are_given_for_each_batch_size(tmp_path: Path) -> None:
    words = ("benchmarks.batches", "--images", "4", "--batches", "2", "4")
    found = run_benchmark(tmp_path, *words)["found"]
    whats = ["stage 1", "everything trains", "scoring"]
    assert [row["what"] for row in found] == 2 * whats
    assert [row["batch"] for row in found] == 3 * [2] + 3 * [4]
    assert all(row["images_per_second"] > 0 for row in found)


def test_predict_is_timed_against_the_test_of_the_same_images(tmp_path: Path) -> None:
    content = run_benchmark(tmp_path, "benchmarks.predict", "--images", "32", "--rounds", "1")
    (test,), (predict,) = content["images_per_second"].values()
    assert content["predict_over_test"]["median"] == pytest.approx(predict / test)
