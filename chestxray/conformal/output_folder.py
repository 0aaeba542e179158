"""The output folder of a calibration, an application or a selection: whose it is, and its files."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from chestxray.conformal import thresholds
from chestxray.conformal.options import FORMATS, FRESH, Config
from chestxray.conformal.report_page import TITLES
from chestxray.runtime.files import check_room, whole_file
from chestxray.runtime.signals import delay_ctrl_c
from chestxray.runtime.text import join_limited
from chestxray.scores import PREDICTION

FILES = (
    *("thresholds.json", "sets.csv", "resplits.csv", "summary.csv", "summary.tex"),
    *("report.json", "report.md"),
)
COMPARISON = tuple(f"comparison.{ending}" for ending in ("json", "md", "csv", "png"))
# What is no calibration, with the report that tells it and the key of its options there.
OTHERS = {
    "application": ("report.json", "applied"),
    "selection": ("report.json", "selection"),
    "comparison": (COMPARISON[0], "compared"),
    "prediction": (PREDICTION, "choices"),
}
_SLACK = 8192  # bytes that a file may take beyond its length
_PLOT = re.compile(rf"({'|'.join(TITLES)})(_[^/\\]+)?\.({'|'.join(FORMATS)})")


def plot_stem(kind: str, alpha: str) -> str:
    """The name of a plot of one alpha, without its ending."""
    return f"{kind}_{alpha.replace(' ', '_')}"


def default_folder(csv: Path, config: Config) -> Path:
    """The folder beside a scores CSV whose name tells risk, method, per class and split."""
    parts = [stem(csv), *config.risk, config.method]
    parts += ["nonempty"] if config.empty == "drop" and "fdr" in config.risk else []
    parts += ["per-class"] if config.per_class else []
    parts += [f"by-{config.by}"] if config.by else []
    parts += [config.split] if config.split not in (None, FRESH) else []
    return csv.parent / "_".join(re.sub(r"[^\w.-]", "-", str(part)) for part in parts)


def stem(csv: Path) -> str:
    return csv.name.removesuffix(".gz").removesuffix(".csv")


def refuse_other_calibration(
    folder: Path, config: Config, alphas: list[str], csv: Path, digest: str
) -> None:
    """Refuse a folder that holds anything but this very calibration.

    Args:
        folder: where to write.
        config: of the calibration.
        alphas: its levels.
        csv: the scores.
        digest: their SHA-256.

    Raises:
        FileExistsError: it does; says what differs.
    """
    if not _holds_anything(folder):
        return
    try:
        there = thresholds.read(folder / "thresholds.json")
    except (OSError, ValueError):
        _refuse(folder, f"{_names(folder)}, and no calibration of this version")
    levels = [certificate.alpha for certificate in there.certificates]
    asked = [" ".join(str(float(part)) for part in alpha.split()) for alpha in alphas]
    differing = [
        f"--{_flag(field.name)} {_typed(getattr(there.config, field.name))} there, "
        f"{_typed(getattr(config, field.name))} here"
        for field in fields(Config)
        if getattr(there.config, field.name) != getattr(config, field.name)
    ]
    if levels != asked:
        differing.append(f"--alpha {_typed(levels)} there, {_typed(asked)} here")
    if there.digest != digest:
        differing.append(f"other scores than {csv.name} holds now (SHA-256)")
    if differing:
        _refuse(folder, f"another calibration: {join_limited(differing)}")


def refuse_another(folder: Path, kind: str, here: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this very application, selection and so on.

    Args:
        folder: where to write.
        kind: of OTHERS.
        here: the files and all options, by name.

    Raises:
        FileExistsError: it does; says what differs.
    """
    if not _holds_anything(folder):
        return
    report, key = OTHERS[kind]
    there = _json_in(folder, report).get(key)
    if not isinstance(there, dict):
        _refuse(folder, f"{_names(folder)}, and no {kind} of this version")
    _refuse_differing(folder, kind, there, here)


def save(folder: Path, contents: dict[str, str | bytes], *sources: Path) -> None:
    """Write the files once all are made, after removing those of an earlier run.

    Args:
        folder: made when missing.
        contents: by file name.
        sources: the scores, which must not be among them.

    Raises:
        FileExistsError: it is.
    """
    replace_files(folder, (*FILES, *COMPARISON, *_named_by_report(folder)), contents, sources)


def replace_files(
    folder: Path,
    names: Iterable[str],
    contents: Mapping[str, str | bytes],
    sources: Iterable[Path],
) -> None:
    """Write files in the place of those of an earlier run; arguments and errors as in `save`.

    Args:
        names: of the files of an earlier run.
    """
    old = [folder / name for name in names]
    ours = {path.resolve() for path in (*old, *map(folder.joinpath, contents))}
    for source in sources:
        if source.resolve() in ours:
            raise FileExistsError(f"{source} would be replaced: --out names another folder")
    check_room(folder, sum(len(content) for content in contents.values()) + _SLACK * len(contents))
    with delay_ctrl_c():  # it leaves the files of one run, not of two or none
        for path in old:
            path.unlink(missing_ok=True)
        for name, content in contents.items():
            with whole_file(folder / name, "w" if isinstance(content, str) else "wb") as file:
                file.write(content)


def _named_by_report(folder: Path) -> list[str]:
    """The further files of the report in a folder: its plots, or what was selected."""
    report = _report_in(folder)
    parts = [report, *report.get("levels", [])]
    named = [part["plots"] for part in parts if isinstance(part.get("plots"), list)]
    plots = [str(name) for plots in named for name in plots if _PLOT.fullmatch(str(name))]
    return plots + (["selected.csv"] if isinstance(report.get("selection"), dict) else [])


def _report_in(folder: Path) -> dict[str, Any]:
    """The report.json of a folder; nothing where there is none, or another program's."""
    found = _json_in(folder, "report.json")
    levels = found.get("levels", [])
    ours = isinstance(levels, list) and all(isinstance(level, dict) for level in levels)
    return found if ours else {}


def _json_in(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a folder; nothing where there is none."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _holds_anything(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: --out names a folder")
    return folder.exists() and any(folder.iterdir())


def _names(folder: Path) -> str:
    return join_limited(sorted(path.name for path in folder.iterdir()), most=3)


def _refuse_differing(folder: Path, kind: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    differing = [
        f"{name} {_typed(there.get(name))} there, {_typed(value)} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
    if differing:
        _refuse(folder, f"another {kind}: {join_limited(differing)}")


def _refuse(folder: Path, found: str) -> NoReturn:
    raise FileExistsError(
        f"{folder} holds {found}; --out names another folder, --overwrite replaces what has the "
        "names of our files"
    )


def _flag(name: str) -> str:
    return "from" if name == "split" else name.replace("_", "-")


def _typed(value: object) -> str:
    """A value as it would be typed."""
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "not typed"}[value]
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)
