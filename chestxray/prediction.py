"""What a prediction comes to: scores of images without labels, their sets, where they come from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from chestxray.checkpoints.checkpoint import versions
from chestxray.checkpoints.lookup import Opened
from chestxray.conformal import output_folder, thresholds
from chestxray.conformal.apply import Applied, apply_to
from chestxray.conformal.certificate import prediction_sets
from chestxray.conformal.report import Application
from chestxray.conformal.report_page import wrapped
from chestxray.conformal.thresholds import StoredThresholds
from chestxray.data.cache import DecodedImages
from chestxray.data.decoding import READING, RESIZING
from chestxray.data.unlabelled import UnlabelledImages
from chestxray.data.workset import Workset
from chestxray.labels import CLASSES
from chestxray.runtime.files import file_digest
from chestxray.runtime.job import Job
from chestxray.runtime.text import join_limited, plural
from chestxray.scores import PREDICTION, ScoredBy, Scores, as_read, scores_text, text_digest

CHECKPOINTS = Path("checkpoints")  # where a checkpoint that is not found as typed is looked for
SCORES, SETS = "scores.csv", "sets.csv"
_SIZE = 224  # side of the images of weights that do not tell it, in pixels
_SHOWN = 20  # images whose sets are printed
_HIGHEST = 3  # scores that are printed of each
_NOTE = "the scores are sigmoids of logits: they rank images and are not probabilities"


def size_of(opened: Opened) -> int:
    """The side of the images that a checkpoint's network was trained on, in pixels."""
    return opened.checkpoint.size if opened.checkpoint else _SIZE


def note_on_size(opened: Opened) -> str | None:
    """Say so where weights do not tell the size of the images that they are for."""
    if opened.checkpoint:
        return None
    return f"{opened.path} does not tell the size of its images: {_SIZE} pixels are taken"


@dataclass(frozen=True)
class Thresholds:
    """Thresholds to form sets by, and the file that they are from."""

    path: Path
    stored: StoredThresholds


def read_thresholds(path: Path) -> Thresholds:
    """Read thresholds, and refuse those that no scores of unlabelled images can meet.

    Raises:
        FileNotFoundError, ValueError: see thresholds.read; classes that the network does not
            have; thresholds by a column that these scores do not have.
    """
    stored = thresholds.read(path)
    unknown = [name for name in stored.classes if name not in CLASSES]
    if unknown:
        raise ValueError(
            f"{path} has thresholds for {join_limited(unknown)}, and the network scores "
            f"{join_limited(CLASSES, len(CLASSES))}"
        )
    if stored.config.by:
        raise ValueError(
            f"{path} has a threshold for each {stored.config.by}, which images alone do not tell: "
            "score without --thresholds, add that column to scores.csv, and use "
            "python -m chestxray.conformal scores.csv --apply"
        )
    return Thresholds(path, stored)


def digest_of(images: Workset) -> str:
    """A short name of the images, by which two machines compare theirs."""
    digest = hashlib.sha256("\n".join(images.rows["image"]).encode()).hexdigest()
    return f"{len(images.rows):,}, {digest[:16]}"


@dataclass(frozen=True)
class Origin:
    """Where scores come from, as predict.json says it.

    Attributes:
        checkpoint, checkpoint_sha256, run_id, stage, epochs_done: the network; None where the
            file does not say.
        size: side of the images that the network sees, in pixels.
        precision, device: of the computation.
        choices: all that another run must share to replace the files of this one.
    """

    checkpoint: str
    checkpoint_sha256: str
    run_id: str
    stage: int | None
    epochs_done: int | None
    size: int
    precision: str
    device: str
    choices: dict[str, object]

    @classmethod
    def of(cls, opened: Opened, job: Job, choices: Mapping[str, object]) -> "Origin":
        """The origin by the checkpoint, the job that computes, and what else was chosen."""
        stored, digest = opened.checkpoint, opened.digest()
        return cls(
            checkpoint=opened.path.name,
            checkpoint_sha256=digest,
            run_id=opened.run_id,
            stage=stored.stage if stored else None,
            epochs_done=stored.epochs_done if stored else None,
            size=size_of(opened),
            precision=job.precision,
            device=job.device.type,
            choices={"checkpoint": digest, "precision": job.precision, **choices},
        )

    def check_folder(self, folder: Path, overwrite: bool) -> None:
        """Refuse to replace what other commands, or other images, have written.

        Raises:
            FileExistsError: the folder holds a calibration; or anything else, unless it is to be
                overwritten; a file is in its place.
        """
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise FileExistsError(f"{there} is a file: --out names a folder")
        if (folder / "report.json").exists():
            raise FileExistsError(
                f"{folder} holds a calibration or what came of one: --out names another folder"
            )
        if not overwrite:
            output_folder.refuse_another(folder, "prediction", self.choices)


