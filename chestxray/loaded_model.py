"""A trained network in Python: images -> a table of scores -> prediction sets."""

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from chestxray.checkpoints.initial import start_network
from chestxray.checkpoints.lookup import open_to_test
from chestxray.conformal.apply import apply_to
from chestxray.conformal.report import Application
from chestxray.data.cache import describe_notes, load_images
from chestxray.data.dataset import ChestDataset
from chestxray.data.decoding import DEEP, fit
from chestxray.data.unlabelled import find_unlabelled
from chestxray.data.workset import keep_readable
from chestxray.evaluation.predict import predict
from chestxray.labels import CLASSES
from chestxray.models.network import FoldedNetwork
from chestxray.prediction import CHECKPOINTS, read_thresholds, size_of
from chestxray.runtime.files import file_digest
from chestxray.runtime.job import join_job
from chestxray.runtime.memory import free_memory
from chestxray.runtime.signals import StopRequest
from chestxray.runtime.text import join_limited
from chestxray.scores import ScoredBy, Scores, as_read, scores_text, text_digest

AnyPath = str | PathLike[str]
_BATCH = 32
_DEVICES, _PRECISIONS = ("auto", "cpu", "cuda", "mps"), ("auto", "fp32", "bf16")
_CHECKPOINT = "chestxray checkpoint"  # in a table's attrs: its name and SHA-256


@dataclass(frozen=True)
class LoadedModel:
    """A network to score images with; chestxray.load makes one.

    Attributes:
        path, sha256: of the checkpoint.
        classes: 15 names, in the order of the outputs.
        size: side of the images that the network sees, in pixels.
        device: on which it computes.
    """

    path: Path
    sha256: str
    size: int
    device: torch.device
    _network: FoldedNetwork
    classes: tuple[str, ...] = CLASSES

    @classmethod
    def from_checkpoint(cls, checkpoint: AnyPath, device: str, precision: str) -> "LoadedModel":
        """See chestxray.load."""
        for word, allowed in ((device, _DEVICES), (precision, _PRECISIONS)):
            if word not in allowed:
                raise ValueError(f"{word!r} is none of {', '.join(allowed)}")
        opened = open_to_test(str(checkpoint), CHECKPOINTS)
        with join_job(device, precision, StopRequest()) as job:
            network = start_network("none", 0, opened, job).folded_head()
        return cls(opened.path, opened.digest(), size_of(opened), job.device, network)

    def score(
        self,
        images: AnyPath | Iterable[AnyPath] | np.ndarray,
        bits: int = DEEP,
        skip_bad_images: bool = False,
        workers: int = 0,
    ) -> pd.DataFrame:
        """Score images, each padded to a square and resized as in training.

        Args:
            images: a folder, a file, or several of them, of PNG, JPEG and DICOM files; or grey
                images (n, h, w) uint8, 0 black and 255 white.
            bits: of the values of files with 16 bits; 2**bits - 1 is white.
            skip_bad_images: leave out files that cannot be read, with a warning.
            workers: image-decoding processes; more than 0 needs a script with a main guard.

        Returns:
            Columns image (the path below its folder, or the place in the array) and one for each
            class: float64 in [0, 1], as predict's scores.csv has them. They rank images and are no
            probabilities.

        Raises:
            FileNotFoundError: a path does not exist.
            ValueError: files that cannot be read; no images; an array of another kind.
        """
        if isinstance(images, np.ndarray):
            dataset = self._dataset(images)
        else:
            typed = [images] if isinstance(images, str | PathLike) else list(images)
            found = find_unlabelled([Path(path) for path in typed])
            paths = found.rows["path"].tolist()
            decoded = load_images(paths, self.size, found.source, None, workers, bits=bits)
            workset, skipped = keep_readable(found.rows, decoded, skip_bad_images)
            _warn([*describe_notes(decoded.notes), "\n".join(skipped)])
            dataset = workset.dataset(self.device, free_memory(self.device))
        _, scores = predict(self._network, dataset, _BATCH, "scoring")
        columns = dict(zip(self.classes, as_read(scores).T, strict=True))
        table = pd.DataFrame({"image": dataset.image_names, **columns})
        table.attrs[_CHECKPOINT] = (self.path.name, self.sha256)
        return table

    def _dataset(self, images: np.ndarray) -> ChestDataset:
        if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape:
            raise ValueError(
                f"images are {images.dtype} {images.shape}: uint8 (n, h, w) is needed, none of "
                "them 0"
            )
        pixels = np.stack([fit(Image.fromarray(image), self.size) for image in images])
        names = np.array([str(place) for place in range(len(images))], dtype=object)
        nothing_known = np.empty((len(images), 0), dtype=np.uint8)
        return ChestDataset(names, pixels, np.arange(len(images)), nothing_known, self.device)

    def sets(self, table: pd.DataFrame, thresholds_file: AnyPath) -> pd.DataFrame:
        """Form prediction sets of scores, by the thresholds of a calibration.

        Args:
            table: as `score` returns it; with a column patient where patients are known.
            thresholds_file: thresholds.json of `python -m chestxray.conformal`.

        Returns:
            Columns image, alpha (text), set (classes joined by |, "" for the empty set), size; a
            row for each image and certified level, as sets.csv has them. What speaks against the
            promise of the thresholds for these images is a warning.

        Raises:
            FileNotFoundError, ValueError: no thresholds of this version; other classes; columns
                that are missing, images twice, scores outside [0, 1].
        """
        path, scores = Path(thresholds_file), self._checked(table)
        by = table.attrs.get(_CHECKPOINT)
        how = Application(
            thresholds=path.name,
            scores="the table",
            split=None,
            untouched=False,
            thresholds_sha256=file_digest(path),
            scores_sha256=text_digest(scores_text(path, scores)),
            scored_by=ScoredBy(*by) if by else None,
        )
        found = apply_to(Path("the table"), scores, read_thresholds(path).stored, how)
        _warn(found.report.warnings)
        texts = {"image": str, "alpha": str, "set": str}
        sets = pd.read_csv(io.StringIO(found.sets_text()), dtype=texts, keep_default_na=False)
        return sets[["image", "alpha", "set", "size"]]

    def _checked(self, table: pd.DataFrame) -> Scores:
        """The scores of a table, which may have been edited.

        Raises:
            ValueError: see `sets`.
        """
        missing = [name for name in ("image", *self.classes) if name not in table]
        if missing:
            raise ValueError(f"the table has no column {join_limited(missing)}")
        images = table["image"].astype(str).to_numpy(dtype=object)
        scores = table[list(self.classes)].to_numpy(np.float64)
        if len(set(images)) < len(images) or not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError("the table has an image twice, or a score that is not in [0, 1]")
        patients = table["patient"].astype(str).to_numpy(object) if "patient" in table else None
        return Scores(
            image_names=images,
            patients=patients,
            splits=None,
            classes=self.classes,
            targets=np.empty((len(table), 0), dtype=np.uint8),
            logits=None,
            scores=scores,
        )


def _warn(lines: Iterable[str]) -> None:
    for line in filter(None, lines):
        warnings.warn(line.removeprefix("warning: "), stacklevel=3)
