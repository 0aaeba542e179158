"""The risks that can be controlled: the loss of an image's set, conventions for 0/0, and words.

A further risk is one subclass of Risk in this file and its entry in RISKS.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from chestxray.conformal.betting import Bets
from chestxray.conformal.losses import (
    GRID,
    LossCurves,
    LossTable,
    Misses,
    counting_rows,
    false_discovery_rates,
    labels_given,
    miss_rates,
    nonempty_shares,
)


@dataclass(frozen=True)
class Risk(ABC):
    """What a threshold is to keep low, E(loss) / E(weight), with its conventions for 0/0.

    A subclass has to give the class attributes without a default and `image_losses`. The loss
    table that follows from these is slow; a subclass may have a faster one.

    Attributes:
        no_positive: an image without a positive class: "drop", "zero" or "error".
        empty: the false share of an empty set: "0", "1", or "drop" (it does not count).
        name: of --risk.
        metric: the key of its realised value in report.json; the name, unless it says otherwise.
        abbreviation, label: for titles and axes ("FNR", "miss rate").
        meaning: completes "the ... is at most alpha".
        definition: a sentence that says what is averaged, for those who quote the risk.
        monotone: the loss never falls as the threshold rises; CRC and RCPS need that.
        strict_last: the safe end of the grid is its last threshold (empty sets), not its first.
        by_class: it can be controlled for each class alone, over the units with the class.
    """

    no_positive: str = "drop"
    empty: str = "0"

    name: ClassVar[str]
    abbreviation: ClassVar[str]
    label: ClassVar[str]
    meaning: ClassVar[str]
    monotone: ClassVar[bool]
    strict_last: ClassVar[bool]
    by_class: ClassVar[bool] = False

    @abstractmethod
    def image_losses(self, targets: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """(N,) loss of each image's set; targets and sets are (N, K), 0 or 1."""

    def image_weights(self, sets: np.ndarray) -> np.ndarray:
        """(N,) in [0, 1], what the risk divides by, at least the loss; 1 where it is a mean."""
        return np.ones(len(sets))

    def counts(self, targets: np.ndarray) -> np.ndarray:
        """(N,) bool, which images count."""
        return np.ones(len(targets), dtype=bool)

    def table(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> LossTable:
        """Losses and weights of each unit at each threshold of the grid.

        Args:
            targets: (N, K), 0 or 1, of the images that count.
            scores: (N, K), in [0, 1].
            codes: (N,) unit of each image, 0 to G - 1, each at least once.
        """
        images = np.bincount(codes)

        def means(values: list[np.ndarray]) -> np.ndarray:
            return np.column_stack([np.bincount(codes, column) / images for column in values])

        sets = [scores >= t for t in GRID]
        losses = means([self.image_losses(targets, chosen) for chosen in sets])
        weights = means([self.image_weights(chosen) for chosen in sets])
        return LossTable(losses, None if (weights == 1).all() else weights)

    def curves(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> LossCurves:
        """The losses as functions of the threshold; arguments as in table."""
        return self.table(targets, scores, codes)

    def bets(self, alpha: float) -> Bets:
        """How the betting p-value of "the risk is above alpha" stakes."""
        return Bets()

    @property
    def metric(self) -> str:
        return self.name

    @property
    def definition(self) -> str:
        return f"{self.abbreviation} is the mean {self.label} of an image: {self.meaning}."

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that can control it, the default first."""
        return ("crc", "rcps", "ltt") if self.monotone else ("ltt",)

    @property
    def axis_label(self) -> str:
        return f"{self.label} ({self.abbreviation})"

    @property
    def counted(self) -> str:
        """Completes "an image ..." where not every image counts."""
        return ""

    @property
    def convention(self) -> str:
        """The value chosen for 0/0, to end a sentence with, where it has one."""
        return ""

    def promise(self, alpha: str) -> str:
        """The risk is at most alpha, as a part of a sentence."""
        return f"the {self.meaning} ({self.abbreviation}) is at most {alpha} in expectation"

    @property
    def needs_start(self) -> bool:
        """A fixed sequence cannot begin at the strict end, where nothing shows: it needs a start.

        At all-empty sets such a risk is 0/0, and the loss that stands for it is alpha.
        """
        return False

    @property
    def fixed_sequence_fault(self) -> str:
        """Why a fixed sequence of tests cannot begin at all, where it cannot."""
        return ""


class MissRate(Risk):
    """FNR: 1 - |Y n C| / |Y| of an image; 0/0 where it has no positive class."""

    name = "fnr"
    abbreviation = "FNR"
    label = "miss rate"
    meaning = "share of positive classes missed"
    monotone = True
    strict_last = False
    by_class = True

    def image_losses(self, targets: np.ndarray, sets: np.ndarray) -> np.ndarray:
        positives = targets.sum(axis=1, dtype=np.int64)
        shares = 1 - (sets & (targets == 1)).sum(axis=1) / np.maximum(positives, 1)
        return np.where(positives > 0, shares, 0.0)

    def counts(self, targets: np.ndarray) -> np.ndarray:
        return counting_rows(targets, self.no_positive)

    def table(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> LossTable:
        return LossTable(miss_rates(targets, scores, codes))

    def curves(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> LossCurves:
        return Misses(targets, scores, codes)

    @property
    def definition(self) -> str:
        return (
            "FNR is the mean miss rate of an image: the share of its positive classes that its set "
            "misses."
        )

    @property
    def counted(self) -> str:
        return "with a positive class" if self.no_positive == "drop" else ""

    @property
    def convention(self) -> str:
        zero = self.no_positive == "zero"
        return "with 0 for an image without a positive class" if zero else ""


class FalseDiscoveryRate(Risk):
    """FDR: |C minus Y| / |C| of an image's set; 0/0 where it is empty."""

    name = "fdr"
    monotone = False
    strict_last = True

    @property
    def given_nonempty(self) -> bool:
        """The sets that are empty do not count."""
        return self.empty == "drop"

    @property
    def metric(self) -> str:
        return "fdr_nonempty" if self.given_nonempty else self.name

    def image_losses(self, targets: np.ndarray, sets: np.ndarray) -> np.ndarray:
        sizes = sets.sum(axis=1)
        shares = 1 - (sets & (targets == 1)).sum(axis=1) / np.maximum(sizes, 1)
        return np.where(sizes > 0, shares, float(self.empty == "1"))

    def image_weights(self, sets: np.ndarray) -> np.ndarray:
        return sets.any(axis=1).astype(float) if self.given_nonempty else np.ones(len(sets))

    def table(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> LossTable:
        losses = false_discovery_rates(targets, scores, codes, float(self.empty == "1"))
        return LossTable(losses, nonempty_shares(scores, codes) if self.given_nonempty else None)

    def promise(self, alpha: str) -> str:
        if not self.given_nonempty:
            return super().promise(alpha)
        return (
            f"the expected false share of the sets is at most {alpha} times the expected share of "
            f"sets that are not empty ({self.abbreviation} at most {alpha})"
        )

    @property
    def abbreviation(self) -> str:  # type: ignore[override]
        return "FDR of non-empty sets" if self.given_nonempty else "FDR"

    @property
    def label(self) -> str:  # type: ignore[override]
        return "false share of non-empty sets" if self.given_nonempty else "false discovery rate"

    @property
    def meaning(self) -> str:  # type: ignore[override]
        return f"false share of {'a non-empty' if self.given_nonempty else 'the'} set"

    @property
    def axis_label(self) -> str:
        return self.abbreviation if self.given_nonempty else super().axis_label

    @property
    def definition(self) -> str:
        if self.given_nonempty:
            return (
                "FDR of non-empty sets is the mean false share of the sets that are not empty: the "
                "share of its classes that the image does not have. An empty set does not count. "
                "It is not 1 - precision, the false share of all classes given out."
            )
        return (
            "FDR is the mean false share of a set: the share of its classes that the image does "
            f"not have, {self.empty} for an empty set. It is not 1 - precision, the false share "
            "of all classes given out."
        )

    @property
    def convention(self) -> str:
        return "" if self.given_nonempty else f"with {self.empty} for an empty set"

    @property
    def needs_start(self) -> bool:
        return self.given_nonempty

    @property
    def fixed_sequence_fault(self) -> str:
        full = self.empty == "1"
        return "begins at all-empty sets, which --empty 1 makes a full loss" if full else ""


class MarginalFalseDiscoveryRate(Risk):
    """mFDR: E|C minus Y| / E|C|, of all classes given out the false share; 1 - precision."""

    name = "mfdr"
    abbreviation = "mFDR"
    label = "marginal false discovery rate"
    meaning = "false share of all classes given out"
    monotone = False
    strict_last = True
    needs_start = True

    def image_losses(self, targets: np.ndarray, sets: np.ndarray) -> np.ndarray:
        return (sets & (targets != 1)).mean(axis=1)

    def image_weights(self, sets: np.ndarray) -> np.ndarray:
        return sets.mean(axis=1)

    def table(self, targets: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> LossTable:
        return LossTable(*labels_given(targets, scores, codes))

    def bets(self, alpha: float) -> Bets:
        # Its losses lie close together around alpha: larger bets pay, up to where one could ruin.
        return Bets(most=0.9 / (1 - alpha), prior_variance=0.02)

    def promise(self, alpha: str) -> str:
        return (
            f"the expected number of false classes given out is at most {alpha} times the expected "
            f"number given out ({self.abbreviation} at most {alpha})"
        )

    @property
    def definition(self) -> str:
        return (
            "mFDR, the marginal false discovery rate, is the false share of all classes given out, "
            "1 - precision. It is not the mean false share of a set."
        )


RISKS: dict[str, type[Risk]] = {
    risk.name: risk for risk in (MissRate, FalseDiscoveryRate, MarginalFalseDiscoveryRate)
}
