"""A report as the lines of the terminal and as a page for people."""

import shutil
import textwrap
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from chestxray.conformal.certificate import BOUNDS, Certificate
from chestxray.conformal.metrics import (
    FEW_PATIENTS,
    ClassMetrics,
    Estimate,
    GroupMetrics,
    RiskSummary,
    SetMetrics,
)
from chestxray.conformal.options import Config
from chestxray.conformal.report import Entry, Report, Resplits, definition, number_text
from chestxray.conformal.resplits import Spread
from chestxray.conformal.risks import RISKS, Risk
from chestxray.runtime.text import plural


def lines(report: Report) -> list[str]:
    """The report as the command prints it, wrapped at the width of the terminal."""
    said = [f"warning: {warning}" for warning in report.warnings]
    said.append(definition(report.config))
    for entry in report.entries:
        said += ["", f"alpha {entry.certificate.alpha}"]
        said += [f"  {line}" for line in _entry_lines(entry, report)]
    head = head_lines(report.classes, (report.rows, *report.notes))
    return head + [part for line in said for part in wrapped(line)]


def head_lines(classes: str, notes: Iterable[str]) -> list[str]:
    """The first lines of every answer: the classes that count, and what else must be known."""
    return [part for line in (classes, *notes) for part in wrapped(line)]


def page_head(
    title: str, facts: Iterable[str], notes: Iterable[str], warnings: Iterable[str]
) -> list[str]:
    """The first lines of every page: what was done to what, and what else must be known."""
    page = [f"# {title}"]
    said = [f"{note[0].upper()}{note[1:]}." for note in notes]
    said += [f"**Warning.** {warning}." for warning in warnings]
    for paragraph in (*facts, *said):
        page += ["", paragraph]
    return page


def wrapped(line: str) -> list[str]:
    """A line of the answer as lines of the terminal."""
    width = shutil.get_terminal_size((100, 24)).columns
    indent = " " * (len(line) - len(line.lstrip()))
    wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
    return wrap(line, max(width, 40), subsequent_indent=f"{indent}  ") or [""]


def _entry_lines(entry: Entry, report: Report) -> list[str]:
    certificate, config = entry.certificate, report.config
    if not certificate.certified:
        return [f"nothing is certified: {certificate.reason}"]
    said = [*_threshold_lines(entry, config), str(entry.guarantee)]
    said.append(counting(certificate, config))
    said += spread_lines(entry, report)
    said += [
        f"realised by {weighting:<8} {_realised_text(found, config)}"
        for weighting, found in (entry.realised or {}).items()
    ]
    said += _group_lines(entry, config)
    said += entry.notes
    if entry.resplits:
        said += _resplit_lines(entry.resplits, report)
    return said


def _realised_text(found: SetMetrics, config: Config) -> str:
    """All metrics in a line; the FDR of non-empty sets behind the FDR, unless they are one."""
    risks = {
        config.realised_risk(name).abbreviation: number_text(share.value)
        for name, share in found.risks.items()
    }
    risks["FDR"] += f" (non-empty {number_text(found.fdr_nonempty.value)})"
    shares = {"empty": found.empty, "full": found.full, "size": found.size}
    others = {name: number_text(share.value) for name, share in shares.items()}
    return "  ".join(f"{name} {value}" for name, value in (risks | others).items())


def _group_lines(entry: Entry, config: Config) -> list[str]:
    """The realised risks by sex, view, age, a line a column."""
    said = []
    for risk in config.target_risks:
        for column, groups in (entry.group_metrics or {}).items():
            found = "  ".join(
                f"{name} {_few(group.risks[risk.metric]) if group.few else _value(group, risk)}"
                for name, group in groups.items()
            )
            said.append(f"realised {risk.abbreviation} by {column}: {found}")
    return said


def _value(group: GroupMetrics, risk: Risk) -> str:
    return number_text(group.risks[risk.metric].value)


def _few(share: Estimate) -> str:
    """Of few patients the interval is all that can be read."""
    return f"{_interval(share)}, few"


def spread_lines(entry: Entry, report: Report) -> list[str]:
    """The range of the risk of single calibrations of this size, of a calibration by CRC."""
    config = report.config
    risk, alpha = config.target_risk.abbreviation, entry.certificate.alpha
    if config.method != "crc" or report.applied is not None:
        return []
    if entry.spread is None:
        units = plural(entry.certificate.n_units, config.unit)
        return [f"{units} are too few to tell the range of {risk} of single calibrations"]
    begin = f"single calibrations of this size have {risk}"
    if not isinstance(entry.spread, dict):
        return [f"{begin} {_spread(entry.spread, alpha)}"]
    width = max(map(len, entry.spread))
    return [f"{begin} of each {config.part}"] + [
        f"  {name:<{width}} {_spread(found, alpha)}" for name, found in entry.spread.items()
    ]


def _spread(found: Spread | None, alpha: str) -> str:
    if found is None:
        return "not known: too few"
    low, high = found.interval
    return f"{low:.3f} to {high:.3f} (95 %), {found.above_alpha:.0%} of them above {alpha}"


