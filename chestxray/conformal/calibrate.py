"""Config and rows -> a certificate for each level, and the smallest level that has a threshold."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from chestxray.conformal.betting import betting_order, wsr_bound
from chestxray.conformal.certificate import Certificate, Counted, Part, Start, place_of
from chestxray.conformal.control import corrected_risk, largest_controlled, rcps_threshold
from chestxray.conformal.losses import GRID, LossCurves, LossTable
from chestxray.conformal.ltt import Hypotheses, certified_place, chosen_start, p_values
from chestxray.conformal.options import Config
from chestxray.conformal.risks import Risk
from chestxray.conformal.rows import Rows
from chestxray.runtime.text import plural

_DIGITS = 3  # of a printed smallest alpha
_TRIVIALLY_MET = "even empty sets meet it: any threshold does, and none is needed"


def calibrate(rows: Rows, alpha: str, config: Config, tune: Rows | None = None) -> Certificate:
    """Find the threshold for one level, or one for each class or group.

    Args:
        rows: the calibration images.
        alpha: in (0, 1), as text, so that it is taken exactly; of several risks "A B".
        config: risk, method and conventions.
        tune: images of other patients, which choose where a fixed sequence of tests starts; a
            fifth of the patients of `rows` where None and one is needed.
    """
    return Calibration(rows, config, tune).certificate(alpha)


def loss_table(rows: Rows, risk: Risk) -> LossTable:
    """The losses of each unit at each threshold of the grid; `rows` are those that count."""
    units, codes = rows.codes()
    best = np.zeros(len(units))
    np.maximum.at(best, codes, rows.scores.max(axis=1))
    shown = np.searchsorted(GRID, best, side="right") - 1
    return replace(risk.table(rows.targets, rows.scores, codes), shown=shown)


def loss_curves(rows: Rows, risk: Risk) -> LossCurves:
    """The same as functions of the threshold, exactly where the risk allows it."""
    return risk.curves(rows.targets, rows.scores, rows.codes()[1])


@dataclass(frozen=True)
class Calibration:
    """Rows that calibrate, and what all levels need of them, computed once.

    Attributes as the arguments of calibrate.
    """

    rows: Rows
    config: Config
    tune: Rows | None = None

    @cached_property
    def starters(self) -> np.ndarray:
        """(N,) bool, images that choose the start of the tests and so count in none."""
        if self.config.needs_start and self.tune is None:
            return self.rows.starters()
        return np.zeros(len(self.rows.units), dtype=bool)

    @cached_property
    def tested(self) -> Rows:
        """The images that count in a test or a corrected risk, of any of the risks."""
        own = self.rows.take(~self.starters)
        counts = [risk.counts(own.targets) for risk in self.config.target_risks]
        return own.take(np.any(counts, axis=0))

    @cached_property
    def curves(self) -> LossCurves:
        return loss_curves(self.tested, self.config.target_risk)

    @cached_property
    def tables(self) -> list[tuple[Risk, LossTable, np.ndarray]]:
        """Of each risk its loss table, and the numbers of the units in the order of the bets."""
        found = []
        for risk in self.config.target_risks:
            counting = self.tested.counting(risk)
            order = betting_order(counting.codes()[0])
            found.append((risk, loss_table(counting, risk), order))
        return found

    @cached_property
    def _start_rows(self) -> Rows:
        chosen = self.rows.take(self.starters) if self.tune is None else self.tune
        return chosen.counting(self.config.target_risk)

    @cached_property
    def _start_table(self) -> LossTable:
        return loss_table(self._start_rows, self.config.target_risk)

    def certificate(self, alpha: str) -> Certificate:
        """The answer for one level."""
        if self.config.in_parts:
            return self._in_parts(alpha)
        blank = Certificate(alpha, len(self.tested.units), self.tested.n_units)
        nobody = self._nobody()
        if nobody:
            return replace(blank, reason=nobody)
        if self.config.joint:
            blank = replace(blank, n_of_each=self._counted())
        return {"crc": self._crc, "rcps": self._rcps, "ltt": self._ltt}[self.config.method](blank)

    def _counted(self) -> dict[str, Counted]:
        """The units and images that count for each risk."""
        rows = {m: self.tested.counting(risk) for m, risk in self.config.by_metric.items()}
        return {metric: Counted(own.n_units, len(own.units)) for metric, own in rows.items()}

    def _nobody(self) -> str:
        """Why there is nothing to calibrate or to start with; "" where there is."""
        if self.starters.all():
            return (
                f"every {self.rows.cut_by} would choose where the tests start, and none is tested"
            )
        for risk in self.config.target_risks:
            if not risk.counts(self.tested.targets).any():
                return f"there is no image {risk.counted or 'with a positive class'}"
        if self.config.needs_start and not len(self._start_rows.units):
            return "there is no other patient by whom to choose where the tests start"
        return ""

    def _crc(self, blank: Certificate) -> Certificate:
        n, curves = blank.n_units, self.curves
        found = largest_controlled(curves, n, blank.alpha)
        if found == -np.inf:
            few = (n + 1) * Fraction(blank.alpha) < 1
            above = "the corrected risk is above it at the smallest threshold"
            reason = _too_few(n, blank.alpha, self.config) if few else above
            return replace(blank, reason=reason)
        if not (self.tested.scores >= found).any():
            return replace(blank, reason=_TRIVIALLY_MET, trivially_met=True)
        risk = curves.risk(found, np.ones(n, dtype=bool))
        return replace(blank, threshold=found, bound=float(corrected_risk(np.array(risk), n)))

    def _rcps(self, blank: Certificate) -> Certificate:
        alpha, delta = float(blank.alpha), self.config.delta
        (_, table, order), *_ = self.tables
        found = rcps_threshold(table.losses, alpha, delta, order)
        if found == -np.inf:
            return replace(blank, reason="the bound is above it at the smallest threshold")
        if not (self.tested.scores >= found).any():
            return replace(blank, reason=_TRIVIALLY_MET, trivially_met=True)
        bound = wsr_bound(table.losses[order, place_of(found)], delta)
        # The bound is found to 1e-6 from above; that it is below alpha is certain.
        return replace(blank, threshold=found, bound=min(bound, alpha))

    def _ltt(self, blank: Certificate) -> Certificate:
        hypotheses = self.hypotheses(blank.alpha)
        start = None
        if self.config.needs_start:
            start = self._start(blank.alpha)
            rows = self._start_rows
            blank = replace(blank, start=Start(float(GRID[start]), rows.n_units, len(rows.units)))
        place = certified_place(hypotheses, self.config, start)
        if place is None:
            which = "whose sets are not all empty " if self.config.joint else ""
            return replace(blank, reason=f"no threshold {which}is certified")
        if place > max(own.shown for own in hypotheses):
            # With empty sets at the strict end, a larger alpha certifies sets that are not empty.
            reason = "no calibration set is non-empty where it is certified"
            return replace(blank, reason=reason, trivially_met=not hypotheses[0].risk.strict_last)
        bound = float(p_values(hypotheses, slice(place, place + 1), self.config)[0])
        return replace(blank, threshold=float(GRID[place]), bound=bound)

    def hypotheses(self, alpha: str) -> list[Hypotheses]:
        """What LTT tests at a level, for each risk."""
        levels = map(float, alpha.split())
        return [
            Hypotheses(risk, level, table, order)
            for level, (risk, table, order) in zip(levels, self.tables, strict=True)
        ]

    def _start(self, alpha: str) -> int:
        units = np.arange(len(self._start_table.losses))
        return chosen_start(self._start_table, units, float(alpha))

    def _in_parts(self, alpha: str) -> Certificate:
        """CRC within each class, over its positives, or within each group."""
        config = self.config
        found = self.rows.parts(config)
        parts = {
            name: Part(_part_threshold(part, alpha, config), part.n_units)
            for name, part in found.items()
        }
        counting = self.rows if config.per_class else self.tested
        answer = Certificate(alpha, len(counting.units), counting.n_units, parts=parts)
        most = max(part.n_units for part in parts.values())
        if not most:
            return replace(answer, reason=self._nobody() or "there is no image")
        if not answer.certified:
            which = "of the most frequent class" if config.per_class else "of the largest group"
            return replace(answer, reason=f"{which}, {_too_few(most, alpha, config)}")
        return answer

    def smallest_alpha(self) -> str | None:
        """The smallest alpha for which these rows certify anything, rounded up, as to be typed.

        The corrected risk or the betting bound at the smallest threshold for CRC and RCPS, to
        three digits; for LTT by bisection, to 0.001. None where no alpha below 1 does.
        """
        config = self.config
        if config.method == "crc":
            found = _rounded_up(self._least_of_crc())
        elif config.method == "rcps" and len(self.tested.units):
            (_, table, order), *_ = self.tables
            found = _rounded_up(Fraction(wsr_bound(table.losses[order, 0], config.delta)))
        else:
            found = bisected(self.certificate)
        holds = Fraction(found) < 1 and self.certificate(found).certified
        return found if holds else None

    def _least_of_crc(self) -> Fraction:
        """The corrected risk at the smallest threshold; of the most frequent class or group."""
        if self.config.in_parts:
            units = [part.n_units for part in self.rows.parts(self.config).values()]
            return Fraction(1, max(units) + 1)
        if not len(self.tested.units):
            return Fraction(1)
        return (self.curves.least + 1) / (self.tested.n_units + 1)


def bisected(calibrated: Callable[[str], Certificate]) -> str:
    """The first of 0.001, ... 0.999 that is certified or trivially met; "1" where none is."""
    low, high = 0, 1000
    while high - low > 1:
        middle = (low + high) // 2
        answer = calibrated(str(middle / 1000))
        met = answer.certified or answer.trivially_met
        low, high = (low, middle) if met else (middle, high)
    return f"{high / 1000:g}"


def _rounded_up(alpha: Fraction) -> str:
    """The next decimal of three digits at or above alpha, in (0, 1]."""
    places = _DIGITS - 1 - math.floor(math.log10(alpha))
    return f"{math.ceil(alpha * 10**places) / 10**places:.{places}f}".rstrip("0")


def _part_threshold(rows: Rows, alpha: str, config: Config) -> float | None:
    if not len(rows.units):
        return None
    found = largest_controlled(loss_curves(rows, config.target_risk), rows.n_units, alpha)
    return None if found == -np.inf else min(float(found), 1.0)  # 1: even empty sets meet alpha


def _too_few(n: int, alpha: str, config: Config) -> str:
    needed = 1 / float(alpha) - 1
    return f"{plural(n, config.unit)} calibrated, fewer than 1/alpha - 1 = {needed:.1f}"
