"""Time of tables, lists, split and the search for images at the size of the whole NIH set.

python -m benchmarks.tables --json tables.json

The released table and lists are read from ../shared if present; otherwise a table and lists of
their size are made. The image files are empty: the benchmark times finding and matching them, not
decoding.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT, Spread, build_parser, seconds, write_json
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

SHARED = ROOT.parent / "shared"
IMAGES, PATIENTS, TEST_PATIENTS = 112_120, 30_805, 2_797
FOLDERS = 12  # images_001/images to images_012/images, as Kaggle unpacks
REPEATS = 5
PROMISED = {"table, lists and split": 2.0, "finding and matching images": 5.0}  # seconds


def main() -> None:
    args = build_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        table, lists, source = find_or_make_table(Path(name))
        rows = read_table(table).rows
        make_images(data, rows["image"].tolist())
        work = {
            "table, lists and split": lambda: read_and_split(table, lists),
            "finding and matching images": lambda: match_images(rows, find_images(data), data),
        }
        spreads = {
            what: Spread.of([seconds(run) for _ in range(REPEATS)]) for what, run in work.items()
        }
    print(f"{len(rows):,} rows, {source}; median (range) of {REPEATS} repeats")
    for what, spread in spreads.items():
        print(f"{what:<30} {spread:.2f} s, promised: under {PROMISED[what]:.0f} s")
    results = {what: {**asdict(s), "promise": PROMISED[what]} for what, s in spreads.items()}
    content = {"rows": len(rows), "source": source, "repeats": REPEATS, "seconds": results}
    write_json(args.json, content)


def find_or_make_table(folder: Path) -> tuple[Path, Path, str]:
    """Return a table, the folder of its lists, and a name for them; what is made goes to folder."""
    return find_released_table() or make_table(folder)


def find_released_table() -> tuple[Path, Path, str] | None:
    """Return the released table, the folder of the official lists, and a name for them."""
    table, lists = SHARED / "nih-tables" / "Data_Entry_2017.csv.gz", SHARED / "nih"
    if table.is_file() and (lists / TEST_LIST).is_file():
        return table, lists, "the released table and lists"
    return None


def make_table(folder: Path) -> tuple[Path, Path, str]:
    """Write a table and lists of the released size."""
    rng = np.random.default_rng(0)
    # Every patient has an image; the others fall on patients at random.
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
    """Create empty files of these names, spread over the folders of the Kaggle layout."""
    share = -(-len(names) // FOLDERS)
    for number in range(FOLDERS):
        images = folder / f"images_{number + 1:03d}" / "images"
        images.mkdir(parents=True)
        for name in names[number * share : (number + 1) * share]:
            (images / name).touch()


def read_and_split(table: Path, lists: Path) -> None:
    """Read the files and split the images."""
    rows = read_tables([table]).rows
    draw_split(rows, read_lists(lists, rows["image"]), seed=0)


if __name__ == "__main__":
    main()
