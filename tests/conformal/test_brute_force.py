"""The thresholds of calibrate() against fractions and plain loops, on 200 small inputs each."""

import math
from dataclasses import replace

import numpy as np
import pytest
from brute_force import conformal, drawn, images_of, learn_then_test, risk_controlling
from conformal_helpers import drawn as whole_scores

from chestxray.conformal.calibrate import calibrate
from chestxray.conformal.groups import Groups
from chestxray.conformal.options import Config
from chestxray.conformal.rows import Rows

SEEDS = range(200)
DELTA = 0.37
LTT = Config(method="ltt", delta=DELTA)
HOLM = replace(LTT, fwer="holm")
DROP, MFDR = replace(LTT, risk=("fdr",), empty="drop"), replace(LTT, risk=("mfdr",))
# Options, levels by turns, and whether patients of another file choose the start.
KINDS = {
    "fdr": (replace(LTT, risk=("fdr",)), ("0.5", "0.7", "0.85"), False),
    "fdr, empty sets lost": (replace(HOLM, risk=("fdr",), empty="1"), ("0.9", "0.8"), False),
    "fdr of non-empty sets": (DROP, ("0.5", "0.7", "0.85"), False),
    "fdr of non-empty sets, tuned elsewhere": (DROP, ("0.5", "0.7", "0.85"), True),
    "fdr of non-empty sets, Holm": (replace(DROP, fwer="holm"), ("0.9", "0.8"), False),
    "mfdr": (MFDR, ("0.5", "0.7", "0.85"), False),
    "mfdr, tuned elsewhere": (MFDR, ("0.5", "0.7", "0.85"), True),
    "mfdr, Holm": (replace(MFDR, fwer="holm"), ("0.9", "0.8"), False),
    "fnr": (LTT, ("0.3", "0.5", "0.7"), False),
    "fnr, Holm": (HOLM, ("0.7", "0.8"), False),
    "fnr and fdr": (replace(HOLM, risk=("fnr", "fdr")), ("0.7 0.9", "0.8 0.8"), False),
    "fnr and fdr of non-empty sets": (
        replace(HOLM, risk=("fnr", "fdr"), empty="drop"),
        ("0.7 0.9", "0.9 0.8"),
        False,
    ),
    "fnr and mfdr": (replace(HOLM, risk=("fnr", "mfdr")), ("0.7 0.9", "0.9 0.8"), False),
    "mfdr and fnr": (replace(HOLM, risk=("mfdr", "fnr")), ("0.9 0.7", "0.8 0.9"), False),
}  # fmt: skip


@pytest.mark.parametrize("pvalue", ["wsr", "hb"])
@pytest.mark.parametrize("kind", KINDS)
def test_learn_then_test_is_the_plain_search(kind: str, pvalue: str) -> None:
    config, alphas, elsewhere = KINDS[kind]
    certified = 0
    for seed in SEEDS:
        no_positive = ("drop", "zero")[seed % 3 == 2]
        config = replace(config, pvalue=pvalue, no_positive=no_positive)
        tune = drawn(seed + 1000) if elsewhere else None
        rows, alpha = drawn(seed), alphas[seed % len(alphas)]
        found, expected = (
            calibrate(rows, alpha, config, tune),
            learn_then_test(rows, alpha, config, tune),
        )
        assert found.threshold == expected.threshold, (seed, found, expected)
        assert (found.start and found.start.threshold) == expected.start, (seed, found)
        if found.threshold is not None:
            assert found.bound == pytest.approx(expected.p_value, rel=1e-9)
            certified += 1
    assert certified > 30  # of a rule that never answers, agreement would prove nothing


def test_rcps_is_the_plain_search() -> None:
    config, certified = Config(method="rcps", delta=DELTA), 0
    for seed in SEEDS:
        rows, alpha = drawn(seed), ("0.5", "0.7")[seed % 2]
        found, expected = calibrate(rows, alpha, config), risk_controlling(rows, alpha, config)
        if found.trivially_met:
            assert expected > rows.counting(config.target_risk).scores.max()
        else:
            assert found.threshold == (expected if expected > -math.inf else None), seed
            certified += found.certified
    assert certified > 150


