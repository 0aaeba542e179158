"""Metrics of prediction sets on rows with labels, and of the realised risk over re-splits."""

from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache

import numpy as np

from chestxray.bootstrap import patient_resamples, percentile_interval, resampled_sums
from chestxray.conformal.options import Config
from chestxray.conformal.risks import RISKS, FalseDiscoveryRate
from chestxray.conformal.rows import Rows

LEVEL = 0.95  # of the intervals
WEIGHTINGS = ("image", "patient")
RESAMPLES = 1000
_KEPT = 4_000_000  # numbers of resamples at most that are kept from level to level
FEW_PATIENTS = 30  # of a group, below which its risk is shown in grey
Ratio = tuple[np.ndarray, np.ndarray]  # (G, M) what each patient adds above and below the line


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over patients; None where it is 0/0 or none was asked for."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class SetMetrics:
    """Realised risks and sizes under one weighting.

    Attributes:
        risks: by the name of each of RISKS, where an empty set counts.
        fdr_nonempty: false discovery rate of the sets that are not empty.
        empty, full: share of empty sets and of sets of every class.
        size: mean number of classes in a set.
        precision, recall: micro averages.
    """

    risks: dict[str, Estimate]
    fdr_nonempty: Estimate
    empty: Estimate
    full: Estimate
    size: Estimate
    precision: Estimate
    recall: Estimate

    def estimates(self) -> dict[str, Estimate]:
        """All of them by name, the risks first."""
        others = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "risks"}
        return {**self.risks, **others}

    def to_json(self) -> dict[str, object]:
        return {name: asdict(found) for name, found in self.estimates().items()}


