"""AUC and metrics of sets of several scores files on the same rows, with paired differences.

Patients are drawn with replacement, the same ones for every file and every metric: a difference is
taken within each resample, so what the files have in common drops out of its interval.
"""

from dataclasses import dataclass

import numpy as np

from chestxray.auc import WeightedAuc, mean_of_defined, resampled_aucs
from chestxray.conformal.certificate import Certificate, prediction_sets
from chestxray.conformal.metrics import (
    RESAMPLES,
    Estimate,
    estimate,
    interval_rng,
    realised,
    resampled,
)
from chestxray.conformal.options import Config
from chestxray.conformal.rows import Rows

UNKNOWN = Estimate(None, None)


@dataclass(frozen=True)
class Compared:
    """A metric of a file and its difference to the first one's, with 95 % intervals.

    The difference has no value for the first file, and where either of them has none.
    """

    found: Estimate
    difference: Estimate = UNKNOWN

    def to_json(self) -> dict[str, object]:
        return {
            "value": self.found.value,
            "interval": self.found.interval,
            "difference": self.difference.value,
            "difference_interval": self.difference.interval,
        }


@dataclass(frozen=True)
class Aucs:
    """The AUC of a file: of each class, and the mean over those where it is defined."""

    mean: Compared
    classes: dict[str, Compared]

    def to_json(self) -> dict[str, object]:
        classes = {name: found.to_json() for name, found in self.classes.items()}
        return {"mean": self.mean.to_json(), "classes": classes}


SetsCompared = dict[str, dict[str, Compared]]  # by weighting and metric


def compare_aucs(rows: list[Rows], classes: tuple[str, ...], seed: int) -> list[Aucs]:
    """The AUC of each file, every image alike.

    Args:
        rows: of each file, the same images with the same labels.
        classes: K names.
        seed: of the bootstrap.
    """
    drawn = [_aucs(own, seed) for own in rows]
    found = [
        [Compared(estimate(values), _difference(values, base)) for values, base in pairs]
        for pairs in (_with_first(drawn, place) for place in range(len(drawn)))
    ]
    return [Aucs(mean, dict(zip(classes, each, strict=True))) for mean, *each in found]


def _with_first(drawn: list[np.ndarray], place: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Each column of a file with that of the first file; with None for the first file itself."""
    columns = drawn[place].T
    return [(c, base if place else None) for c, base in zip(columns, drawn[0].T, strict=True)]


def _aucs(rows: Rows, seed: int) -> np.ndarray:
    """(1 + RESAMPLES, 1 + K) the mean and each class, of the rows and of their resamples."""
    ones = np.ones(len(rows.targets))
    pairs = zip(rows.targets.T, rows.scores.T, strict=True)
    values = [WeightedAuc(*columns)(ones) for columns in pairs]
    rng = interval_rng(seed)
    drawn = resampled_aucs(rows.targets, rows.scores, rows.patients, RESAMPLES, rng)
    aucs = np.vstack([values, drawn])
    return np.column_stack([mean_of_defined(aucs), aucs])


def compare_sets(
    rows: list[Rows], certificates: list[Certificate], config: Config
) -> list[SetsCompared | None]:
    """The metrics of each file's sets; None where nothing is certified for it.

    Args:
        rows: of each file, the same images with the same labels.
        certificates: of each file, for one alpha.
        config: conventions, and the seed of the bootstrap.
    """
    sets = [
        prediction_sets(own, certificate) if certificate.certified else None
        for own, certificate in zip(rows, certificates, strict=True)
    ]
    first = None if sets[0] is None else resampled(rows[0], sets[0], config)
    return [
        None if chosen is None else _sets_compared(own, chosen, first if place else None, config)
        for place, (own, chosen) in enumerate(zip(rows, sets, strict=True))
    ]


def _sets_compared(
    rows: Rows,
    sets: np.ndarray,
    first: dict[str, dict[str, np.ndarray]] | None,
    config: Config,
) -> SetsCompared:
    """The metrics of sets, with differences to `first` where that is known."""
    drawn = resampled(rows, sets, config)
    return {
        weighting: {
            name: Compared(
                value,
                _difference(drawn[weighting][name], first[weighting][name] if first else None),
            )
            for name, value in found.estimates().items()
        }
        for weighting, found in realised(rows, sets, config).items()
    }


def _difference(values: np.ndarray, first: np.ndarray | None) -> Estimate:
    return UNKNOWN if first is None else estimate(values - first)
