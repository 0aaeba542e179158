"""Metrics of prediction sets on rows with labels, and of the realised risk over re-splits."""

from dataclasses import asdict, dataclass

import numpy as np

from chestxray.bootstrap import percentile_interval, resampled_sums
from chestxray.conformal.calibrate import Certificate, Config, Rows
from chestxray.conformal.risks import RISKS, FalseDiscoveryRate

LEVEL = 0.95  # of the intervals by class
WEIGHTINGS = ("image", "patient")
_RESAMPLES = 1000


@dataclass(frozen=True)
class SetMetrics:
    """Realised risks and sizes under one weighting; None where nothing counts.

    Attributes:
        risks: the mean loss by the name of each of RISKS.
        fdr_nonempty: false discovery rate of the sets that are not empty.
        empty, full: share of empty sets and of sets of every class.
        size: mean number of classes in a set.
        precision, recall: micro averages.
    """

    risks: dict[str, float | None]
    fdr_nonempty: float | None
    empty: float | None
    full: float | None
    size: float | None
    precision: float | None
    recall: float | None

    def to_json(self) -> dict[str, float | None]:
        values = asdict(self)
        return {**values.pop("risks"), **values}


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % patient-bootstrap interval; None where it is 0/0."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ClassShares:
    """Recall and false discovery rate of a class under one weighting."""

    recall: Estimate
    fdr: Estimate


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class: images that have it, sets that hold it, and shares of both kinds.

    Weighted by patient, a share is the mean over the patients that have the class (recall) or a
    selection of it (fdr).
    """

    positives: int
    selected: int
    image: ClassShares
    patient: ClassShares

    def shares(self, weighting: str) -> ClassShares:
        return {"image": self.image, "patient": self.patient}[weighting]


@dataclass(frozen=True)
class RiskSummary:
    """Realised risk over re-splits: how many certify, and None for the rest where none does."""

    certified: int
    mean: float | None = None
    median: float | None = None
    interval: tuple[float, float] | None = None
    above_alpha: float | None = None


def prediction_sets(scores: np.ndarray, certificate: Certificate) -> np.ndarray:
    """(N, K) bool: the classes in the set of each image, of a certificate with a threshold."""
    if certificate.thresholds is not None:
        limits = np.array([-np.inf if t is None else t for t in certificate.thresholds])
        return scores >= limits
    return scores >= certificate.threshold


def realised(rows: Rows, sets: np.ndarray, config: Config) -> dict[str, SetMetrics]:
    """Risks and sizes on labelled rows, for each of WEIGHTINGS.

    Args:
        rows: N images with labels.
        sets: (N, K) bool.
        config: the conventions for 0/0.
    """
    patient = np.unique(rows.patients, return_inverse=True)[1]
    return {
        "image": _set_metrics(rows, sets, config, np.arange(len(sets))),
        "patient": _set_metrics(rows, sets, config, patient),
    }


def _set_metrics(rows: Rows, sets: np.ndarray, config: Config, groups: np.ndarray) -> SetMetrics:
    """The metrics where each of the groups, (N,) numbers, weighs the same."""
    everyone = np.ones(len(sets), dtype=bool)
    sizes, truth = sets.sum(axis=1), rows.targets.astype(bool)
    selected = _mean(sizes, everyone, groups)
    wanted = _mean(truth.sum(axis=1), everyone, groups)
    right = _mean((sets & truth).sum(axis=1), everyone, groups)
    # "error" was refused for the calibration rows; here such rows are dropped.
    how = "drop" if config.no_positive == "error" else config.no_positive
    risks = {name: risk(how, config.empty) for name, risk in RISKS.items()}
    return SetMetrics(
        risks={
            name: _mean(risk.image_losses(rows.targets, sets), risk.counts(rows.targets), groups)
            for name, risk in risks.items()
        },
        fdr_nonempty=_mean(
            FalseDiscoveryRate().image_losses(rows.targets, sets), sizes > 0, groups
        ),
        empty=_mean(sizes == 0, everyone, groups),
        full=_mean(sizes == sets.shape[1], everyone, groups),
        size=selected,
        precision=right / selected if selected and right is not None else None,
        recall=right / wanted if wanted and right is not None else None,
    )


def _mean(values: np.ndarray, mask: np.ndarray, groups: np.ndarray) -> float | None:
    """The mean of the chosen values, each group weighing the same; None where none is chosen."""
    if not mask.any():
        return None
    inside = groups[mask]
    return float(np.average(values[mask], weights=1 / np.bincount(inside)[inside]))


def per_class(
    rows: Rows, sets: np.ndarray, classes: tuple[str, ...], seed: int
) -> dict[str, ClassMetrics]:
    """Recall and false discovery rate of each class, with 95 % patient-bootstrap intervals.

    Args:
        rows: N images with labels.
        sets: (N, K) bool.
        classes: K names.
        seed: of the bootstrap.
    """
    truth = rows.targets.astype(bool)
    patient = np.unique(rows.patients, return_inverse=True)[1]
    wanted, selected, right = (_by_patient(v, patient) for v in (truth, sets, truth & sets))
    tables = [_shares(right, whole, w) for w in WEIGHTINGS for whole in (wanted, selected)]
    values = np.hstack(tables)
    drawn = resampled_sums(values, _RESAMPLES, np.random.default_rng([seed, 2]))
    sums = np.hsplit(np.vstack([values.sum(axis=0), drawn]), len(tables))
    recall, precision, recall_of_patients, precision_of_patients = map(_ratios, sums)
    return {
        name: ClassMetrics(
            positives=int(truth[:, k].sum()),
            selected=int(sets[:, k].sum()),
            image=_class_shares(recall[:, k], precision[:, k]),
            patient=_class_shares(recall_of_patients[:, k], precision_of_patients[:, k]),
        )
        for k, name in enumerate(classes)
    }


def _shares(part: np.ndarray, whole: np.ndarray, weighting: str) -> np.ndarray:
    """(G, 2K) numerators and denominators whose sums over patients give the shares.

    Args:
        part, whole: (G, K) counts of each patient.
        weighting: "image" divides the sums, "patient" takes the mean of the patients' shares.
    """
    if weighting == "image":
        return np.hstack([part, whole])
    there = whole > 0
    return np.hstack([np.where(there, part / np.maximum(whole, 1), 0.0), there.astype(float)])


def _ratios(sums: np.ndarray) -> np.ndarray:
    """(1 + B, K) shares of all images, then of each resample; NaN where 0/0."""
    part, whole = np.hsplit(sums, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return part / whole


def _class_shares(recall: np.ndarray, precision: np.ndarray) -> ClassShares:
    return ClassShares(_estimate(recall), _estimate(1 - precision))


def _by_patient(values: np.ndarray, patient: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(patient, weights=column) for column in values.T], axis=1)


def _estimate(values: np.ndarray) -> Estimate:
    """The first value with the interval of the others."""
    if np.isnan(values[0]):
        return Estimate(None, None)
    low, high = percentile_interval(values[1:, None], LEVEL)[:, 0]
    return Estimate(float(values[0]), (float(low), float(high)))


def summary(risks: np.ndarray, alpha: str) -> RiskSummary:
    """Summarise the realised risk over re-splits, NaN where a cut has none."""
    known = risks[~np.isnan(risks)]
    if not len(known):
        return RiskSummary(0)
    low, median, high = np.quantile(known, [0.05, 0.5, 0.95])
    return RiskSummary(
        certified=len(known),
        mean=float(known.mean()),
        median=float(median),
        interval=(float(low), float(high)),
        above_alpha=float((known > float(alpha)).mean()),
    )
