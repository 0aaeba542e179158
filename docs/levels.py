"""Study: the cost of levels of FNR and FDR at which AUC. Its table is in docs/risk-control.md.

python docs/levels.py --json levels.json

Printed are the mean size of the sets, both risks, the share of empty sets, and recall. The labels
are those of NIH's official test list if it lies in ../shared, otherwise drawn. The scores are made:
binormal, the same AUC for each of the 14 findings, shifted by the prevalences so that they are
calibrated. Half of the patients calibrate, the others evaluate; metrics are by patient, means over
a few draws of scores and cuts.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # chestxray is not installed

from benchmarks.harness import build_parser, write_json  # noqa: E402
from benchmarks.resplits import IMAGES, PATIENTS, make_rows  # noqa: E402
from benchmarks.tables import find_released_table  # noqa: E402
from chestxray.conformal.calibrate import calibrate  # noqa: E402
from chestxray.conformal.certificate import prediction_sets  # noqa: E402
from chestxray.conformal.metrics import realised  # noqa: E402
from chestxray.conformal.options import Config  # noqa: E402
from chestxray.conformal.resplits import cut_patients  # noqa: E402
from chestxray.conformal.rows import Rows  # noqa: E402
from chestxray.data.entries import TEST_LIST, read_names  # noqa: E402
from chestxray.data.tables import read_table  # noqa: E402
from chestxray.labels import FINDINGS  # noqa: E402

AUCS = (0.65, 0.74, 0.82, 0.90)
LEVELS = (("fnr", "0.1"), ("fnr", "0.2"), ("fdr", "0.4"), ("fdr", "0.5"), ("fdr", "0.6"))
METRICS = ("size", "fnr", "fdr", "empty", "recall")
DRAWS = 5


def main() -> None:
    args = build_parser(__doc__).parse_args()
    targets, patients, source = read_labels()
    print(f"{len(targets):,} images of {len(np.unique(patients)):,} patients, {source}")
    print(f"{'AUC':>5} {'asked':<10}" + "".join(f"{name:>8}" for name in METRICS))
    found = []
    for auc in AUCS:
        for risk, alpha in LEVELS:
            metrics = measure(targets, patients, auc, risk, alpha)
            found.append({"auc": auc, "risk": risk, "alpha": float(alpha), "metrics": metrics})
            shown = "".join(f"{metrics[name]:8.3f}" for name in METRICS) if metrics else "   none"
            print(f"{auc:5.2f} {risk.upper()} {alpha:<6}{shown}")
    write_json(args.json, {"source": source, "draws": DRAWS, "levels": found})


def read_labels() -> tuple[np.ndarray, np.ndarray, str]:
    """Return (N, 14) labels and (N,) patients of the official test list, and a name for them."""
    released = find_released_table()
    if released is None:
        rows = make_rows(IMAGES, PATIENTS, seed=0)
        return rows.targets[:, : len(FINDINGS)], rows.patients, "drawn labels"
    table, lists, _ = released
    entries = read_table(table).rows
    entries = entries[entries["image"].isin(read_names(lists / TEST_LIST))]
    labels, patients = entries[list(FINDINGS)].to_numpy(), entries["patient"].to_numpy()
    return labels, patients, "NIH's official test list"


def draw_scores(targets: np.ndarray, auc: float, rng: np.random.Generator) -> np.ndarray:
    """Draw calibrated binormal scores with this AUC for each class."""
    distance = np.sqrt(2) * norm.ppf(auc)  # of the means, in standard deviations
    prevalence = targets.mean(axis=0)
    drawn = rng.normal(size=targets.shape) + distance * targets
    logits = np.log(prevalence / (1 - prevalence)) + distance * drawn - distance**2 / 2
    return 1 / (1 + np.exp(-logits))


def measure(
    targets: np.ndarray, patients: np.ndarray, auc: float, risk: str, alpha: str
) -> dict[str, float] | None:
    """Mean the realised metrics over the draws; None if one of them certifies nothing."""
    config = Config(risk=(risk,), method="crc" if risk == "fnr" else "ltt")
    names, codes = np.unique(patients, return_inverse=True)
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        rows = Rows(targets, draw_scores(targets, auc, rng), patients, patients)
        calibrates = cut_patients(len(names), config.cal_fraction, rng)[codes]
        certificate = calibrate(rows.take(calibrates), alpha, config)
        if not certificate.certified:
            return None
        others = rows.take(~calibrates)
        sets = prediction_sets(others, certificate)
        found.append(realised(others, sets, config, resamples=0)["patient"].estimates())
    return {name: float(np.mean([metrics[name].value for metrics in found])) for name in METRICS}


if __name__ == "__main__":
    main()
