"""Time of 1,000 re-splits of a scores file of the official test's size, and MAPIE for one.

python -m benchmarks.resplits --json resplits.json

The scores are made: 25,596 images of 2,797 patients, 15 classes. Each method runs in its own
process, so that the peak memory is its own; on one core, as far as the libraries allow. MAPIE
searches a grid of 100 thresholds in a Python loop. LTT is measured with our 1,000 thresholds, as in
the command, and with MAPIE's 100; CRC needs no grid. Ratios are medians over pairs that are run
one after the other.
"""

import multiprocessing
import os
import resource
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ONE_CORE = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
os.environ |= ONE_CORE  # before NumPy is imported

import numpy as np  # noqa: E402

from benchmarks.harness import Spread, build_parser, ratios, seconds, write_json  # noqa: E402
from chestxray.conformal import (  # noqa: E402
    GRID,
    crc_threshold,
    false_discovery_rates,
    hoeffding_bentkus_p_values,
    holm,
)
from chestxray.conformal.options import Config  # noqa: E402
from chestxray.conformal.resplits import resplit  # noqa: E402
from chestxray.conformal.rows import Rows  # noqa: E402

IMAGES, PATIENTS, CLASSES, TIMES = 25_596, 2_797, 15, 1_000
MOST = 184  # images of one patient in the official test list
N_MAPIE, REPEATS, ALPHA, DELTA = 2_000, 5, {"crc": "0.1", "rcps": "0.1", "ltt": "0.5"}, 0.1
SECONDS = {"crc": 10.0, "ltt": 10.0, "rcps": 60.0}  # promised at most
MEBIBYTES = 1024.0  # promised at most
RATIOS = {"crc": 500.0, "ltt": 100.0, "ltt_on_mapies_grid": 100.0}  # promised at least


@dataclass(frozen=True)
class Resplits:
    """Cost of all re-splits by one method, in a process of their own, and the mean risk."""

    seconds: float
    seconds_promised: float
    peak_mebibytes: float
    peak_mebibytes_promised: float
    certified: int
    mean_risk: float


@dataclass(frozen=True)
class Comparison:
    """Median seconds of one threshold, and the ratios within pairs."""

    seconds_ours: float
    seconds_mapie: float
    ratio: float
    ratio_min: float
    ratio_max: float
    ratio_promised: float


def main() -> None:
    args = build_parser(__doc__).parse_args()
    print(f"{TIMES:,} re-splits by patient: {IMAGES:,} x {CLASSES}, {PATIENTS:,} patients")
    resplits = {method: measure_in_process(method) for method in SECONDS}
    for method, found in resplits.items():
        print(
            f"{method:<5} {found.seconds:6.2f} s (promised: under {SECONDS[method]:.0f} s), "
            f"peak {found.peak_mebibytes:,.0f} MiB (promised: under {MEBIBYTES:,.0f}), "
            f"mean realised risk {found.mean_risk:.4f} at alpha {ALPHA[method]}"
        )
    print(f"one threshold at n = {N_MAPIE:,}, {REPEATS} pairs, median")
    comparisons = compare_with_mapie()
    for method, pair in comparisons.items():
        print(
            f"{method:<23} ours {1000 * pair.seconds_ours:8.3f} ms, MAPIE "
            f"{pair.seconds_mapie:6.2f} s, ratio {pair.ratio:,.0f} "
            f"({pair.ratio_min:,.0f}-{pair.ratio_max:,.0f}; promised: at least "
            f"{pair.ratio_promised:.0f})"
        )
    content = {
        "images": IMAGES,
        "patients": PATIENTS,
        "classes": CLASSES,
        "times": TIMES,
        "resplits": resplits,
        "n_mapie": N_MAPIE,
        "repeats": REPEATS,
        "mapie": comparisons,
    }
    write_json(args.json, content)


