"""A further risk is one class: entered in the registry, it goes through the whole command."""

from pathlib import Path

import numpy as np
import pytest
from conformal_helpers import (
    COUNTED,
    FILES,
    Command,
    averaged,
    chosen,
    drawn,
    plots,
    rows_of,
    strict_json,
)

from chestxray.conformal.losses import GRID
from chestxray.conformal.risks import RISKS, Risk
from chestxray.scores import read_scores, write_scores

WEIGHTS = np.array([4.0, 2.0, 8.0])  # of COUNTED: how much a miss of each costs


class WeightedMissRate(Risk):
    """The share of the weight of its positive classes that an image's set misses."""

    name = "wmr"
    abbreviation = "WMR"
    label = "weighted miss rate"
    meaning = "weighted share of positive classes missed"
    monotone = True
    strict_last = False

    def image_losses(self, targets: np.ndarray, sets: np.ndarray) -> np.ndarray:
        weight = targets @ WEIGHTS
        missed = (targets * ~sets) @ WEIGHTS
        return np.where(weight > 0, missed / np.maximum(weight, 1), 0.0)

    def counts(self, targets: np.ndarray) -> np.ndarray:
        return targets.any(axis=1)

    @property
    def counted(self) -> str:
        return "with a positive class"


class FalsePositiveShare(Risk):
    """The share of all classes that an image's set holds by mistake."""

    name = "fps"
    abbreviation = "FPS"
    label = "false-positive share"
    meaning = "share of all classes that is falsely in the set"
    monotone = False
    strict_last = True

    def image_losses(self, targets: np.ndarray, sets: np.ndarray) -> np.ndarray:
        return (sets & (targets == 0)).mean(axis=1)


STAND_INS = {risk.name: risk for risk in (WeightedMissRate, FalsePositiveShare)}
WAYS = [
    ("wmr", "crc", 0.2),
    ("wmr", "rcps", 0.3),
    ("wmr", "ltt", 0.3),
    ("fps", "ltt", 0.2),
]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, risk in STAND_INS.items():
        monkeypatch.setitem(RISKS, name, risk)


def counted(risk: str, folder: Path, role: str) -> float | None:
    """The mean over patients of a stand-in's loss, counted from sets.csv."""
    weights = dict(zip(COUNTED, WEIGHTS, strict=True))
    losses = []
    for row in rows_of(folder / "sets.csv"):
        sets, labels = chosen(row), chosen(row, "labels")
        if row["role"] != role or (risk == "wmr" and not labels):
            continue
        if risk == "wmr":
            loss = sum(weights[k] for k in labels - sets) / sum(weights[k] for k in labels)
        else:
            loss = len(sets - labels) / len(COUNTED)
        losses.append((row["patient"], loss))
    return averaged(losses, "patient")


@pytest.mark.parametrize(("risk", "method", "alpha"), WAYS)
def test_a_further_risk_goes_through_the_whole_command(
    risk: str, method: str, alpha: float, command: Command
) -> None:
    words = ("--risk", risk, "--method", method, "--alpha", alpha, "--resplits", 5, "--out", "o")
    said = command("s.csv", *words)
    assert said.code == 0, said.err
    assert {path.name for path in Path("o").iterdir()} == FILES | {"resplits.csv"} | plots(
        alpha, formats=["png"]
    )
    level = strict_json(Path("o/report.json"))["levels"][0]
    assert level["realised"]["patient"][risk]["value"] == pytest.approx(
        counted(risk, Path("o"), "eval")
    )
    assert level["resplits"]["certified"] == 5
    for words in (STAND_INS[risk].meaning, STAND_INS[risk].abbreviation):
        assert words in level["guarantee"] and words in said.out
        assert words in Path("o/report.md").read_text(encoding="utf-8")
    stored = strict_json(Path("o/thresholds.json"))
    assert (stored["choices"]["risk"], stored["choices"]["method"]) == ([risk], method)

    write_scores(Path("fresh.csv"), drawn(150, seed=5, first=1000))
    said = command("fresh.csv", "--apply", "o/thresholds.json", "--out", "a")
    assert said.code == 0, said.err
    found = strict_json(Path("a/report.json"))["levels"][0]["realised"]["patient"][risk]["value"]
    assert found == pytest.approx(counted(risk, Path("a"), "eval"))
    assert found < alpha + 0.1


