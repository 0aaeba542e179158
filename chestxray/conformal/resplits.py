"""The risk of other calibrations: over cuts by patient, and over resamples of the units."""

import csv
import io
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import repeat

import numpy as np

from chestxray.bootstrap import patient_resamples, percentile_interval
from chestxray.conformal.betting import betting_order
from chestxray.conformal.calibrate import loss_curves, loss_table
from chestxray.conformal.control import largest_controlled, rcps_threshold
from chestxray.conformal.losses import GRID, LossCurves, LossTable
from chestxray.conformal.ltt import Hypotheses, certified_place, chosen_start
from chestxray.conformal.options import Config
from chestxray.conformal.risks import Risk
from chestxray.conformal.rows import Rows, chosen_to_start

LEVEL = 0.95  # of the spread of single calibrations
FEW = 4  # units that a calibration may lose, below which their spread is not known
_RESAMPLES = 1000


def cut_patients(n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool, a random share of n patients; with a share below 1, both sides have somebody."""
    count = n if fraction == 1 or n == 1 else min(max(round(fraction * n), 1), n - 1)
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[:count]] = True
    return chosen


@dataclass(frozen=True)
class Cuts:
    """What as many cuts by patient as chosen would have given.

    Attributes:
        thresholds: (times,); not finite where a cut certifies nothing.
        risks: by name, (times,) the risk on the units of the other side; NaN without a threshold.
    """

    thresholds: np.ndarray
    risks: dict[str, np.ndarray]


def csv_text(cuts: dict[str, dict[str, Cuts]], config: Config) -> str:
    """resplits.csv: the threshold and the realised risks of every cut, empty where it has none.

    Args:
        cuts: by alpha, then by class or group; of the whole under any name.
        config: the risks, and whether classes or groups have a column.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    part = [config.part] if config.in_parts else []
    writer.writerow(["alpha", "cut", *part, "threshold", *config.by_metric])
    for alpha, parts in cuts.items():
        for name, found in parts.items():
            columns = [
                found.thresholds,
                *(found.risks[risk.metric] for risk in config.target_risks),
            ]
            values = [
                [v if math.isfinite(v) else "" for v in column.tolist()] for column in columns
            ]
            own = [repeat(name)] if config.in_parts else []
            numbers = range(1, len(found.thresholds) + 1)
            writer.writerows(zip(repeat(alpha), numbers, *own, *values, strict=False))
    return file.getvalue()


def resplit(rows: Rows, alpha: str, config: Config, tune: Rows | None = None) -> Cuts:
    """Calibrate one threshold and evaluate it, on as many cuts as chosen.

    Args:
        rows: all images, calibration and evaluation together.
        alpha, tune: as in calibrate.
        config: with the number of cuts, the share that calibrates, and the seed.
    """
    sides = [_Side.of(rows, risk, config) for risk in config.target_risks]
    nothing = np.full(config.resplits, -np.inf)
    if any(not len(side.cuts) for side in sides):
        unknown = np.full(config.resplits, np.nan)
        return Cuts(nothing, dict.fromkeys(config.by_metric, unknown))
    if config.method == "crc":
        thresholds = _crc_thresholds(sides[0].curves, sides[0].cuts, alpha)
    elif config.method == "rcps":
        thresholds = _rcps_thresholds(sides[0], alpha, config)
    else:
        thresholds = _LttCuts(sides, alpha, config, tune).thresholds()
    risks = {side.risk.metric: _realised(side.curves, side.cuts, thresholds) for side in sides}
    return Cuts(thresholds, risks)


@dataclass(frozen=True)
class _Side:
    """The units that count for one risk, and on which side of each cut they are.

    Attributes:
        risk: whose.
        curves: the losses of the G units; a LossTable unless the method is crc.
        cuts: (times, G) bool, the units that calibrate.
        bets: (G,) the units in the order of the bets.
        patients: (G,) whose they are, numbers from 0.
        names: of the patients, sorted.
    """

    risk: Risk
    curves: LossCurves
    cuts: np.ndarray
    bets: np.ndarray
    patients: np.ndarray
    names: np.ndarray

    @classmethod
    def of(cls, rows: Rows, risk: Risk, config: Config) -> "_Side":
        counting = rows.counting(risk)
        units, codes = counting.codes()
        names, patients = np.unique(
            counting.patients[np.unique(codes, return_index=True)[1]], return_inverse=True
        )
        cuts = _cuts(counting, codes, rows.patients, config)
        found: LossCurves = LossTable(np.empty((0, len(GRID))))
        if len(codes):
            curves = loss_curves if config.method == "crc" else loss_table
            found = curves(counting, risk)
        return cls(risk, found, cuts, betting_order(units), patients, names)

    @property
    def table(self) -> LossTable:
        assert isinstance(self.curves, LossTable)
        return self.curves

    def ordered(self, chosen: np.ndarray) -> np.ndarray:
        """The numbers of the chosen units, (G,) bool, in the order of the bets."""
        return self.bets[chosen[self.bets]]


@dataclass(frozen=True)
class _LttCuts:
    """Learn then test on every cut."""

    sides: list[_Side]
    alpha: str
    config: Config
    tune: Rows | None

    def thresholds(self) -> np.ndarray:
        return np.array([self._threshold(cut) for cut in range(self.config.resplits)])

    def _threshold(self, cut: int) -> float:
        side = self.sides[0]
        starters = self._starters(side.cuts[cut])
        hypotheses = [
            Hypotheses(own.risk, alpha, own.table, own.ordered(own.cuts[cut] & ~starters))
            for own, alpha in zip(self.sides, map(float, self.alpha.split()), strict=True)
        ]
        if any(not len(one.order) for one in hypotheses):
            return -np.inf
        start = None
        if self.config.needs_start:
            start = self._start_elsewhere
            if start is None:
                start = chosen_start(side.table, np.flatnonzero(starters), float(self.alpha))
        place = certified_place(hypotheses, self.config, start)
        if place is None or place > max(one.shown for one in hypotheses):
            return -np.inf
        return float(GRID[place])

    def _starters(self, chosen: np.ndarray) -> np.ndarray:
        """(G,) bool, the chosen units whose patients choose the start and count in no test."""
        side = self.sides[0]
        if not self.config.needs_start or self.tune is not None:
            return np.zeros(1, dtype=bool)
        own = np.unique(side.patients[chosen])
        starts = np.zeros(len(side.names), dtype=bool)
        starts[own[chosen_to_start(side.names[own])]] = True
        return chosen & starts[side.patients]

    @cached_property
    def _start_elsewhere(self) -> int | None:
        """The start that the patients of another file choose."""
        if self.tune is None:
            return None
        risk = self.sides[0].risk
        table = loss_table(self.tune.counting(risk), risk)
        return chosen_start(table, np.arange(len(table.losses)), float(self.alpha))


def _rcps_thresholds(side: _Side, alpha: str, config: Config) -> np.ndarray:
    losses = side.table.losses
    orders = map(side.ordered, side.cuts)
    found = [rcps_threshold(losses, float(alpha), config.delta, order) for order in orders]
    return np.array(found)


@dataclass(frozen=True)
class Spread:
    """The risk of single calibrations of this size, where CRC promises their average.

    Attributes:
        interval: LEVEL of them lie in it.
        above_alpha: the share that lies above alpha.
    """

    interval: tuple[float, float]
    above_alpha: float


def single_calibrations(curves: LossCurves, n: int, alpha: str, config: Config) -> Spread | None:
    """Spread of the risk over single CRC calibrations, by a bootstrap of the calibration units.

    Each resample of the units gives a threshold, whose risk is taken on the units themselves.

    Args:
        curves: the losses of the n units that calibrated.
        n: how many.
        alpha: as in calibrate.
        config: with the seed.

    Returns:
        None where n x alpha is below FEW: there the range would hold too few of them (0.87 of 500
        draws at n x alpha = 2.5, 0.64 at 1).
    """
    if n * float(alpha) < FEW:
        return None
    allowed = (n + 1) * Fraction(alpha) - 1
    rng = np.random.default_rng([config.seed, 4])
    blocks = patient_resamples(n, _RESAMPLES, rng)
    risks = np.hstack([curves.resampled_risks(times, allowed) for times in blocks])
    if np.isnan(risks).all():
        return None
    low, high = percentile_interval(risks[:, None], LEVEL)[:, 0]
    return Spread((float(low), float(high)), float((risks > float(alpha)).mean()))


def resplit_in_parts(rows: Rows, alpha: str, config: Config) -> dict[str, Cuts]:
    """Threshold and risk of each class or group over the cuts, which are of all patients.

    Args:
        rows, alpha, config: as in resplit.

    Returns:
        By name. The risk is 0 where too few calibrate, so that every class is in the set; NaN
        where no unit of the other side counts.
    """
    found = {}
    for name, part in rows.parts(config).items():
        risks = np.full(config.resplits, np.nan)
        thresholds = np.full(config.resplits, -np.inf)
        codes = part.codes()[1]
        cuts = _cuts(part, codes, rows.patients, config)
        if len(cuts) and len(codes):
            curves = loss_curves(part, config.target_risk)
            thresholds = np.minimum(_crc_thresholds(curves, cuts, alpha), 1.0)
            risks = _realised(curves, cuts, thresholds)
            risks[np.isneginf(thresholds) & ~cuts.all(axis=1)] = 0.0
        found[name] = Cuts(thresholds, {config.target_risk.metric: risks})
    return found


def _cuts(rows: Rows, codes: np.ndarray, patients: np.ndarray, config: Config) -> np.ndarray:
    """(times, G) bool: the units of `rows` that calibrate, by cuts of all `patients`.

    Empty where there are fewer than two patients to cut.
    """
    names = np.unique(patients)
    if len(names) < 2:
        return np.empty((0, 0), dtype=bool)
    first = np.unique(codes, return_index=True)[1]
    patient_of = np.searchsorted(names, rows.patients[first])
    drawn = _drawn_cuts(len(names), config.cal_fraction, config.resplits, config.seed)
    return drawn.take(patient_of, axis=1)  # rows that lie together, unlike those of an index


@lru_cache(maxsize=1)
def _drawn_cuts(n: int, fraction: float, times: int, seed: int) -> np.ndarray:
    """(times, n) bool, the same cuts of n patients for every level, risk, class and group."""
    rng = np.random.default_rng([seed, 1])
    return np.array([cut_patients(n, fraction, rng) for _ in range(times)]).reshape(times, n)


def _crc_thresholds(curves: LossCurves, cuts: np.ndarray, alpha: str) -> np.ndarray:
    return np.array([largest_controlled(curves, int(cut.sum()), alpha, cut) for cut in cuts])


def _realised(curves: LossCurves, cuts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(times,) risk of the other side of each cut; NaN without a threshold or another side."""
    found = np.full(len(cuts), np.nan)
    for number in np.flatnonzero(np.isfinite(thresholds) & ~cuts.all(axis=1)):
        found[number] = curves.risk(float(thresholds[number]), ~cuts[number])
    return found
