"""The summary of a calibration or an application, a row a level: summary.csv and summary.tex."""

import csv
import io
import re
from dataclasses import dataclass
from decimal import Decimal

from chestxray.conformal.certificate import BOUNDS
from chestxray.conformal.metrics import Estimate
from chestxray.conformal.options import Config
from chestxray.conformal.report import Entry, Report
from chestxray.conformal.risks import MarginalFalseDiscoveryRate

_HEADS = {"fdr_nonempty": "non-empty FDR", "empty": "empty", "size": "size"}  # of summary.tex
_ALL = "all"  # what summary.tex calls the whole, above its classes or groups
_DASH = "--"
_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "#$%&_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


@dataclass(frozen=True)
class Row:
    """A level as a whole, or one of its classes or groups.

    Attributes:
        alpha: as typed; of several risks theirs, with a blank between.
        part: the class or group; "" for the whole.
        threshold: None where there is none.
        n: units that calibrated.
        bound: at the threshold, see BOUNDS; None for a class or group.
        found: realised metrics by name, weighted by the unit; none where nothing was realised.
    """

    alpha: str
    part: str
    threshold: float | None
    n: int
    bound: float | None
    found: dict[str, Estimate]


def rows_of(report: Report) -> list[Row]:
    """The rows of all levels; under each level those of its classes or groups."""
    return [row for entry in report.entries for row in _rows_of(entry, report)]


def _rows_of(entry: Entry, report: Report) -> list[Row]:
    certificate, alpha = entry.certificate, entry.certificate.alpha
    found = entry.realised[_weighting(report)].estimates() if entry.realised else {}
    whole = Row(alpha, "", certificate.threshold, certificate.n_units, certificate.bound, found)
    return [whole] + [
        Row(alpha, name, part.threshold, part.n_units, None, _found_in(name, entry, report))
        for name, part in (certificate.parts or {}).items()
    ]


def _weighting(report: Report) -> str:
    """The unit of the promise; images where the rows of an application name no patients."""
    return report.config.unit if report.cut_by == "patient" else "image"


def _found_in(part: str, entry: Entry, report: Report) -> dict[str, Estimate]:
    """The realised risk of a class or group, none where no unit of it counts."""
    if report.config.by:
        groups = (entry.group_metrics or {}).get(report.config.by, {})
        return groups[part].risks if part in groups else {}
    if entry.class_metrics is None:
        return {}
    shares = entry.class_metrics[part].shares[_weighting(report)]
    return {report.config.target_risk.metric: shares.missed}


def metrics_of(config: Config) -> list[str]:
    """The names of the metrics of a row; that of a rarely asked risk only where it was asked."""
    rare = MarginalFalseDiscoveryRate.name
    return ["fnr", "fdr", *([rare] if rare in config.risk else []), *_HEADS]


def csv_text(report: Report) -> str:
    """summary.csv: the numbers of report.json, each metric with the ends of its interval."""
    config, names = report.config, metrics_of(report.config)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = [config.part] if config.in_parts else []
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow(["alpha", *parts, "threshold", "n", "bound", *ends])
    for row in rows_of(report):
        found = [row.found.get(name, Estimate(None, None)) for name in names]
        values = [v for share in found for v in (share.value, *(share.interval or (None, None)))]
        part = [row.part] if config.in_parts else []
        writer.writerow([row.alpha, *part, row.threshold, row.n, row.bound, *values])
    return file.getvalue()


def tex_text(report: Report, scores: str, digest: str) -> str:
    r"""summary.tex: a table for \input, which needs booktabs.

    Args:
        report: of a calibration, or of an application to labelled rows.
        scores: name of the file.
        digest: its SHA-256.
    """
    config, names = report.config, metrics_of(report.config)
    parts = [config.part] if config.in_parts else []
    heads = [*parts, "threshold", "$n$", "bound", *(_head(name, config) for name in names)]
    alpha = f"$\\alpha$ ({', '.join(_names(config))})" if config.joint else r"$\alpha$"
    lines = [
        f"% of {scores!r}, SHA-256 {digest}",
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_caption(report)}}}",
        f"\\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', report.title)}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{l{'l' * len(parts)}rr{'c' * (1 + len(names))}}}",
        r"\toprule",
        _line([alpha, *heads]),
        r"\midrule",
        *(line for row in rows_of(report) for line in _tex_rows(row, names, config)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    lines += [f"\\par\\smallskip {note}" for note in _notes(report)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _head(name: str, config: Config) -> str:
    return _HEADS.get(name) or escaped(config.realised_risk(name).abbreviation)


def _names(config: Config) -> list[str]:
    return [escaped(risk.abbreviation) for risk in config.target_risks]


def _caption(report: Report) -> str:
    """What was done to what, on whom, and what the numbers are."""
    config, weighting = report.config, _weighting(report)
    promise = _promise(config)
    if not report.promise_holds:
        promise = "The promise does not hold for these rows."
    said = [f"{report.title}.", promise, report.rows]
    said.append(f"n: {config.unit}s that count; bound: {BOUNDS[config.method]}.")
    if any(entry.realised for entry in report.entries):
        said.append(
            f"Realised risks, shares of empty sets and set sizes are means by {weighting}; in "
            f"brackets 95 % intervals of a bootstrap over {report.cut_by}s."
        )
    return escaped(" ".join(said))


def _promise(config: Config) -> str:
    """For what the promise holds, and how."""
    alone = "Both risks at once" if config.joint else "Each level alone"
    alone += f", each {config.part} by itself" if config.in_parts else ""
    if config.method == "crc":
        return (
            f"{alone}, the promise holds in expectation over calibrations and new {config.unit}s."
        )
    chance = Decimal(1) - Decimal(repr(config.delta))
    return f"{alone}, the promise holds with probability at least {chance:f}."


def _tex_rows(row: Row, names: list[str], config: Config) -> list[str]:
    """A row, and below it the intervals, where it has any."""
    found = [row.found.get(name, Estimate(None, None)) for name in names]
    alpha = "" if row.part else ", ".join(row.alpha.split())
    head = [alpha, *([escaped(row.part) or _ALL] if config.in_parts else [])]
    own = [_number(row.threshold), f"{row.n:,}", _number(row.bound)]
    values = [_DASH if share.value is None else f"{share.value:.3f}" for share in found]
    lines = [_line([*head, *own, *values])]
    if any(share.interval for share in found):
        ends = [f"[{s.interval[0]:.3f}, {s.interval[1]:.3f}]" if s.interval else "" for s in found]
        small = [f"{{\\scriptsize {text}}}" if text else "" for text in ends]
        lines.append(_line([""] * (len(head) + len(own)) + small))
    return lines


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _number(value: float | None) -> str:
    """Three significant digits: thresholds and p-values may be tiny."""
    if value is None:
        return _DASH
    digits, _, power = f"{value:.3g}".partition("e")
    return f"${digits}\\cdot10^{{{int(power)}}}$" if power else digits


def _notes(report: Report) -> list[str]:
    """Why a row has no threshold."""
    config = report.config
    said = [
        f"$\\alpha = {entry.certificate.alpha}$: nothing is certified, "
        f"{escaped(str(entry.certificate.reason))}."
        for entry in report.entries
        if not entry.certificate.certified
    ]
    certified = [entry.certificate for entry in report.entries if entry.certificate.certified]
    parts = [part for certificate in certified for part in (certificate.parts or {}).values()]
    if any(part.threshold is None for part in parts):
        always = "it is in every set" if config.per_class else "its sets hold every class"
        said.append(f"A {config.part} without a threshold had too few {config.unit}s: {always}.")
    return said


def escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return text.translate(_SPECIAL)
