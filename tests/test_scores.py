"""The scores CSV: written, read, equal; and what its reader refuses."""

import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chestxray.labels import CLASSES
from chestxray.runtime.text import is_harmless, is_missing
from chestxray.scores import (
    ROW_BYTES,
    ScoredBy,
    Scores,
    ScoresOrigin,
    as_read,
    metrics_path,
    read_scores,
    refuse_foreign_files,
    scored_by,
    write_scores,
    write_with_metrics,
)


def random_scores(n: int = 50, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    logits = (8 * rng.standard_normal((n, 15))).astype(np.float32)
    return Scores(
        image_names=np.array([f"{i:08d}_000.png" for i in rng.permutation(n)], dtype=object),
        patients=np.array([f"{i:08d}" for i in range(n)], dtype=object),
        splits=np.full(n, "test", dtype=object),
        classes=CLASSES,
        targets=rng.integers(0, 2, (n, 15)).astype(np.uint8),
        logits=logits,
        scores=(1 / (1 + np.exp(-logits))).astype(np.float32),
        attributes={
            "sex": rng.choice(["F", "M", ""], n).astype(object),
            "age": rng.choice(["58", "0", "1.08333", ""], n).astype(object),
            "view": rng.choice(["PA", "AP", ""], n).astype(object),
        },
    )


def test_what_is_written_is_read_back_to_the_same_bits(tmp_path: Path) -> None:
    table = random_scores()
    write_scores(tmp_path / "s.csv", table)
    back = read_scores(tmp_path / "s.csv")
    order = np.argsort(table.image_names)
    assert back.classes == CLASSES
    assert back.image_names.tolist() == table.image_names[order].tolist()
    assert back.patients.tolist() == table.patients[order].tolist()
    assert back.splits.tolist() == ["test"] * 50
    assert list(back.attributes) == ["sex", "age", "view"]
    for name, texts in back.attributes.items():
        assert texts.tolist() == table.attributes[name][order].tolist()
    np.testing.assert_array_equal(back.targets, table.targets[order])
    assert back.logits.astype(np.float32).tobytes() == table.logits[order].tobytes()
    assert back.scores.astype(np.float32).tobytes() == table.scores[order].tobytes()


def test_every_float32_survives_nine_digits(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 0x3F800000, size=(4000, 15), dtype=np.uint32)
    table = random_scores(4000)
    table.scores = bits.view(np.float32)  # every positive float32 up to 1, the smallest included
    write_scores(tmp_path / "s.csv", table)
    back = read_scores(tmp_path / "s.csv")
    written = table.scores[np.argsort(table.image_names)]
    assert back.scores.astype(np.float32).tobytes() == written.tobytes()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
@example([0.18, 0.1 + 0.2, 5e-324, 1.0])
def test_a_score_is_read_as_the_number_in_its_text(values: list[float]) -> None:
    rows = "".join(f"{i},0,{value!r},{value!r}\n" for i, value in enumerate(values))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.csv"
        path.write_text("image,y_A,z_A,p_A\n" + rows)
        back = read_scores(path)
    assert back.scores[:, 0].tolist() == back.logits[:, 0].tolist() == values


def test_the_file_has_the_documented_columns_and_sorted_rows(
    tmp_path: Path,
) -> None:
    write_scores(tmp_path / "s.csv", random_scores())
    content = (tmp_path / "s.csv").read_bytes()
    assert b"\r" not in content and content.endswith(b"\n")
    lines = content.decode().splitlines()
    groups = [[prefix + name for name in CLASSES] for prefix in ("y_", "z_", "p_")]
    about = ["image", "patient", "split", "sex", "age", "view"]
    assert lines[0].split(",") == [*about, *sum(groups, [])]
    names = [line.partition(",")[0] for line in lines[1:]]
    assert names == sorted(set(names)) and len(names) == 50


def test_scores_of_other_models_are_read_with_any_classes(
    tmp_path: Path,
) -> None:
    text = "\ufeffimage,p_B,p_A,y_B,y_A\nb.png,0.25,1,0,1\na.png,0,0.5,1,0\n"
    (tmp_path / "s.csv.gz").write_bytes(gzip.compress(text.encode()))
    back = read_scores(tmp_path / "s.csv.gz")
    assert back.classes == ("B", "A")
    assert back.image_names.tolist() == ["a.png", "b.png"]
    assert back.patients is back.splits is back.logits is None and back.attributes == {}
    assert back.targets.tolist() == [[1, 0], [0, 1]]
    assert back.scores.tolist() == [[0.0, 0.5], [0.25, 1.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,y_A,p_A\na,0,nan\n", "p_A of a is not a finite number"),
        ("image,y_A,p_A\na,0,\n", "p_A of a is not a finite number: ''"),
        ("image,y_A,p_A\na,0,x\n", "p_A of a is not a finite number: 'x'"),
        ("image,y_A,p_A\na,0,0.5\nb,0,1.5\n", r"p_A of b is not in \[0, 1\]"),
        ("image,y_A,p_A\na,0,1.00000002\n", r"p_A of a is not in \[0, 1\].*1.00000002"),
        ("image,y_A,p_A\na,0,-1e-50\n", r"is not in \[0, 1\]"),
        ("image,y_A,p_A\na,0,-0.1\n", r"is not in \[0, 1\]"),
        ("image,y_A,p_A\na,2,0.5\n", "y_A of a is neither 0 nor 1"),
        ("image,y_A,p_A\na,0.5,0.5\n", "neither 0 nor 1"),
        ("image,y_A,p_A\na,0,0.5\na,0,0.5\n", "images listed twice: a"),
        ("image,y_A,y_B,p_B,p_A\na,0,0,0.5,0.5\n", "different classes or orders"),
        ("image,y_A,p_A,p_B\na,0,0.5,0.5\n", "different classes or orders"),
        ("image,p_A\na,0.5\n", "has no labels"),
        ("image,y_A,z_B,p_A\na,0,1,0.5\n", "different classes or orders"),
        ("image,patient,y_A,p_A\na,1,0,0.5\nb,NA,0,0.5\n", "1 row without patient: lines 3"),
        ("name,score\na,0.5\n", "needs columns image, y_<class> and p_<class> and has name, score"),
        ("", "is not a scores CSV"),
        ("\x89PNG\r\n\x1a", "is not a scores CSV"),
        ("image,y_A,p_A\na,0,0,5\n", "line 2 has|its rows have more fields than its header"),
        ("image,y_A,p_A\na,0,0.5\nb,0,0,5\n", "line 3 has 4 fields, and the header 3"),
        ('image,y_A,p_A\na,0,0.5\n"b,0,0.5\n', "a quote that opens in line 3 is never closed"),
        ('image,y_A,p_A\na,0,"0,5"\n', "p_A of a is not a finite .*: '0,5'.*with a point"),
        ("image;y_A;p_A\na;0;0.5\n", "separated by semicolons; save it with commas$"),
        ("image;y_A;p_A\na;0;0,5\n", "by semicolons; save it with commas between .* and points"),
        ("image\ty_A\tp_A\na\t0\t0.5\n", "separated by tabs"),
        ("image,y_A,p_A,y_A,p_A\na,0,0.5,0,0.5\n", "columns listed twice: p_A, y_A"),
        ("image,y_A,p_A\na\n", "y_A of a|labels are missing"),
        ("image,patient,y_A,p_A\na\n", "1 row without patient"),
        ("image,y_A,p_A\na,0,0.1_5\n", "p_A of a is not a finite number: '0.1_5'"),
        (
            "image,patient,y_A,p_A\na,1,0,0.5\n\nb,1.3E+01,0,0.5\n",
            "1 patient id that a spreadsheet has rounded or grouped, 1.3E.01 for .*: lines 4; save",
        ),
        (
            "image,y_A,y_B,p_A,p_B\na,,-1,0.5,0.5\nb,1,nan,0.5,0.5\n",
            r"labels are missing \(empty, NaN or -1\): 1 of A, 2 of B; --exclude A B leaves out",
        ),
        ("image,y_No Finding,p_No Finding\na,NA,0.5\n", "--exclude 'No Finding' leaves"),
        ("image,prob_A,true_A\na,0.5,0\n", "rename true_<class> to y_<class>, prob_<class> to p_"),
        ("Image Index,y_A,p_A\na,0,0.5\n", "rename Image Index to image$"),
        ("filename,Patient ID,y_A,p_A\n", "rename filename to image, Patient ID to patient$"),
        ("image,age,A,B\na,9,0,1\n", r"rename the labels A, B to y_A .* \(scores are called p_A"),
        ("image,A,B,fold,p_A,p_B\na,0,1,3,0.5,0.5\n", "rename the labels A, B to y_A and so on$"),
        ("image,Sex,Patient Age,view_position,B\n", r"rename the labels B to y_B"),
        ("image,gender,PatientAge,ViewPosition,Patient_Gender,B\n", r"rename the labels B to y_B"),
        ("image,A,prob_A\na,0,0.5\n", "rename prob_<class> to p_<class>, the labels A to y_A"),
    ],
)
def test_the_reader_refuses_and_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "s.csv")


