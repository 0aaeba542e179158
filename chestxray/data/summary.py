"""Images and patients by part of the split and by class, as text for people."""

import pandas as pd

from chestxray.data.entries import PARTS, Entries
from chestxray.labels import CLASSES
from chestxray.runtime.text import join_limited


def summary(rows: pd.DataFrame, test: bool = False) -> str:
    """Count images and patients by part of the split and by class, in a table for people.

    Args:
        rows: as in Entries, with the column split.
        test: leave out what only matters to a training.
    """
    parts = [part for part in PARTS if (rows["split"] == part).any()]
    columns = {part: rows[rows["split"] == part] for part in parts}
    columns |= {"all": rows} if len(parts) > 1 else {}

    def line(name: str, counts: list[int]) -> str:
        return f"{name:<20}" + "".join(f"{count:>9,}" for count in counts)

    lines = [
        f"{'':<20}" + "".join(f"{name:>9}" for name in columns),
        line("images", [len(part) for part in columns.values()]),
        line("patients", [part["patient"].nunique() for part in columns.values()]),
        *(line(name, [int(part[name].sum()) for part in columns.values()]) for name in CLASSES),
    ]
    if "train" in parts and not test:
        lines += _gaps(columns)
    return "\n".join([*lines, _people(rows)])


def _gaps(columns: dict[str, pd.DataFrame]) -> list[str]:
    """What a training with these rows by part of the split will lack."""
    lines = []
    if "val" not in columns:
        lines.append("no images for validation: best.pth will be the last epoch")
    untrained = [name for name in CLASSES if not columns["train"][name].any()]
    if untrained:
        lines.append(f"no training image has {join_limited(untrained)}: their scores mean nothing")
    return lines


def describe_change(entries: Entries, files: dict[str, str], labels: dict[str, int]) -> list[str]:
    """Say where the label tables differ from those of a checkpoint.

    Args:
        entries: of the data folder.
        files: SHA-256 of each table of the checkpoint, by file name.
        labels: its images by class.
    """
    if entries.fingerprint == files:
        return []
    counts = entries.label_counts()
    differing = [
        f"{name} {before:,} -> {counts[name]:,}"
        for name, before in labels.items()
        if before != counts[name]
    ]
    return [
        f"the label tables ({join_limited(entries.fingerprint)}) are not the ones of the "
        f"checkpoint ({join_limited(files)}): "
        + (f"images {join_limited(differing)}" if differing else "same counts")
    ]


def _people(rows: pd.DataFrame) -> str:
    ages = rows["age"].dropna()
    age = f"median age {ages.median():.0f}" if len(ages) else "age"
    shares = [
        f"{value} {(rows[column] == value).mean():.0%}"
        for column in ("sex", "view")
        for value in sorted(set(rows[column]) - {""})
    ]
    return f"{age} ({len(rows) - len(ages):,} unknown)" + "".join(f", {share}" for share in shares)
