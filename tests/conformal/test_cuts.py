"""The threshold of each re-split is the one that its rows would have given alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
from brute_force import drawn

from chestxray.conformal.calibrate import calibrate
from chestxray.conformal.certificate import Certificate
from chestxray.conformal.options import Config
from chestxray.conformal.resplits import cut_patients, resplit, resplit_in_parts
from chestxray.conformal.rows import Rows

TIMES = 12
LTT = Config(method="ltt", delta=0.37, resplits=TIMES, cal_fraction=0.8)
HOLM = replace(LTT, fwer="holm")
FDR, MFDR = replace(LTT, risk=("fdr",)), replace(LTT, risk=("mfdr",))
CASES = {
    "crc": (Config(resplits=TIMES), "0.3"),
    "rcps": (Config(method="rcps", delta=0.37, resplits=TIMES), "0.6"),
    "fdr": (FDR, "0.6"),
    "fdr, empty sets lost": (replace(FDR, empty="1", fwer="holm"), "0.9"),
    "fdr of non-empty sets": (replace(FDR, empty="drop"), "0.7"),
    "fdr of non-empty sets, Holm": (replace(FDR, empty="drop", fwer="holm"), "0.9"),
    "mfdr": (MFDR, "0.7"),
    "mfdr, Holm": (replace(MFDR, fwer="holm"), "0.9"),
    "fnr": (LTT, "0.5"),
    "fnr, Holm": (HOLM, "0.8"),
    "fnr and fdr": (replace(HOLM, risk=("fnr", "fdr")), "0.8 0.9"),
    "fnr and fdr of non-empty sets": (
        replace(HOLM, risk=("fnr", "fdr"), empty="drop"),
        "0.8 0.9",
    ),
    "fnr and mfdr": (replace(HOLM, risk=("fnr", "mfdr")), "0.8 0.9"),
    "mfdr and fnr": (replace(HOLM, risk=("mfdr", "fnr")), "0.9 0.8"),
}
FILES = range(0, 40, 2)  # the larger ones
RUNS = [
    (case, tuned, pvalue)
    for case, (config, _) in CASES.items()
    for tuned in (False, True)[: 1 + config.needs_start]
    for pvalue in ("wsr", "hb")[: 1 + (config.method == "ltt")]
]


def calibrating(rows: Rows, config: Config) -> list[np.ndarray]:
    """(N,) bool for each cut: the images of the patients that calibrate."""
    names, codes = np.unique(rows.patients, return_inverse=True)
    rng = np.random.default_rng([config.seed, 1])
    cuts = (cut_patients(len(names), config.cal_fraction, rng) for _ in range(config.resplits))
    return [cut[codes] for cut in cuts]


def agrees(threshold: float, alone: Certificate, rows: Rows) -> bool:
    """Return whether the threshold of a cut is that of a certificate of its rows."""
    if alone.trivially_met:  # no set of theirs is non-empty there, or the cut has none
        return not np.isfinite(threshold) or not (rows.scores >= threshold).any()
    return threshold == (-math.inf if alone.threshold is None else alone.threshold)


@pytest.mark.parametrize(("case", "tuned", "pvalue"), RUNS)
def test_a_cut_is_a_calibration_of_its_rows(case: str, tuned: bool, pvalue: str) -> None:
    config, alpha = CASES[case]
    certified = 0
    for seed in FILES:
        convention = ("drop", "zero")[seed % 4 // 2]
        config = replace(config, pvalue=pvalue, no_positive=convention, seed=seed)
        rows, tune = replace(drawn(seed), groups=None), drawn(1000 + seed) if tuned else None
        found = resplit(rows, alpha, config, tune)
        assert len(found.thresholds) == TIMES
        for threshold, inside in zip(found.thresholds, calibrating(rows, config), strict=True):
            own = rows.take(inside)
            alone = calibrate(own, alpha, config, tune)
            counting = own.take(
                np.any([r.counts(own.targets) for r in config.target_risks], axis=0)
            )
            assert agrees(threshold, alone, counting), (seed, threshold, alone)
            certified += alone.certified
    assert certified > 20  # of 240


def test_a_cut_of_groups_is_a_calibration_of_its_rows() -> None:
    config, certified = Config(by="group", resplits=TIMES), 0
    for seed in FILES:
        rows, config = drawn(seed), replace(config, seed=seed)
        found = resplit_in_parts(rows, "0.3", config)
        for cut, inside in enumerate(calibrating(rows, config)):
            parts = calibrate(rows.take(inside), "0.3", config).parts
            assert parts is not None
            for name, part in parts.items():
                alone = -math.inf if part.threshold is None else part.threshold
                assert found[name].thresholds[cut] == alone, (seed, cut, name)
                certified += part.threshold is not None
    assert certified > 100
