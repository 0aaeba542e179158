"""How long tables, lists, split and the search for images take at the size of the whole NIH set.

python -m benchmarks.tables --json tables.json

The released table and lists are read from ../shared where they are; else some of their size are
made. The image files are empty: what is timed is finding and matching them, not decoding.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chestxray.data.entries import (
    TEST_LIST,
    TRAIN_VAL_LIST,
    find_images,
    match_images,
    read_lists,
)
from chestxray.data.splits import draw_split
from chestxray.data.tables import read_table, read_tables
from chestxray.labels import CLASSES

SHARED = Path(__file__).resolve().parents[2] / "shared"
IMAGES, PATIENTS, TEST_PATIENTS = 112_120, 30_805, 2_797
FOLDERS = 12  # images_001/images to images_012/images, as Kaggle unpacks
REPEATS = 5
PROMISES = {"table, lists and split": 2.0, "finding and matching images": 5.0}  # seconds


def main() -> None:
    """Measure both promises, print them, and write them down where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table, lists, source = released() or made(folder)
        rows = read_table(table).rows
        make_images(folder / "data", rows["image"].tolist())
        seconds = {
            "table, lists and split": timed(lambda: read_and_split(table, lists)),
            "finding and matching images": timed(
                lambda: match_images(rows, find_images(folder / "data"), folder / "data")
            ),
        }

    figures = {what: summarised(times, PROMISES[what]) for what, times in seconds.items()}
    print(f"{len(rows):,} rows, {source}; median (range) of {REPEATS} repeats")
    for what, figure in figures.items():
        print(
            f"{what:<30} {figure['median']:.2f} s ({figure['min']:.2f}-{figure['max']:.2f}), "
            f"promised: under {figure['promise']:.0f} s"
        )
    if args.json:
        report = {"rows": len(rows), "source": source, "repeats": REPEATS, "seconds": figures}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def released() -> tuple[Path, Path, str] | None:
    """The released table, the folder of the official lists, and what to call them."""
    table, lists = SHARED / "nih-tables" / "Data_Entry_2017.csv.gz", SHARED / "nih"
    if table.is_file() and (lists / TEST_LIST).is_file():
        return table, lists, "the released table and lists"
    return None


def made(folder: Path) -> tuple[Path, Path, str]:
    """A table and lists of the same size, written into a folder."""
    rng = np.random.default_rng(0)
    # Every patient has a image; the others fall on patients at random.
    extra = rng.integers(1, PATIENTS + 1, size=IMAGES - PATIENTS)
    patients = np.sort(np.concatenate([np.arange(1, PATIENTS + 1), extra]))
    numbers = np.arange(IMAGES) - np.searchsorted(patients, patients)
    names = [f"{p:08d}_{n:03d}.png" for p, n in zip(patients, numbers, strict=True)]
    labels = rng.choice(CLASSES, size=IMAGES)
    lines = [
        f"{name},{label},{n:03d},{p:08d},058Y,M,PA,2682,2749,0.143,0.143\n"
        for name, label, n, p in zip(names, labels, numbers, patients, strict=True)
    ]
    table = folder / "Data_Entry_2017.csv"
    table.write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
        + "".join(lines),
        encoding="utf-8",
    )
    n_test = int(np.searchsorted(patients, TEST_PATIENTS, side="right"))
    (folder / TEST_LIST).write_text("\n".join(names[:n_test]), encoding="utf-8")
    (folder / TRAIN_VAL_LIST).write_text("\n".join(names[n_test:]), encoding="utf-8")
    return table, folder, "a made table and lists"


def make_images(folder: Path, names: list[str]) -> None:
    """Empty files of these names, spread over the folders of the Kaggle layout."""
    share = -(-len(names) // FOLDERS)
    for number in range(FOLDERS):
        images = folder / f"images_{number + 1:03d}" / "images"
        images.mkdir(parents=True)
        for name in names[number * share : (number + 1) * share]:
            (images / name).touch()


def read_and_split(table: Path, lists: Path) -> None:
    """From the files to the part of every image."""
    rows = read_tables([table]).rows
    draw_split(rows, read_lists(lists, rows["image"]), seed=0)


def timed(work: Callable[[], object]) -> list[float]:
    """Seconds of each repeat."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def summarised(seconds: list[float], promise: float) -> dict[str, float]:
    """Median, range and promise, in seconds."""
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "promise": promise,
    }


if __name__ == "__main__":
    main()
