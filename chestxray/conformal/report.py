"""What prediction sets really do on rows with labels, in numbers and in sentences."""

from typing import Any

import numpy as np

from chestxray.conformal.calibrate import Choices, Level, Rows
from chestxray.conformal.losses import counting_rows
from chestxray.wording import counted

LEVEL = 0.95  # of the intervals by class
_RESAMPLES = 1000


def prediction_sets(scores: np.ndarray, level: Level) -> np.ndarray:
    """(N, K) bool: which classes are in the set of each picture at a certified level."""
    if level.thresholds is not None:
        limits = np.array([-np.inf if t is None else t for t in level.thresholds])
        return scores >= limits
    return scores >= level.threshold


def realised(rows: Rows, sets: np.ndarray, choices: Choices) -> dict[str, dict[str, float | None]]:
    """Risks and sizes on labelled rows, weighted by picture and by patient.

    Args:
        rows: N pictures with labels.
        sets: (N, K) bool.
        choices: the conventions for 0/0.

    Returns:
        For "picture" and "patient": fnr, fdr, fdr_nonempty, empty, full, size, precision, recall;
        None where nothing counts.
    """
    truth = rows.targets.astype(bool)
    hits = (sets & truth).sum(axis=1)
    size, positives = sets.sum(axis=1), truth.sum(axis=1)
    miss = 1 - hits / np.maximum(positives, 1)
    miss[positives == 0] = 0.0
    false = np.where(size > 0, 1 - hits / np.maximum(size, 1), choices.empty)
    # "error" was refused for the calibration rows; here such rows are dropped.
    how = "drop" if choices.no_positive == "error" else choices.no_positive
    counts = counting_rows(rows.targets, how)
    _, patient = np.unique(rows.patients, return_inverse=True)
    found = {}
    for name in ("picture", "patient"):

        def mean(values: np.ndarray, mask: np.ndarray, name: str = name) -> float | None:
            if not mask.any():
                return None
            weights = np.ones(int(mask.sum()))
            if name == "patient":
                weights /= np.bincount(patient[mask], minlength=patient.max() + 1)[patient[mask]]
            return float(np.average(values[mask], weights=weights))

        everyone = np.ones(len(sets), dtype=bool)
        selected, wanted, right = (mean(v, everyone) for v in (size, positives, hits))
        found[name] = {
            "fnr": mean(miss, counts),
            "fdr": mean(false, everyone),
            "fdr_nonempty": mean(false, size > 0),
            "empty": mean(size == 0, everyone),
            "full": mean(size == sets.shape[1], everyone),
            "size": selected,
            "precision": right / selected if selected and right is not None else None,
            "recall": right / wanted if wanted and right is not None else None,
        }
    return found


def per_class(
    rows: Rows, sets: np.ndarray, classes: tuple[str, ...], seed: int
) -> dict[str, dict[str, Any]]:
    """Recall and false discovery rate of each class, with 95 % patient-bootstrap intervals.

    Args:
        rows: N pictures with labels.
        sets: (N, K) bool.
        classes: K names.
        seed: of the bootstrap.

    Returns:
        By class: positives, selected, and for "picture" and "patient" recall and fdr with their
        intervals [low, high]; None where 0/0. By patient, a share is the mean over the patients
        that have the class (recall) or a selection of it (fdr).
    """
    truth = rows.targets.astype(bool)
    names, patient = np.unique(rows.patients, return_inverse=True)
    rng = np.random.default_rng([seed, 2])
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    table: dict[str, dict[str, Any]] = {
        name: {"positives": int(truth[:, k].sum()), "selected": int(sets[:, k].sum())}
        for k, name in enumerate(classes)
    }
    wanted, selected, right = (_by_patient(v, patient) for v in (truth, sets, truth & sets))
    for weighting in ("picture", "patient"):
        recall = _ratio(right, wanted, times, weighting)
        precision = _ratio(right, selected, times, weighting)
        for k, name in enumerate(classes):
            table[name][weighting] = {
                "recall": _with_interval(recall[:, k]),
                "fdr": _with_interval(1 - precision[:, k]),
            }
    return table


def _ratio(part: np.ndarray, whole: np.ndarray, times: np.ndarray, weighting: str) -> np.ndarray:
    """(1 + B, K) shares of all pictures, then of each resample; NaN where 0/0.

    Args:
        part, whole: (G, K) counts of each patient.
        times: (B, G) how often each patient is in a resample.
        weighting: "picture" divides the sums, "patient" takes the mean of the patients' shares.
    """
    if weighting == "patient":
        there = whole > 0
        part, whole = np.where(there, part / np.maximum(whole, 1), 0.0), there.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.vstack([part.sum(axis=0), times @ part]) / np.vstack(
            [whole.sum(axis=0), times @ whole]
        )


