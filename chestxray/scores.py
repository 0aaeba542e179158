"""The scores CSV: one row per image, written whole; its nine digits keep every float32 bit.

Columns: image, patient, split, sex, age (years), view, then for the classes in their order
y_<class> (0 or 1), z_<class> (logits) and p_<class> (sigmoid scores in [0, 1]). They are read by
name. Other models' scores can be read too: any number of classes, y_ and p_ in pairs of the same
order, labels also as True and False; patient, split, sex, age, view and z_ may be absent, and
columns of other names are kept as text. What is read is the number in the text, as float64: a
score written 0.18 meets a threshold of 0.18.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd

from chestxray.csv_files import check_form, header_of, read_texts, unpacked
from chestxray.patients import patient_key, read_patients, rounded_fault
from chestxray.runtime.files import file_digest, whole_file
from chestxray.runtime.text import is_harmless, is_missing, join_limited, plural

ROW_BYTES = 640  # at most, for 15 classes
PREDICTION = "predict.json"  # beside scores of images without labels, says where they come from
_DECIMAL_COMMA = re.compile(r"\s*-?[0-9]+,[0-9]+\s*")
_SIGNED_NUMBER = re.compile(r"[-+][0-9.]+(?:[eE][-+]?[0-9]+)?")
_ROW_COLUMNS = ["image", "patient", "split"]  # whose texts no row may lack
_TRUTH = {"false": 0.0, "true": 1.0}
# What others call the columns, in lower case, and the names by which they would be read.
_OTHER_COLUMNS = {
    "image": ("image index", "image_name", "image_id", "filename", "file_name", "file", "path"),
    "patient": ("patient id", "patient_id", "patientid"),
}
_OTHER_PREFIXES = {
    "y_": ("true_", "label_", "target_", "gt_"),
    "p_": ("prob_", "proba_", "pred_", "score_"),
}
# What tables call what they say of a patient or image, letters and digits only: no classes.
_OTHER_ATTRIBUTES = {
    *("sex", "gender", "patientsex", "patientgender"),
    *("age", "patientage", "view", "viewposition"),
}


@dataclass
class Scores:
    """Scores of N images for C classes, sorted by image name.

    Attributes:
        image_names: (N,), each once.
        patients: (N,) text, one spelling of each; None where the file has no such column.
        splits: (N,) text, "train", "val" or "test"; None where the file has no such column.
        classes: C names.
        targets: (N, C) uint8, 0 or 1; (N, 0) where the file has no labels.
        logits: (N, C), float32 from predict, float64 from a file; None where it has none.
        scores: (N, C) in [0, 1], float32 from predict, float64 from a file.
        attributes: what else is known of each image, by the column's name, in the file's order:
            (N,) text, "" where there is no value. Ours are sex, age (a number of years) and view;
            a file of others may have any or none. A text from a file may begin like a formula;
            write_scores refuses that, and so must who else copies it into a file.
        notes: what reading a file has to say, a sentence each.
        excluded: classes of the file that were not read.
    """

    image_names: np.ndarray
    patients: np.ndarray | None
    splits: np.ndarray | None
    classes: tuple[str, ...]
    targets: np.ndarray
    logits: np.ndarray | None
    scores: np.ndarray
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)
    excluded: tuple[str, ...] = field(default=(), compare=False)

    @property
    def patient_keys(self) -> np.ndarray | None:
        """(N,) text, by which patients are cut, counted, compared and ordered."""
        if self.patients is None:
            return None
        return np.array([patient_key(patient) for patient in self.patients], dtype=object)

    def take(self, rows: np.ndarray, columns: list[int]) -> "Scores":
        """Keep the chosen rows (a mask) and classes (numbers)."""

        def chosen(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Scores(
            image_names=self.image_names[rows],
            patients=chosen(self.patients),
            splits=chosen(self.splits),
            classes=tuple(self.classes[k] for k in columns),
            targets=self.targets[rows][:, columns if self.targets.shape[1] else []],
            logits=None if self.logits is None else self.logits[rows][:, columns],
            scores=self.scores[rows][:, columns],
            attributes={name: texts[rows] for name, texts in self.attributes.items()},
            notes=self.notes,
            excluded=self.excluded,
        )


def write_scores(path: Path, table: Scores) -> None:
    """Write the scores CSV.

    Raises:
        ValueError: an attribute that a spreadsheet would run.
    """
    text = scores_text(path, table)
    with whole_file(path) as file:
        file.write(text)


def scores_text(path: Path, table: Scores) -> str:
    """The content of the scores CSV; floats with nine digits, which float32 survives unchanged.

    Args:
        path: named in errors.

    Raises:
        ValueError: an attribute that a spreadsheet would run.
    """
    _check_attributes(path, table.attributes)
    columns: dict[str, np.ndarray] = {"image": table.image_names}
    if table.patients is not None:
        columns["patient"] = table.patients
    if table.splits is not None:
        columns["split"] = table.splits
    columns |= table.attributes
    for prefix, values in (("y_", table.targets), ("z_", table.logits), ("p_", table.scores)):
        if values is not None and values.shape[1]:  # no labels: (N, 0)
            columns |= {f"{prefix}{n}": values[:, k] for k, n in enumerate(table.classes)}
    frame = pd.DataFrame(columns).sort_values("image", kind="stable")
    return str(frame.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def as_read(values: np.ndarray) -> np.ndarray:
    """Logits or scores as the reader of their CSV has them: the float64 of nine digits."""
    texts = [f"{value:.9g}" for value in values.ravel()]
    return np.array(texts, dtype=np.float64).reshape(values.shape)


def _check_attributes(path: Path, attributes: dict[str, np.ndarray]) -> None:
    """Refuse names and texts that a spreadsheet would run, which numbers with a sign are not."""
    for name, texts in attributes.items():
        unsafe = [text for text in (name, *pd.unique(texts)) if not _is_safe(text)]
        if unsafe:
            raise ValueError(
                f"{path} is not written: the column {name!r} has a control character, or text "
                f"beginning like a formula with - = + or @: {join_limited(map(repr, unsafe))}"
            )


def _is_safe(text: str) -> bool:
    return is_harmless(text) or _SIGNED_NUMBER.fullmatch(text) is not None


def metrics_path(path: Path) -> Path:
    """The metrics file of a scores CSV: X_scores.csv has X_metrics.json beside it."""
    return path.with_name(path.stem.removesuffix("_scores") + "_metrics.json")


@dataclass(frozen=True)
class ScoresOrigin:
    """The origin of a scores CSV, as stored in its metrics file.

    Attributes:
        scores: name of the CSV.
        checkpoint, checkpoint_sha256: name of the checkpoint's file, and its SHA-256.
        split: "train", "val", "test" or "all".
        run_id, stage, epochs_done: of the checkpoint; None where it does not say.
        data_path: of the images, absolute, links followed.
        subset: SHA-256 of the list of images; None without one.
        bits, same_patients: the other options that say which images these are.
    """

    scores: str
    checkpoint: str
    checkpoint_sha256: str
    split: str
    run_id: str | None
    stage: int | None
    epochs_done: int | None
    data_path: str
    subset: str | None
    bits: int
    same_patients: bool

    @property
    def notes(self) -> list[str]:
        """What a reader of these scores must know."""
        notes = ["the scores are sigmoids of logits: they rank images and are not probabilities"]
        if self.split in ("train", "all"):
            notes.append(
                "the network was trained on some of these images: their metrics are no test"
            )
        if self.split in ("val", "all") and self.checkpoint == "best.pth":
            notes.append("validation scores: the epoch was chosen on these images")
        return notes


def write_with_metrics(
    path: Path, table: Scores, origin: ScoresOrigin, metrics: Mapping[str, object]
) -> Path:
    """Write a scores CSV, and beside it its metrics and where it comes from.

    Args:
        path: of the scores CSV.
        table, origin: the scores, and where they come from.
        metrics: plain values, of chestxray.evaluation.metrics.

    Returns:
        The path of the metrics file.
    """
    beside, text = metrics_path(path), scores_text(path, table)
    told = {**asdict(origin), "scores_sha256": text_digest(text), **metrics, "notes": origin.notes}
    with whole_file(beside) as file:
        json.dump(told, file, indent=2)
        file.write("\n")
    with whole_file(path) as file:
        file.write(text)
    return beside


def text_digest(text: str) -> str:
    """SHA-256 of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class ScoredBy:
    """The checkpoint that gave some scores: its file's name and SHA-256.

    `patients_numbered`: the patients are called by the order in which they appear, so that equal
    names in two files are not one patient.
    """

    checkpoint: str
    sha256: str
    patients_numbered: bool = False