def _spread_section(entry: Entry, report: Report) -> list[str]:
    if not isinstance(entry.spread, dict):
        said = spread_lines(entry, report)
        return ["", f"{said[0][0].upper()}{said[0][1:]}."] if said else []
    page = [
        "",
        f"| {report.config.part} | {report.config.target_risk.abbreviation} of single calibrations "
        "of this size |",
        "|---|---|",
    ]
    return page + [
        f"| {name} | {_spread(found, entry.certificate.alpha)} |"
        for name, found in entry.spread.items()
    ]


def _resplit_lines(resplits: Resplits, report: Report) -> list[str]:
    config = report.config
    begin = f"{plural(resplits.times, 'cut')} by {report.cut_by}"
    if resplits.parts is not None:
        width = max(map(len, resplits.parts))
        of_each = [f"  {name:<{width}} {_cuts(s)}" for name, s in resplits.parts.items()]
        label = config.target_risk.label
        return [
            f"{begin}, realised {label} of each {config.part}; the share above alpha errs with "
            "both halves",
            *of_each,
        ]
    said = []
    for name, whole in (resplits.whole or {}).items():
        found = "have a threshold" if config.method == "crc" else "certify"
        errs = "" if whole.interval is None else ", which errs with both halves"
        risk = config.by_metric[name].abbreviation if config.joint else "risk"
        said.append(f"{begin}: {whole.certified:,} {found}, realised {risk} {_cuts(whole)}{errs}")
    return said


def _cuts(found: RiskSummary) -> str:
    if found.interval is None:
        return "n/a"
    low, high = found.interval
    return (
        f"{found.mean:.4f} on average, 5-95 % {low:.4f}-{high:.4f}, "
        f"{found.halves_above_alpha:.1%} of the evaluation halves above alpha"
    )


def markdown(report: Report) -> str:
    """The report as a page for people."""
    page = page_head(report.title, (report.classes, report.rows), report.notes, report.warnings)
    page += ["", definition(report.config), *_shown(report.plots)]
    for entry in report.entries:
        page += ["", f"## alpha = {entry.certificate.alpha}", "", *_section(entry, report)]
    return "\n".join(page) + "\n"


def _section(entry: Entry, report: Report) -> list[str]:
    certificate = entry.certificate
    if not certificate.certified:
        return [f"Nothing is certified: {certificate.reason}."]
    page = [*_threshold_table(entry, report.config), "", str(entry.guarantee), ""]
    page.append(f"{counting(certificate, report.config)}.")
    page += _spread_section(entry, report)
    for note in entry.notes:
        page += ["", f"{note[0].upper()}{note[1:]}."]
    if entry.realised is None or entry.class_metrics is None:
        page += ["", "No labelled rows for evaluation: no realised metrics."]
    else:
        page += ["", *_realised_table(entry.realised, report.config)]
        page += ["", *_class_table(entry.class_metrics)]
        page += _group_tables(entry, report)
    if entry.resplits:
        page += ["", *_resplits_table(entry.resplits, report)]
    return page + _shown(entry.plots)


def _shown(plots: tuple[str, ...]) -> list[str]:
    """Each plot once, of its formats the first that a page can show; a PDF is linked."""
    kinds = {Path(name).suffix for name in plots}
    best = next((kind for kind in (".png", ".svg", ".pdf") if kind in kinds), "")
    page = []
    for name in (name for name in plots if Path(name).suffix == best):
        link = f"[{TITLES[Path(name).stem.partition('_')[0]]}]({name})"
        page += ["", link if best == ".pdf" else f"!{link}"]
    return page


TITLES = {
    "levels": "Realised against nominal level",
    "risk": "Risk against threshold",
    "resplits": "Realised risk over re-splits",
    "sizes": "Set sizes",
    "classes": "Recall and false share by class",
    "groups": "Realised risk by group",
}
_ROWS = {
    "fdr_nonempty": "FDR of non-empty sets",
    "empty": "empty sets, share",
    "full": "sets of every class, share",
    "size": "classes in a set, mean",
    "precision": "micro precision",
    "recall": "micro recall",
}


def _realised_table(found: dict[str, SetMetrics], config: Config) -> list[str]:
    risks = {name: config.realised_risk(name) for name in RISKS}
    texts = {name: f"{risk.abbreviation}, {risk.meaning}" for name, risk in risks.items()} | _ROWS
    columns = [metrics.estimates() for metrics in found.values()]
    page = [f"| realised, 95 % interval | {' | '.join(f'by {name}' for name in found)} |"]
    page.append("|---" * (1 + len(found)) + "|")
    return page + [
        f"| {text} | " + " | ".join(_interval(column[name]) for column in columns) + " |"
        for name, text in texts.items()
    ]