def _by_patient(values: np.ndarray, patient: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(patient, weights=column) for column in values.T], axis=1)


def _with_interval(values: np.ndarray) -> dict[str, Any]:
    """The first value with the interval of the others; None where undefined."""
    value, drawn = values[0], values[1:]
    if np.isnan(value):
        return {"value": None, "interval": None}
    tails = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(value), "interval": [float(tail) for tail in tails]}


def entry(
    level: Level, choices: Choices, classes: tuple[str, ...], judged: Rows | None, void: bool
) -> dict[str, Any]:
    """A level as plain values, with its realised figures on the judged rows.

    Args:
        level: of calibrate.
        choices: of the calibration.
        classes: K names.
        judged: labelled pictures, none of which calibrated; None where there are none.
        void: whether a warning takes the promise back.
    """
    by_class = level.thresholds, level.units_by_class
    thresholds, units = (dict(zip(classes, v, strict=True)) if v else None for v in by_class)
    found: dict[str, Any] = {
        "alpha": level.alpha,
        "certified": level.certified,
        "reason": level.reason,
        "threshold": thresholds or level.threshold,
        "units_by_class": units,
        "n_images": level.n_images,
        "n_units": level.n_units,
        "bound": level.bound,
        "realised": None,
        "classes": None,
    }
    if level.certified:
        promise = guarantee(level, choices)
        found["guarantee"] = _VOID + promise if void else promise
        if judged is not None:
            sets = prediction_sets(judged.scores, level)
            found["realised"] = realised(judged, sets, choices)
            found["classes"] = per_class(judged, sets, classes, choices.seed)
    return found


_VOID = "No promise carries over to these rows, see the warnings; without them it would read: "


def guarantee(level: Level, choices: Choices) -> str:
    """What a certified level promises, in one plain sentence, and for whom."""
    risk = {"fnr": "the share of positive classes missed", "fdr": "the false share of the set"}
    what = f"{risk[choices.risk]} ({choices.risk.upper()})"
    whom = {"patient": "a new patient's pictures, averaged over them,", "image": "a new picture"}
    if choices.risk == "fnr" and choices.no_positive == "drop":
        whom = {
            "patient": "a new patient's pictures that have a positive class, averaged over them,",
            "image": "a new picture that has a positive class",
        }
    conditions = (
        f"; it holds for {choices.unit}s drawn like those that calibrated, each alpha alone"
    )
    if choices.risk == "fnr" and choices.no_positive == "zero":
        conditions += ", with 0 for a picture without positive class"
    if choices.risk == "fdr":
        conditions += f", with {choices.empty:g} for an empty set"
    if choices.per_class:
        return (
            f"Expectation, over the draw of calibration and test {choices.unit}s, for each class "
            f"by itself: among {choices.unit}s with the class, the share missed is at most "
            f"{level.alpha}{conditions}."
        )
    if choices.method == "crc":
        return (
            f"Expectation, over the draw of the calibration {choices.unit}s and of the new one: "
            f"for {whom[choices.unit]} {what} is at most {level.alpha} on average; about half of "
            f"all calibrations lie a little above{conditions}."
        )
    return (
        f"Probability, over the draw of the calibration {choices.unit}s: with probability at least "
        f"{1 - choices.delta:g} they are such that for {whom[choices.unit]} {what} is at most "
        f"{level.alpha} in expectation{conditions}."
    )


def markdown(report: dict[str, Any]) -> str:
    """The report as a page for people; `report` is what report.json holds."""
    lines = [f"# {report['title']}", "", report["rows"]]
    for warning in report["warnings"]:
        lines += ["", f"**Warning.** {warning}."]
    for level in report["levels"]:
        lines += ["", f"## alpha = {level['alpha']}", ""]
        if not level["certified"]:
            lines.append(f"Nothing is certified: {level['reason']}.")
            continue
        lines += [level["guarantee"], "", f"Threshold: {threshold_text(level)}.", ""]
        lines.append(f"{counting(level)}.")
        lines += _realised_tables(level)
        if level.get("resplits"):
            lines += ["", *_cuts_table(level)]
        for name in level.get("pictures", []):
            lines += ["", f"![{_TITLES[name]}]({name})"]
    return "\n".join(lines) + "\n"