def test_crc_by_group_is_the_plain_search_in_each_group() -> None:
    config, kinds = Config(by="group"), set()
    for seed in SEEDS:
        rows, alpha = drawn(seed), ("0.15", "0.3", "0.5")[seed % 3]
        config = replace(config, no_positive=("drop", "zero")[seed % 2])
        found = calibrate(rows, alpha, config).parts
        assert found is not None and list(found) == ["a", "b", "c", "d"]
        for name, part in found.items():
            own = [image for image in images_of(rows) if image.group == name]
            limit = conformal(own, alpha, config.no_positive)
            expected = None if limit == -math.inf else min(limit, 1.0)
            assert part.threshold == expected, (seed, name)
            kinds.add((name, part.threshold is None))
        assert found["c"].n_units <= len(np.unique(rows.units[rows.groups.of == "c"]))
        assert found["d"].n_units == 0
    # Each with and without a threshold, also the one patient; nobody is in d.
    assert kinds == {(name, empty) for name in "abc" for empty in (True, False)} | {("d", True)}


def test_one_group_is_plain_crc() -> None:
    certified = 0
    for seed in SEEDS:
        rows, alpha = drawn(seed), ("0.15", "0.3", "0.5")[seed % 3]
        whole = replace(rows, groups=Groups(np.full(len(rows.units), "all"), ("all",)))
        plain = calibrate(replace(rows, groups=None), alpha, Config())
        parts = calibrate(whole, alpha, Config(by="group")).parts
        assert parts is not None
        if plain.trivially_met:  # a threshold that no score is below
            assert parts["all"].threshold == 1.0
        else:
            assert parts["all"].threshold == plain.threshold
            certified += plain.certified
        assert parts["all"].n_units == plain.n_units
    assert certified > 100


# Written by the version that knew but Hoeffding-Bentkus (commit 1bdd3b7), on the same drawn scores.
BEFORE = [
    ("fdr", "ltt", "fst", "0", "0.5", 0.20078723547626265, 0.07606532770090715),
    ("fdr", "ltt", "fst", "0", "0.3", 0.5508743880209949, 0.09771630706264064),
    ("fdr", "ltt", "holm", "0", "0.5", 0.30899866381359936, 0.00012408705901376972),
    ("fdr", "ltt", "holm", "1", "0.65", 0.164981350151539, 8.901096377035445e-05),
    ("fnr", "ltt", "fst", "0", "0.3", 0.36249196679750556, 0.07562822900267213),
    ("fnr", "ltt", "holm", "0", "0.3", 0.26017772272874923, 0.00017581953936507793),
    ("fnr", "rcps", "fst", "0", "0.3", 0.37930657614978924, 0.2948570251464844),
    ("fnr", "rcps", "fst", "0", "0.15", 0.16831765161090617, 0.14862823486328125),
    ("fnr", "crc", "fst", "0", "0.2", 0.2929968237876892, 0.19975975975975976),
]


@pytest.mark.parametrize(("risk", "method", "fwer", "empty", "alpha", *"tb"), BEFORE)
def test_hoeffding_bentkus_gives_the_thresholds_of_before(
    risk: str, method: str, fwer: str, empty: str, alpha: str, t: float, b: float
) -> None:
    config = Config(risk=(risk,), method=method, fwer=fwer, empty=empty, pvalue="hb")
    table = whole_scores()
    scores, patients = table.scores.astype(np.float64), table.patient_keys
    found = calibrate(Rows(table.targets, scores, patients, patients), alpha, config)
    assert found.threshold == pytest.approx(t, rel=1e-12)
    assert found.bound == pytest.approx(b, rel=1e-12)
