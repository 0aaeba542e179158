"""What each level costs on some rows; of two risks, which levels can be had together."""

from functools import partial

from chestxray.conformal.calibrate import Calibration, bisected
from chestxray.conformal.certificate import Certificate, prediction_sets
from chestxray.conformal.metrics import realised
from chestxray.conformal.risks import RISKS
from chestxray.runtime.text import plural

FRONTIER = [f"{percent / 100:g}" for percent in range(5, 75, 5)]


def frontier(calibration: Calibration) -> str:
    """The cost of each level on these rows, as a table."""
    rows, config = calibration.rows, calibration.config
    units = plural(rows.n_units, config.unit)
    if config.joint:
        return "\n".join([f"both at once on {units}", *joint_frontier(calibration)])
    risks = [config.realised_risk(name).abbreviation for name in RISKS]
    columns = ["size", *risks, "FDR|non-empty", "empty"]
    widths = [max(7, len(name) + 2) for name in columns]
    lines = [
        f"{config.target_risk.abbreviation} by {config.method} on {units}, metrics on the same "
        "rows, which cannot calibrate once alpha is chosen on them",
        f"{'alpha':>6}{'threshold':>24}" + "".join(map(str.rjust, columns, widths)),
    ]
    for alpha in FRONTIER:
        certificate = calibration.certificate(alpha)
        if not certificate.certified:
            lines.append(f"{alpha:>6}   {certificate.reason}")
            continue
        sets = prediction_sets(rows, certificate)
        found = realised(rows, sets, config, resamples=0)[config.unit]
        shares = (found.size, *found.risks.values(), found.fdr_nonempty, found.empty)
        shown = ("n/a" if s.value is None else f"{s.value:.3f}" for s in shares)
        values = "".join(map(str.rjust, shown, widths))
        threshold = certificate.threshold
        where = f"by {'class' if config.per_class else 'group'}"
        lines.append(f"{alpha:>6}{where if threshold is None else repr(threshold):>24}{values}")
    return "\n".join(lines)


def joint_frontier(calibration: Calibration) -> list[str]:
    """For each level of the first risk, the smallest of the second that can be had with it."""
    first, second = calibration.config.target_risks
    lines = [f"{first.abbreviation} at most   smallest {second.abbreviation} certifiable with it"]
    for alpha in FRONTIER:
        found = bisected(partial(_with_first, calibration, alpha))
        least = "none" if found == "1" else found
        lines.append(f"{alpha:>{len(first.abbreviation) + 8}}   {least}")
    return lines


def _with_first(calibration: Calibration, alpha: str, beta: str) -> Certificate:
    return calibration.certificate(f"{alpha} {beta}")
