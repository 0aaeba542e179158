"""`make demo` from drawing to scores: minutes, so it runs with `make test-slow`."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from chestxray.labels import FINDINGS


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_learns_from_drawn_images_and_says_where_everything_lies(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "demo", f"DEMO_DATA={tmp_path}/drawn", f"DEMO_OUT={tmp_path}/out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    metrics = json.loads((tmp_path / "out/stage2_0001_06_test_metrics.json").read_text())
    rows = [metrics["classes"][name] for name in FINDINGS]
    areas = [row["auc"] for row in rows if row["positives"] >= 5]
    assert len(areas) >= 10
    assert np.mean(areas) > 0.75
    wrote = [line[6:] for line in done.stdout.splitlines() if line.startswith("wrote ")]
    assert [Path(name).is_file() for name in wrote[:2]] == [True, True]
    conformal = tmp_path / "out/stage2_0001_06_test_scores_fnr_crc"
    assert wrote[2].startswith(f"{conformal}/: thresholds.json, sets.csv, report.json, report.md")
    levels = json.loads((conformal / "thresholds.json").read_text())["levels"]
    assert [level["alpha"] for level in levels] == [0.1, 0.2]
    assert 0 < levels[0]["threshold"] < levels[1]["threshold"] < 1
    assert "drawn" in done.stdout