def scored_by(path: Path) -> ScoredBy | None:
    """The checkpoint that gave the scores of a CSV; None where no file beside it tells of them."""
    digest = file_digest(path)
    for beside in (metrics_path(path), path.with_name(PREDICTION)):
        try:
            told = json.loads(beside.read_text(encoding="utf-8"))
            if told["scores_sha256"] == digest:
                numbered = bool(told.get("patients_numbered", False))
                by = str(told["checkpoint"]), str(told["checkpoint_sha256"])
                return ScoredBy(*by, patients_numbered=numbered)
        except (OSError, ValueError, KeyError, TypeError):  # none, or not a file of ours
            continue
    return None


def refuse_foreign_files(path: Path, origin: ScoresOrigin) -> None:
    """Refuse to replace scores or metrics of another checkpoint, split or data folder.

    Raises:
        FileExistsError: such a file exists.
    """
    beside = metrics_path(path)
    found = [file for file in (path, beside) if file.exists()]
    differing = _differing(beside, origin) if found else None
    if differing:
        raise FileExistsError(
            f"{found[0]} exists and belongs to another {differing}; --scores FILE names another "
            "file, --overwrite replaces this one"
        )


def _differing(metrics: Path, origin: ScoresOrigin) -> str | None:
    """What a metrics file has other than this origin, its epochs aside; None where nothing."""
    words = {"run_id": "run", "data_path": "data folder", "same_patients": "choice of patients"}
    of_epoch = ("stage", "epochs_done", "checkpoint_sha256")
    names = [field.name for field in fields(origin) if field.name not in of_epoch]
    try:
        found = json.loads(metrics.read_text(encoding="utf-8"))
        differing = [name for name in names if found[name] != getattr(origin, name)]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not a metrics file of ours
        return "program or version"
    return ", ".join(words.get(name, name) for name in differing) or None


