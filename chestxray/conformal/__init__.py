"""From scores to prediction sets with a guarantee: conformal risk control, RCPS, learn then test.

    python -m chestxray.conformal SCORES.csv --risk fnr --alpha 0.1

Functions on arrays, for notebooks: crc_threshold, rcps_threshold, ltt_thresholds over the losses of
miss_rates and false_discovery_rates; benjamini_hochberg over the ranks of ranks_among_negatives.
Nothing here knows a network; torch is never imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chestxray.conformal.bounds import hoeffding_bentkus_p_values, wsr_bound, wsr_certifies
    from chestxray.conformal.control import crc_threshold, holm, ltt_thresholds, rcps_threshold
    from chestxray.conformal.risks import (
        GRID,
        counting_rows,
        false_discovery_rates,
        miss_rates,
        unit_codes,
    )
    from chestxray.conformal.selection import (
        benjamini_hochberg,
        one_image_each,
        ranks_among_negatives,
    )

__all__ = [
    "GRID",
    "benjamini_hochberg",
    "counting_rows",
    "crc_threshold",
    "false_discovery_rates",
    "hoeffding_bentkus_p_values",
    "holm",
    "ltt_thresholds",
    "miss_rates",
    "one_image_each",
    "ranks_among_negatives",
    "rcps_threshold",
    "unit_codes",
    "wsr_bound",
    "wsr_certifies",
]


def __getattr__(name: str) -> object:
    """Import scipy with the first function that is asked for: --help needs none of it."""
    if name in __all__:
        for module in ("risks", "control", "bounds", "selection"):
            found = vars(import_module(f"chestxray.conformal.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
