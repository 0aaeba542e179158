"""Study: what betting p-values gain over Hoeffding-Bentkus. Its table is in docs/performance.md.

python docs/pvalues.py --json pvalues.json

Labels and scores are made as in docs/levels.py, at one AUC. All patients are the population, whose
risk at each threshold is known; of them some are drawn to calibrate, again and again. The oracle
takes the least strict threshold of the grid whose risk in the population is at most alpha. Printed
are, over the population, the mean size of the sets and the share of all positive labels that they
find (micro recall), both 0 where nothing is certified; how many draws certify; and in how many the
risk is then above alpha, which is to be at most delta, 0.1.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # chestxray is not installed

from levels import draw_scores, read_labels  # noqa: E402

from benchmarks.harness import build_parser, write_json  # noqa: E402
from chestxray.conformal.calibrate import calibrate, loss_table  # noqa: E402
from chestxray.conformal.certificate import place_of  # noqa: E402
from chestxray.conformal.losses import labels_given  # noqa: E402
from chestxray.conformal.options import Config  # noqa: E402
from chestxray.conformal.rows import Rows  # noqa: E402

AUC, DRAWS = 0.82, 100
FDR = Config(risk=("fdr",), method="ltt")
NONEMPTY, MARGINAL = replace(FDR, empty="drop"), replace(FDR, risk=("mfdr",))
LEVELS = (  # and how many patients calibrate
    (FDR, "0.3", 300),
    (FDR, "0.5", 300),
    (NONEMPTY, "0.5", 300),
    (NONEMPTY, "0.6", 300),
    (NONEMPTY, "0.7", 300),
    (NONEMPTY, "0.6", 1000),
    (MARGINAL, "0.5", 300),
    (MARGINAL, "0.7", 300),
    (MARGINAL, "0.8", 300),
    (MARGINAL, "0.7", 1000),
)


@dataclass(frozen=True)
class Gain:
    """Means over the draws, or of the oracle.

    Attributes:
        size: of the sets, classes an image; a draw that certifies nothing counts as 0.
        recall: of all positive labels, the share found; likewise.
        certifies: share of the draws.
        violates: share of the draws in which the true risk is above alpha.
    """

    size: float
    recall: float
    certifies: float
    violates: float


@dataclass(frozen=True)
class Population:
    """Patients whose sets are known at every threshold of the grid.

    Attributes:
        rows: their images.
        sizes, recalls: (T,) over all images.
    """

    rows: Rows
    sizes: np.ndarray
    recalls: np.ndarray


def main() -> None:
    args = build_parser(__doc__).parse_args()
    targets, patients, source = read_labels()
    whole = population(targets, patients)
    print(f"{len(targets):,} images of {whole.rows.n_units:,} patients, {source}")
    print(f"{'asked':<34}{'':<7}" + "".join(f"{name:>10}" for name in Gain.__annotations__))
    found = []
    for config, alpha, n in LEVELS:
        gains = measure(whole, config, alpha, n)
        asked = f"{config.abbreviations} {alpha}, n {n}"
        found.append({"asked": asked, "alpha": float(alpha), "calibrating": n, "by": gains})
        for name, gain in gains.items():
            shown = "".join(f"{value:10.3f}" for value in vars(gain).values())
            print(f"{asked:<34}{name:<7}{shown}")
    write_json(args.json, {"source": source, "auc": AUC, "draws": DRAWS, "levels": found})


def population(targets: np.ndarray, patients: np.ndarray) -> Population:
    """Scores for all images, and what their sets hold."""
    scores = draw_scores(targets, AUC, np.random.default_rng(0))
    one_unit = np.zeros(len(targets), dtype=int)
    false, given = (shares[0] for shares in labels_given(targets, scores, one_unit))
    classes = targets.shape[1]
    rows = Rows(targets, scores, patients, patients)
    return Population(rows, classes * given, (given - false) / targets.mean())


def measure(whole: Population, config: Config, alpha: str, n: int) -> dict[str, Gain]:
    """What both p-values give over the same draws, and the oracle."""
    table = loss_table(whole.rows, config.target_risk)
    risks = table.steps()[1]
    names, codes = np.unique(whole.rows.patients, return_inverse=True)
    places: dict[str, list[int | None]] = {"hb": [], "wsr": []}
    for seed in range(DRAWS):
        drawn = np.zeros(len(names), dtype=bool)
        drawn[np.random.default_rng(seed).permutation(len(names))[:n]] = True
        rows = whole.rows.take(drawn[codes])
        for pvalue, found in places.items():
            threshold = calibrate(rows, alpha, replace(config, pvalue=pvalue)).threshold
            found.append(None if threshold is None else place_of(threshold))
    best = int(np.flatnonzero(risks <= float(alpha))[0])
    every = places | {"oracle": [best]}
    return {name: gain(whole, found, risks, float(alpha)) for name, found in every.items()}


def gain(whole: Population, places: list[int | None], risks: np.ndarray, alpha: float) -> Gain:
    """Mean over the draws, by the places of their thresholds in the grid."""
    certified = np.array([place for place in places if place is not None], dtype=int)
    return Gain(
        size=float(whole.sizes[certified].sum() / len(places)),
        recall=float(whole.recalls[certified].sum() / len(places)),
        certifies=len(certified) / len(places),
        violates=float((risks[certified] > alpha).sum() / len(places)),
    )


if __name__ == "__main__":
    main()
