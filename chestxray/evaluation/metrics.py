"""Logits and scores of a data set, ROC AUC and average precision per class, intervals."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from chestxray.auc import mean_of_defined, resampled_aucs, undefined_aucs
from chestxray.bootstrap import percentile_interval
from chestxray.labels import CLASSES, FINDINGS, NO_FINDING
from chestxray.scores import Scores

LEVEL = 0.95  # of the intervals
FEW = 5  # positives; below, an AUC says next to nothing


def undefined(targets: np.ndarray) -> dict[str, str]:
    """Name the classes whose AUC is undefined, with the reason.

    Args:
        targets: (N, 15), 0 or 1.
    """
    return undefined_aucs(targets, CLASSES)


def roc_auc_per_class(targets: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """ROC AUC of each class against the rest.

    Args:
        targets: (N, 15), 0 or 1, columns in the order of CLASSES.
        scores: (N, 15).

    Returns:
        AUC by class name; NaN where targets hold a single value.
    """
    return _per_class(roc_auc_score, targets, scores)


def average_precision_per_class(targets: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Average precision of each class; arguments and NaN as in roc_auc_per_class."""
    return _per_class(average_precision_score, targets, scores)


def mean_of_findings(values: dict[str, float]) -> tuple[float, int]:
    """The mean over the findings where the value is defined, No Finding left out, and how many."""
    defined = [values[name] for name in FINDINGS if not np.isnan(values[name])]
    return (float(np.mean(defined)) if defined else float("nan")), len(defined)


def auc_intervals(
    targets: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile-bootstrap intervals of the AUCs, patients drawn with replacement.

    Images of a patient depend on each other, so patients are drawn, not images. Resamples in
    which a class is undefined do not count for that class.

    Args:
        targets: (N, 15), 0 or 1.
        scores: (N, 15).
        patients: (N,) keys.
        resamples: at least 1.
        seed: of the draws.

    Returns:
        (low, high) by class name and for "mean", the mean over the findings defined in `targets`.
    """
    skipped = undefined(targets)
    names = [name for name in CLASSES if name not in skipped]
    columns = [CLASSES.index(name) for name in names]
    rng = np.random.default_rng(seed)
    drawn = resampled_aucs(targets[:, columns], scores[:, columns], patients, resamples, rng)
    findings = [k for k, name in enumerate(names) if name in FINDINGS]
    if findings:
        means = mean_of_defined(drawn[:, findings])
        names, drawn = [*names, "mean"], np.column_stack([drawn, means])
    ends = percentile_interval(drawn, LEVEL)
    intervals = zip(names, *ends.tolist(), strict=True)
    return {name: (low, high) for name, low, high in intervals if not np.isnan(low)}


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; AUC and average precision are None where undefined."""

    auc: float | None
    ap: float | None
    positives: int
    negatives: int


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals (low, high) of AUCs, the mean's and by class."""

    level: float
    resamples: int
    unit: str
    mean_auc: tuple[float, float] | None
    classes: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Metrics:
    """Metrics of scored images, as the metrics file has them.

    Attributes:
        mean_auc, mean_ap: over the findings where they are defined; None where none is.
        mean_of: how many findings those are.
        classes: by class name.
        undefined: classes without an AUC, and why.
        constant: classes whose scores are all equal.
        images, patients: how many.
        intervals: None where none were asked for.
    """

    mean_auc: float | None
    mean_ap: float | None
    mean_of: int
    classes: dict[str, ClassMetrics]
    undefined: dict[str, str]
    constant: list[str]
    images: int
    patients: int
    intervals: Intervals | None

    def to_plain(self) -> dict[str, object]:
        """Plain values for a JSON file."""
        return asdict(self)


def compute_metrics(table: Scores, resamples: int, seed: int) -> Metrics:
    """Metrics of labelled scores with patients.

    Args:
        table: N images, the 15 classes.
        resamples: bootstrap resamples over patients; 0 computes no intervals.
        seed: of the bootstrap.
    """
    targets, scores = table.targets, table.scores
    keys = table.patient_keys
    patients = table.image_names if keys is None else keys
    auc = roc_auc_per_class(targets, scores)
    ap = average_precision_per_class(targets, scores)
    positives = targets.sum(axis=0)
    return Metrics(
        mean_auc=_or_none(mean_of_findings(auc)[0]),
        mean_ap=_or_none(mean_of_findings(ap)[0]),
        mean_of=mean_of_findings(auc)[1],
        classes={
            name: ClassMetrics(
                auc=_or_none(auc[name]),
                ap=_or_none(ap[name]),
                positives=int(positives[k]),
                negatives=int(len(targets) - positives[k]),
            )
            for k, name in enumerate(CLASSES)
        },
        undefined=undefined(targets),
        constant=[n for k, n in enumerate(CLASSES) if _is_constant(scores[:, k])],
        images=len(targets),
        patients=len(np.unique(patients)),
        intervals=_intervals(targets, scores, patients, resamples, seed) if resamples else None,
    )


def _is_constant(scores: np.ndarray) -> bool:
    return len(scores) > 1 and np.ptp(scores) == 0


def _intervals(
    targets: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int, seed: int
) -> Intervals:
    found = auc_intervals(targets, scores, patients, resamples, seed)
    mean = found.pop("mean", None)
    return Intervals(LEVEL, resamples, "patient", mean, found)


def metrics_table(metrics: Metrics) -> str:
    """A table for people: class, positives, AUC, its interval, average precision."""
    intervals = metrics.intervals
    lines = [
        f"{'class':<20}{'positives':>10}{'AUC':>8}{'AP':>8}"
        + ("   95 % of AUC" if intervals else "")
    ]
    for name, row in metrics.classes.items():
        values = f"{name:<20}{row.positives:>10,}{_shown(row.auc):>8}{_shown(row.ap):>8}"
        lines.append("   ".join([values, *_remarks(metrics, name)]))
    mean = f"mean of {metrics.mean_of} of {len(FINDINGS)} findings"
    last = f"{mean:<30}{_shown(metrics.mean_auc):>8}{_shown(metrics.mean_ap):>8}"
    if intervals and intervals.mean_auc:
        last += "   {:.3f}-{:.3f}".format(*intervals.mean_auc)
    return "\n".join([*lines, last])


def _remarks(metrics: Metrics, name: str) -> list[str]:
    """The interval of a class, and what its metrics do not say."""
    remarks = []
    if metrics.intervals and name in metrics.intervals.classes:
        remarks.append("{:.3f}-{:.3f}".format(*metrics.intervals.classes[name]))
    if name in metrics.undefined:
        remarks.append(metrics.undefined[name])
    elif metrics.classes[name].positives < FEW:
        remarks.append("few")
    if name in metrics.constant:
        remarks.append("all scores are equal")
    if name == NO_FINDING:
        remarks.append("not in the mean")
    return remarks


def _per_class(
    metric: Callable[[np.ndarray, np.ndarray], float], targets: np.ndarray, scores: np.ndarray
) -> dict[str, float]:
    skipped = undefined(targets)
    return {
        name: float("nan") if name in skipped else float(metric(targets[:, k], scores[:, k]))
        for k, name in enumerate(CLASSES)
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