@dataclass(frozen=True)
class Prediction:
    """Scores of images without labels.

    Attributes:
        origin: where they come from.
        images: what was found.
        decoded: what of it could be read, and the notes on it.
        table: the scores, float32, sorted by image.
        named: who named the patients, in a line.
        thresholds: to form sets by; None where none were asked for.
    """

    origin: Origin
    images: UnlabelledImages
    decoded: DecodedImages
    table: Scores
    named: str
    thresholds: Thresholds | None

    @property
    def patients_numbered(self) -> bool:
        """The patients are those of DICOM files, called by their order."""
        return self.table.patients is not None and self.origin.choices["patients"] is None

    def write(self, folder: Path, *sources: Path) -> list[str]:
        """Write scores.csv, predict.json and, with thresholds, sets.csv; or none of them.

        Args:
            folder: made when missing.
            sources: files that were read, which must not be replaced.

        Returns:
            The lines for the user.
        """
        text = scores_text(folder / SCORES, self.table)
        applied = self._apply(self.thresholds, text_digest(text)) if self.thresholds else None
        told = self._told(text, applied)
        contents = {SCORES: text, PREDICTION: json.dumps(told, indent=2) + "\n"}
        if applied is not None:
            contents[SETS] = applied.sets_text()
        names = (SCORES, PREDICTION, SETS)
        output_folder.replace_files(folder, names, contents, sources)
        lines = [] if applied is None else self._set_lines(applied)
        return [*lines, f"wrote {folder}/: {join_limited(contents)}"]

    def _apply(self, given: Thresholds, digest: str) -> Applied:
        """The thresholds on the scores as a reader of their CSV has them."""
        table = replace(self.table, logits=None, scores=as_read(self.table.scores))
        how = Application(
            thresholds=given.path.name,
            scores=SCORES,
            split=None,
            untouched=False,
            thresholds_sha256=file_digest(given.path),
            scores_sha256=digest,
            scored_by=ScoredBy(
                self.origin.checkpoint, self.origin.checkpoint_sha256, self.patients_numbered
            ),
        )
        return apply_to(Path(SCORES), table, given.stored, how)

    def _told(self, text: str, applied: Applied | None) -> dict[str, object]:
        """The content of predict.json."""
        given = self.thresholds
        names = dict(zip(self.images.rows["path"], self.images.rows["image"], strict=True))
        read = self.images.rows["kind"][~self.images.rows["path"].isin(self.decoded.broken)]
        return {
            **asdict(self.origin),
            "scores": SCORES,
            "scores_sha256": text_digest(text),
            "images": len(self.table.image_names),
            "patients": self.named,
            "patients_numbered": self.patients_numbered,
            "read_as": {
                kind: {"images": int((read == kind).sum()), "grey": READING[kind]}
                for kind in sorted(set(read))
            },
            "resized": RESIZING,
            "left_out": {names[path]: why for path, why in sorted(self.decoded.broken.items())},
            "other_files": len(self.images.others),
            "image_notes": {names[p]: list(n) for p, n in sorted(self.decoded.notes.items())},
            "thresholds": given.path.name if given else None,
            "thresholds_sha256": self.origin.choices["thresholds"],
            "promise_holds": None if applied is None else applied.report.promise_holds,
            "warnings": [] if applied is None else applied.report.warnings,
            "versions": versions(),
            "notes": [_NOTE],
        }

    def _set_lines(self, applied: Applied) -> list[str]:
        """What the sets promise, what doubts that, and the first images, a line each."""
        report = applied.report
        said = [f"warning: {warning}" for warning in report.warnings]
        said += [
            f"alpha {entry.certificate.alpha}: {entry.guarantee or 'nothing is certified'}"
            for entry in report.entries
        ]
        lines = [part for line in said for part in wrapped(line)]
        sets = {c.alpha: prediction_sets(applied.rows, c) for c in report.certified}
        names = np.array(applied.table.classes, dtype=object)
        for row, image in enumerate(self.table.image_names[:_SHOWN]):
            texts = {a: "|".join(names[chosen[row]]) or "empty set" for a, chosen in sets.items()}
            several = len(texts) > 1
            shown = "; ".join(f"{a}: {text}" if several else text for a, text in texts.items())
            lines.append(f"{image}  {shown}  (highest: {self._highest(row)})")
        more = len(self.table.image_names) - _SHOWN
        return lines + ([f"and {plural(more, 'more image')} in {SETS}"] if more > 0 else [])

    def _highest(self, row: int) -> str:
        scores = self.table.scores[row]
        places = np.argsort(-scores, kind="stable")[:_HIGHEST]
        return ", ".join(f"{self.table.classes[k]} {scores[k]:.3f}" for k in places)