def read_scores(
    path: Path, labels: bool = True, exclude: Callable[[str], bool] = lambda name: False
) -> Scores:
    """Read a scores CSV, plain or .gz.

    Args:
        path: the file.
        labels: refuse a file without labels.
        exclude: by name, which classes are not read, whatever their columns hold.

    Returns:
        Logits and scores as the float64 nearest to the text; of a file of write_scores,
        astype(np.float32) gives the written bits. Every further column that has a name is in
        attributes: text without blanks around it, "" for NaN, NA and what else says "no value".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no CSV; columns that are missing or whose classes differ; values that are not
            numbers, scores outside [0, 1], labels that are neither 0 nor 1 or missing; an image
            listed twice; patients that a spreadsheet has rounded.
    """
    content = unpacked(path)
    named = _classes(path, content, labels)
    classes = tuple(name for name in named if not exclude(name))
    if not classes:
        raise ValueError(f"{path}: no class is left of {join_limited(named, most=20)}")
    frame = read_texts(path, content, "scores CSV", None).rename(columns=str.strip)
    for name in frame.columns.intersection(["image", "split"]):
        frame[name] = frame[name].str.strip()
    notes = _unify_patients(path, frame) if "patient" in frame else ()
    _check_texts(path, frame)
    frame = frame.sort_values("image", kind="stable")
    targets = _read_targets(path, frame, classes if f"y_{classes[0]}" in frame else (), labels)
    has_logits = f"z_{classes[0]}" in frame
    return Scores(
        image_names=frame["image"].to_numpy(dtype=object),
        patients=frame["patient"].to_numpy(dtype=object) if "patient" in frame else None,
        splits=frame["split"].to_numpy(dtype=object) if "split" in frame else None,
        classes=classes,
        targets=targets,
        logits=_numbers(path, frame, "z_", classes) if has_logits else None,
        scores=_read_p(path, frame, classes),
        attributes=_read_attributes(frame),
        notes=notes,
        excluded=tuple(name for name in named if exclude(name)),
    )


def _unify_patients(path: Path, frame: pd.DataFrame) -> tuple[str, ...]:
    """Give each patient of the column one spelling; says where several met."""
    fault = rounded_fault(frame["patient"])
    if fault:
        raise ValueError(f"{path}: {fault}")
    found = read_patients(frame["patient"])
    frame["patient"] = found.shown
    if not found.respelled:
        return ()
    return (
        f"{path}: {plural(found.respelled, 'patient')} spelled in several ways, each read as one",
    )


