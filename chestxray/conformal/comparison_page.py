"""A comparison of scores files: as values for JSON and CSV, as lines, as a page."""

import csv
import io
import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chestxray.conformal.certificate import Certificate
from chestxray.conformal.differences import Aucs, Compared, SetsCompared
from chestxray.conformal.metrics import RESAMPLES, Estimate
from chestxray.conformal.options import Config
from chestxray.conformal.report_page import head_lines, page_head
from chestxray.conformal.risks import RISKS

_COLUMN = 25  # characters, of "+0.003 (-0.010, +0.016)" and a gap
_SHOWN = {name: risk().abbreviation for name, risk in RISKS.items()} | {
    "fdr_nonempty": "FDR, non-empty",
    "empty": "empty sets",
    "size": "set size",
}
_NOT_CERTIFIED = "nothing is certified"
_HEADER = ("value", "low", "high", "difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class Level:
    """The part of a comparison about one alpha.

    Attributes:
        alpha: as typed.
        guarantee: of each file by itself; None where nothing is certified for any.
        certificates: of each file.
        sets: of each file; None where nothing is certified for it.
    """

    alpha: str
    guarantee: str | None
    certificates: list[Certificate]
    sets: list[SetsCompared | None]


@dataclass(frozen=True)
class Comparison:
    """All that comparison.json holds.

    Attributes:
        title: the comparison.
        names: of the files, the first of which the others are compared with.
        classes, rows: a line each: the classes that count, and the rows that were used.
        notes: what else a reader must know, a sentence each.
        warnings: reasons to doubt the promises.
        promise_holds: no warning takes the promises back.
        config: of the calibrations.
        aucs: of each file.
        levels: one for each alpha.
        compared: the files and all options.
    """

    title: str
    names: tuple[str, ...]
    classes: str
    rows: str
    notes: list[str]
    warnings: list[str]
    promise_holds: bool
    config: Config
    aucs: list[Aucs]
    levels: list[Level]
    compared: dict[str, object] = field(default_factory=dict)


Row = tuple[str, Sequence[Compared | None]]  # a metric, and its values of each file


def contents_of(comparison: Comparison) -> dict[str, str]:
    """The contents of comparison.json, comparison.md and comparison.csv."""
    return {
        "comparison.json": json.dumps(_to_json(comparison), indent=2) + "\n",
        "comparison.md": _markdown(comparison),
        "comparison.csv": _csv(comparison),
    }


def _to_json(comparison: Comparison) -> dict[str, object]:
    return {
        "title": comparison.title,
        "counted": comparison.classes,
        "rows": comparison.rows,
        "definition": comparison.config.target_risk.definition,
        "notes": comparison.notes,
        "warnings": comparison.warnings,
        "promise_holds": comparison.promise_holds,
        "compared": comparison.compared,
        "resamples": RESAMPLES,
        "auc": {
            name: aucs.to_json()
            for name, aucs in zip(comparison.names, comparison.aucs, strict=True)
        },
        "levels": [_level_json(level, comparison.names) for level in comparison.levels],
    }


def _level_json(level: Level, names: tuple[str, ...]) -> dict[str, object]:
    files = {
        name: {
            "certified": certificate.certified,
            **{k: v for k, v in certificate.to_json().items() if k != "alpha"},
            "realised": None if sets is None else _sets_json(sets),
        }
        for name, certificate, sets in zip(names, level.certificates, level.sets, strict=True)
    }
    return {"alpha": level.alpha, "guarantee": level.guarantee, "files": files}


def _sets_json(sets: SetsCompared) -> dict[str, object]:
    return {
        weighting: {name: compared.to_json() for name, compared in metrics.items()}
        for weighting, metrics in sets.items()
    }


def _csv(comparison: Comparison) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["alpha", "file", "metric", "weighting", *_HEADER])
    writer.writerows(_records(comparison))
    return file.getvalue()


def _records(comparison: Comparison) -> Iterator[list[object]]:
    """The rows of comparison.csv; AUCs have no alpha, and None is an empty cell."""
    for name, aucs in zip(comparison.names, comparison.aucs, strict=True):
        for metric, compared in {"mean": aucs.mean, **aucs.classes}.items():
            yield ["", name, f"auc_{metric}", "image", *_cells(compared)]
    for level in comparison.levels:
        rows = zip(comparison.names, level.certificates, level.sets, strict=True)
        for name, certificate, sets in rows:
            yield [level.alpha, name, "threshold", "", certificate.threshold, *[None] * 5]
            for weighting, metrics in (sets or {}).items():
                for metric, compared in metrics.items():
                    yield [level.alpha, name, metric, weighting, *_cells(compared)]


def _cells(compared: Compared) -> list[float | None]:
    both = (compared.found, compared.difference)
    return [x for one in both for x in (one.value, *(one.interval or (None, None)))]


