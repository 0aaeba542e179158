"""What levels of FNR and FDR cost at which AUC: mean sizes of the sets, the other risk, recall.

python -m benchmarks.levels --json levels.json

The labels are those of NIH's official test list where it lies in ../shared, else drawn. The scores
are made: binormal, the same AUC for each of the 15 classes, shifted by the prevalences so that they
are calibrated. Half of the patients calibrate, the others are judged; figures are by patient, means
over a few draws of scores and cuts.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks.resplits import IMAGES, PATIENTS, made
from benchmarks.tables import released
from chestxray.conformal.calibrate import Config, Rows, calibrate
from chestxray.conformal.metrics import prediction_sets, realised
from chestxray.conformal.resplits import cut_patients
from chestxray.data.entries import TEST_LIST, read_names
from chestxray.data.tables import read_table
from chestxray.labels import CLASSES

AREAS = (0.65, 0.74, 0.82, 0.90)
LEVELS = (("fnr", "0.1"), ("fnr", "0.2"), ("fdr", "0.4"), ("fdr", "0.5"), ("fdr", "0.6"))
FIGURES = ("size", "fnr", "fdr", "empty", "recall")
DRAWS = 5


def main() -> None:
    """Measure all levels at all areas, print them, and write them down where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()

    targets, patients, source = labels()
    print(f"{len(targets):,} images of {len(np.unique(patients)):,} patients, {source}")
    print(f"{'AUC':>5} {'asked':<10}" + "".join(f"{name:>8}" for name in FIGURES))
    found = []
    for area in AREAS:
        for risk, alpha in LEVELS:
            figures = cost(targets, patients, area, risk, alpha)
            found.append({"auc": area, "risk": risk, "alpha": float(alpha), "figures": figures})
            shown = "".join(f"{figures[name]:8.3f}" for name in FIGURES) if figures else "   none"
            print(f"{area:5.2f} {risk.upper()} {alpha:<6}{shown}")
    if args.json:
        report: dict[str, Any] = {"source": source, "draws": DRAWS, "levels": found}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def labels() -> tuple[np.ndarray, np.ndarray, str]:
    """(N, 15) labels and (N,) patients of the official test list, and what to call them."""
    there = released()
    if there is None:
        rows = made(IMAGES, PATIENTS, seed=0)
        return rows.targets, rows.patients, "drawn labels"
    table, lists, _ = there
    rows = read_table(table).rows
    rows = rows[rows["image"].isin(read_names(lists / TEST_LIST))]
    return rows[list(CLASSES)].to_numpy(), rows["patient"].to_numpy(), "NIH's official test list"


def binormal(targets: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """Calibrated scores whose AUC of each class is `area`."""
    apart = np.sqrt(2) * norm.ppf(area)  # of the means, in standard deviations
    prevalence = targets.mean(axis=0)
    drawn = rng.normal(size=targets.shape) + apart * targets
    logits = np.log(prevalence / (1 - prevalence)) + apart * drawn - apart**2 / 2
    return 1 / (1 + np.exp(-logits))


def cost(
    targets: np.ndarray, patients: np.ndarray, area: float, risk: str, alpha: str
) -> dict[str, float] | None:
    """Means of the realised figures over the draws; None where one certifies nothing."""
    choices = Config(risk=risk, method="crc" if risk == "fnr" else "ltt")
    names, codes = np.unique(patients, return_inverse=True)
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        rows = Rows(targets, binormal(targets, area, rng), patients, patients)
        calibrates = cut_patients(len(names), choices.cal_fraction, rng)[codes]
        level = calibrate(rows.take(calibrates), alpha, choices)
        if not level.certified:
            return None
        others = rows.take(~calibrates)
        sets = prediction_sets(others.scores, level)
        found.append(realised(others, sets, choices)["patient"])
    return {name: float(np.mean([figures[name] for figures in found])) for name in FIGURES}


if __name__ == "__main__":
    main()
