"""The answer of a calibration for one level: a threshold, or why there is none."""

from dataclasses import dataclass

import numpy as np

from chestxray.conformal.losses import GRID
from chestxray.conformal.rows import Rows

BOUNDS = {"crc": "corrected risk", "rcps": "upper bound", "ltt": "p-value"}


@dataclass(frozen=True)
class Part:
    """The threshold of one class or group, None where every class is in its sets."""

    threshold: float | None
    n_units: int


@dataclass(frozen=True)
class Counted:
    """How many units and images count."""

    n_units: int
    n_images: int


@dataclass(frozen=True)
class Start:
    """Where a fixed sequence of tests starts, and the units that chose it, which count in none."""

    threshold: float
    n_units: int
    n_images: int


@dataclass(frozen=True)
class Certificate:
    """The answer for one level.

    Attributes:
        alpha: as typed; of several risks theirs, with a blank between.
        n_images, n_units: that calibrated; of several risks, that count for any of them.
        n_of_each: of several risks, the units and images that count for each, by its metric.
        threshold: for p >= t; None where nothing is certified.
        parts: by name, where each class or group has a threshold of its own.
        bound: at the threshold: see BOUNDS.
        start: of the tests, where other units chose it.
        reason: why nothing is certified.
        trivially_met: nothing is certified because even empty sets would do.
    """

    alpha: str
    n_images: int
    n_units: int
    threshold: float | None = None
    parts: dict[str, Part] | None = None
    bound: float | None = None
    n_of_each: dict[str, Counted] | None = None
    start: Start | None = None
    reason: str | None = None
    trivially_met: bool = False

    @property
    def certified(self) -> bool:
        if self.parts is None:
            return self.threshold is not None
        return any(part.threshold is not None for part in self.parts.values())

    @property
    def alphas(self) -> tuple[float, ...]:
        """The level of each risk."""
        return tuple(map(float, self.alpha.split()))

    def to_json(self) -> dict[str, object]:
        parts = self.parts or {}
        start, each = self.start, self.n_of_each
        return {
            "alpha": self.alpha,
            "threshold": {name: part.threshold for name, part in parts.items()} or self.threshold,
            "n_images": self.n_images,
            "n_units": self.n_units,
            "units_of_each": {name: part.n_units for name, part in parts.items()} or None,
            "n_of_each": None if each is None else {name: vars(n) for name, n in each.items()},
            "bound": self.bound,
            "start": None if start is None else vars(start),
            "reason": self.reason,
        }


def prediction_sets(rows: Rows, certificate: Certificate) -> np.ndarray:
    """(N, K) bool: the classes in the set of each image, of a certificate with a threshold."""
    if certificate.parts is None:
        return rows.scores >= certificate.threshold
    limits = {
        name: -np.inf if part.threshold is None else part.threshold
        for name, part in certificate.parts.items()
    }
    if rows.groups is None:
        return rows.scores >= np.array([limits[name] for name in rows.classes])
    return rows.scores >= np.array([limits[name] for name in rows.groups.of])[:, None]


def place_of(threshold: float) -> int:
    """The place of a threshold in the grid."""
    return int(np.searchsorted(GRID, threshold))
