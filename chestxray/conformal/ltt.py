"""Learn then test: which thresholds of the grid have p-values that certify their risks.

Angelopoulos et al. 2021, arXiv:2110.01052. Several risks at once are one test: their union of null
hypotheses is rejected where each is, so the largest p-value counts and delta is not split.
"""

from dataclasses import dataclass

import numpy as np

from chestxray.conformal.betting import betting_p_values
from chestxray.conformal.bounds import hoeffding_bentkus_p_values
from chestxray.conformal.control import best_start, fixed_sequence, holm
from chestxray.conformal.losses import GRID, LossTable
from chestxray.conformal.options import Config
from chestxray.conformal.risks import Risk

_WHOLE = slice(0, len(GRID))


@dataclass(frozen=True)
class Question:
    """Is the risk at a threshold above alpha? For every threshold of the grid.

    Attributes:
        risk, alpha: in question.
        table: losses of G units.
        order: (n,) numbers of the units that answer, in the order in which they are bet on.
    """

    risk: Risk
    alpha: float
    table: LossTable
    order: np.ndarray

    @property
    def shown(self) -> int:
        """The last place where any of their sets is not empty, -1 without one."""
        assert self.table.shown is not None
        return int(self.table.shown[self.order].max())

    def p_values(self, places: slice, config: Config, enough: float = 0.0) -> np.ndarray:
        """(P,) p-values of "yes"; what is at most `enough` may be larger, up to it."""
        losses = self.table.at(self.alpha, self.order, places)
        if config.pvalue == "hb":
            return hoeffding_bentkus_p_values(losses.mean(axis=0), len(losses), self.alpha)
        bets = self.risk.bets(self.alpha)
        return betting_p_values(losses, self.alpha, config.delta, bets, enough)

    def start(self, units: np.ndarray) -> int:
        """Where a sequence of tests starts, chosen by (m,) units that answer nothing."""
        losses = self.table.at(self.alpha, units, _WHOLE)
        shown = int(self.table.shown[units].max()) if self.table.shown is not None else -1
        return best_start(losses[:, : shown + 1], self.alpha)


def p_values(
    questions: list[Question], places: slice, config: Config, enough: float = 0.0
) -> np.ndarray:
    """(P,) p-values of "some risk is above its alpha"."""
    found = [question.p_values(places, config, enough) for question in questions]
    return np.max(found, axis=0)


def certified_place(
    questions: list[Question], config: Config, start: int | None = None
) -> int | None:
    """The place in the grid to be taken, of those certified with probability 1 - delta.

    Args:
        questions: one for each risk.
        config: p-values, delta, and how the tests are corrected for their number.
        start: of a fixed sequence; its strict end where None.

    Returns:
        The least strict place. Of several risks only places count where some set is not empty, and
        if one of them wants large sets, the place is that of the smallest. None without any.
    """
    strict_last = all(question.risk.strict_last for question in questions)
    if config.fwer == "holm":
        enough = config.delta / len(GRID)  # rejected first, whatever their order
        places = np.flatnonzero(holm(p_values(questions, _WHOLE, config, enough), config.delta))
    else:
        # Where all sets are empty the tests are the same: the laxest of them stands for all.
        first = min(questions[0].shown + 1, len(GRID) - 1) if start is None else start
        sequence = range(first, -1, -1) if strict_last else range(len(GRID))

        def passes(block: slice) -> np.ndarray:
            return p_values(questions, block, config, config.delta) <= config.delta

        places = np.sort(np.array(fixed_sequence(passes, sequence), dtype=np.intp))
    if config.joint:
        places = places[places <= max(question.shown for question in questions)]
    if not len(places):
        return None
    return int(places[0] if strict_last else places[-1])