@dataclass(frozen=True)
class ClassShares:
    """Recall and false discovery rate of a class under one weighting."""

    recall: Estimate
    fdr: Estimate

    @property
    def missed(self) -> Estimate:
        """The miss rate, 1 - recall."""
        value, ends = self.recall.value, self.recall.interval
        return Estimate(
            None if value is None else 1 - value,
            None if ends is None else (1 - ends[1], 1 - ends[0]),
        )


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class: images that have it, their patients, sets that hold it, shares.

    Weighted by patient, a share is the mean over the patients that have the class (recall) or a
    selection of it (fdr).
    """

    positives: int
    patients: int
    selected: int
    shares: dict[str, ClassShares]

    def to_json(self) -> dict[str, object]:
        values = asdict(self)
        return values | values.pop("shares")


@dataclass(frozen=True)
class GroupMetrics:
    """Realised risks of one group: images and patients that count, and the risks by metric."""

    images: int
    patients: int
    risks: dict[str, Estimate]

    @property
    def few(self) -> bool:
        """So few that their interval is all that can be read."""
        return self.patients < FEW_PATIENTS


@dataclass(frozen=True)
class RiskSummary:
    """Realised risk over re-splits: how many certify, and None for the rest where none does.

    `halves_above_alpha` is the share of evaluation halves above alpha. It errs with both halves, so
    it is no rate at which the promise is broken.
    """

    certified: int
    mean: float | None = None
    median: float | None = None
    interval: tuple[float, float] | None = None
    halves_above_alpha: float | None = None


def realised(
    rows: Rows, sets: np.ndarray, config: Config, resamples: int = RESAMPLES
) -> dict[str, SetMetrics]:
    """Risks and sizes on labelled rows, for each weighting that the rows allow.

    Args:
        rows: N images with labels.
        sets: (N, K) bool.
        config: the conventions for 0/0, and the seed of the bootstrap.
        resamples: bootstrap resamples over patients; 0 gives no intervals.
    """
    sums = _ImageSums(rows, sets, config)
    tables = sums.by_weighting(rows)
    found = ratio_estimates(list(tables.values()), resamples, config.seed)
    return dict(zip(tables, map(sums.metrics, tables.values(), found), strict=True))


def resampled(rows: Rows, sets: np.ndarray, config: Config) -> dict[str, dict[str, np.ndarray]]:
    """The metrics of `realised` by weighting and name: (1 + RESAMPLES,), of the rows and resamples.

    The resamples depend on the seed and the number of patients alone, so those of two files with
    the same patients can be subtracted.
    """
    sums = _ImageSums(rows, sets, config)
    tables = sums.by_weighting(rows)
    found = resampled_ratios(list(tables.values()), RESAMPLES, config.seed)
    named = (dict(zip(sums.names, ratios.T, strict=True)) for ratios in found)
    return dict(zip(tables, named, strict=True))


def by_group(rows: Rows, sets: np.ndarray, config: Config) -> dict[str, dict[str, GroupMetrics]]:
    """Realised risks within the groups of each column, weighted by the unit.

    Args:
        rows: N images with labels.
        sets: (N, K) bool.
        config: the risks, the unit, conventions and the seed of the bootstrap.

    Returns:
        By column and group; groups without an image that counts are left out.
    """
    asked = {} if rows.groups is None else {str(config.by): rows.groups}
    counts = np.any([risk.counts(rows.targets) for risk in config.target_risks], axis=0)
    found: dict[str, dict[str, GroupMetrics]] = {}
    for column, groups in (asked | rows.described).items():
        found[column] = {}
        for name in groups.names:
            mask = (groups.of == name) & counts
            if not mask.any():
                continue
            own = rows.take(mask)
            weighted = realised(own, sets[mask], config)
            found_here = weighted.get(config.unit, weighted["image"])  # without patients, images
            risks = found_here.estimates()
            found[column][name] = GroupMetrics(
                images=len(own.units),
                patients=len(np.unique(own.patients)),
                risks={risk.metric: risks[risk.metric] for risk in config.target_risks},
            )
    return found


class _ImageSums:
    """What each image adds to the numerator and denominator of each metric."""

    def __init__(self, rows: Rows, sets: np.ndarray, config: Config) -> None:
        truth, sizes, one = rows.targets.astype(bool), sets.sum(axis=1), np.ones(len(sets))
        right = (sets & truth).sum(axis=1)
        # "error" was refused for the calibration rows; here such rows are dropped.
        how = "drop" if config.no_positive == "error" else config.no_positive
        risks = {name: replace(config.realised_risk(name), no_positive=how) for name in RISKS}
        risks["fdr_nonempty"] = FalseDiscoveryRate(how, "drop")
        # Numerator and denominator, and which images count.
        parts = {
            name: (risk.image_losses(rows.targets, sets), risk.image_weights(sets), counts)
            for name, risk in risks.items()
            for counts in [risk.counts(rows.targets)]
        } | {
            "empty": (sizes == 0, one, one),
            "full": (sizes == sets.shape[1], one, one),
            "size": (sizes, one, one),
            "precision": (right, sizes, one),
            "recall": (right, truth.sum(axis=1), one),
        }
        self.risks, self.names = tuple(RISKS), tuple(parts)
        self._over = np.column_stack([over * counts for over, _, counts in parts.values()])
        self._under = np.column_stack([under * counts for _, under, counts in parts.values()])
        self._counts = np.column_stack([counts for *_, counts in parts.values()])

    def by_weighting(self, rows: Rows) -> dict[str, Ratio]:
        """The sums of each patient, for each weighting that the rows allow."""
        patient = np.unique(rows.patients, return_inverse=True)[1]
        weightings = WEIGHTINGS if rows.cut_by == "patient" else WEIGHTINGS[:1]
        return {name: self.by_patient(patient, name) for name in weightings}

    def by_patient(self, patient: np.ndarray, weighting: str) -> Ratio:
        """The sums of each patient; `patient` is the number of each image's patient, (N,)."""
        over, under = by_patient(self._over, patient), by_patient(self._under, patient)
        if weighting == "image":
            return over, under
        images = np.maximum(by_patient(self._counts, patient), 1)  # of both, the patient's mean
        return over / images, under / images

    def metrics(self, sums: Ratio, found: list[Estimate]) -> SetMetrics:
        """The estimates by name, with the intervals of shares that have no width mended."""
        patients = (sums[1] > 0).sum(axis=0).tolist()
        named = {
            name: estimate if name == "size" else bounded(estimate, n)
            for name, estimate, n in zip(self.names, found, patients, strict=True)
        }
        return SetMetrics({name: named.pop(name) for name in self.risks}, **named)


def ratio_estimates(tables: list[Ratio], resamples: int, seed: int) -> list[list[Estimate]]:
    """Ratios of sums over patients, with percentile intervals of a bootstrap of the patients.

    Args:
        tables: (G, M) and (G, M) each: what each patient adds to numerators and denominators.
        resamples, seed: of the bootstrap; 0 resamples give no intervals.

    Returns:
        M estimates of each table, all from the same resamples.
    """
    ratios = resampled_ratios(tables, resamples, seed)
    return [[estimate(column) for column in table.T] for table in ratios]


