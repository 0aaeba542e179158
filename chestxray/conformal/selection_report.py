"""The report of a selection: as values for JSON, as lines, as a page."""

from dataclasses import asdict, dataclass

import numpy as np

from chestxray.conformal.report_page import head_lines, page_head
from chestxray.conformal.selection import fewest_selected

_NOT_PROMISED = (
    "Nothing is promised for all classes together, nor for classes chosen by what is selected: of "
    "all selected pairs of image and class a larger share may be false (0.39 to 0.54 was measured "
    "at 0.2)"
)
_NONE_SELECTED = (
    "None selected is an answer: at this level too few images of the class stand out from the "
    "calibration images without it"
)


@dataclass(frozen=True)
class Selection:
    """What was selected from what.

    Attributes:
        select: the share of the selected that may be false, as typed.
        scores, on: names of the files: that calibrates, and that is selected from.
        split: of the rows that calibrate; None where all are used.
        untouched: the user declares that these trained nothing and chose nothing.
        exclude, include_no_finding: the classes.
        scores_sha256, on_sha256: of the files.
    """

    select: str
    scores: str
    on: str
    split: str | None
    untouched: bool
    exclude: tuple[str, ...]
    include_no_finding: bool
    scores_sha256: str
    on_sha256: str

    def to_json(self) -> dict[str, object]:
        plain = asdict(self) | {"select": float(self.select), "exclude": list(self.exclude)}
        return {"from" if name == "split" else name: value for name, value in plain.items()}


@dataclass(frozen=True)
class SelectedOfClass:
    """The selected images of one class.

    Attributes:
        negatives: calibration images without the class.
        selected: how many images.
        threshold: their smallest score; None where there are none.
        positives: images drawn that have the class; None without labels.
        false_share: of the selected, those without the class; None where it is 0/0 or not known.
        recall: of the positives, those selected; None likewise.
    """

    negatives: int
    selected: int
    threshold: float | None
    positives: int | None
    false_share: float | None
    recall: float | None


@dataclass(frozen=True)
class SelectionReport:
    """All that report.json holds.

    Attributes:
        title, classes_text, rows: a line each.
        notes: what else a reader must know, a sentence each.
        warnings: reasons to doubt the promise, and checks that could not be made.
        promise_holds: no warning takes the promise back.
        selection: what was selected from what.
        n: images that calibrated, one a patient.
        m: images that could be selected, one a patient.
        classes: by name.
        together: false share of all selected pairs of image and class; None where not known.
    """

    title: str
    classes_text: str
    rows: str
    notes: list[str]
    warnings: list[str]
    promise_holds: bool
    selection: Selection
    n: int
    m: int
    classes: dict[str, SelectedOfClass]
    together: float | None

    @property
    def promise(self) -> str:
        """The promise in two plain sentences; what takes it back stands before it."""
        caveat = "No promise holds, see the warnings; without them it would read: "
        return ("" if self.promise_holds else caveat) + (
            "For each class by itself, in expectation over the draw of the calibration patients "
            "and of the new ones, the share of the selected images that do not have the class is "
            f"at most {self.selection.select}; where none is selected it counts as 0. It holds for "
            "patients drawn like those that calibrated, one image each; single selections lie "
            "above and below."
        )

    @property
    def remarks(self) -> list[str]:
        """What the table does not say by itself, a sentence each."""
        empty = any(not found.selected for found in self.classes.values())
        possible = fewest_selected(self.n, self.m, self.selection.select) <= self.m
        said = [_NONE_SELECTED] if empty and possible else []
        if self.together is not None:
            said.append(f"Of all selected pairs of image and class {self.together:.3f} are false")
        return said

    def to_json(self) -> dict[str, object]:
        return {
            "title": self.title,
            "counted": self.classes_text,
            "rows": self.rows,
            "promise": self.promise,
            "not_promised": _NOT_PROMISED,
            "notes": self.notes,
            "warnings": self.warnings,
            "promise_holds": self.promise_holds,
            "selection": self.selection.to_json(),
            "n_calibration": self.n,
            "m": self.m,
            "classes": {name: asdict(found) for name, found in self.classes.items()},
            "together": self.together,
        }


def measure(
    scores: np.ndarray, selected: np.ndarray, negatives: np.ndarray, targets: np.ndarray | None
) -> list[SelectedOfClass]:
    """Describe the selection of each class.

    Args:
        scores: (m, K).
        selected: (m, K) bool.
        negatives: (K,) calibration images without each class.
        targets: (m, K), 0 or 1; None where they are not known.
    """
    found = []
    for k, chosen in enumerate(selected.T):
        count = int(chosen.sum())
        threshold = float(scores[chosen, k].min()) if count else None
        own = (None, None, None) if targets is None else _realised(targets[:, k], chosen)
        found.append(SelectedOfClass(int(negatives[k]), count, threshold, *own))
    return found


def false_share(targets: np.ndarray, selected: np.ndarray) -> float | None:
    """The share of the selected that is false; None where nothing is selected."""
    return float(1 - targets[selected].mean()) if selected.any() else None


def _realised(labels: np.ndarray, chosen: np.ndarray) -> tuple[int, float | None, float | None]:
    """Positives, false share and recall of one class."""
    positive = labels == 1
    recall = float(chosen[positive].mean()) if positive.any() else None
    return int(positive.sum()), false_share(labels, chosen), recall


def lines(report: SelectionReport) -> list[str]:
    """The report as the command prints it, wrapped at the width of the terminal."""
    table = _table(report)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    said = [report.rows, *report.notes, *(f"warning: {text}" for text in report.warnings)]
    said += [report.promise, f"{_NOT_PROMISED}.", ""]
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        said.append("  ".join([f"  {first.ljust(widths[0])}", *cells]))
    return head_lines(report.classes_text, [*said, "", *(f"{text}." for text in report.remarks)])


def markdown(report: SelectionReport) -> str:
    """The report as a page for people."""
    page = page_head(
        report.title, (report.classes_text, report.rows), report.notes, report.warnings
    )
    page += ["", report.promise, "", f"{_NOT_PROMISED}.", ""]
    head, *rows = (f"| {' | '.join(cells)} |" for cells in _table(report))
    page += [head, "|---" * len(_table(report)[0]) + "|", *rows]
    for remark in report.remarks:
        page += ["", f"{remark}."]
    return "\n".join(page) + "\n"


def _table(report: SelectionReport) -> list[list[str]]:
    """A row of texts for each class below a row of heads."""
    heads = ["class", "selected", "threshold", "negatives that calibrated"]
    labelled = any(found.positives is not None for found in report.classes.values())
    table = [heads + (["positives", "false share", "recall"] if labelled else [])]
    for name, found in report.classes.items():
        threshold = "none" if found.threshold is None else f"p >= {found.threshold!r}"
        cells = [name, f"{found.selected:,}", threshold, f"{found.negatives:,}"]
        if found.positives is not None:
            cells += [f"{found.positives:,}", *map(_number, (found.false_share, found.recall))]
        table.append(cells)
    return table


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