def _realised_tables(level: dict[str, Any]) -> list[str]:
    if level["realised"] is None:
        return ["", "No labelled rows for evaluation: no realised figures."]
    lines = ["", "| realised | by picture | by patient |", "|---|---|---|"]
    lines += [
        f"| {text} | {_number(level['realised']['picture'][name])} "
        f"| {_number(level['realised']['patient'][name])} |"
        for name, text in _ROWS.items()
    ]
    lines += [
        "",
        "| class | positives | recall by picture | by patient | FDR by picture | by patient |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in level["classes"].items():
        shares = [row[w][what] for what in ("recall", "fdr") for w in ("picture", "patient")]
        lines.append(
            f"| {name} | {row['positives']} | " + " | ".join(_interval(s) for s in shares) + " |"
        )
    return lines


def summary(risks: np.ndarray, alpha: str) -> dict[str, Any]:
    """Figures of the realised risk over re-splits, NaN where a cut has none."""
    known = risks[~np.isnan(risks)]
    if not len(known):
        return {"certified": 0, "mean": None, "median": None, "interval": None, "above_alpha": None}
    low, median, high = np.quantile(known, [0.05, 0.5, 0.95])
    return {
        "certified": len(known),
        "mean": float(known.mean()),
        "median": float(median),
        "interval": [float(low), float(high)],
        "above_alpha": float((known > float(alpha)).mean()),
    }


def cuts_lines(level: dict[str, Any]) -> list[str]:
    """What the re-splits found, in a line, or one a class."""
    cuts = level["resplits"]
    begin = f"{counted(cuts['times'], 'cut')} by patient"
    if "classes" in cuts:
        width = max(map(len, cuts["classes"]))
        by_class = [f"  {name:<{width}} {_cuts(found)}" for name, found in cuts["classes"].items()]
        return [f"{begin}, realised miss rate of each class", *by_class]
    return [f"{begin}: {cuts['certified']:,} certify, realised risk {_cuts(cuts)}"]


def _cuts(found: dict[str, Any]) -> str:
    if not found["certified"]:
        return "n/a"
    low, high = found["interval"]
    return (
        f"{found['mean']:.4f} on average, 5-95 % {low:.4f}-{high:.4f}, "
        f"above alpha in {found['above_alpha']:.1%}"
    )


def _cuts_table(level: dict[str, Any]) -> list[str]:
    cuts = level["resplits"]
    whole = {"all classes": cuts}
    lines = [
        f"| realised risk over {counted(cuts['times'], 'cut')} by patient | mean | median "
        "| 5-95 % | above alpha |",
        "|---|---|---|---|---|",
    ]
    for name, found in cuts.get("classes", whole).items():
        figures = "n/a | n/a | n/a | n/a"
        if found["certified"]:
            low, high = found["interval"]
            figures = (
                f"{found['mean']:.3f} | {found['median']:.3f} | {low:.3f}-{high:.3f} | "
                f"{found['above_alpha']:.1%}"
            )
        lines.append(f"| {name} | {figures} |")
    return lines


def lines(report: dict[str, Any]) -> list[str]:
    """The report as the command prints it."""
    said = [report["rows"], *(f"warning: {warning}" for warning in report["warnings"])]
    for level in report["levels"]:
        said += ["", f"alpha {level['alpha']}"]
        if not level["certified"]:
            said.append(f"  nothing is certified: {level['reason']}")
            continue
        said.append(f"  {level['guarantee']}")
        said.append(f"  threshold: {threshold_text(level)}")
        said.append(f"  {counting(level)}")
        for name in ("picture", "patient") if level["realised"] else ():
            shown = {k: _number(v) for k, v in level["realised"][name].items()}
            said.append(
                f"  realised by {name:<8} FNR {shown['fnr']}  FDR {shown['fdr']} (non-empty "
                f"{shown['fdr_nonempty']})  empty {shown['empty']}  full {shown['full']}  "
                f"classes {shown['size']}"
            )
        if level.get("resplits"):
            said += [f"  {line}" for line in cuts_lines(level)]
    return said


_TITLES = {
    "risk.png": "Risk against threshold",
    "resplits.png": "Realised risk over re-splits",
    "sizes.png": "Set sizes",
    "classes.png": "Recall and false share by class",
}
_ROWS = {
    "fnr": "FNR, share of positive classes missed",
    "fdr": "FDR, false share of a set",
    "fdr_nonempty": "FDR of non-empty sets",
    "empty": "empty sets, share",
    "full": "sets of every class, share",
    "size": "classes in a set, mean",
    "precision": "micro precision",
    "recall": "micro recall",
}


def threshold_text(level: dict[str, Any]) -> str:
    if isinstance(level["threshold"], dict):
        units = level["units_by_class"]
        return ", ".join(
            f"{name} {'always in the set' if t is None else f'p >= {t:.4g}'} (n = {units[name]})"
            for name, t in level["threshold"].items()
        )
    return f"p >= {level['threshold']:.6g}"


def counting(level: dict[str, Any]) -> str:
    """How much counted in the calibration of a level, and the bound that it reached."""
    found = f"{level['n_units']:,} units with {level['n_images']:,} pictures counted"
    return found if level["bound"] is None else f"{found}; bound or p-value {level['bound']:.4g}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _interval(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "n/a"
    return f"{share['value']:.3f} ({share['interval'][0]:.3f}-{share['interval'][1]:.3f})"