def resampled_ratios(tables: list[Ratio], resamples: int, seed: int) -> list[np.ndarray]:
    """(1 + resamples, M) ratios of each table: its own, then of resamples; see ratio_estimates."""
    values = np.hstack([side for pair in tables for side in pair])
    sums = values.sum(axis=0, keepdims=True)
    if resamples:
        sums = np.vstack([sums, _resampled_sums(values, resamples, seed)])
    sides = np.hsplit(sums, 2 * len(tables))
    with np.errstate(invalid="ignore", divide="ignore"):
        return [part / whole for part, whole in zip(sides[::2], sides[1::2], strict=True)]


def _resampled_sums(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(resamples, M) sums of (G, M) values, from the same resamples for every level."""
    if len(values) * resamples > _KEPT:
        return resampled_sums(values, resamples, interval_rng(seed))
    return _drawn(len(values), resamples, seed) @ values


@lru_cache(maxsize=16)  # all patients, and those of each group
def _drawn(patients: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, patients), how often each is in each resample; as resampled_sums draws them."""
    blocks = patient_resamples(patients, resamples, interval_rng(seed))
    return np.vstack(list(blocks)).astype(np.float64)


def interval_rng(seed: int) -> np.random.Generator:
    """The source of the resamples of all intervals: pairs of files get the same ones."""
    return np.random.default_rng([seed, 2])


def estimate(values: np.ndarray) -> Estimate:
    """The first value with the interval of the others."""
    if np.isnan(values[0]):
        return Estimate(None, None)
    if len(values) == 1:
        return Estimate(float(values[0]), None)
    low, high = percentile_interval(values[1:, None], LEVEL)[:, 0]
    return Estimate(float(values[0]), (float(low), float(high)))


def bounded(share: Estimate, patients: int) -> Estimate:
    """A share with an interval of some width where its bootstrap has none.

    Where all resamples agree, as at 0 and 1, Clopper and Pearson's interval over the patients takes
    its place: of 0 among n patients, 0 to 1 - 0.025^(1/n).
    """
    if share.value is None or share.interval is None or np.ptp(share.interval) > 1e-12:
        return share
    from scipy.stats import beta

    tail, hits = (1 - LEVEL) / 2, share.value * patients
    low = beta.ppf(tail, hits, patients - hits + 1) if share.value > 0 else 0.0
    high = beta.isf(tail, hits + 1, patients - hits) if share.value < 1 else 1.0
    return Estimate(share.value, (float(low), float(high)))


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
    wanted, selected, right = (by_patient(v, patient) for v in (truth, sets, truth & sets))
    weightings = WEIGHTINGS if rows.cut_by == "patient" else WEIGHTINGS[:1]
    kinds = [(right, wanted), (selected - right, selected)]  # recall, fdr
    tables = [_weighted(*kind, weighting) for weighting in weightings for kind in kinds]
    shares = [
        [
            bounded(share, n)
            for share, n in zip(found, (whole > 0).sum(axis=0).tolist(), strict=True)
        ]
        for (_, whole), found in zip(tables, ratio_estimates(tables, RESAMPLES, seed), strict=True)
    ]
    pairs = dict(zip(weightings, zip(shares[::2], shares[1::2], strict=True), strict=True))
    return {
        name: ClassMetrics(
            positives=int(truth[:, k].sum()),
            patients=int((wanted[:, k] > 0).sum()),
            selected=int(sets[:, k].sum()),
            shares={w: ClassShares(recall[k], fdr[k]) for w, (recall, fdr) in pairs.items()},
        )
        for k, name in enumerate(classes)
    }


def _weighted(part: np.ndarray, whole: np.ndarray, weighting: str) -> Ratio:
    """(G, K) sums whose ratio is a share of all images, or the mean of the patients' shares."""
    if weighting == "image":
        return part, whole
    return part / np.maximum(whole, 1), (whole > 0).astype(float)


def by_patient(values: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """(G, K) sums over the images of each patient, of (N, K) values."""
    return np.stack([np.bincount(patient, weights=column) for column in values.T], axis=1)


def summary(risks: np.ndarray, alpha: float) -> RiskSummary:
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
        halves_above_alpha=float((known > alpha).mean()),
    )