def _class_table(found: dict[str, ClassMetrics]) -> list[str]:
    weightings = list(next(iter(found.values())).shares)
    heads = [f"{share} by {name}" for share in ("recall", "FDR") for name in weightings]
    page = [f"| class | positives | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for name, row in found.items():
        shares = [row.shares[w].recall for w in weightings]
        shares += [row.shares[w].fdr for w in weightings]
        cells = " | ".join(map(_interval, shares))
        page.append(f"| {name} | {positives_text(row)} | {cells} |")
    return page


def _group_tables(entry: Entry, report: Report) -> list[str]:
    """The realised risks by sex, view, age; those of few patients in grey."""
    if not entry.group_metrics:
        return []
    config, unit = report.config, report.cut_by
    heads = [risk.abbreviation for risk in config.target_risks]
    page = ["", f"| realised within, by {config.unit} | {unit}s, images | {' | '.join(heads)} |"]
    page.append("|---" * (2 + len(heads)) + "|")
    few = False
    for column, groups in entry.group_metrics.items():
        for name, group in groups.items():
            cells = [_interval(group.risks[risk.metric]) for risk in config.target_risks]
            shown = [f"{column}: {name}", f"{group.patients:,}, {group.images:,}", *cells]
            page.append(f"| {' | '.join(map(_grey, shown) if group.few else shown)} |")
            few |= group.few
    page += ["", _about_groups(config)]
    return page + (["", f"Grey: fewer than {FEW_PATIENTS} {unit}s."] if few else [])


def _grey(text: str) -> str:
    return f'<span style="color:grey">{text}</span>'


def _about_groups(config: Config) -> str:
    if config.by:
        return (
            f"The promise is for each group of {config.by} by itself; it says nothing about groups "
            "cut otherwise."
        )
    if config.per_class:
        return "The promise is for each class by itself, not for a group."
    return "The promise is for all together, not for a group: --by COLUMN gives one to each group."


def positives_text(row: ClassMetrics) -> str:
    """ "10 in 2 patients"; "10" where patients are not known."""
    if "patient" not in row.shares:
        return f"{row.positives:,}"
    return f"{row.positives:,} in {plural(row.patients, 'patient')}"


def _resplits_table(resplits: Resplits, report: Report) -> list[str]:
    page = [
        f"| realised risk over {plural(resplits.times, 'cut')} by {report.cut_by} | mean | median "
        "| 5-95 % | evaluation halves above alpha, which errs with both halves |",
        "|---|---|---|---|---|",
    ]
    config = report.config
    whole = {
        config.by_metric[name].abbreviation if config.joint else "all classes": found
        for name, found in (resplits.whole or {}).items()
    }
    for name, found in (resplits.parts or whole).items():
        values = "n/a | n/a | n/a | n/a"
        if found.interval is not None:
            low, high = found.interval
            values = (
                f"{found.mean:.3f} | {found.median:.3f} | {low:.3f}-{high:.3f} | "
                f"{found.halves_above_alpha:.1%}"
            )
        page.append(f"| {name} | {values} |")
    return page


def threshold_rows(entry: Entry, config: Config) -> dict[str, tuple[str, int]]:
    """The threshold and number of units of each class or group; "all classes" with one.

    A threshold is the shortest text that reads back to the same number.
    """
    certificate = entry.certificate
    if certificate.parts is None:
        return {"all classes": (f"p >= {certificate.threshold!r}", certificate.n_units)}
    always = "always in the set" if config.per_class else "every class in the set"
    return {
        name: (
            always if part.threshold is None else f"p >= {part.threshold!r}",
            part.n_units,
        )
        for name, part in certificate.parts.items()
    }


def _threshold_lines(entry: Entry, config: Config) -> list[str]:
    rows = threshold_rows(entry, config)
    if not config.in_parts:
        return [f"threshold: {threshold}" for threshold, _ in rows.values()]
    width = max(map(len, rows))
    return [f"threshold of each {config.part}"] + [
        f"  {name:<{width}} {threshold} ({plural(units, config.unit)})"
        for name, (threshold, units) in rows.items()
    ]


def _threshold_table(entry: Entry, config: Config) -> list[str]:
    rows = threshold_rows(entry, config)
    page = [f"| {config.part} | threshold | {config.unit}s |", "|---|---|---|"]
    return page + [f"| {name} | {t} | {units:,} |" for name, (t, units) in rows.items()]


def counting(certificate: Certificate, config: Config) -> str:
    """The units and images that counted in a calibration, and the bound that it reached."""
    found = plural(certificate.n_images, "image")
    if config.unit == "patient":
        found = f"{plural(certificate.n_units, 'patient')} with {found}"
    own = ", ".join(
        f"{risk.abbreviation}: {n.n_units:,} with {n.n_images:,}"
        for risk, n in zip(
            config.target_risks, (certificate.n_of_each or {}).values(), strict=False
        )
    )
    bound = certificate.bound
    reached = BOUNDS[config.method] if not config.joint else f"larger {BOUNDS[config.method]}"
    return f"{found} counted{f' ({own})' if own else ''}" + (
        "" if bound is None else f"; {reached} {bound:.4g} at the threshold"
    )


def _interval(share: Estimate) -> str:
    if share.interval is None:
        return number_text(share.value)
    return f"{share.value:.3f} ({share.interval[0]:.3f}-{share.interval[1]:.3f})"
