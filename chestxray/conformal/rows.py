"""The rows that calibrate or are evaluated: labels and scores, whose they are, and their groups."""

from dataclasses import dataclass, field, replace

import numpy as np

from chestxray.conformal.betting import order_by_digest
from chestxray.conformal.groups import Groups, described
from chestxray.conformal.losses import unit_codes
from chestxray.conformal.options import Config
from chestxray.conformal.risks import Risk
from chestxray.scores import Scores

_SHARE = 5  # one patient in so many chooses the start of the tests, where no other file does


@dataclass(frozen=True)
class Rows:
    """Images to calibrate on or to evaluate.

    Attributes:
        targets: (N, K) uint8, 0 or 1.
        scores: (N, K) float64, in [0, 1].
        units: (N,) keys of what the guarantee is for: patients or images.
        patients: (N,) keys, whose image it is; the image names where patients are not known.
        cut_by: "patient"; "image" where patients are not known.
        classes: K names.
        groups: that were chosen beforehand, each with a threshold of its own; None without.
        described: further groups, by column, whose realised risk is shown.
    """

    targets: np.ndarray
    scores: np.ndarray
    units: np.ndarray
    patients: np.ndarray
    cut_by: str = "patient"
    classes: tuple[str, ...] = ()
    groups: Groups | None = None
    described: dict[str, Groups] = field(default_factory=dict)

    @classmethod
    def from_scores(cls, table: Scores, unit: str, groups: Groups | None = None) -> "Rows":
        """The rows of a scores file; without labels, no class is positive."""
        keys = table.patient_keys
        patients = table.image_names if keys is None else keys
        labelled = table.targets.shape[1] > 0
        return cls(
            targets=table.targets if labelled else np.zeros(table.scores.shape, dtype=np.uint8),
            scores=table.scores.astype(np.float64, copy=False),
            units=patients if unit == "patient" else table.image_names,
            patients=patients,
            cut_by="image" if keys is None else "patient",
            classes=table.classes,
            groups=groups,
            described=described(table, None if groups is None else groups.column),
        )

    def take(self, mask: np.ndarray) -> "Rows":
        names = ("targets", "scores", "units", "patients")
        return replace(
            self,
            groups=None if self.groups is None else self.groups.take(mask),
            described={column: groups.take(mask) for column, groups in self.described.items()},
            **{name: getattr(self, name)[mask] for name in names},
        )

    def counting(self, risk: Risk) -> "Rows":
        """The images that a risk counts."""
        return self.take(risk.counts(self.targets))

    def parts(self, config: Config) -> dict[str, "Rows"]:
        """What gets a threshold of its own, by name: the images of each class or group that count.

        Of a class, its own column alone.
        """
        if self.groups is not None:
            counting = self.counting(config.target_risk)
            groups = counting.groups
            assert groups is not None
            return {name: counting.take(groups.of == name) for name in groups.names}
        return {name: self.with_class(k) for k, name in enumerate(self.classes)}

    def with_class(self, k: int) -> "Rows":
        """The images that have class k, with its column alone."""
        own = self.take(self.targets[:, k] == 1)
        return replace(
            own,
            targets=own.targets[:, [k]],
            scores=own.scores[:, [k]],
            classes=own.classes[k : k + 1],
        )

    @property
    def n_units(self) -> int:
        return len(np.unique(self.units))

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """(G,) sorted units and (N,) the number of each row's."""
        return unit_codes(self.units)

    def starters(self) -> np.ndarray:
        """(N,) bool, images of the fifth of the patients by whom a sequence's start is chosen.

        By SHA-256 of their keys, so that nobody can choose who they are.
        """
        names, codes = np.unique(self.patients, return_inverse=True)
        return chosen_to_start(names)[codes]


def chosen_to_start(patients: np.ndarray) -> np.ndarray:
    """(G,) bool, the fifth of (G,) patients, rounded up, that choose the start of the tests."""
    chosen = np.zeros(len(patients), dtype=bool)
    chosen[order_by_digest(patients, "chestxray starts with")[: -(-len(patients) // _SHARE)]] = True
    return chosen
