"""Drawn chest images in the NIH ChestX-ray14 layout, for the demo and the tests.

    python -m chestxray.phantom DIR --n 1000

Nothing here comes from a patient: body, lungs, heart and every sign are drawn by formula, each
finding as its own sign at a strength that varies, some too faint to see. A model trained on them
knows drawings; its AUC says that the program works and nothing about chests.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from chestxray.labels import CLASSES, FINDINGS, NO_FINDING, decode
from chestxray.phantom_dicom import dicom_bytes
from chestxray.runtime.cli import Parser, number, run_command, say
from chestxray.runtime.extras import install_hint
from chestxray.runtime.files import sweep, whole_file
from chestxray.runtime.progress import Progress
from chestxray.runtime.signals import Stopped, StopRequest
from chestxray.runtime.text import plural

NO_FINDING_SHARE = 0.5  # the NIH set has 0.54; the raised rare findings take the rest
TEST_SHARE = 0.25  # of the patients; the official list has 0.23 of the images
REPEAT = 0.5  # chance that a patient's next image keeps a finding of the one before

# Share of the first finding among images that have one: the NIH counts, the rare ones raised so
# that each of the 14 is in 3 % or more of all images (Hernia has 0.2 % there).
_WEIGHTS = {
    "Atelectasis": 9,
    "Cardiomegaly": 8,
    "Consolidation": 7,
    "Edema": 7,
    "Effusion": 8,
    "Emphysema": 8,
    "Fibrosis": 8,
    "Hernia": 10,
    "Infiltration": 11,
    "Mass": 8,
    "Nodule": 9,
    "Pleural_Thickening": 8,
    "Pneumonia": 9,
    "Pneumothorax": 8,
}
# What comes along: given the first finding, the chance of each other (pairs that are frequent in
# the NIH tables).
_COMPANIONS = {
    "Atelectasis": {"Effusion": 0.3, "Infiltration": 0.25},
    "Cardiomegaly": {"Effusion": 0.3, "Edema": 0.1},
    "Consolidation": {"Effusion": 0.25, "Infiltration": 0.2},
    "Edema": {"Infiltration": 0.35, "Effusion": 0.2},
    "Effusion": {"Atelectasis": 0.25, "Infiltration": 0.25, "Consolidation": 0.15},
    "Emphysema": {"Pneumothorax": 0.25},
    "Fibrosis": {"Pleural_Thickening": 0.15},
    "Infiltration": {"Atelectasis": 0.15, "Effusion": 0.15, "Edema": 0.1},
    "Mass": {"Nodule": 0.15, "Effusion": 0.1},
    "Nodule": {"Mass": 0.15, "Infiltration": 0.1},
    "Pleural_Thickening": {"Effusion": 0.2, "Fibrosis": 0.1},
    "Pneumonia": {"Infiltration": 0.3, "Edema": 0.15},
    "Pneumothorax": {"Emphysema": 0.15, "Effusion": 0.1},
}
_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


class Anatomy:
    """The coordinates and parts of one drawn chest, on which the signs are put.

    x runs from -1 (the patient's right, left in the image) to 1, y from -1 (neck) to 1; `image`
    is (size, size) float, 0 black to about 1 white, and is drawn upon.
    """

    LUNG_X, LUNG_Y = 0.42, -0.05  # centre of the lung at x > 0; the other is its mirror image
    LUNG_WIDTH, LUNG_HEIGHT = 0.30, 0.62  # half axes

    def __init__(self, size: int, habitus: np.random.Generator, rng: np.random.Generator) -> None:
        """`habitus` draws what belongs to the patient, `rng` what belongs to the image."""
        self.rng = rng
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        scale = habitus.uniform(0.92, 1.05) * rng.uniform(0.98, 1.02)
        turn = rng.normal(0, 0.02)
        x, y = np.meshgrid(axis, axis)
        self.x = (x + turn * y - rng.normal(0, 0.02)) / scale
        self.y = (y - turn * x - rng.normal(0, 0.02)) / scale
        self.heart_width = habitus.uniform(0.88, 1.1)
        self.fatness = habitus.uniform(0.85, 1.15)
        self.lung_gain = habitus.uniform(0.88, 1.08)  # the larger, the darker the lungs
        self.base = rng.normal(0, 0.03, size=2)  # how far each diaphragm stands above its place
        self.side = int(rng.integers(2)) * 2 - 1  # where a one-sided sign goes: -1 or 1

    def blob(self, x: float, y: float, width: float, height: float, edge: float) -> np.ndarray:
        """An ellipse with a soft edge: 1 inside, 0 outside, `edge` the width of the change."""
        radius = np.sqrt(((self.x - x) / width) ** 2 + ((self.y - y) / height) ** 2)
        return _step((1 - radius) * min(width, height), edge)

    def lung(self, side: int) -> np.ndarray:
        """The aerated lung of one side above its diaphragm."""
        across = side * self.x - self.LUNG_X
        dome = 0.42 - self.base[(side + 1) // 2] - 0.5 * (across + 0.02) ** 2
        ellipse = self.blob(
            side * self.LUNG_X, self.LUNG_Y, self.LUNG_WIDTH, self.LUNG_HEIGHT, 0.03
        )
        return ellipse * _step(dome - self.y, 0.02) * _step(side * self.x - 0.14, 0.03)

    def place(self, margin: float) -> tuple[float, float]:
        """A spot inside the lung of `side`, at least a relative `margin` from its border."""
        angle, radius = self.rng.uniform(0, 2 * np.pi), (1 - margin) * np.sqrt(self.rng.uniform())
        x = self.side * (self.LUNG_X + 0.02) + self.LUNG_WIDTH * radius * np.cos(angle)
        return x, min(self.LUNG_Y + self.LUNG_HEIGHT * radius * np.sin(angle), 0.28)

    def noise(self, cells: int) -> np.ndarray:
        """Smooth noise around 0, standard deviation near 1, `cells` bumps across the image."""
        grid = self.rng.standard_normal((cells, cells)).astype(np.float32)
        image = Image.fromarray(grid).resize(self.x.shape, Image.Resampling.BICUBIC)
        return np.asarray(image) * 1.3

    def draw_body(self) -> None:
        x, y = self.x, self.y
        body = self.blob(0, 0.35, 0.93 * self.fatness, 1.5, 0.05)
        image = 0.05 + 0.50 * body + 0.10 * self.blob(0, 0, 0.11, 2.0, 0.04)
        self.lungs = self.lung(-1) + self.lung(1)
        image = image - 0.38 * self.lung_gain * self.lungs
        ribs = np.cos(24 * (y + 0.35 * (np.abs(x) - 0.4) ** 2 * 2)) * _step(np.abs(x) - 0.12, 0.1)
        image = image + 0.035 * ribs * body
        hila = self.blob(-0.2, -0.02, 0.08, 0.16, 0.08) + self.blob(0.2, -0.05, 0.08, 0.16, 0.08)
        image = image + 0.07 * hila
        heart = self.blob(0.09, 0.24, 0.25 * self.heart_width, 0.24, 0.03)
        image = image + 0.30 * heart * (0.35 + 0.65 * np.clip(self.lungs, 0, 1))
        self.image = image + 0.02 * self.noise(40) * body + 0.02 * self.noise(7)


def _step(value: np.ndarray, edge: float) -> np.ndarray:
    """0 below zero, 1 above, a smooth ramp of width `edge` between."""
    ramp = np.clip(value / edge + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


# Signs that change the body before it is drawn


def _enlarged_heart(chest: Anatomy, strength: float) -> None:
    chest.heart_width *= 1.06 + 0.5 * strength


def _hyperinflation(chest: Anatomy, strength: float) -> None:
    """Dark, long lungs: both diaphragms low."""
    chest.lung_gain += 0.03 + 0.2 * strength
    chest.base -= 0.02 + 0.12 * strength


def _raised_diaphragm(chest: Anatomy, strength: float) -> None:
    """The volume that a collapsed lobe leaves; the collapsed plates are drawn by _plates."""
    chest.base[(chest.side + 1) // 2] += 0.02 + 0.16 * strength


# Signs that are drawn upon the body


def _plates(chest: Anatomy, strength: float) -> None:
    """Bright flat bands across the lower lung."""
    lung = chest.lung(chest.side)
    for _ in range(2):
        level = chest.rng.uniform(0.0, 0.22)
        slope = chest.rng.normal(0, 0.12)
        band = np.abs(chest.y - level - slope * (chest.x - chest.side * chest.LUNG_X))
        chest.image += (0.03 + 0.25 * strength) * _step(0.025 - band, 0.03) * lung


def _dense_patch(chest: Anatomy, strength: float) -> None:
    """A cloud with blurred border and even density in the middle of a lung."""
    x, y = chest.side * chest.rng.uniform(0.3, 0.5), chest.rng.uniform(-0.05, 0.12)
    cloud = chest.blob(x, y, 0.18, 0.17, 0.15)
    chest.image += (0.05 + 0.26 * strength) * cloud * chest.lung(chest.side)


def _bat_wings(chest: Anatomy, strength: float) -> None:
    """Haze around both hila."""
    for side in (-1, 1):
        wing = np.exp(-(((side * chest.x - 0.28) / 0.20) ** 2) - ((chest.y + 0.02) / 0.26) ** 2)
        chest.image += (0.02 + 0.2 * strength) * wing


def _filled_angle(chest: Anatomy, strength: float) -> None:
    """Fluid in the costophrenic angle: white up to a level that climbs at the chest wall."""
    outward = chest.side * chest.x - 0.40
    level = 0.40 - 0.30 * strength - 0.8 * np.clip(outward, 0, None) ** 1.5
    fluid = chest.blob(chest.side * chest.LUNG_X, -0.05, 0.31, 0.64, 0.03)
    fluid = fluid * _step(chest.y - level, 0.04) * _step(outward + 0.26, 0.03)
    white = 0.58 + 0.02 * chest.noise(40)
    chest.image += np.clip(white - chest.image, 0, None) * fluid


def _net(chest: Anatomy, strength: float) -> None:
    """A fine net of lines in both lower lungs."""
    warp = 0.02 * chest.noise(10)
    net = np.abs(np.sin(32 * (chest.x + warp))) * np.abs(np.sin(32 * (chest.y - warp)))
    lower = chest.lungs * _step(chest.y - 0.0, 0.3)
    chest.image += (0.05 + 0.35 * strength) * (0.6 - net) * lower


def _bubble_behind_heart(chest: Anatomy, strength: float) -> None:
    """A round shadow with air in it, low in the midline."""
    x, y = chest.rng.normal(0.04, 0.03), chest.rng.normal(0.34, 0.03)
    radius = 0.13 + 0.06 * strength
    chest.image += (0.04 + 0.14 * strength) * chest.blob(x, y, radius, radius, 0.03)
    bubble = chest.blob(x, y - 0.25 * radius, 0.7 * radius, 0.55 * radius, 0.03)
    chest.image -= (0.08 + 0.30 * strength) * bubble


def _mottles(chest: Anatomy, strength: float) -> None:
    """Uneven patchy haze over one lung."""
    mottles = np.clip(chest.noise(14), -0.3, None)
    chest.image += (0.02 + 0.12 * strength) * (0.5 + mottles) * chest.lung(chest.side)


def _discs(chest: Anatomy, count: int, radius: float, density: float) -> None:
    for _ in range(count):
        x, y = chest.place(margin=0.25)
        chest.image += density * chest.blob(x, y, radius, radius, 0.02)


def _large_disc(chest: Anatomy, strength: float) -> None:
    _discs(chest, 1, chest.rng.uniform(0.10, 0.15), 0.08 + 0.30 * strength)


def _small_discs(chest: Anatomy, strength: float) -> None:
    _discs(
        chest, int(chest.rng.integers(2, 5)), chest.rng.uniform(0.035, 0.05), 0.12 + 0.38 * strength
    )


def _bright_wall(chest: Anatomy, strength: float) -> None:
    """A white rim inside the lateral chest wall."""
    lung = chest.lung(chest.side)
    inner = chest.blob(
        chest.side * (chest.LUNG_X - 0.05 - 0.03 * strength), chest.LUNG_Y, 0.28, 0.66, 0.03
    )
    outer = _step(chest.side * chest.x - 0.45, 0.05)
    chest.image += (0.22 + 0.30 * strength) * np.clip(lung - inner, 0, 1) * outer


def _white_upper_lobe(chest: Anatomy, strength: float) -> None:
    """A lobe filled down to the straight line of its fissure."""
    fissure = -0.22 + 0.15 * (chest.side * chest.x - 0.4) + chest.rng.normal(0, 0.02)
    lobe = chest.lung(chest.side) * _step(fissure - chest.y, 0.02)
    chest.image += (0.03 + 0.26 * strength) * lobe * (1 + 0.15 * chest.noise(20))


def _dark_rim(chest: Anatomy, strength: float) -> None:
    """Air around a shrunken lung: a black rim without markings, the bright line of the pleura."""
    shrink = 0.02 + 0.12 * strength
    x, y = chest.side * (chest.LUNG_X - shrink), chest.LUNG_Y + shrink
    width, height = chest.LUNG_WIDTH - 0.5 * shrink, chest.LUNG_HEIGHT - shrink
    rim = np.clip(chest.lung(chest.side) - chest.blob(x, y, width, height, 0.02), 0, 1)
    line = chest.blob(x, y, width + 0.012, height + 0.012, 0.012) - chest.blob(
        x, y, width - 0.012, height - 0.012, 0.012
    )
    chest.image += rim * (0.04 - chest.image) * 0.85
    chest.image += 0.18 * line * chest.lung(chest.side)


_Sign = Callable[[Anatomy, float], None]
_SHAPING: dict[str, _Sign] = {
    "Cardiomegaly": _enlarged_heart,
    "Emphysema": _hyperinflation,
    "Atelectasis": _raised_diaphragm,
}
# In the order in which they are drawn: air first, fluid last.
_DRAWING: dict[str, _Sign] = {
    "Pneumothorax": _dark_rim,
    "Atelectasis": _plates,
    "Consolidation": _dense_patch,
    "Edema": _bat_wings,
    "Fibrosis": _net,
    "Hernia": _bubble_behind_heart,
    "Infiltration": _mottles,
    "Mass": _large_disc,
    "Nodule": _small_discs,
    "Pleural_Thickening": _bright_wall,
    "Pneumonia": _white_upper_lobe,
    "Effusion": _filled_angle,
}


def draw_image(target: np.ndarray, size: int, patient_seed: int, image_seed: int) -> np.ndarray:
    """One drawn chest.

    Args:
        target: (15,) zeros and ones, the findings to draw.
        size: side in pixels.
        patient_seed: fixes the build, the same in all images of a patient.
        image_seed: fixes pose, exposure, noise, and strength and place of the signs.

    Returns:
        (size, size) uint8.
    """
    rng = np.random.default_rng(image_seed)
    chest = Anatomy(size, np.random.default_rng(patient_seed), rng)
    strengths = {
        name: rng.uniform(0.35, 1) for name, value in zip(CLASSES, target, strict=True) if value
    }
    for name, sign in _SHAPING.items():
        if name in strengths:
            sign(chest, strengths[name])
    chest.draw_body()
    for name, sign in _DRAWING.items():
        if name in strengths:
            chest.side = int(rng.integers(2)) * 2 - 1 if name != "Atelectasis" else chest.side
            sign(chest, strengths[name])
    exposed = chest.image * rng.uniform(0.85, 1.15) + rng.uniform(-0.04, 0.04)
    grain = rng.standard_normal(exposed.shape, dtype=np.float32)
    return np.clip(255 * (exposed + 0.015 * grain), 0, 255).astype(np.uint8)


def draw_labels(patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Findings for each image, alike within a patient.

    Args:
        patients: (N,) patient numbers, the images of a patient in a row.

    Returns:
        (N, 15) uint8, each row No Finding alone or one finding or more.
    """
    weights = np.array([_WEIGHTS[name] for name in FINDINGS], dtype=float)
    targets = np.zeros((len(patients), len(CLASSES)), dtype=np.uint8)
    for row in range(len(patients)):
        chosen: set[str] = set()
        if row and patients[row] == patients[row - 1]:
            before = targets[row - 1]
            if before[CLASSES.index(NO_FINDING)] and rng.uniform() < REPEAT:
                chosen = {NO_FINDING}
            chosen |= {n for n in FINDINGS if before[CLASSES.index(n)] and rng.uniform() < REPEAT}
        if not chosen:
            chosen = _fresh_findings(weights, rng)
        targets[row] = [name in chosen for name in CLASSES]
    return targets


def _fresh_findings(weights: np.ndarray, rng: np.random.Generator) -> set[str]:
    if rng.uniform() < NO_FINDING_SHARE:
        return {NO_FINDING}
    first = str(rng.choice(FINDINGS, p=weights / weights.sum()))
    companions = _COMPANIONS.get(first, {}).items()
    return {first} | {name for name, chance in companions if rng.uniform() < chance}


def draw_patients(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) patient numbers from 1, in a row; most have one image, a few have many, as in NIH."""
    counts = np.minimum(rng.geometric(0.45, size=n), 12)
    return np.repeat(np.arange(1, n + 1), counts)[:n]


@dataclass(frozen=True)
class Plan:
    """The rows of N images that are to be drawn.

    Attributes:
        image_names, patients, follow_ups: (N,) names, patient numbers from 1, numbers within one.
        targets: (N, 15) zeros and ones.
        patient_seeds, image_seeds: (N,); see draw_image.
        in_test: (N,) bool, on the test list.
        ages, sexes, views: (N,).
    """

    image_names: np.ndarray
    patients: np.ndarray
    follow_ups: np.ndarray
    targets: np.ndarray
    patient_seeds: np.ndarray
    image_seeds: np.ndarray
    in_test: np.ndarray
    ages: np.ndarray
    sexes: np.ndarray
    views: np.ndarray


def plan_dataset(n: int, seed: int) -> Plan:
    """Draw what the table says of `n` images, and the seeds of the images themselves."""
    rng = np.random.default_rng(seed)
    patients = draw_patients(n, rng)
    targets = draw_labels(patients, rng)
    follow_ups = np.arange(n) - np.searchsorted(patients, patients)
    image_seeds = rng.integers(2**63, size=n)
    patient_seeds = rng.integers(2**63, size=patients[-1] + 1)[patients]
    test_patients = rng.permutation(np.unique(patients))[: round(TEST_SHARE * patients[-1])]
    return Plan(
        np.array([f"{p:08d}_{f:03d}.png" for p, f in zip(patients, follow_ups, strict=True)]),
        patients,
        follow_ups,
        targets,
        patient_seeds,
        image_seeds,
        in_test=np.isin(patients, test_patients),
        ages=rng.integers(18, 90, size=patients[-1] + 1)[patients],
        sexes=rng.choice(["M", "F"], size=patients[-1] + 1)[patients],
        views=rng.choice(["PA", "AP"], p=[0.6, 0.4], size=n),
    )


def draw_dataset(
    folder: Path,
    n: int,
    size: int = 256,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
    images_only: bool = False,
    dicom: int = 0,
) -> None:
    """Draw `n` images with table and both lists into `folder`, in the layout of the NIH release.

    A drawing that was stopped can be resumed: existing images are kept. The table is written last:
    a folder that has one is complete.

    Args:
        folder: made when missing.
        n: images.
        size: side in pixels.
        seed: the same seed gives the same bytes.
        check: called between images; an exception from it ends the drawing.
        images_only: without table and lists, like images of one's own.
        dicom: how many of the last images are DICOM files, which takes the extra.

    Raises:
        FileExistsError: the folder holds a table, or images that this call would not have drawn.
    """
    table = folder / "Data_Entry_2017.csv"
    if table.exists():
        raise FileExistsError(f"{table} exists; name an empty folder or delete that one first")
    others = f"{' --images-only' if images_only else ''}{f' --dicom {dicom}' if dicom else ''}"
    _start_or_continue(folder, f"--n {n} --size {size} --seed {seed}{others}")
    plan = plan_dataset(n, seed)
    for row in range(max(0, n - dicom), n):
        plan.image_names[row] = plan.image_names[row].replace(".png", ".dcm")
    _draw_images(folder / "images", plan, size, check)
    if images_only:
        return
    _write_lines(folder / "train_val_list.txt", plan.image_names[~plan.in_test])
    _write_lines(folder / "test_list.txt", plan.image_names[plan.in_test])
    _write_lines(table, [_HEADER, *_table_rows(plan, size)], end="\r\n")  # as in the release


def _start_or_continue(folder: Path, flags: str) -> None:
    """Note in a folder what is drawn there; refuse one that holds anything else."""
    note, images = folder / "DRAWN.txt", folder / "images"
    command = f"python -m chestxray.phantom DIR {flags}"
    folder.mkdir(parents=True, exist_ok=True)
    if note.exists():
        before = note.read_text(encoding="utf-8").splitlines()[-1:]
        if before != [command]:
            raise FileExistsError(
                f"{folder} holds images of another drawing, begun with: {''.join(before)}\n"
                "repeat that command to finish it, or name an empty folder"
            )
    elif images.exists() and any(images.iterdir()):
        raise FileExistsError(f"{images} is not empty; name an empty folder or delete that one")
    _write_lines(
        note,
        [
            "These images are drawn by chestxray.phantom: no X-rays, and no patient is in them.",
            command,
        ],
    )
    images.mkdir(exist_ok=True)
    sweep(images)


def _draw_images(folder: Path, plan: Plan, size: int, check: Callable[[], None]) -> None:
    kept = {path.name for path in folder.iterdir()}
    missing = [row for row, name in enumerate(plan.image_names) if name not in kept]
    with Progress(
        "drawing", len(plan.image_names), done=len(plan.image_names) - len(missing)
    ) as progress:
        for row in missing:
            check()
            pixels = draw_image(
                plan.targets[row], size, plan.patient_seeds[row], plan.image_seeds[row]
            )
            name = plan.image_names[row]
            with whole_file(folder / name, "wb") as file:
                if name.endswith(".dcm"):
                    file.write(dicom_bytes(pixels, name, f"{plan.patients[row]:08d}"))
                else:
                    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
            progress.advance(1)


def _table_rows(plan: Plan, size: int) -> list[str]:
    return [
        f"{plan.image_names[row]},{decode(plan.targets[row])},{plan.follow_ups[row]:03d},"
        f"{plan.patients[row]:08d},{plan.ages[row]:03d}Y,{plan.sexes[row]},{plan.views[row]},"
        f"{size},{size},0.143,0.143"
        for row in range(len(plan.image_names))
    ]


def _write_lines(path: Path, lines: list[str] | np.ndarray, end: str = "\n") -> None:
    with whole_file(path) as file:
        file.write("".join(line + end for line in lines))


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m chestxray.phantom",
        allow_abbrev=False,
        description="Draw chest images in the NIH ChestX-ray14 layout. They are not X-rays. "
        "The same command resumes a drawing that was stopped.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to put them")
    parser.add_argument(
        "--n",
        metavar="N",
        type=number(int, 1, math.inf, "a number of images, at least 1"),
        default=1000,
        help="images (default: 1000)",
    )
    parser.add_argument(
        "--size",
        metavar="N",
        type=number(int, 16, math.inf, "a side in pixels, at least 16"),
        default=256,
        help="side in pixels (default: 256)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=number(int, 0, math.inf, "a whole number, at least 0"),
        default=0,
        help="the same seed gives the same bytes (default: 0)",
    )
    parser.add_argument(
        "--images-only", action="store_true", help="no table and no lists, like images of your own"
    )
    parser.add_argument(
        "--dicom",
        metavar="N",
        type=number(int, 0, math.inf, "a number of images, at least 0"),
        default=0,
        help="how many of the last images are DICOM files, which takes the extra (default: 0)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Draw a data set from the command line; returns the exit code."""
    parser = build_parser()
    args, _ = parser.parse(sys.argv[1:] if argv is None else argv)
    missing = install_hint("dicom")
    if args.dicom and missing:
        parser.error(missing)

    def work(stop: StopRequest) -> int:
        how = {"images_only": args.images_only, "dicom": args.dicom}
        try:
            draw_dataset(args.folder, args.n, args.size, args.seed, stop.check, **how)
        except Stopped:
            say("the images drawn so far are kept: the same command resumes from there")
            raise
        say(f"{plural(args.n, 'drawn image')} (no X-rays) in {args.folder}")
        return 0

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
