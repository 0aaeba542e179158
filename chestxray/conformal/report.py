"""What a calibration promises and what its sets did, as plain values, as sentences, as a page."""

from typing import Any

from chestxray.conformal.calibrate import Config, Level, Rows
from chestxray.conformal.metrics import per_class, prediction_sets, realised
from chestxray.runtime.text import plural


def entry(
    level: Level, choices: Config, classes: tuple[str, ...], judged: Rows | None, void: str = ""
) -> dict[str, Any]:
    """A level as plain values, with its realised figures on the judged rows.

    Args:
        level: of calibrate.
        choices: of the calibration.
        classes: K names.
        judged: labelled images; None where there are none.
        void: how a warning takes the promise back, "" where none does.
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
        if void:
            void = f"{void}, see the warnings; without them it would read: "
        found["guarantee"] = void + guarantee(level, choices)
        if judged is not None:
            sets = prediction_sets(judged.scores, level)
            found["realised"] = realised(judged, sets, choices)
            found["classes"] = per_class(judged, sets, classes, choices.seed)
    return found


def guarantee(level: Level, choices: Config) -> str:
    """What a certified level promises, in one plain sentence, and for whom."""
    risk = {"fnr": "the share of positive classes missed", "fdr": "the false share of the set"}
    what = f"{risk[choices.risk]} ({choices.risk.upper()})"
    whom = {"patient": "a new patient's images, averaged over them,", "image": "a new image"}
    if choices.risk == "fnr" and choices.no_positive == "drop":
        whom = {
            "patient": "a new patient's images that have a positive class, averaged over them,",
            "image": "a new image that has a positive class",
        }
    conditions = (
        f"; it holds for {choices.unit}s drawn like those that calibrated, each alpha alone"
    )
    if choices.risk == "fnr" and choices.no_positive == "zero":
        conditions += ", with 0 for a image without positive class"
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
        for name in level.get("plots", []):
            lines += ["", f"![{_TITLES[name]}]({name})"]
    return "\n".join(lines) + "\n"


def _realised_tables(level: dict[str, Any]) -> list[str]:
    if level["realised"] is None:
        return ["", "No labelled rows for evaluation: no realised figures."]
    lines = ["", "| realised | by image | by patient |", "|---|---|---|"]
    lines += [
        f"| {text} | {_number(level['realised']['image'][name])} "
        f"| {_number(level['realised']['patient'][name])} |"
        for name, text in _ROWS.items()
    ]
    lines += [
        "",
        "| class | positives | recall by image | by patient | FDR by image | by patient |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in level["classes"].items():
        shares = [row[w][what] for what in ("recall", "fdr") for w in ("image", "patient")]
        lines.append(
            f"| {name} | {row['positives']} | " + " | ".join(_interval(s) for s in shares) + " |"
        )
    return lines


def cuts_lines(level: dict[str, Any]) -> list[str]:
    """What the re-splits found, in a line, or one a class."""
    cuts = level["resplits"]
    begin = f"{plural(cuts['times'], 'cut')} by patient"
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
        f"| realised risk over {plural(cuts['times'], 'cut')} by patient | mean | median "
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
        for name in ("image", "patient") if level["realised"] else ():
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
    found = f"{level['n_units']:,} units with {level['n_images']:,} images counted"
    return found if level["bound"] is None else f"{found}; bound or p-value {level['bound']:.4g}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _interval(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "n/a"
    return f"{share['value']:.3f} ({share['interval'][0]:.3f}-{share['interval'][1]:.3f})"