def make_rows(images: int, patients: int, seed: int) -> Rows:
    """Make scores of AUC near 0.74 with a positive class in every image."""
    rng = np.random.default_rng(seed)
    extra = np.minimum(rng.geometric(patients / images, size=10 * patients), MOST - 1)
    sizes = np.ones(patients, dtype=int)
    for index, more in enumerate(extra):  # until all images have a patient
        left = images - sizes.sum()
        sizes[index % patients] += min(more, left, MOST - sizes[index % patients])
    owners = np.repeat(np.arange(patients), sizes)
    shared = rng.normal(size=(patients, CLASSES))[owners]  # by the images of a patient
    truth = rng.normal(np.linspace(-4, -1.5, CLASSES), 1.0, size=shared.shape) + shared
    targets = (rng.uniform(size=truth.shape) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    targets[~targets.any(axis=1), -1] = 1  # No Finding is a class too
    scores = 1 / (1 + np.exp(-(truth + rng.normal(size=truth.shape)).astype(np.float32)))
    names = np.char.zfill(owners.astype(str), 8).astype(object)
    return Rows(targets, scores.astype(np.float64), names, names)


def measure_in_process(method: str) -> Resplits:
    """Run measure_resplits alone in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_resplits, (method,))


def measure_resplits(method: str) -> Resplits:
    """Measure all re-splits by one method, and the peak memory of the whole process."""
    rows = make_rows(IMAGES, PATIENTS, seed=0)
    risk = "fdr" if method == "ltt" else "fnr"
    config = Config(risk=(risk,), method=method, delta=DELTA, resplits=TIMES)
    found: list[np.ndarray] = []
    elapsed = seconds(lambda: found.append(resplit(rows, ALPHA[method], config).risks[risk]))
    return Resplits(
        seconds=elapsed,
        seconds_promised=SECONDS[method],
        peak_mebibytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        peak_mebibytes_promised=MEBIBYTES,
        certified=int((~np.isnan(found[0])).sum()),
        mean_risk=float(np.nanmean(found[0])),
    )


def compare_with_mapie() -> dict[str, Comparison]:
    """Compare one threshold by us and by MAPIE, by method."""
    rows = make_rows(N_MAPIE, N_MAPIE, seed=1)
    crc, ltt = (1 - float(ALPHA[method]) for method in ("crc", "ltt"))
    precision = mapie(rows, "precision", ltt, method="ltt", confidence_level=1 - DELTA)
    pairs = {
        "crc": (
            lambda: crc_threshold(rows.targets, rows.scores, np.arange(N_MAPIE), ALPHA["crc"]),
            mapie(rows, "recall", crc),
        ),
        "ltt": (our_ltt(rows, GRID), precision),
        "ltt_on_mapies_grid": (our_ltt(rows, np.arange(0, 1, 0.01)), precision),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MAPIE's, of empty sets
        return {method: compare(*pair, RATIOS[method]) for method, pair in pairs.items()}


def mapie(rows: Rows, risk: str, target_level: float, **options: Any) -> Callable[[], object]:
    from mapie.risk_control import MultiLabelClassificationController

    return lambda: MultiLabelClassificationController(
        predict_function=lambda x: x, risk=risk, target_level=target_level, **options
    ).calibrate(rows.scores, rows.targets)


def our_ltt(rows: Rows, grid: np.ndarray) -> Callable[[], object]:
    one_unit = np.zeros(N_MAPIE, dtype=int)  # with all images: its loss is their mean

    def search() -> object:
        risks = false_discovery_rates(rows.targets, rows.scores, one_unit, 1.0, grid)[0]
        return holm(hoeffding_bentkus_p_values(risks, N_MAPIE, float(ALPHA["ltt"])), DELTA)

    return search


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], promised: float
) -> Comparison:
    """Time both in pairs."""
    ours()  # leave out what is loaded at first use; in MAPIE's loop it is negligible
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(REPEATS)]
    own, other = zip(*pairs, strict=True)
    ratio = ratios(other, own)
    medians = Spread.of(own).median, Spread.of(other).median
    return Comparison(*medians, ratio.median, ratio.min, ratio.max, promised)


if __name__ == "__main__":
    main()
