"""The scores CSV: one row per image, written whole; its nine digits keep every float32 bit.

Columns: image, patient, split, then for the classes in their order y_<class> (0 or 1), z_<class>
(logits) and p_<class> (sigmoid scores in [0, 1]). Other models' scores can be read too: any number
of classes, y_ and p_ in pairs of the same order; patient, split and z_ may be absent. What is read
is the number that the text says, in float64: a score written 0.18 meets a threshold of 0.18.
"""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chestxray.runtime.files import whole_file
from chestxray.runtime.text import is_harmless, join_limited

ROW_BYTES = 600  # of a row for 15 classes, at most


@dataclass
class Scores:
    """Scores of N images for C classes, sorted by image name.

    Attributes:
        image_names: (N,), each once.
        patients: (N,) text; None where the file has no such column.
        splits: (N,) text, "train", "val" or "test"; None where the file has no such column.
        classes: C names.
        targets: (N, C) uint8, 0 or 1; (N, 0) where the file has no labels.
        logits: (N, C), float32 from predict, float64 from a file; None where it has none.
        scores: (N, C) in [0, 1], float32 from predict, float64 from a file.
    """

    image_names: np.ndarray
    patients: np.ndarray | None
    splits: np.ndarray | None
    classes: tuple[str, ...]
    targets: np.ndarray
    logits: np.ndarray | None
    scores: np.ndarray

    def take(self, rows: np.ndarray, columns: list[int]) -> "Scores":
        """The chosen rows (a mask) and classes (numbers)."""

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Scores(
            image_names=self.image_names[rows],
            patients=of(self.patients),
            splits=of(self.splits),
            classes=tuple(self.classes[k] for k in columns),
            targets=self.targets[rows][:, columns if self.targets.shape[1] else []],
            logits=None if self.logits is None else self.logits[rows][:, columns],
            scores=self.scores[rows][:, columns],
        )


def write_scores(path: Path, table: Scores) -> None:
    """Write the scores CSV; floats with nine digits, which float32 survives unchanged."""
    columns: dict[str, np.ndarray] = {"image": table.image_names}
    if table.patients is not None:
        columns["patient"] = table.patients
    if table.splits is not None:
        columns["split"] = table.splits
    for prefix, values in (("y_", table.targets), ("z_", table.logits), ("p_", table.scores)):
        if values is not None:
            columns |= {f"{prefix}{n}": values[:, k] for k, n in enumerate(table.classes)}
    frame = pd.DataFrame(columns).sort_values("image", kind="stable")
    with whole_file(path) as file:
        frame.to_csv(file, index=False, float_format="%.9g", lineterminator="\n")


def metrics_path(path: Path) -> Path:
    """Where the metrics of a scores CSV lie: X_scores.csv has X_metrics.json beside it."""
    return path.with_name(path.stem.removesuffix("_scores") + "_metrics.json")


def write_metrics(path: Path, origin: dict[str, Any], figures: dict[str, Any]) -> Path:
    """Write the metrics of a scores CSV beside it.

    Args:
        path: of the scores CSV.
        origin: see origin.
        figures: of chestxray.evaluation.metrics.metrics.

    Returns:
        The path of the metrics file.
    """
    notes = ["the scores are sigmoids of logits: they rank images and are no probabilities"]
    if origin["split"] in ("val", "all") and origin["checkpoint"] == "best.pth":
        notes.append("validation scores: the epoch was chosen on these images")
    beside = metrics_path(path)
    with whole_file(beside) as file:
        json.dump({**origin, **figures, "notes": notes}, file, indent=2)
        file.write("\n")
    return beside


def origin(
    path: Path, checkpoint_name: str, checkpoint: dict[str, Any], split: str
) -> dict[str, Any]:
    """Where a scores CSV comes from, as its metrics file says it."""
    return {
        "scores": path.name,
        "checkpoint": checkpoint_name,
        "split": split,
        **{name: checkpoint[name] for name in ("run_id", "stage", "epochs_done")},
    }


