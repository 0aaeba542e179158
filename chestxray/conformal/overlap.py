"""Patients and images that two scores files have in common."""

from collections.abc import Iterable

from chestxray.scores import Scores


def shared_rows(first: Scores, second: Scores) -> tuple[list[str], list[str]]:
    """The patients of both files, by key and as the second spells them, and the images of both.

    Returns:
        Two sorted lists; no patients where a file names none.
    """
    keys, others = first.patient_keys, second.patient_keys
    both = set() if keys is None or others is None else {*keys} & {*others}
    patients = sorted(shown_patients(second, both)) if both else []
    return patients, sorted({*first.image_names} & {*second.image_names})


def shown_patients(table: Scores, keys: Iterable[str]) -> list[str]:
    """Patients, named by their keys, as a file spells them."""
    assert table.patients is not None and table.patient_keys is not None
    spelling = dict(zip(table.patient_keys, table.patients, strict=True))
    return [spelling[key] for key in keys]
