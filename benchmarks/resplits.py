"""How long 1,000 re-splits of a scores file of the official test's size take, and MAPIE for one.

python -m benchmarks.resplits --json resplits.json

The scores are made: 25,596 images of 2,797 patients, 15 classes. Each method runs in a process of
its own, so that the peak memory is its own; one core, as far as the libraries heed it. MAPIE
searches a grid of 100 thresholds in a Python loop. LTT is measured with our 1,000 thresholds, as in
the command, and with MAPIE's 100; CRC needs no grid. Ratios are medians over pairs that are run
one after the other.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ONE_CORE = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
os.environ |= ONE_CORE  # before NumPy is imported

import numpy as np  # noqa: E402

from chestxray.conformal import (  # noqa: E402
    GRID,
    crc_threshold,
    false_discovery_rates,
    ltt_thresholds,
)
from chestxray.conformal.calibrate import Config, Rows  # noqa: E402
from chestxray.conformal.resplits import resplit  # noqa: E402

IMAGES, PATIENTS, CLASSES, TIMES = 25_596, 2_797, 15, 1_000
MOST = 184  # images of one patient in the official test list
N_MAPIE, REPEATS, ALPHA, DELTA = 2_000, 5, {"crc": "0.1", "rcps": "0.1", "ltt": "0.5"}, 0.1
SECONDS = {"crc": 10.0, "ltt": 10.0, "rcps": 60.0}  # promised at most
MEBIBYTES = 1024.0  # promised at most
RATIOS = {"crc": 500.0, "ltt": 100.0, "ltt_on_mapies_grid": 100.0}  # promised at least


def main() -> None:
    """Measure all promises, print them, and write them down where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()

    print(f"{TIMES:,} re-splits by patient: {IMAGES:,} x {CLASSES}, {PATIENTS:,} patients")
    resplits = {method: in_a_process(method) for method in SECONDS}
    for method, figure in resplits.items():
        print(
            f"{method:<5} {figure['seconds']:6.2f} s (promised: under {SECONDS[method]:.0f} s), "
            f"peak {figure['peak_mebibytes']:,.0f} MiB (promised: under {MEBIBYTES:,.0f}), "
            f"mean realised risk {figure['mean_risk']:.4f} at alpha {ALPHA[method]}"
        )
    print(f"one threshold at n = {N_MAPIE:,}, {REPEATS} pairs, median")
    ratios = against_mapie()
    for method, pair in ratios.items():
        print(
            f"{method:<23} ours {1000 * pair['seconds_ours']:8.3f} ms, MAPIE "
            f"{pair['seconds_mapie']:6.2f} s, ratio {pair['ratio']:,.0f} "
            f"({pair['ratio_min']:,.0f}-{pair['ratio_max']:,.0f}; promised: at least "
            f"{pair['ratio_promised']:.0f})"
        )
    if args.json:
        report = {
            "images": IMAGES,
            "patients": PATIENTS,
            "classes": CLASSES,
            "times": TIMES,
            "resplits": resplits,
            "n_mapie": N_MAPIE,
            "repeats": REPEATS,
            "mapie": ratios,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def made(images: int, patients: int, seed: int) -> Rows:
    """Scores of AUC near 0.74 with a positive class in every image."""
    rng = np.random.default_rng(seed)
    extra = np.minimum(rng.geometric(patients / images, size=10 * patients), MOST - 1)
    sizes = np.ones(patients, dtype=int)
    for place, more in enumerate(extra):  # until all images have a patient
        left = images - sizes.sum()
        sizes[place % patients] += min(more, left, MOST - sizes[place % patients])
    whose = np.repeat(np.arange(patients), sizes)
    n = len(whose)
    resembling = rng.normal(size=(patients, CLASSES))[whose]
    truth = rng.normal(np.linspace(-4, -1.5, CLASSES), 1.0, size=(n, CLASSES)) + resembling
    targets = (rng.uniform(size=truth.shape) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    targets[~targets.any(axis=1), -1] = 1  # nothing found is a finding too
    scores = 1 / (1 + np.exp(-(truth + rng.normal(size=truth.shape)).astype(np.float32)))
    names = np.char.zfill(whose.astype(str), 8).astype(object)
    return Rows(targets, scores.astype(np.float64), names, names)


def in_a_process(method: str) -> dict[str, float]:
    """What `resplits_of` finds, alone in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(resplits_of, (method,))


def resplits_of(method: str) -> dict[str, float]:
    """Seconds and peak memory of the whole process of all re-splits by one method."""
    rows = made(IMAGES, PATIENTS, seed=0)
    risk = "fdr" if method == "ltt" else "fnr"
    choices = Config(risk=risk, method=method, delta=DELTA, resplits=TIMES)
    start = time.perf_counter()
    risks, _ = resplit(rows, ALPHA[method], choices)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "seconds_promised": SECONDS[method],
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_mebibytes_promised": MEBIBYTES,
        "certified": int((~np.isnan(risks)).sum()),
        "mean_risk": float(np.nanmean(risks)),
    }


def against_mapie() -> dict[str, dict[str, float]]:
    """One threshold by us and by MAPIE, by method: seconds, and the median of the paired ratios."""
    from mapie.risk_control import MultiLabelClassificationController

    rows = made(N_MAPIE, N_MAPIE, seed=1)
    targets, scores, codes = rows.targets, rows.scores, np.arange(N_MAPIE)

    def mapie(**choices: Any) -> Callable[[], object]:
        return lambda: MultiLabelClassificationController(
            predict_function=lambda x: x, **choices
        ).calibrate(scores, targets)

    def ltt(grid: np.ndarray) -> Callable[[], object]:
        def search() -> object:
            # The mean over images is the loss of one unit that has them all.
            risks = false_discovery_rates(targets, scores, 0 * codes, 1.0, grid)[0]
            return ltt_thresholds(risks, N_MAPIE, float(ALPHA["ltt"]), DELTA, "holm", True)

        return search

    precision = mapie(
        risk="precision",
        method="ltt",
        target_level=1 - float(ALPHA["ltt"]),
        confidence_level=1 - DELTA,
    )
    pairs = {
        "crc": (
            lambda: crc_threshold(targets, scores, codes, ALPHA["crc"]),
            mapie(risk="recall", target_level=1 - float(ALPHA["crc"])),
        ),
        "ltt": (ltt(GRID), precision),
        "ltt_on_mapies_grid": (ltt(np.arange(0, 1, 0.01)), precision),
    }
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MAPIE's, of empty sets
        for method, (ours, theirs) in pairs.items():
            ours()  # what is loaded at first use is not timed; MAPIE's loop drowns it
            seconds = [(timed(ours), timed(theirs)) for _ in range(REPEATS)]
            ratios = [other / own for own, other in seconds]
            found[method] = {
                "seconds_ours": statistics.median(own for own, _ in seconds),
                "seconds_mapie": statistics.median(other for _, other in seconds),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "ratio_promised": RATIOS[method],
            }
    return found


def timed(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