def refuse_foreign_files(path: Path, origin: dict[str, Any]) -> None:
    """Refuse to replace scores or metrics that are not of the same checkpoint and split.

    Raises:
        FileExistsError: such a file is there.
    """
    beside = metrics_path(path)
    there = [file for file in (path, beside) if file.exists()]
    if not there:
        return
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        same = all(found[k] == origin[k] for k in ("run_id", "checkpoint", "split", "scores"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # no metrics file of ours
        same = False
    if not same:
        raise FileExistsError(
            f"{there[0]} is there and of another run, checkpoint or split; --scores FILE names "
            "another, --overwrite replaces it"
        )


def read_scores(path: Path, labels: bool = True) -> Scores:
    """Read a scores CSV, plain or .gz.

    Args:
        path: the file.
        labels: refuse a file without labels.

    Returns:
        Logits and scores as the float64 nearest to the text; of a file of write_scores,
        astype(np.float32) gives the written bits.

    Raises:
        ValueError: columns that are missing or whose classes differ; values that are not numbers,
            scores outside [0, 1], labels other than 0 and 1; a image twice.
    """
    try:
        frame = pd.read_csv(
            path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
    ) as error:
        raise ValueError(f"{path} is no scores CSV: {str(error).strip()}") from error
    classes = _classes(path, list(frame.columns), labels)
    if not len(frame):
        raise ValueError(f"{path} has a header and no rows")
    if frame["image"].duplicated().any():
        twice = frame["image"][frame["image"].duplicated()].unique()
        raise ValueError(f"{path}: images twice: {join_limited(twice)}")
    for name in ("image", "patient", "split"):
        if name not in frame:
            continue
        if (frame[name] == "").any():
            raise ValueError(f"{path}: {int((frame[name] == '').sum())} rows without {name}")
        strange = frame[name][~frame[name].map(is_harmless).astype(bool)]
        if len(strange):  # they would go on into sets.csv
            raise ValueError(
                f"{path}: {name} with a control character, or beginning as a formula with - = + "
                f"or @: {join_limited(map(repr, strange))}"
            )
    frame = frame.sort_values("image", kind="stable")

    labelled = f"y_{classes[0]}" in frame
    targets = _numbers(path, frame, "y_", classes if labelled else ())
    scores = _numbers(path, frame, "p_", classes)
    _refuse(
        path,
        frame,
        "y_",
        classes[: targets.shape[1]],
        (targets != 0) & (targets != 1),
        "is neither 0 nor 1",
    )
    _refuse(path, frame, "p_", classes, ~((scores >= 0) & (scores <= 1)), "is not in [0, 1]")
    has_logits = f"z_{classes[0]}" in frame
    return Scores(
        image_names=frame["image"].to_numpy(dtype=object),
        patients=frame["patient"].to_numpy(dtype=object) if "patient" in frame else None,
        splits=frame["split"].to_numpy(dtype=object) if "split" in frame else None,
        classes=classes,
        targets=targets.astype(np.uint8),
        logits=_numbers(path, frame, "z_", classes) if has_logits else None,
        scores=scores,
    )


def _classes(path: Path, header: list[str], labels: bool) -> tuple[str, ...]:
    named = {p: [c[2:] for c in header if c.startswith(p)] for p in ("y_", "z_", "p_")}
    if "image" not in header or not named["p_"]:
        raise ValueError(
            f"{path} is no scores CSV: it needs columns image, y_<class> and p_<class> and has "
            f"{join_limited(header)}"
        )
    strange = [name for name in named["p_"] if not is_harmless(name)]
    if strange or "" in named["p_"]:
        raise ValueError(
            f"{path}: a class without a name, with a control character, or that begins as a "
            f"formula with - = + or @: {join_limited(map(repr, strange or ['']))}"
        )
    for prefix in ("y_", "z_"):
        if named[prefix] != named["p_"] and (named[prefix] or (prefix == "y_" and labels)):
            raise ValueError(
                f"{path}: the columns {prefix}* and p_* name different classes or orders: "
                f"{join_limited(named[prefix], most=20) or 'none'}; "
                + join_limited(named["p_"], most=20)
            )
    return tuple(named["p_"])


def _numbers(path: Path, frame: pd.DataFrame, prefix: str, classes: tuple[str, ...]) -> np.ndarray:
    cells = frame[[prefix + name for name in classes]]
    try:
        numbers = cells.to_numpy(dtype=np.float64)  # Python's float: the nearest to the text
    except ValueError:
        numbers = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    _refuse(path, frame, prefix, classes, ~np.isfinite(numbers), "is no finite number")
    return numbers


def _refuse(
    path: Path,
    frame: pd.DataFrame,
    prefix: str,
    classes: tuple[str, ...],
    bad: np.ndarray,
    what: str,
) -> None:
    if bad.any():
        row, column = np.argwhere(bad)[0]
        name = prefix + classes[column]
        raise ValueError(
            f"{path}: {name} of {frame['image'].iloc[row]} {what}: "
            f"{frame[name].iloc[row]!r} ({int(bad.sum())} such values)"
        )
