"""python -m chestxray.predict and chestxray.load: scores and sets of images without labels."""

import doctest
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import BROKEN, ROOT, noise_image
from PIL import Image

import chestxray
from chestxray import predict
from chestxray.conformal.__main__ import main as conformal
from chestxray.data.unlabelled import find_unlabelled
from chestxray.labels import CLASSES, FINDINGS
from chestxray.scores import ScoredBy, read_scores, scored_by

CKPT = "stage1_0001_01.pth"
SCORED = [f"{prefix}{name}" for prefix in ("z_", "p_") for name in CLASSES]
Predict = Callable[..., int]


@pytest.fixture(scope="module")
def tested(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, its test in fp32, a calibration, and the test's images in a folder."""
    import main

    folder = tmp_path_factory.mktemp("tested")
    common = ["--data_path", str(drawn), "--output-dir", str(folder), "--no-cache"]
    start = ["--weights", "none", "--size", "32", "--bs", "16", "--epochs", "1"]
    assert main.main([*common, *start]) == 0
    assert main.main([*common, "--test", "--ckpt", CKPT, "--precision", "fp32"]) == 0
    words = ["--alpha", "0.6", "0.8", "--resplits", "0", "--format", "png"]
    scores = folder / "stage1_0001_01_test_scores.csv"
    assert conformal([str(scores), *words, "--out", str(folder / "cal")]) == 0
    for name in read_scores(scores).image_names:
        (folder / "own").mkdir(exist_ok=True)
        shutil.copy(drawn / "images" / name, folder / "own" / name)
    return folder


@pytest.fixture
def command(tested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Predict]:
    """The command as a function of its words, in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object, ckpt: object = tested / CKPT) -> int:
        given = ("--ckpt", ckpt, "--no-cache", "--workers", 0, "--precision", "fp32")
        try:
            return predict.main([str(word) for word in (*words, *given)])
        except SystemExit as leaving:
            return int(leaving.code or 0)

    yield call


def texts(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("image")


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_scores_are_those_of_the_test_to_the_bit(
    command: Predict, tested: Path, batch: int
) -> None:
    assert command(tested / "own", "--bs", batch) == 0
    ours, theirs = (
        texts(Path("predictions/scores.csv")),
        texts(tested / "stage1_0001_01_test_scores.csv"),
    )
    assert list(ours) == SCORED
    pd.testing.assert_frame_equal(ours, theirs[SCORED])
    assert sorted(os.listdir("predictions")) == ["predict.json", "scores.csv"]


@pytest.mark.slow
def test_two_processes_score_the_same_bits(command: Predict, tested: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of several processes has
    try:
        assert command(tested / "own", "--bs", 7, "--out", "alone") == 0
    finally:
        torch.set_num_threads(threads)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [tested / "own", "--ckpt", tested / CKPT, "--precision", "fp32", "--bs", "4"]
    done = subprocess.run(
        [sys.executable, *start, "-m", "chestxray.predict", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote predictions/") == 1
    ours, alone = (Path(name, "scores.csv").read_bytes() for name in ("predictions", "alone"))
    assert ours == alone


def test_the_test_itself_gives_the_same_bits_at_any_batch_size(
    command: Predict, tested: Path, drawn: Path
) -> None:
    import main

    words = ["--data_path", str(drawn), "--no-cache", "--precision", "fp32", "--bs", "5"]
    ckpt = ["--test", "--ckpt", str(tested / CKPT), "--scores", "s.csv"]
    assert main.main([*words, *ckpt]) == 0
    pd.testing.assert_frame_equal(
        texts(Path("s.csv")), texts(tested / "stage1_0001_01_test_scores.csv")
    )


def test_sets_are_those_of_apply(
    command: Predict, tested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thresholds = tested / "cal/thresholds.json"
    assert command(tested / "own", "--thresholds", thresholds) == 0
    said = capsys.readouterr().out
    assert conformal(["predictions/scores.csv", "--apply", str(thresholds), "--out", "o"]) == 0
    assert Path("predictions/sets.csv").read_text() == Path("o/sets.csv").read_text()
    told, report = (
        json.loads(Path(p).read_text()) for p in ("predictions/predict.json", "o/report.json")
    )
    assert told["warnings"] == report["warnings"] and not told["promise_holds"]
    assert any("of the calibration are here too" in warning for warning in told["warnings"])
    sets = texts(Path("predictions/sets.csv"))
    image = sets.index[0]
    (line,) = [line for line in said.splitlines() if line.startswith(f"{image}  ")]
    assert all(text in line for text in sets.loc[image, "set"] if text)
    scores = texts(Path("predictions/scores.csv")).loc[image].astype(float)
    best = scores.filter(like="p_").nlargest(3)
    assert ", ".join(f"{n.removeprefix('p_')} {v:.3f}" for n, v in best.items()) in line


def test_only_the_first_twenty_images_are_printed(
    command: Predict, tested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("many").mkdir()
    for number in range(23):
        noise_image(number).save(f"many/{number:02d}.png")
    assert command("many", "--thresholds", tested / "cal/thresholds.json") == 0
    said = capsys.readouterr().out
    assert sum("highest: " in line for line in said.splitlines()) == 20
    assert "and 3 more images in sets.csv" in said


def test_images_are_found_by_content_and_called_by_their_path(
    command: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own/deep/__MACOSX").mkdir(parents=True)
    noise_image(1).save("own/b.png")
    noise_image(2).save("own/deep/no_ending", format="PNG")
    noise_image(3).save("own/deep/a.JPG", format="JPEG")
    noise_image(4).save("own/deep/__MACOSX/c.png")
    noise_image(5).save("own/.hidden.png")
    Path("own/notes.txt").write_text("no image")
    Path("own/Thumbs.db").write_text("no image")
    noise_image(6).save("alone.png")
    assert command("own", "alone.png", "own/b.png") == 0
    found = texts(Path("predictions/scores.csv"))
    assert list(found.index) == ["alone.png", "b.png", "deep/a.JPG", "deep/no_ending"]
    assert "1 other file left out (notes.txt)" in capsys.readouterr().out
    told = json.loads(Path("predictions/predict.json").read_text())
    assert {k: v["images"] for k, v in told["read_as"].items()} == {"JPEG": 1, "PNG": 3}
    assert told["other_files"] == 1 and told["images"] == 4


def test_a_file_that_is_met_twice_is_scored_once(
    command: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own/deep").mkdir(parents=True)
    noise_image(1).save("own/deep/a.png")
    Path("own/link.png").symlink_to("deep/a.png")
    Path("own/deep/back").symlink_to("..")
    assert command("own", "own/deep", "own/deep/a.png") == 0
    assert len(texts(Path("predictions/scores.csv"))) == 1
    assert "4 files met more than once, scored once" in capsys.readouterr().out


def test_what_cannot_be_read_may_be_an_image_whatever_it_is_called(
    command: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own").mkdir()
    noise_image(1).save("own/a.png")
    Path("own/IM0001").symlink_to("nowhere")
    Path("own/\x1b[2J.txt").write_text("no image")
    assert command("own") == 1
    said = capsys.readouterr()
    assert "own/IM0001: it no longer exists" in said.err
    assert "'\\x1b[2J.txt'" in said.out and "\x1b" not in said.out


def test_images_of_the_calibration_are_known_in_another_folder_too(
    command: Predict, tested: Path, tmp_path: Path
) -> None:
    shutil.copytree(tested / "own", tmp_path / "above" / "own")
    assert command("above", "--thresholds", tested / "cal/thresholds.json") == 0
    told = json.loads(Path("predictions/predict.json").read_text())
    assert not told["promise_holds"] and "of the calibration are here too" in told["warnings"][0]


def test_what_predict_json_says_of_its_network_is_true(command: Predict, tested: Path) -> None:
    assert command(tested / "own") == 0
    told = json.loads(Path("predictions/predict.json").read_text())
    stored = scored_by(tested / "stage1_0001_01_test_scores.csv")
    assert scored_by(Path("predictions/scores.csv")) == stored
    assert stored == ScoredBy(told["checkpoint"], told["checkpoint_sha256"])
    assert (told["checkpoint"], told["size"], told["stage"]) == (CKPT, 32, 1)


def test_thresholds_of_another_checkpoint_are_warned_of(
    command: Predict, tested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((tested / "cal/thresholds.json").read_text())
    for by, warning in (
        ({"checkpoint": "other.pth", "sha256": "0"}, "the thresholds are for those of other.pth"),
        (None, "nothing tells which checkpoint gave the calibration's scores"),
    ):
        Path("t.json").write_text(json.dumps(content | {"scored_by": by}))
        assert command(tested / "own", "--thresholds", "t.json", "--overwrite") == 0
        assert warning in " ".join(capsys.readouterr().out.split())
        assert warning in " ".join(
            json.loads(Path("predictions/predict.json").read_text())["warnings"]
        )


def test_patients_come_from_a_table(command: Predict, tested: Path) -> None:
    names = sorted(os.listdir(tested / "own"))
    rows = [f"{name},{name[:8].lstrip('0')}" for name in names]
    Path("p.csv").write_text("\n".join(["Image Index,Patient ID", *rows, "other.png,7"]))
    words = ("--thresholds", tested / "cal/thresholds.json")
    assert command(tested / "own", "--patients", "p.csv", *words) == 0
    theirs = texts(tested / "stage1_0001_01_test_scores.csv")
    assert (texts(Path("predictions/scores.csv"))["patient"] == theirs["patient"]).all()
    warnings = json.loads(Path("predictions/predict.json").read_text())["warnings"]
    assert "patients and" in warnings[0] and not any("name no patients" in w for w in warnings)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,person\na.png,1\n", "it needs the columns image and patient and has image, person"),
        ("image,patient\nb.png,1\n", "p.csv names no patient for 1 image: a.png"),
        ("image,patient\na.png,1\na.png,2\n", "p.csv names two patients for a.png"),
        ("image,patient\na.png,=1\n", "beginning like a formula"),
        ("image,patient\na.png,1.3E+01\n", "a spreadsheet has rounded"),
        ("image;patient\na.png;1\n", "separated by semicolons"),
    ],
)
def test_tables_of_patients_that_cannot_be_used(
    command: Predict, capsys: pytest.CaptureFixture[str], table: str, message: str
) -> None:
    noise_image(0).save("a.png")
    Path("p.csv").write_text(table)
    assert command("a.png", "--patients", "p.csv") == 1
    assert message in capsys.readouterr().err and not Path("predictions").exists()


def test_an_unreadable_image_stops_all_or_is_left_out_and_named(
    command: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own").mkdir()
    noise_image(0).save("own/good.png")
    whole = Path("own/good.png").read_bytes()
    for number, (damage, _) in enumerate(BROKEN.values()):
        Path(f"own/bad{number}.png").write_bytes(damage(whole))
    Path("own/bad8.png").symlink_to("nowhere.png")
    Path("own/bad9.png").mkdir()
    number = len(BROKEN) + 1
    assert command("own") == 1
    said = capsys.readouterr().err
    assert f"{number} images cannot be read; --skip-bad-images" in said
    assert not Path("predictions").exists()
    assert command("own", "--skip-bad-images") == 0
    assert list(texts(Path("predictions/scores.csv")).index) == ["good.png"]
    left_out = json.loads(Path("predictions/predict.json").read_text())["left_out"]
    assert sorted(left_out) == [f"bad{n}.png" for n in range(number)]


def test_sixteen_bits_are_read_as_main_reads_them(
    command: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = (np.arange(40 * 40).reshape(40, 40) % 4096).astype(np.uint16)
    Image.fromarray(levels).save("deep.png")
    Image.fromarray(np.round(levels / (4095 / 255)).astype(np.uint8)).save("flat.png")
    assert command("deep.png", "flat.png", "--bits", 12) == 0
    found = texts(Path("predictions/scores.csv"))
    assert (found.loc["deep.png"] == found.loc["flat.png"]).all()
    assert command("deep.png", "--overwrite") == 0
    assert "--bits 12 makes 4,095 white" in capsys.readouterr().out
    notes = json.loads(Path("predictions/predict.json").read_text())["image_notes"]
    assert list(notes) == ["deep.png"]


def test_only_the_same_prediction_is_replaced(
    command: Predict, tested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_image(0).save("a.png")
    noise_image(1).save("b.png")
    assert command("a.png") == command("a.png") == 0
    before = Path("predictions/scores.csv").read_bytes()
    assert command("b.png") == 1
    assert "predictions holds another prediction: images" in capsys.readouterr().err
    assert Path("predictions/scores.csv").read_bytes() == before
    words = ("--thresholds", tested / "cal/thresholds.json", "--overwrite")
    assert command("b.png", *words) == 0 and Path("predictions/sets.csv").exists()
    assert command("b.png", "--overwrite") == 0 and not Path("predictions/sets.csv").exists()
    assert command("b.png", *words, "--out", tested / "cal") == 1
    assert "holds a calibration" in capsys.readouterr().err


def by_sex(content: dict) -> dict:
    level = content["levels"][0] | {"threshold": {"F": 0.5}, "units_of_each": {"F": 9}}
    return content | {"choices": content["choices"] | {"by": "sex"}, "levels": [level]}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "the following arguments are required: DIR|FILE"),
        (("nowhere",), 1, "nowhere does not exist"),
        (("empty",), 1, "no PNG, JPEG or DICOM file in empty"),
        (("texts",), 1, "no PNG, JPEG or DICOM file in texts; other files are there: a.txt"),
        (("report.dcm",), 1, "not a PNG, JPEG or DICOM image (starts with b'%PDF-1.7"),
        (("x", "y"), 1, "x/a.png and y/a.png would both be called a.png: name a folder that holds"),
        (("formula",), 1, "a name that no CSV can hold safely"),
        (("x", "--patients", "none.csv"), 1, "the file none.csv does not exist"),
        (("x", "--thresholds", "none.json"), 1, "none.json"),
        (("x", "--thresholds", "other.json"), 1, "has thresholds for Fracture, and the network"),
        (("x", "--thresholds", "sex.json"), 1, "a threshold for each sex, which images alone do"),
        (("x", "--thresholds", "x"), 1, "x is a folder: name the thresholds.json in it"),
        (("x", "--size", 64), 2, "unknown argument --size"),
        (("x", "--out", "report.dcm"), 1, "report.dcm is a file: --out names a folder"),
        (("x", "--out", "report.dcm/deep"), 1, "report.dcm is a file: --out names a folder"),
        (("",), 2, "argument DIR|FILE: an empty name"),
        (("x", "--out", ""), 2, "argument --out: an empty name"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_sentence_and_nothing_is_written(
    command: Predict,
    tested: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[object, ...],
    code: int,
    message: str,
) -> None:
    for folder in ("empty", "texts", "x", "y", "formula"):
        Path(folder).mkdir()
    Path("texts/a.txt").write_text("no image")
    Path("report.dcm").write_bytes(b"%PDF-1.7 a report")
    for path in ("x/a.png", "y/a.png", "formula/=1+1.png"):
        noise_image(0).save(path)
    content = json.loads((tested / "cal/thresholds.json").read_text())
    level = content["levels"][0]
    counts = content["calibration"]["images_and_positives_of_each"]
    other = content | {"classes": ["Fracture"], "levels": [level]}
    other["calibration"] = content["calibration"] | {
        "images_and_positives_of_each": [row[:2] for row in counts]
    }
    Path("other.json").write_text(json.dumps(other))
    Path("sex.json").write_text(json.dumps(by_sex(content)))
    assert command(*words) == code
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) <= 2 and "Traceback" not in said
    assert not Path("predictions").exists()


def test_a_checkpoint_that_is_not_there_or_none_is_refused(
    command: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_image(0).save("a.png")
    Path("b.pth").write_text("no checkpoint")
    assert command("a.png", ckpt="none.pth") == command("a.png", ckpt="b.pth") == 1
    said = capsys.readouterr().err
    assert "the checkpoint none.pth was not found" in said and "b.pth" in said
    assert not Path("predictions").exists()


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "own" / "closed").mkdir(parents=True)
    noise_image(0).save(tmp_path / "own" / "a.png")
    (tmp_path / "own" / "closed").chmod(0)
    folder = os.open(tmp_path / "own", os.O_RDONLY)  # whose parents may be closed, too
    child = os.fork()
    if child == 0:
        os.fchdir(folder)
        if os.getuid() == 0:  # to whom nothing is closed
            os.setuid(65534)
        try:
            find_unlabelled([Path()])
        except PermissionError as error:
            os._exit(3 if "closed" in str(error) else 4)
        os._exit(5)
    os.close(folder)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


# In Python.


def test_a_loaded_model_scores_and_forms_sets_as_the_command_does(
    command: Predict, tested: Path
) -> None:
    thresholds = tested / "cal/thresholds.json"
    assert command(tested / "own", "--thresholds", thresholds) == 0
    model = chestxray.load(tested / CKPT, precision="fp32")
    table = model.score(tested / "own")
    assert list(table) == ["image", *CLASSES] and model.size == 32
    told = read_scores(Path("predictions/scores.csv"), labels=False)
    np.testing.assert_array_equal(table[list(CLASSES)].to_numpy(), told.scores)
    assert table["image"].tolist() == told.image_names.tolist()
    with pytest.warns(UserWarning) as caught:
        sets = model.sets(table, thresholds)
    assert any("of the calibration are here too" in str(w.message) for w in caught)
    theirs = texts(Path("predictions/sets.csv")).reset_index()
    pd.testing.assert_frame_equal(
        sets.astype(str), theirs[["image", "alpha", "set", "size"]], check_dtype=False
    )
    assert set("|".join(sets["set"]).split("|")) <= {*FINDINGS, ""}


def test_arrays_are_scored_like_files(tested: Path, tmp_path: Path) -> None:
    model = chestxray.load(tested / CKPT, precision="fp32")
    images = np.random.default_rng(0).integers(0, 256, (11, 50, 30)).astype(np.uint8)
    for place, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{place:02d}.png")
    from_array, from_files = model.score(images), model.score(tmp_path)
    np.testing.assert_array_equal(from_array[list(CLASSES)], from_files[list(CLASSES)])
    few = model.score([tmp_path / "03.png", tmp_path / "07.png"])
    np.testing.assert_array_equal(few[list(CLASSES)], from_files[list(CLASSES)].iloc[[3, 7]])


def test_a_table_of_scores_may_be_edited_but_not_into_nonsense(tested: Path) -> None:
    model = chestxray.load(tested / CKPT)
    table = model.score(np.zeros((2, 9, 9), np.uint8))
    thresholds = tested / "cal/thresholds.json"
    for wrong, message in (
        (table.drop(columns="Mass"), "no column Mass"),
        (table.assign(Mass=[0.1, np.nan]), "not in \\[0, 1\\]"),
        (table.assign(Mass=[0.1, 1.5]), "not in \\[0, 1\\]"),
        (table.assign(image="a"), "an image twice"),
    ):
        with pytest.raises(ValueError, match=message):
            model.sets(wrong, thresholds)
    stranger = pd.DataFrame(table.to_dict("list"))
    with pytest.warns(UserWarning) as caught:
        model.sets(stranger.assign(patient=[1, 2]), thresholds)
    assert any("which checkpoint gave these scores" in str(w.message) for w in caught)


@pytest.mark.parametrize("words", [{"device": "tpu"}, {"precision": "fp8"}])
def test_other_devices_and_precisions_are_refused(tested: Path, words: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is none of auto"):
        chestxray.load(tested / CKPT, **words)


def test_what_a_loaded_model_refuses(tested: Path, tmp_path: Path) -> None:
    model = chestxray.load(tested / CKPT)
    for wrong in (np.zeros((2, 9, 9)), np.zeros((9, 9), np.uint8), np.zeros((0, 9, 9), np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \(n, h, w\) is needed"):
            model.score(wrong)
    (tmp_path / "a.png").write_text("no image")
    noise_image(0).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="1 image cannot be read"):
        model.score(tmp_path)
    with pytest.warns(UserWarning, match="cannot be read and are left out"):
        assert model.score(tmp_path, skip_bad_images=True)["image"].tolist() == ["b.png"]
    with pytest.raises(FileNotFoundError, match="was not found"):
        chestxray.load("none.pth")


@pytest.mark.filterwarnings("ignore")
def test_the_python_of_the_documentation_runs_as_it_stands(
    tested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    shutil.copy(tested / CKPT, "checkpoints/stage2_0001_08.pth")
    shutil.copy(tested / "cal/thresholds.json", "thresholds.json")
    Path("folder").mkdir()
    for number in range(3):
        noise_image(number).save(f"folder/{number}.png")
    page = str(ROOT / "docs" / "own-images.md")
    failed, tried = doctest.testfile(page, module_relative=False)
    assert (failed, tried) == (0, 9)


def test_the_package_alone_loads_no_torch() -> None:
    code = "import sys, chestxray; chestxray.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# DICOM.


@pytest.fixture
def radiographs(tested: Path, tmp_path: Path) -> Path:
    """The images of the test as PNG and, with planted names, as DICOM."""
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from dicom_files import ID, make_dicom, save

    folder = tmp_path / "radiographs"
    folder.mkdir()
    window = {"WindowCenter": 128, "WindowWidth": 256}
    for number, path in enumerate(sorted((tested / "own").iterdir())):
        pixels = np.asarray(Image.open(path).convert("L"))
        header = make_dicom(pixels, **window, PatientID=f"{ID}-{number // 3}")
        header.ViewPosition = "LL" if number == 1 else "PA"
        save(header, folder / path.stem)
    return folder


def test_dicom_files_score_like_their_pngs_and_tell_of_nobody(
    command: Predict, tested: Path, radiographs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--thresholds", tested / "cal/thresholds.json")
    assert command(radiographs, *words, "--out", "dicom") == 0
    said = "".join(capfd.readouterr())
    assert command(tested / "own", "--out", "png") == 0
    ours, theirs = (texts(Path(name, "scores.csv")) for name in ("dicom", "png"))
    patients = [f"p{1 + number // 3:04d}" for number in range(len(ours))]
    assert ours.pop("patient").tolist() == patients
    np.testing.assert_array_equal(ours.to_numpy(), theirs.to_numpy())
    told = json.loads(Path("dicom/predict.json").read_text())
    assert told["read_as"].keys() == {"DICOM"} and list(told["image_notes"]) == [ours.index[1]]
    assert "1 image (" in said and "lateral view" in said
    assert any("numbered as they appear" in warning for warning in told["warnings"])
    assert told["patients_numbered"] and "of the calibration are here" not in told["warnings"][0]
    content = json.loads((tested / "cal/thresholds.json").read_text())
    count = len(content["calibration"]["patients"])
    content["calibration"]["patients"] = [f"p{number + 1:04d}" for number in range(count)]
    Path("numbered.json").write_text(json.dumps(content))
    assert conformal(["dicom/scores.csv", "--apply", "numbered.json", "--out", "o"]) == 0
    warnings = json.loads(Path("o/report.json").read_text())["warnings"]
    assert not any("are here too" in warning and "patients and" in warning for warning in warnings)
    written = b"".join(path.read_bytes() for path in Path("dicom").iterdir())
    assert b"PLANTED" not in written and "PLANTED" not in said


def test_cached_dicom_files_keep_their_patients_and_notes_and_the_cache_has_neither(
    tested: Path, radiographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for out in ("first", "again"):
        words = ["radiographs", "--ckpt", str(tested / CKPT), "--out", out, "--workers", "2"]
        assert predict.main(words) == 0
        found.append([(tmp_path / out / name).read_bytes() for name in sorted(os.listdir(out))])
    assert found[0] == found[1]
    assert all(b"PLANTED" not in path.read_bytes() for path in Path(".cache").iterdir())


def test_a_slice_of_a_ct_and_cut_off_files_are_named_without_their_patient(
    command: Predict, radiographs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from dicom_files import make_dicom, save

    shutil.rmtree(radiographs)
    radiographs.mkdir()
    pixels = np.zeros((9, 9), np.uint8)
    save(make_dicom(pixels, Modality="CT"), radiographs / "slice.dcm")
    save(make_dicom(pixels, NumberOfFrames=9), radiographs / "video.dcm")
    save(make_dicom(pixels, Rows=60000, Columns=60000), radiographs / "huge.dcm")
    whole = save(make_dicom(pixels), radiographs / "cut.dcm").read_bytes()
    (radiographs / "cut.dcm").write_bytes(whole[:-9])
    assert command(radiographs) == 1
    said = "".join(capfd.readouterr())
    for reason in ("modality CT", "9 frames", "60000 x 60000 is above 64", "cannot be decoded"):
        assert reason in said
    assert "PLANTED" not in said and "Traceback" not in said
    assert not Path("predictions").exists()


WITHOUT_EXTRA = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("pydicom", "gdcm") else found(name)
from chestxray import predict
try:
    predict.main(sys.argv[1:])
except SystemExit as ending:
    print(ending.code, "torch" in sys.modules)
"""


def test_without_the_extra_a_dicom_file_is_answered_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM" + bytes(9))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA, str(tmp_path), "--ckpt", "none.pth"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2 False\n", done.stderr
    assert "pip install -r requirements-dicom.txt" in done.stderr
    assert len(done.stderr.splitlines()) == 1