def lines(comparison: Comparison) -> list[str]:
    """The comparison as the command prints it; sentences are wrapped, tables cut by columns."""
    said = head_lines(comparison.classes, (comparison.rows, *comparison.notes))
    said += _wrapped(*(f"warning: {warning}" for warning in comparison.warnings))
    said += _wrapped(comparison.config.target_risk.definition)
    said += ["", "AUC of the evaluation images"]
    said += _with_differences(_auc_rows(comparison), comparison.names, [])
    for level in comparison.levels:
        unit = comparison.config.unit
        said += ["", f"alpha {level.alpha}, metrics by {unit}"]
        if level.guarantee:
            rows = _set_rows(level, unit)
            said += _with_differences(rows, comparison.names, [_thresholds(level)])
        said += _wrapped(*_promises(level, comparison.names))
    return said


def _wrapped(*sentences: str) -> list[str]:
    return head_lines(sentences[0], sentences[1:]) if sentences else []


def _promises(level: Level, names: tuple[str, ...]) -> list[str]:
    """The promise of each file by itself, and why there is none for some."""
    said = [f"Each file by itself: {level.guarantee}"] if level.guarantee else []
    return said + [
        f"{name}: {_NOT_CERTIFIED}, {certificate.reason}"
        for name, certificate in zip(names, level.certificates, strict=True)
        if not certificate.certified
    ]


def _auc_rows(comparison: Comparison) -> list[Row]:
    aucs = comparison.aucs
    each = [(name, [own.classes[name] for own in aucs]) for name in aucs[0].classes]
    return [("mean", [own.mean for own in aucs]), *each]


def _set_rows(level: Level, weighting: str) -> list[Row]:
    return [
        (text, [sets[weighting][name] if sets else None for sets in level.sets])
        for name, text in _SHOWN.items()
    ]


def _thresholds(level: Level) -> tuple[str, list[str]]:
    found = [
        _NOT_CERTIFIED if c.threshold is None else repr(c.threshold) for c in level.certificates
    ]
    return "threshold", found


def _found(rows: list[Row]) -> list[tuple[str, list[str]]]:
    return [(text, [_shown(c.found) if c else "" for c in own]) for text, own in rows]


def _differences(rows: list[Row]) -> list[tuple[str, list[str]]]:
    """The differences of all files but the first."""
    return [(text, [_shown(c.difference, "+") if c else "" for c in own[1:]]) for text, own in rows]


def _shown(found: Estimate, sign: str = "") -> str:
    if found.value is None:
        return "n/a"
    form = f"{sign}z.3f"  # z: no -0.000
    if found.interval is None:
        return format(found.value, form)
    low, high = found.interval
    return f"{found.value:{form}} ({low:{form}}, {high:{form}})"


def _with_differences(
    rows: list[Row], names: tuple[str, ...], before: list[tuple[str, list[str]]]
) -> list[str]:
    first, *others = names
    return [
        *_table([*before, *_found(rows)], list(names)),
        f"difference to {first}",
        *_table(_differences(rows), others),
    ]


def _table(rows: list[tuple[str, list[str]]], names: list[str]) -> list[str]:
    """A table with a column a file, as many beside each other as the terminal has room for."""
    width = max(len(text) for text, _ in rows) + 4
    room = shutil.get_terminal_size((100, 24)).columns - width
    at_once = max(1, room // _COLUMN)
    said = []
    for start in range(0, len(names), at_once):
        part = slice(start, start + at_once)
        heads = [textwrap.wrap(name, _COLUMN - 2) for name in names[part]]
        for line in range(max(map(len, heads))):
            cells = [head[line] if line < len(head) else "" for head in heads]
            said.append(_line("", cells, width))
        said += [_line(f"  {text}", cells[part], width) for text, cells in rows]
    return said


def _line(text: str, cells: list[str], width: int) -> str:
    return (f"{text:<{width}}" + "".join(f"{cell:<{_COLUMN}}" for cell in cells)).rstrip()


def _markdown(comparison: Comparison) -> str:
    page = page_head(
        comparison.title,
        (comparison.classes, comparison.rows),
        comparison.notes,
        comparison.warnings,
    )
    page += ["", comparison.config.target_risk.definition, "", "![Comparison](comparison.png)"]
    page += ["", "## AUC of the evaluation images"]
    page += _sections("AUC, 95 % interval", _auc_rows(comparison), comparison.names)
    for level in comparison.levels:
        page += ["", f"## alpha = {level.alpha}"]
        if level.guarantee:
            page += ["", *_section([_thresholds(level)], "calibrated", comparison.names)]
        for said in _promises(level, comparison.names):
            page += ["", f"{said.removesuffix('.')}."]
        for weighting in _weightings(level):
            rows = _set_rows(level, weighting)
            page += _sections(f"realised by {weighting}, 95 % interval", rows, comparison.names)
    return "\n".join(page) + "\n"


def _weightings(level: Level) -> list[str]:
    return list(next((sets for sets in level.sets if sets), {}))


def _sections(head: str, rows: list[Row], names: tuple[str, ...]) -> list[str]:
    """Tables of values and of differences."""
    page = ["", *_section(_found(rows), head, names)]
    return [*page, "", *_section(_differences(rows), f"difference to {names[0]}", names[1:])]


def _section(rows: list[tuple[str, list[str]]], head: str, names: tuple[str, ...]) -> list[str]:
    page = [f"| {head} | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    return page + [f"| {text} | {' | '.join(cells)} |" for text, cells in rows]