YES = st.sampled_from(["1", "1.0", "True", "TRUE", "true", " true "])
NO = st.sampled_from(["0", "0.0", "False", "FALSE", "false", "-0"])
NONE = st.sampled_from(["", "nan", "NaN", "NA", "N/A", "<NA>", "None", "-1", "-1.0", "-1.00"])


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.data())
def test_labels_are_read_as_others_write_them(truth: list[bool], data: st.DataObject) -> None:
    rows = [f"{k},{data.draw(YES if yes else NO)},0.5\n" for k, yes in enumerate(truth)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.csv"
        path.write_text("image,y_A,p_A\n" + "".join(rows))
        assert read_scores(path).targets[:, 0].tolist() == truth


@given(NONE)
def test_an_excluded_class_may_lack_labels_and_scores(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.csv"
        path.write_text(f"image,y_A,y_B,p_A,p_B\na,1,{text},0.5,\nb,0,x,0.25,7\n")
        table = read_scores(path, exclude=lambda name: name in "BC")
        assert (table.classes, table.excluded) == (("A",), ("B",))
        assert table.targets.tolist() == [[1], [0]] and table.scores.tolist() == [[0.5], [0.25]]
        path.write_text(f"image,y_A,y_B,p_A,p_B\na,1,{text},0.5,0.5\nb,0,0,0.25,0.5\n")
        with pytest.raises(ValueError, match="1 of B; --exclude B leaves out what has none"):
            read_scores(path)
        with pytest.raises(ValueError, match="1 of B; without any y_ columns the file is read"):
            read_scores(path, labels=False)
        with pytest.raises(ValueError, match="no class is left of A, B"):
            read_scores(path, exclude=lambda name: True)


def test_files_that_are_no_csv_are_called_what_they_are(tmp_path: Path) -> None:
    for content, kind in (
        (b"PK\x03\x04....", "a zip archive or an Excel workbook; save it as CSV"),
        ("image,y_A,p_A\n".encode("utf-16"), "text in UTF-16; save it as CSV in UTF-8"),
        (gzip.compress(b"image,y_A,p_A\na,0,0.5\n"), "packed by gzip; give its name the ending"),
        ("image,y_A,p_A\né,0,0.5\n".encode("latin-1"), "it is not text in UTF-8"),
    ):
        (tmp_path / "s.csv").write_bytes(content)
        with pytest.raises(ValueError, match=f"s.csv is not a scores CSV: .*{kind}"):
            read_scores(tmp_path / "s.csv")
    with pytest.raises(FileNotFoundError, match="the file .*nowhere.csv does not exist$"):
        read_scores(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_scores(tmp_path)


def test_the_metrics_lie_beside_the_scores(tmp_path: Path) -> None:
    assert metrics_path(tmp_path / "best_test_scores.csv") == tmp_path / "best_test_metrics.json"
    assert metrics_path(tmp_path / "mine.csv") == tmp_path / "mine_metrics.json"


def origin(**changes: object) -> ScoresOrigin:
    nothing = ScoresOrigin("s.csv", "a.pth", "ab", "test", "r", 1, 4, "data", None, 16, False)
    return replace(nothing, **changes)


@pytest.mark.parametrize(("split", "noted"), [("train", True), ("all", True), ("test", False)])
def test_scores_of_training_images_carry_a_note(split: str, noted: bool, tmp_path: Path) -> None:
    beside = write_with_metrics(tmp_path / "s.csv", random_scores(3), origin(split=split), {})
    notes = json.loads(beside.read_text())["notes"]
    assert any("trained on some of these images" in note for note in notes) == noted


def test_validation_scores_of_the_best_epoch_carry_a_note(tmp_path: Path) -> None:
    for name, split, noted in (
        ("best.pth", "val", True),
        ("best.pth", "test", False),
        ("last.pth", "val", False),
    ):
        path = tmp_path / "s.csv"
        told = origin(checkpoint=name, split=split)
        beside = write_with_metrics(path, random_scores(3), told, {"mean_auc": None})
        found = json.loads(beside.read_text())
        assert any("chosen on these images" in note for note in found["notes"]) == noted
        assert (found["checkpoint"], found["split"], found["run_id"]) == (name, split, "r")


def test_the_checkpoint_of_scores_is_known_as_long_as_they_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_scores(path, random_scores())
    assert scored_by(path) is None
    write_with_metrics(path, random_scores(), origin(), {})
    assert scored_by(path) == ScoredBy("a.pth", "ab")
    write_scores(path, random_scores(seed=1))  # the metrics are of other scores now
    assert scored_by(path) is None
    (tmp_path / "s_metrics.json").write_text("[1]")
    assert scored_by(path) is None


def test_values_are_known_as_a_reader_of_the_csv_has_them(tmp_path: Path) -> None:
    table = random_scores()
    write_scores(tmp_path / "s.csv", table)
    found, order = read_scores(tmp_path / "s.csv"), np.argsort(table.image_names)
    assert table.logits is not None and found.logits is not None
    np.testing.assert_array_equal(as_read(table.scores)[order], found.scores)
    np.testing.assert_array_equal(as_read(table.logits)[order], found.logits)


def test_only_scores_of_the_same_origin_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    mine = origin(run_id="mine", data_path=str(tmp_path))
    refuse_foreign_files(path, mine)
    path.write_text("somebody's table")
    with pytest.raises(FileExistsError, match="--overwrite"):
        refuse_foreign_files(path, mine)
    write_with_metrics(path, random_scores(3), mine, {})
    refuse_foreign_files(path, mine)
    refuse_foreign_files(path, replace(mine, epochs_done=2))
    for change, word in (
        ({"run_id": "another"}, "run"),
        ({"checkpoint": "b.pth"}, "checkpoint"),
        ({"split": "val"}, "split"),
        ({"data_path": "elsewhere"}, "data folder"),
        ({"subset": "few.txt"}, "subset"),
        ({"bits": 12}, "bits"),
        ({"same_patients": True}, "choice of patients"),
    ):
        with pytest.raises(FileExistsError, match=f"belongs to another {word}; --scores FILE"):
            refuse_foreign_files(path, replace(mine, **change))
    path.unlink()
    with pytest.raises(FileExistsError, match="s_metrics.json"):
        refuse_foreign_files(path, replace(mine, run_id="another"))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("00000007_000.png", "=1+1", r"image with a control.*'=1\+1'"),
        ("00000007_000.png", "@sum", "image with a control"),
        (",00000007,", ',"a\tb",', r"patient with a control character.*'a\\tb'"),
        (",00000007,", ",-7,", "patient with a control"),
        ("_Mass", "_=cmd", "that begins like a formula.*'=cmd'"),
        ("_Mass", "_", "a class without a name"),
        ("_Mass", "_ ", "a class without a name"),
        ("_Mass", "_a|b", r"or \|, which joins the classes of a set.*'a\|b'"),
    ],
)
def test_text_that_a_spreadsheet_would_run_is_refused(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    """Names, patients and classes of other programs' scores are copied into sets.csv."""
    write_scores(tmp_path / "s.csv", random_scores())
    text = (tmp_path / "s.csv").read_text()
    assert before in text
    (tmp_path / "s.csv").write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "s.csv")


def test_a_row_takes_no_more_bytes_than_are_asked_of_the_disk(tmp_path: Path) -> None:
    table = random_scores(1)
    widest = {"sex": "unknown", "age": "0.00273785", "view": "LATERAL"}
    table.attributes = {name: np.array([text], dtype=object) for name, text in widest.items()}
    table.logits[:] = np.float32(-1.23456789e-10)
    table.scores[:] = np.float32(1.23456789e-10)
    write_scores(tmp_path / "s.csv", table)
    _, row = (tmp_path / "s.csv").read_bytes().splitlines()
    assert b",-1.23456786e-10," in row and len(row) + 1 <= ROW_BYTES


def test_further_columns_are_kept_as_text_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(
        ",image,View,y_A,site, age ,y_B,z_A,z_B,,p_A,p_B,margin,note\n"
        '0,b, PA ,1,NaN,58,0,1,2,x,0.5,0.25,-1.50,"a, b"\n'
        "1,a,None,0,n/a,,x,3,4,y,0.75,9,2,=1+1\n"
    )
    table = read_scores(path, exclude=lambda name: name == "B")
    found = {name: texts.tolist() for name, texts in table.attributes.items()}
    assert list(found.items()) == [
        ("View", ["", "PA"]),
        ("site", ["", ""]),
        ("age", ["", "58"]),
        ("margin", ["2", "-1.50"]),
        ("note", ["=1+1", "a, b"]),
    ]
    some = table.take(np.array([False, True]), [0])
    assert {name: texts.tolist() for name, texts in some.attributes.items()} == {
        name: texts[1:] for name, texts in found.items()
    }


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-x][a-z ]{0,5}[a-z]", fullmatch=True).filter(
            lambda name: name not in ("image", "patient", "split")
        ),
        st.lists(
            st.text(st.characters(codec="utf-8", categories=("L", "N", "P"))),
            min_size=3,
            max_size=3,
        ),
    )
)
def test_attributes_are_read_as_they_were_written(columns: dict[str, list[str]]) -> None:
    table = random_scores(3)
    table.attributes = {name: np.array(texts, dtype=object) for name, texts in columns.items()}
    safe = all(is_harmless(text) for texts in columns.values() for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.csv"
        try:
            write_scores(path, table)
        except ValueError:
            assert not safe and not path.exists()
            return
        back = read_scores(path)
    order = np.argsort(table.image_names)
    assert list(back.attributes) == list(columns)
    for name, texts in back.attributes.items():
        written = [columns[name][row] for row in order]
        assert texts.tolist() == ["" if is_missing(text) else text for text in written]


@pytest.mark.parametrize("text", ["=1+1", "@a", "+cmd", "-1+1", "a\tb", "-"])
def test_attributes_that_a_spreadsheet_would_run_are_not_written(text: str, tmp_path: Path) -> None:
    plain = np.array(["-1.5", "+2", "-1e-05"], dtype=object)
    for attributes in ({"margin": plain, "x": np.array(["", "a", text])}, {text: plain}):
        table = replace(random_scores(3), attributes=attributes)
        with pytest.raises(ValueError, match="is not written: the column .* has a control char"):
            write_scores(tmp_path / "s.csv", table)
        assert not list(tmp_path.iterdir())
    table = replace(random_scores(3), attributes={"margin": plain})
    write_scores(tmp_path / "s.csv", table)
    back = read_scores(tmp_path / "s.csv").attributes["margin"]
    assert sorted(back) == sorted(plain)


def test_blanks_behind_commas_are_no_part_of_names_and_splits(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(" image, patient, split, y_A, p_A\n a, 7, test, 1, 0.5\n")
    table = read_scores(path)
    assert (table.image_names[0], table.patients[0], table.splits[0]) == ("a", "7", "test")
    assert (table.classes, table.targets[0, 0], table.scores[0, 0]) == (("A",), 1, 0.5)


def test_scores_without_labels_are_called_so_where_labels_are_needed(tmp_path: Path) -> None:
    table = random_scores()
    write_scores(tmp_path / "s.csv", replace(table, targets=np.empty((50, 0), np.uint8)))
    with pytest.raises(ValueError, match=r"s\.csv has no labels .*--apply"):
        read_scores(tmp_path / "s.csv")
    assert read_scores(tmp_path / "s.csv", labels=False).targets.shape == (50, 0)
