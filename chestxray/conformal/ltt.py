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
class Hypotheses:
    """The null hypotheses "the risk at a threshold is above alpha", one for each of the grid.

    Attributes:
        risk, alpha: what they are about.
        table: losses of G units.
        order: (n,) numbers of the units that test them, in the order in which they are bet on.
    """

    risk: Risk
    alpha: float
    table: LossTable
    order: np.ndarray

    @property
    def shown(self) -> int:
        """The last place where any set of the units is not empty, -1 without one."""
        return self.table.last_shown(self.order)

    def p_values(self, places: slice, config: Config, enough: float = 0.0) -> np.ndarray:
        """(P,) p-values; what is at most `enough` may be larger, up to it."""
        losses = self.table.at(self.alpha, self.order, places)
        if config.pvalue == "hb":
            return hoeffding_bentkus_p_values(losses.mean(axis=0), len(losses), self.alpha)
        bets = self.risk.bets(self.alpha)
        return betting_p_values(losses, self.alpha, config.delta, bets, enough)


def chosen_start(table: LossTable, units: np.ndarray, alpha: float) -> int:
    """Where a sequence of tests starts, chosen by (m,) units of a table that test nothing."""
    losses = table.at(alpha, units, slice(0, table.last_shown(units) + 1))
    return best_start(losses, alpha)


def p_values(
    hypotheses: list[Hypotheses], places: slice, config: Config, enough: float = 0.0
) -> np.ndarray:
    """(P,) p-values of "some risk is above its alpha"."""
    found = [own.p_values(places, config, enough) for own in hypotheses]
    return np.max(found, axis=0)


def certified_place(
    hypotheses: list[Hypotheses], config: Config, start: int | None = None
) -> int | None:
    """The place in the grid to be taken, of those certified with probability 1 - delta.

    Args:
        hypotheses: one for each risk.
        config: p-values, delta, and how the tests are corrected for their number.
        start: of a fixed sequence; its strict end where None.

    Returns:
        The least strict place. Of several risks only places count where some set is not empty, and
        if one of them wants large sets, the place is that of the smallest. None without any.
    """
    strict_last = all(own.risk.strict_last for own in hypotheses)
    if config.fwer == "holm":
        enough = config.delta / len(GRID)  # rejected first, whatever their order
        places = np.flatnonzero(holm(p_values(hypotheses, _WHOLE, config, enough), config.delta))
    else:
        # Where all sets are empty the tests are the same: the laxest of them stands for all.
        first = min(hypotheses[0].shown + 1, len(GRID) - 1) if start is None else start
        sequence = range(first, -1, -1) if strict_last else range(len(GRID))

        def passes(block: slice) -> np.ndarray:
            return p_values(hypotheses, block, config, config.delta) <= config.delta

        places = np.sort(np.array(fixed_sequence(passes, sequence), dtype=np.intp))
    if config.joint:
        places = places[places <= max(own.shown for own in hypotheses)]
    if not len(places):
        return None
    return int(places[0] if strict_last else places[-1])
