"""From scores to prediction sets with a guarantee: conformal risk control, RCPS, learn then test.

    python -m chestxray.conformal SCORES.csv --risk fnr --alpha 0.1

Functions on arrays, for notebooks: crc_threshold and rcps_threshold; p-values and the tests of LTT,
over the losses of miss_rates, false_discovery_rates, nonempty_shares and labels_given;
benjamini_hochberg over the ranks of ranks_among_negatives. Nothing here knows a network; torch is
never imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chestxray.conformal.betting import betting_p_values, wsr_bound, wsr_certifies
    from chestxray.conformal.bounds import hoeffding_bentkus_p_values
    from chestxray.conformal.control import (
        best_start,
        crc_threshold,
        fixed_sequence,
        holm,
        rcps_threshold,
    )
    from chestxray.conformal.losses import (
        GRID,
        counting_rows,
        false_discovery_rates,
        labels_given,
        miss_rates,
        nonempty_shares,
        unit_codes,
    )
    from chestxray.conformal.selection import (
        benjamini_hochberg,
        one_image_each,
        ranks_among_negatives,
    )

__all__ = [
    "GRID",
    "best_start",
    "benjamini_hochberg",
    "betting_p_values",
    "counting_rows",
    "crc_threshold",
    "false_discovery_rates",
    "fixed_sequence",
    "hoeffding_bentkus_p_values",
    "holm",
    "labels_given",
    "miss_rates",
    "nonempty_shares",
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
        for module in ("losses", "betting", "control", "bounds", "selection"):
            found = vars(import_module(f"chestxray.conformal.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
