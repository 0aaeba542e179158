"""The thresholds by brute force: fractions and plain loops over every threshold of the grid.

Written from the formulas alone. Of the code under test only its data are used: rows, options, and
the grid, which has a test of its own. A kind of risk is "fnr", "fdr" (0 for an empty set), "fdr1"
(1 for it), "drop" (the FDR of non-empty sets) or "mfdr".
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from chestxray.conformal import GRID
from chestxray.conformal.groups import Groups
from chestxray.conformal.options import Config
from chestxray.conformal.rows import Rows

PLACES = range(len(GRID))
CLOSE = 1e-9  # p-values that lie so close to a level that rounding could decide


class Image(NamedTuple):
    """An image: keys of its unit and its patient, its positive classes, scores and group."""

    unit: str
    patient: str
    positives: frozenset[int]
    scores: tuple[float, ...]
    group: str


class Found(NamedTuple):
    """The threshold, the p-value there, and the start of the tests; None for what there is not."""

    threshold: float | None = None
    p_value: float | None = None
    start: float | None = None


@cache
def drawn(seed: int) -> Rows:
    """A few patients, mostly of one image, some of eighty; many ties, also with the grid.

    Group a has the first patients, b the others, some patients both, and c one patient alone.
    """
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 5))
    patients = int(rng.integers(2, 13) if seed % 2 else rng.integers(13, 41))
    sizes = rng.choice([1, 1, 1, 1, 2, 3], size=patients)
    if seed % 20 < 2:
        sizes[-1] = 80
    owners = rng.permutation(np.repeat(np.arange(patients), sizes))
    targets = (rng.uniform(size=(len(owners), classes)) < rng.uniform(0.2, 0.8)).astype(np.uint8)
    targets[rng.uniform(size=len(owners)) < 0.1] = 0
    if seed % 20 == 7:
        targets[:] = 0
    values = np.sort([0.0, 1.0, 0.3, 0.5, *GRID[rng.integers(300, 900, size=3)]])
    steps = rng.integers(0, 5, size=targets.shape) + targets * rng.integers(0, 4)
    names = np.array([f"{name:08d}" for name in rng.integers(10**7, size=patients)], dtype=object)
    images = np.array([f"{name}.png" for name in range(len(owners))], dtype=object)
    halves = np.where((owners < patients // 2) ^ (rng.uniform(size=len(owners)) < 0.1), "a", "b")
    return Rows(
        targets=targets,
        scores=values[np.minimum(steps, len(values) - 1)],
        units=images if seed % 5 == 4 else names[owners],
        patients=names[owners],
        groups=Groups(np.where(owners == 0, "c", halves).astype(object), ("a", "b", "c", "d")),
    )


def images_of(rows: Rows) -> list[Image]:
    """The rows as plain values."""
    groups = [""] * len(rows.units) if rows.groups is None else rows.groups.of
    columns = zip(rows.units, rows.patients, rows.targets, rows.scores, groups, strict=True)
    return [
        Image(str(u), str(p), frozenset(np.flatnonzero(y).tolist()), tuple(s.tolist()), str(g))
        for u, p, y, s, g in columns
    ]


def counting(images: list[Image], kind: str, no_positive: str) -> list[Image]:
    if kind == "fnr" and no_positive == "drop":
        return [image for image in images if image.positives]
    return images


def image_loss(image: Image, kind: str, alpha: Fraction, threshold: float) -> Fraction:
    """The loss whose mean is at most alpha where the risk is."""
    chosen = {k for k, p in enumerate(image.scores) if p >= threshold}
    hits, false = len(chosen & image.positives), len(chosen - image.positives)
    if kind == "fnr":
        return 1 - Fraction(hits, len(image.positives)) if image.positives else Fraction(0)
    if kind == "mfdr":
        return (false - alpha * len(chosen)) / len(image.scores) + alpha
    if not chosen:
        return {"fdr": Fraction(0), "fdr1": Fraction(1), "drop": alpha}[kind]
    return Fraction(false, len(chosen))


def by_digest(keys: set[str], purpose: str) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(f"{purpose} {key}".encode()).digest())


class Losses:
    """The losses of the units at each place of the grid, in the order of the bets."""

    def __init__(self, images: list[Image], kind: str, alpha: str) -> None:
        self.images, self.kind, self.alpha = images, kind, Fraction(alpha)
        self.units = by_digest({image.unit for image in images}, "chestxray bets on")
        self.values = sorted({p for image in images for p in image.scores})
        self.steps = [bisect_left(self.values, float(t)) for t in GRID]  # scores below
        self.last_shown = sum(step < len(self.values) for step in self.steps) - 1
        self.known: dict[int, list[Fraction]] = {}

    def at(self, place: int) -> list[Fraction]:
        """By unit the mean over its images; the same between two scores, so computed once."""
        step = self.steps[place]
        if step not in self.known:
            own: dict[str, list[Fraction]] = {unit: [] for unit in self.units}
            for image in self.images:
                own[image.unit].append(image_loss(image, self.kind, self.alpha, float(GRID[place])))
            self.known[step] = [sum(own[u], Fraction(0)) / len(own[u]) for u in self.units]
        return self.known[step]


@cache
def losses_of(images: tuple[Image, ...], kind: str, alpha: str) -> Losses:
    """Both p-values ask for them."""
    return Losses(list(images), kind, alpha)


def capitals(losses: Sequence[float], alpha: float, delta: float, kind: str = "") -> list[float]:
    """log K_1 to log K_n of the gambler who bets against "the mean is alpha or more"."""
    most, prior = (0.9 / (1 - alpha), 0.02) if kind == "mfdr" else (1.0, 0.25)
    log_capital, sums, squares, variance, found = 0.0, 0.0, 0.0, prior, []
    for i, loss in enumerate(losses, start=1):
        nu = min(most, math.sqrt(2 * math.log(1 / delta) / (len(losses) * variance)))
        log_capital += math.log(1 - nu * (loss - alpha))
        found.append(log_capital)
        sums += loss
        squares += (loss - (0.5 + sums) / (i + 1)) ** 2
        variance = (prior + squares) / (i + 1)
    return found


def betting(losses: Sequence[float], alpha: float, delta: float, kind: str = "") -> float:
    """1 / max_i K_i, with K_0 = 1."""
    return math.exp(-max(0.0, *capitals(losses, alpha, delta, kind)))


def hoeffding_bentkus(losses: Sequence[Fraction], exact_alpha: Fraction) -> float:
    n, total, alpha = len(losses), sum(losses, Fraction(0)), float(exact_alpha)
    low = min(float(total / n), alpha)
    left = low * math.log(low / alpha) if low > 0 else 0.0
    h1 = left + (1 - low) * math.log((1 - low) / (1 - alpha))
    terms = (
        math.comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(math.ceil(total) + 1)
    )
    return min(1.0, math.exp(-n * h1), math.e * sum(terms))


def p_values(losses: Losses, delta: float, pvalue: str) -> list[float]:
    """Of every place of the grid."""
    known: dict[int, float] = {}
    for place in PLACES:
        if losses.steps[place] not in known:
            own = losses.at(place)
            known[losses.steps[place]] = (
                hoeffding_bentkus(own, losses.alpha)
                if pvalue == "hb"
                else betting(list(map(float, own)), float(losses.alpha), delta, losses.kind)
            )
    return [known[losses.steps[place]] for place in PLACES]


def start_of(losses: Losses) -> int:
    """The strictest place of the largest (alpha - mean) / sd, up to the last non-empty set.

    Squared, with its sign, the ratio is a fraction.
    """

    def ratio(place: int) -> tuple[int, Fraction]:
        own = losses.at(place)
        gap = losses.alpha - sum(own, Fraction(0)) / len(own)
        variance = sum(((x - sum(own, Fraction(0)) / len(own)) ** 2 for x in own), Fraction(0))
        if not variance:
            return (gap > 0) - (gap < 0), Fraction(0)  # beyond all that vary
        return 0, abs(gap) * gap * len(own) / variance

    known: dict[int, tuple[int, Fraction]] = {}
    for place in range(losses.last_shown + 1):
        if losses.steps[place] not in known:
            known[losses.steps[place]] = ratio(place)
    found = [known[losses.steps[place]] for place in range(losses.last_shown + 1)]
    return max(range(len(found)), key=lambda k: (found[k], k), default=0)


def step_down(p_values: list[float], delta: float) -> list[int]:
    """Holm: the smallest p-value left against delta by how many are left."""
    rejected: list[int] = []
    for place in sorted(PLACES, key=p_values.__getitem__):
        level = delta / (len(PLACES) - len(rejected))
        assert abs(p_values[place] / level - 1) > CLOSE
        if p_values[place] > level:
            break
        rejected.append(place)
    return rejected


def walk(p_values: list[float], delta: float, sequence: range) -> list[int]:
    """The places of a sequence before the first whose p-value is above delta."""
    passed: list[int] = []
    for place in sequence:
        assert abs(p_values[place] / delta - 1) > CLOSE
        if p_values[place] > delta:
            break
        passed.append(place)
    return passed


def kinds_of(config: Config) -> list[str]:
    fdr = {"0": "fdr", "1": "fdr1", "drop": "drop"}[config.empty]
    return [fdr if risk == "fdr" else risk for risk in config.risk]


def learn_then_test(rows: Rows, alpha: str, config: Config, tune: Rows | None = None) -> Found:
    """The threshold of LTT."""
    images, kinds = images_of(rows), kinds_of(config)
    starts = config.fwer == "fst" and kinds[0] in ("drop", "mfdr")
    others: list[Image] = [] if tune is None else images_of(tune)
    if starts and tune is None:
        patients = {image.patient for image in images}
        chosen = by_digest(patients, "chestxray starts with")[: -(-len(patients) // 5)]
        others = [image for image in images if image.patient in chosen]
        images = [image for image in images if image.patient not in chosen]
    counted = [counting(images, kind, config.no_positive) for kind in kinds]
    if not all(counted):
        return Found()
    levels = alpha.split()
    tables = [losses_of(tuple(i), *one) for i, *one in zip(counted, kinds, levels, strict=True)]
    found = [p_values(table, config.delta, config.pvalue) for table in tables]
    largest = [max(column) for column in zip(*found, strict=True)]
    start = None
    if config.fwer == "holm":
        passed = step_down(largest, config.delta)
    elif starts:
        start = start_of(losses_of(tuple(others), kinds[0], alpha))
        passed = walk(largest, config.delta, range(start, -1, -1))
    else:
        passed = walk(largest, config.delta, PLACES if kinds == ["fnr"] else PLACES[::-1])
    limit = None if start is None else float(GRID[start])
    shown = max(table.last_shown for table in tables)
    if len(kinds) > 1:  # a threshold above all scores is no answer to two risks at once
        passed = [place for place in passed if place <= shown]
    place = (max if "fnr" in kinds else min)(passed, default=None)
    if place is None or place > shown:
        return Found(start=limit)
    return Found(float(GRID[place]), largest[place], limit)


def risk_controlling(rows: Rows, alpha: str, config: Config) -> float:
    """The threshold of RCPS for FNR; -inf where none is certified."""
    images = counting(images_of(rows), "fnr", config.no_positive)
    if not images:
        return -math.inf
    found = p_values(Losses(images, "fnr", alpha), config.delta, "wsr")
    passed = walk(found, config.delta, PLACES)
    return float(GRID[passed[-1]]) if passed else -math.inf


def conformal(images: list[Image], alpha: str, no_positive: str) -> float:
    """The largest of all scores, and of no limit, whose corrected miss rate is at most alpha."""
    images = counting(images, "fnr", no_positive)
    n, limit = len({image.unit for image in images}), Fraction(alpha)
    values = {p for image in images for p in image.scores}

    def corrected(threshold: float) -> Fraction:
        own: dict[str, list[Fraction]] = {}
        for image in images:
            own.setdefault(image.unit, []).append(image_loss(image, "fnr", limit, threshold))
        return (sum((sum(x) / len(x) for x in own.values()), Fraction(1))) / (n + 1)

    safe = [t for t in (-math.inf, *values, math.inf) if n and corrected(t) <= limit]
    return max(safe, default=-math.inf)