def _read_attributes(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns of neither the image nor a class, each text cleaned once."""
    attributes = {}
    for name in frame.columns:
        # Unnamed: 0 is what pandas calls a column without a name, also where it saves it again
        if name in ("", *_ROW_COLUMNS) or name.startswith(("y_", "z_", "p_", "Unnamed: ")):
            continue
        codes, texts = pd.factorize(frame[name].to_numpy(dtype=object))
        cleaned = ["" if is_missing(text) else text.strip() for text in texts]
        attributes[name] = np.array(cleaned, dtype=object)[codes]
    return attributes


def _check_texts(path: Path, frame: pd.DataFrame) -> None:
    """Refuse images listed twice, and texts that are missing or that a spreadsheet would run."""
    if not len(frame):
        raise ValueError(f"{path} has a header and no rows")
    if frame["image"].duplicated().any():
        twice = frame["image"][frame["image"].duplicated()].unique()
        raise ValueError(f"{path}: images listed twice: {join_limited(twice)}")
    for name in frame.columns.intersection(_ROW_COLUMNS, sort=False):
        empty = frame[name] == ""
        if empty.any():
            raise ValueError(
                f"{path}: {plural(int(empty.sum()), 'row')} without {name}: lines "
                f"{join_limited(frame.index[empty] + 2)}"
            )
        unsafe = frame[name][~frame[name].map(is_harmless).astype(bool)]
        if len(unsafe):  # they would be copied into sets.csv
            raise ValueError(
                f"{path}: {name} with a control character, or beginning like a formula with - = + "
                f"or @: {join_limited(map(repr, unsafe))}"
            )


def _classes(path: Path, content: bytes, labels: bool) -> tuple[str, ...]:
    """The classes of the y_, z_ and p_ columns, which must agree."""
    header = [name.strip() for name in header_of(content)]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: columns listed twice: {join_limited(twice)}")
    named = {p: [c[2:] for c in header if c.startswith(p)] for p in ("y_", "z_", "p_")}
    if "image" not in header or not named["p_"]:
        check_form(path, content, "scores CSV")
        raise ValueError(
            f"{path} is not a scores CSV: it needs columns image, y_<class> and p_<class> and has "
            f"{join_limited(header) or 'none'}{_renames(header)}"
        )
    unsafe = [n for n in named["p_"] if not n.strip() or "|" in n or not is_harmless(n)]
    if unsafe:
        raise ValueError(
            f"{path}: a class without a name, with a control character or |, which joins the "
            "classes of a set, or that begins like a formula with - = + or @: "
            f"{join_limited(map(repr, unsafe))}"
        )
    if labels and not named["y_"] and not _renames(header):
        raise ValueError(
            f"{path} has no labels (columns y_<class>), which this takes; --apply puts stored "
            "thresholds on scores without labels"
        )
    for prefix in ("y_", "z_"):
        needed = prefix == "y_" and labels
        if named[prefix] != named["p_"] and (named[prefix] or needed):
            raise ValueError(
                f"{path}: the columns {prefix}* and p_* name different classes or orders: "
                f"{join_limited(named[prefix], most=20) or 'none'}; "
                f"{join_limited(named['p_'], most=20)}{_renames(header)}"
            )
    return tuple(named["p_"])


def _renames(header: list[str]) -> str:
    """The renaming of columns that would make a file readable; "" where none is known."""
    found = [
        f"{theirs} to {ours}"
        for ours, names in _OTHER_COLUMNS.items()
        for theirs in header
        if ours not in header and theirs.casefold() in (ours, *names)
    ]
    prefixed = {
        theirs: ours
        for ours, prefixes in _OTHER_PREFIXES.items()
        for theirs in prefixes
        if any(name.startswith(theirs) for name in header)
    }
    found += [f"{theirs}<class> to {ours}<class>" for theirs, ours in prefixed.items()]
    scored = [
        name.removeprefix(prefix)
        for prefix in ("p_", *_OTHER_PREFIXES["p_"])
        for name in header
        if name.startswith(prefix)
    ]
    has_image = "image" in header or any(name.startswith(("image", "file")) for name in header)
    bare = _bare_classes(header) if has_image and "y_" not in prefixed.values() else []
    labels = [name for name in bare if name in scored or not scored]
    if labels:
        found.append(f"the labels {join_limited(labels, most=3)} to y_{labels[0]} and so on")
    if labels and not scored:
        found[-1] += f" (scores are called p_{labels[0]} and so on, and needed too)"
    return f"; rename {', '.join(found)}" if found else ""


def _bare_classes(header: list[str]) -> list[str]:
    """The columns of a table that may be classes without a prefix."""
    if any(name.startswith("y_") for name in header):
        return []
    known = {name for names in _OTHER_COLUMNS.values() for name in names}
    known |= {"", *_ROW_COLUMNS}
    prefixes = ("z_", "p_", *_OTHER_PREFIXES["p_"])
    return [
        name
        for name in header
        if name.casefold() not in known
        and re.sub(r"[^a-z0-9]", "", name.casefold()) not in _OTHER_ATTRIBUTES
        and not name.startswith(prefixes)
    ]


def _read_targets(
    path: Path, frame: pd.DataFrame, classes: tuple[str, ...], needed: bool
) -> np.ndarray:
    cells = frame[_names("y_", classes)]
    codes, texts = pd.factorize(cells.to_numpy(dtype=object).ravel())
    values = np.array([_read_label(text) for text in texts], dtype=np.float64)
    targets = values[codes].reshape(cells.shape)
    _check_cells(path, frame["image"], cells, ~np.isinf(targets), "is neither 0 nor 1")
    missing = dict(zip(classes, np.isnan(targets).sum(axis=0).tolist(), strict=True))
    lacking = {name: count for name, count in missing.items() if count}
    if lacking:
        raise ValueError(
            f"{path}: labels are missing (empty, NaN or -1): "
            f"{join_limited(f'{count:,} of {name}' for name, count in lacking.items())}; "
            + (
                f"--exclude {shlex.join(lacking)} leaves out what has none"
                if needed
                else "without any y_ columns the file is read as one without labels"
            )
        )
    return targets.astype(np.uint8)


def _read_label(text: str) -> float:
    """A label's text as 0 or 1; NaN where it says that there is none, infinite for all else."""
    word = text.strip().casefold()
    try:
        number = _TRUTH[word] if word in _TRUTH else float("nan" if is_missing(word) else word)
    except ValueError:
        return np.inf
    if number == -1:
        return np.nan
    return number if number in (0, 1) or np.isnan(number) else np.inf


def _read_p(path: Path, frame: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    scores = _numbers(path, frame, "p_", classes)
    valid = (scores >= 0) & (scores <= 1)
    _check_cells(
        path,
        frame["image"],
        frame[_names("p_", classes)],
        valid,
        "is not in [0, 1], as sigmoids and probabilities are",
    )
    return scores


def _numbers(path: Path, frame: pd.DataFrame, prefix: str, classes: tuple[str, ...]) -> np.ndarray:
    """(N, C) float64 of the columns with a prefix; all of them finite."""
    cells = frame[_names(prefix, classes)]
    try:
        numbers = cells.to_numpy(dtype=np.float64)  # Python's float: the nearest to the text
    except ValueError:
        numbers = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    odd = cells.apply(lambda column: column.str.contains("_", regex=False))  # 0.1_5 in Python
    valid = np.isfinite(numbers) & ~odd.to_numpy(dtype=bool)
    _check_cells(path, frame["image"], cells, valid, "is not a finite number")
    return numbers


def _names(prefix: str, classes: tuple[str, ...]) -> list[str]:
    return [prefix + name for name in classes]


def _check_cells(
    path: Path, image_names: pd.Series, cells: pd.DataFrame, valid: np.ndarray, fault: str
) -> None:
    """Raise ValueError where a cell is not valid; names the first one."""
    if valid.all():
        return
    row, column = np.argwhere(~valid)[0]
    cell = cells.iloc[row, column]
    hint = "; write numbers with a point" if _DECIMAL_COMMA.fullmatch(cell) else ""
    raise ValueError(
        f"{path}: {cells.columns[column]} of {image_names.iloc[row]} {fault}: {cell!r} "
        f"({plural(int((~valid).sum()), 'such value')}){hint}"
    )