@pytest.mark.parametrize(("risk", "method"), [(risk, method) for risk, method, _ in WAYS])
def test_a_further_risk_has_a_smallest_alpha_that_certifies(
    risk: str, method: str, command: Command
) -> None:
    words = ("--risk", risk, "--method", method, "--resplits", 0, "--out", "o")
    said = command("s.csv", *words, "--alpha", 0.001)
    assert said.code == 3 and not Path("o").exists()
    least = said.err.split("on these rows: ")[1].split()[0]
    assert command("s.csv", *words, "--alpha", least).code == 0


def test_crc_of_a_further_risk_is_the_best_threshold_of_the_grid(command: Command) -> None:
    assert command("s.csv", "--risk", "wmr", "--alpha", 0.2, "--out", "o").code == 0
    level = strict_json(Path("o/thresholds.json"))["levels"][0]
    table = read_scores(Path("s.csv"))
    table = table.take(np.ones(len(table.image_names), dtype=bool), [0, 2, 3])
    calibrated = {r["image"] for r in rows_of(Path("o/sets.csv")) if r["role"] == "cal"}
    rows = [
        (patient, labels, scores)
        for name, patient, labels, scores in zip(
            table.image_names, table.patients, table.targets, table.scores, strict=True
        )
        if name in calibrated and labels.any()
    ]

    def corrected(threshold: float) -> float:
        losses = [
            (patient, (labels * WEIGHTS)[scores < threshold].sum() / (labels * WEIGHTS).sum())
            for patient, labels, scores in rows
        ]
        n = len({patient for patient, _, _ in rows})
        return (n * averaged(losses, "patient") + 1) / (n + 1)

    place = int(np.searchsorted(GRID, level["threshold"]))
    assert level["threshold"] == GRID[place]
    assert level["bound"] == pytest.approx(corrected(GRID[place]))
    assert corrected(GRID[place]) <= 0.2 < corrected(GRID[place + 1])


def test_the_frontier_has_a_column_for_a_further_risk(command: Command) -> None:
    said = command("s.csv", "--frontier", "--risk", "wmr", "--from", "test")
    table = said.out[said.out.index("WMR by crc on ") :]
    lines = [line.split() for line in table.splitlines()]
    assert said.code == 0
    assert lines[1] == [
        "alpha",
        "threshold",
        "size",
        "FNR",
        "FDR",
        "mFDR",
        "WMR",
        "FPS",
        "FDR|non-empty",
        "empty",
    ]
    certified = [row for row in lines[2:] if len(row) == len(lines[1])]
    assert len(certified) > 5
    assert all(float(row[lines[1].index("WMR")]) <= float(row[0]) for row in certified)


REFUSED = {
    "crc": (("--method", "crc"), "FPS is not: --method ltt"),
    "rcps": (("--method", "rcps"), "FPS is not: --method ltt"),
    "by class": (("--per-class",), "--per-class is for --risk fnr --method crc"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_methods_that_a_further_risk_forbids_are_wrong_usage(what: str, command: Command) -> None:
    words, message = REFUSED[what]
    said = command("s.csv", "--risk", "fps", "--alpha", 0.2, *words, "--out", "o")
    assert said.code == 2 and message in said.err and not Path("o").exists()


@pytest.mark.parametrize("risk", RISKS.values())
def test_a_faster_loss_table_equals_the_one_of_the_image_losses(risk: type[Risk]) -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 2, (60, 4)), rng.choice([0.0, 0.2, 0.7, 1.0], (60, 4))
    codes = np.unique(rng.integers(0, 20, 60), return_inverse=True)[1]
    for empty in ("0", "1", "drop"):
        measure = risk("zero", empty)
        plain, table = (of.table(measure, targets, scores, codes) for of in (Risk, risk))
        np.testing.assert_allclose(table.losses, plain.losses, atol=1e-12)
        assert (table.weights is None) == (plain.weights is None)
        if plain.weights is not None:
            np.testing.assert_allclose(table.weights, plain.weights, atol=1e-12)
        if risk.monotone:
            curves = measure.curves(targets, scores, codes)
            everyone = np.ones(len(plain.losses), dtype=bool)
            means = [curves.risk(t, everyone) for t in GRID[::97]]
            np.testing.assert_allclose(means, plain.losses[:, ::97].mean(axis=0), atol=1e-12)
