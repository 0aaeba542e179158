"""Label tables in every dialect that is about, and what is said of those that cannot be used."""

import gzip
import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spellings import spelling_of

from chestxray.data.tables import find_tables, read_table, read_tables
from chestxray.labels import CLASSES, decode

FIRST = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
RELEASE_2017 = f"""\
{FIRST},OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly,000,00000001,058Y,M,PA,2682,2749,0.143,0.143
00000013_005.png,Emphysema|Infiltration,005,00000013,060Y,F,AP,3056,2544,0.139,0.139
00000013_026.png,No Finding,026,00000013,061Y,F,AP,2500,2048,0.168,0.168
"""
DIALECTS = {
    "2017 release": RELEASE_2017,
    "2020 release": f"""\
{FIRST},OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]
00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.14300000000000002,0.14300000000000002
00000013_005.png,Emphysema|Infiltration,5,13,60,F,AP,3056,2544,0.139,0.139
00000013_026.png,No Finding,26,13,61,F,AP,2500,2048,0.168,0.168
""",
    "Kaggle sample": f"""\
{FIRST},OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y
00000001_000.png,Cardiomegaly,000,00000001,058Y,M,PA,2682,2749,0.143,0.143
00000013_005.png,Emphysema|Infiltration,005,00000013,060Y,F,AP,3056,2544,0.139,0.139
00000013_026.png,No Finding,026,00000013,061Y,F,AP,2500,2048,0.168,0.168
""",
    "renamed columns": """\
Image_Index,Finding_Labels,Follow_Up_#,Patient_ID,Patient_Age,Patient_Sex,View_Position
00000001_000.png,Cardiomegaly,0,1,58,M,PA
00000013_005.png,Emphysema|Infiltration,5,13,60,F,AP
00000013_026.png,No Finding,26,13,61,F,AP
""",
    "another order and case": """\
view position,PATIENT ID,finding labels,patient gender,image index,patient age
PA,1,Cardiomegaly,M,00000001_000.png,58
AP,13,Infiltration|Emphysema,F,00000013_005.png,60
AP,13,No Finding,F,00000013_026.png,61
""",
    "read and saved by pandas": """\
,Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position
0,00000001_000.png,Cardiomegaly,1.0,58.0,M,PA
1,00000013_005.png,Emphysema|Infiltration,13.0,60.0,F,AP
2,00000013_026.png,No Finding,13.0,61.0,F,AP
""",
}
HEADER = "Image Index,Finding Labels,Patient ID,Patient Age\n"
ROW = "00000001_000.png,Mass,1,58\n"


def write(folder, content, name="Data_Entry_2017.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def labels_of(table):
    targets = table.rows[list(CLASSES)].to_numpy()
    return dict(zip(table.rows["image"], map(decode, targets), strict=True))


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS.keys())
def test_every_dialect_reads_to_the_same_rows(tmp_path, text):
    table = read_tables(find_tables(write(tmp_path, text).parent))
    assert labels_of(table) == {
        "00000001_000.png": "Cardiomegaly",
        "00000013_005.png": "Emphysema|Infiltration",
        "00000013_026.png": "No Finding",
    }
    assert table.rows["patient"].tolist() == ["00000001", "00000013", "00000013"]
    assert table.rows["age"].tolist() == [58, 60, 61]
    assert table.rows["sex"].tolist() == ["M", "F", "F"]
    assert table.rows["view"].tolist() == ["PA", "AP", "AP"]
    assert table.notes == []


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + RELEASE_2017,
        RELEASE_2017.replace("\n", "\r\n"),
        "\ufeff" + RELEASE_2017.replace("\n", "\r\n") + "\r\n\r\n",
        RELEASE_2017.rstrip("\n"),
        RELEASE_2017.replace("Image Index", '"Image Index"').replace("No Finding", '"No Finding"'),
    ],
    ids=["BOM", "CRLF", "BOM, CRLF and blank last lines", "no last line end", "quotes"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_how_the_file_was_saved_does_not_matter(tmp_path, content, packed):
    expected = read_table(write(tmp_path, RELEASE_2017)).rows
    content = content.encode()
    path = (
        write(tmp_path, gzip.compress(content), "Data_Entry_2017.csv.gz")
        if packed
        else write(tmp_path, content)
    )
    table = read_table(path)
    assert table.rows.equals(expected)
    assert table.fingerprint == {path.name: hashlib.sha256(content).hexdigest()}


def test_fields_too_many_on_every_row_do_not_shift_the_columns(tmp_path):
    lines = [f"{line},," for line in (ROW.strip(), "00000002_000.png,Edema,2,59")]
    rows = read_table(write(tmp_path, HEADER + "\n".join(lines))).rows
    assert rows["image"].tolist() == ["00000001_000.png", "00000002_000.png"]
    assert rows["age"].tolist() == [58, 59]


def test_spaces_around_a_cell_do_not_matter(tmp_path):
    text = "Image Index , Finding Labels, Patient ID\n 00000001_000.png , Mass , 1 \n"
    table = read_table(write(tmp_path, text))
    assert labels_of(table) == {"00000001_000.png": "Mass"}
    assert table.rows["patient"].tolist() == ["00000001"]


def test_without_a_patient_column_the_name_tells_the_patient(tmp_path):
    text = "Image Index,Finding Labels\n00000013_005.png,Mass\n00030805_000.png,Edema\n"
    rows = read_table(write(tmp_path, text)).rows
    assert rows["patient"].tolist() == ["00000013", "00030805"]
    assert rows["age"].isna().all() and (rows["sex"] == "").all() and (rows["view"] == "").all()


def test_thirteen_is_the_same_patient_with_and_without_zeros(tmp_path):
    lines = ["00000013_000.png,Mass,00000013,1", "a.png,Mass,13,1", "00000013_002.png,Mass,,1"]
    rows = read_table(write(tmp_path, HEADER + "\n".join(lines))).rows
    assert rows["patient"].tolist() == ["00000013"] * 3


@settings(max_examples=30)
@given(st.data(), st.booleans())
def test_any_spelling_of_the_patients_reads_as_the_clean_table(
    tmp_path_factory, data, other_hospital
):
    numbers = [n + (10**9 if other_hospital else 1) for n in (0, 0, 0, 1, 1, 2, 3)]
    spelled = [data.draw(spelling_of(n)) for n in numbers]
    clean = [str(n).zfill(8) for n in numbers]
    tables = []
    for name, ids in (("clean.csv", clean), ("spelled.csv", spelled)):
        lines = [f'a_{k}.png,Mass,"{each}",1\n' for k, each in enumerate(ids)]
        tables.append(
            read_table(write(tmp_path_factory.getbasetemp(), HEADER + "".join(lines), name))
        )
    rows = tables[1].rows
    assert rows.drop(columns="patient").equals(tables[0].rows.drop(columns="patient"))
    assert pd.factorize(rows["patient"])[0].tolist() == [0, 0, 0, 1, 1, 2, 3]
    if other_hospital:  # as first met
        assert rows["patient"][0] == spelled[0].strip(" \t\u00a0").lstrip("'\u2018")
    else:
        assert rows["patient"].tolist() == clean
    assert tables[0].notes == []
    bare = [text.strip(" \t\u00a0") for text in spelled]
    several = (len(set(bare[:3])) > 1) + (len(set(bare[3:5])) > 1)
    said = [note for note in tables[1].notes if "spelled in several ways" in note]
    assert len(said) == (several > 0)
    assert not several or said[0].startswith(f"spelled.csv: {several} patient")


def test_tables_side_by_side_show_each_patient_in_one_spelling(tmp_path):
    ids = {"a.csv": ("7", "P1", "0123456789"), "b.csv": ("00000007", "'P1", "123456789")}
    paths = [
        write(
            tmp_path,
            HEADER + "".join(f"{name}_{k}.png,Mass,{each},1\n" for k, each in enumerate(texts)),
            name,
        )
        for name, texts in ids.items()
    ]
    table = read_tables(paths)
    assert table.rows["patient"].tolist() == 2 * ["00000007", "P1", "0123456789"]
    assert table.notes == ["the tables spell 1 patient differently"]


@pytest.mark.parametrize("text", ["1.3E+01", "1.23457e+11", '" \'1,3E+07"'])
def test_ids_that_a_spreadsheet_has_rounded_are_named(tmp_path, text):
    path = write(tmp_path, f"{HEADER}{ROW}a.png,Mass,{text},58\n{ROW}b.png,Mass,{text},58\n")
    with pytest.raises(ValueError, match="2 patient ids that a spreadsheet has rounded") as error:
        read_table(path)
    assert str(path) in str(error.value) and "lines 3, 5;" in str(error.value)
    assert "as text" in str(error.value)


def test_an_id_that_says_there_is_none_is_none(tmp_path):
    rows = f"{ROW}00000031_000.png,Mass,NaN,58\n{ROW}00000031_001.png,Mass,NA,58\n"
    path = write(tmp_path, HEADER + rows)
    assert read_table(path).rows["patient"].tolist()[-2:] == 2 * ["00000031"]
    path = write(tmp_path, f"{HEADER}{ROW}scan.png,Mass,nan,58\n")
    with pytest.raises(ValueError, match=r"1 row without a patient \(lines 3\)"):
        read_table(path)


def test_an_image_without_a_patient_is_refused(tmp_path):
    path = write(tmp_path, "Image Index,Finding Labels\n00000001_000.png,Mass\nscan.png,Mass\n")
    with pytest.raises(ValueError, match=r"1 row without a patient \(lines 3\).*Patient ID"):
        read_table(path)


@pytest.mark.parametrize(
    "text, years",
    [
        ("058Y", 58),
        ("58", 58),
        ("013M", 13 / 12),
        ("001D", 1 / 365.25),
        ("0", 0),
        ("411Y", None),
        ("414", None),
        ("", None),
        ("unknown", None),
    ],
)
def test_ages_become_years_and_impossible_ones_unknown(tmp_path, text, years):
    age = read_table(write(tmp_path, HEADER + f"00000001_000.png,Mass,1,{text}\n")).rows["age"]
    assert age.isna().all() if years is None else age.tolist() == pytest.approx([years])


@pytest.mark.parametrize("separator, word", [(";", "semicolon"), ("\t", "tab")])
def test_a_wrong_separator_is_named(tmp_path, separator, word):
    path = write(tmp_path, RELEASE_2017.replace(",", separator))
    with pytest.raises(ValueError, match=f"Data_Entry_2017.csv is separated by {word}"):
        read_table(path)


@pytest.mark.parametrize(
    "content, found",
    [
        ("Image Index,Diagnosis\n00000001_000.png,Mass\n", "has Image Index, Diagnosis"),
        ("Finding Labels,Patient ID\nMass,1\n", "has Finding Labels, Patient ID"),
        ("<html><body>not found</body></html>\n", "has <html>"),
        ("", "has none"),
    ],
)
def test_missing_columns_are_named_beside_those_found(tmp_path, content, found):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match="needs columns Image Index and Finding Labels") as error:
        read_tables(find_tables(tmp_path))
    assert str(path) in str(error.value) and found in str(error.value)


def test_a_table_of_any_name_is_known_by_its_columns(tmp_path):
    write(tmp_path, HEADER + ROW, "my own labels.csv")
    assert [path.name for path in find_tables(tmp_path)] == ["my own labels.csv"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Mass,1,2,3,4\n"),
        ("scores.csv", "image,patient,split,y_Mass,p_Mass\n00000001_000.png,00000001,test,0,0.1\n"),
        ("old Mac.csv", "time,dose\r1,2\r3,4\r"),
        ("image.csv", b"\x89PNG\r\n\x1a\n\x00\x00"),
        ("._Data_Entry_2017.csv", b"\x00\x05\x16\x07"),
        ("Data_Entry_2017.csv.part", "Image Index,Fin"),
    ],
)
def test_other_files_beside_the_table_are_ignored(tmp_path, name, content):
    table = write(tmp_path, HEADER + ROW)
    write(tmp_path, content, name)
    assert find_tables(tmp_path) == [table]


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "__MACOSX"])
def test_tables_in_litter_folders_are_ignored(tmp_path, folder):
    for name in ("sample", folder):
        (tmp_path / name).mkdir()
        write(tmp_path / name, HEADER + ROW, "sample_labels.csv")
    assert find_tables(tmp_path) == [tmp_path / "sample" / "sample_labels.csv"]


def test_tables_one_level_below_count_only_if_none_is_above(tmp_path):
    (tmp_path / "sample").mkdir()
    below = write(tmp_path / "sample", HEADER + ROW, "sample_labels.csv")
    assert find_tables(tmp_path) == [below]
    above = write(tmp_path, HEADER + ROW)
    assert find_tables(tmp_path) == [above]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "filename,diagnosis\n1.png,Mass\n",
            "needs columns Image Index and Finding Labels and has",
        ),
        ("Image Index;Finding Labels\n1.png;Mass\n", "is separated by semicolons"),
    ],
)
def test_an_unknown_table_is_answered_with_what_it_lacks(tmp_path, content, reason):
    write(tmp_path, content, "own.csv")
    with pytest.raises(FileNotFoundError, match=f"own.csv {reason}|own.csv is not.*{reason}"):
        find_tables(tmp_path)


def test_a_table_that_is_not_there_is_said_plainly(tmp_path):
    with pytest.raises(FileNotFoundError, match="the file .*none.csv does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_table(tmp_path)


def test_a_folder_without_a_table_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no label table") as error:
        find_tables(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_unusable_label_is_named_with_its_line(tmp_path, line_end):
    labels = ["Mass", "Atelectesis", "", "NA", "Hernia", "No Finding|Effusion", "None", "COVID"]
    lines = [f"{n:08d}_000.png,{label},{n},58\n" for n, label in enumerate(labels)]
    path = write(tmp_path, (HEADER + "".join(lines)).replace("\n", line_end))
    with pytest.raises(ValueError, match="6 rows with unusable labels") as error:
        read_table(path)
    text = str(error.value)
    assert str(path) in text
    assert "line 3 (00000001_000.png): unknown label 'Atelectesis'" in text
    assert "'Atelectasis'" in text
    assert "line 4 (00000002_000.png): no label" in text
    assert "line 5 (00000003_000.png): unknown label 'NA'" in text
    assert "line 7 (00000005_000.png): 'No Finding|Effusion' contradicts itself" in text
    assert "line 8 (00000006_000.png): unknown label 'None'" in text
    assert "line 9 (00000007_000.png): unknown label 'COVID'" in text


def test_line_numbers_hold_behind_a_blank_line(tmp_path):
    path = write(tmp_path, HEADER + ROW + "\n" + "00000002_000.png,COVID,2,58\n")
    with pytest.raises(ValueError, match=r"line 4 \(00000002_000.png\)"):
        read_table(path)


def test_other_spellings_are_noted_once(tmp_path):
    rows = [f"{n:08d}_000.png,Infiltrate|mass,{n},58\n" for n in range(20)]
    table = read_table(write(tmp_path, HEADER + "".join(rows)))
    assert set(labels_of(table).values()) == {"Infiltration|Mass"}
    (note,) = table.notes
    assert "Infiltrate as Infiltration, mass as Mass" in note


@pytest.mark.parametrize(
    "name",
    [
        "images/00000001_000.png",
        "..\\00000001_000.png",
        "/etc/passwd.png",
        "=cmd.png",
        "+1.png",
        "@a.png",
        "-rf.png",
        "C:00000001_000.png",
        "00000001\0_000.png",
        '"00000001\n_000.png"',
        "",
    ],
)
def test_names_that_are_paths_formulas_or_nothing_are_refused(tmp_path, name):
    path = write(tmp_path, f"{HEADER}{ROW}{name},Mass,1,58\n")
    with pytest.raises(ValueError, match="1 name that cannot be a file name\nline 3: "):
        read_table(path)


def test_a_row_repeated_with_equal_labels_is_read_once(tmp_path):
    rows = ["a_1.png,Mass|Edema,1,1\n", "a_2.png,Mass,1,1\n", "a_1.png,Edema|Mass,1,1\n"]
    table = read_table(write(tmp_path, HEADER + "".join(rows)))
    assert labels_of(table) == {"a_1.png": "Edema|Mass", "a_2.png": "Mass"}
    (note,) = table.notes
    assert "1 row repeated" in note


@pytest.mark.parametrize("patient", ["=1+1", "+1", "-1", "@a", '"1\t2"'])
def test_patients_that_a_spreadsheet_would_run_are_refused(tmp_path, patient):
    path = write(tmp_path, f"{HEADER}{ROW}00000002_000.png,Mass,{patient},58\n")
    with pytest.raises(ValueError, match="1 patient key with a control character.*lines 3"):
        read_table(path)


@pytest.mark.parametrize("column", ["sex", "view"])
@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", '"1\t2"'])
def test_a_sex_or_view_that_a_spreadsheet_would_run_is_refused(tmp_path, column, text):
    header = f"Image Index,Finding Labels,Patient ID,{column}\n"
    rows = ["a.png,Mass,1,F\n", f"b.png,Mass,2,{text}\n", "c.png,Mass,3,\n"]
    path = write(tmp_path, header + "".join(rows))
    with pytest.raises(ValueError, match=f"1 row whose {column} has a control .*lines 3; leave"):
        read_table(path)


@pytest.mark.parametrize("text", ["", " ", "NaN", "NA", "n/a", "None", "null", "<NA>"])
def test_a_sex_or_view_that_says_there_is_none_is_none(tmp_path, text):
    header = "Image Index,Finding Labels,Patient ID,Patient Sex,View Position\n"
    rows = [f"a.png,Mass,1,{text},AP\n", f"b.png,Mass,2,F,{text}\n"]
    rows = read_table(write(tmp_path, header + "".join(rows))).rows
    assert (rows["sex"].tolist(), rows["view"].tolist()) == (["", "F"], ["AP", ""])


def test_a_row_repeated_with_other_labels_is_refused(tmp_path):
    rows = ["a_1.png,Mass,1,1\n", "a_2.png,Mass,1,1\n", "a_1.png,Edema,1,1\n"]
    path = write(tmp_path, HEADER + "".join(rows))
    with pytest.raises(ValueError, match="1 image listed twice with different labels") as error:
        read_table(path)
    assert "line 2: a_1.png, line 4: a_1.png" in str(error.value)
    assert str(path) in str(error.value)


def test_of_several_tables_the_largest_is_used(tmp_path):
    large = write(tmp_path, HEADER + "".join(f"a_{n}.png,Mass,1,1\n" for n in range(5)))
    small = write(
        tmp_path,
        HEADER + "a_0.png,Mass,1,1\na_1.png,Edema,1,1\na_2.png,Hernia,1,1\nb_0.png,Edema,2,1\n",
        "sample_labels.csv",
    )
    for paths in ([large, small], [small, large]):
        table = read_tables(paths)
        assert labels_of(table) == {f"a_{n}.png": "Mass" for n in range(5)} | {"b_0.png": "Edema"}
        (note,) = table.notes
        assert note.startswith("2 images labelled differently in sample_labels.csv")
        assert set(table.fingerprint) == {large.name, small.name}


def edited(dialect):
    """A dialect's table with another label in a row."""
    return DIALECTS[dialect].replace("No Finding", "Mass")


# Copies of a release, by its year.
COPIES = {
    2017: ["2017 release", "Kaggle sample"],
    2020: ["2020 release", "renamed columns", "another name of the sex"],
}
DIALECTS_OF_SEX = DIALECTS["2017 release"].replace("Patient Gender", "Patient Sex")


@pytest.mark.parametrize("old", COPIES[2017])
@pytest.mark.parametrize("new", COPIES[2020])
@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("b.csv", "a.csv")])
def test_of_two_tables_of_equal_length_the_later_release_is_used(tmp_path, old, new, names):
    later = DIALECTS.get(new, DIALECTS_OF_SEX)
    write(tmp_path, edited(old), names[0])
    write(tmp_path, later, names[1])
    table = read_tables(find_tables(tmp_path))
    assert labels_of(table)["00000013_026.png"] == "No Finding"
    (note,) = table.notes
    assert note == (
        f"1 image labelled differently in {names[0]} and in {names[1]}, which is used: it has "
        f"the form of NIH's release of 2020, and {names[0]} that of 2017"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2017 release", "Kaggle sample"),
        ("2020 release", "renamed columns"),
        ("2020 release", "read and saved by pandas"),
        ("read and saved by pandas", "another order and case"),
    ],
)
def test_of_two_tables_of_which_neither_is_newer_the_run_stops(tmp_path, one, other):
    paths = [write(tmp_path, DIALECTS[one], "a.csv"), write(tmp_path, edited(other), "b.csv")]
    for order in (paths, paths[::-1]):
        with pytest.raises(ValueError, match="1 image labelled differently in [ab].csv") as error:
            read_tables(order)
        for part in ("a.csv", "b.csv", "00000013_026.png", "No Finding", "Mass", "remove one"):
            assert part in str(error.value)


def test_a_third_table_is_compared_with_whoever_gave_the_labels(tmp_path):
    large = write(tmp_path, HEADER + "".join(f"a_{n}.png,Mass,1,1\n" for n in range(3)), "a.csv")
    second = write(tmp_path, HEADER + "b_0.png,Mass,1,1\nb_1.png,Mass,1,1\n", "b.csv")
    third = write(tmp_path, HEADER + "a_0.png,Edema,1,1\nb_1.png,Mass,1,1\n", "c.csv")
    (note,) = read_tables([large, second, third]).notes
    assert note == (
        "1 image labelled differently in c.csv and in a.csv, which has more rows and is used"
    )
    third.write_text(third.read_text().replace("Mass", "Edema"))
    with pytest.raises(ValueError, match="in c.csv and in b.csv, b_1.png for example"):
        read_tables([large, second, third])


def test_tables_that_agree_need_no_note(tmp_path):
    paths = [
        write(tmp_path, HEADER + ROW, name) for name in ("data_entry.csv", "sample_labels.csv")
    ]
    table = read_tables(paths)
    assert (len(table.rows), table.notes) == (1, [])


@pytest.mark.parametrize(
    "name, content",
    [
        ("Data_Entry_2017.csv.gz", gzip.compress(RELEASE_2017.encode())[:-20]),
        ("Data_Entry_2017.csv.gz", RELEASE_2017),
        ("Data_Entry_2017.csv", (HEADER + "é_1.png,Mass,1,58\n").encode("latin-1")),
        ("Data_Entry_2017.csv", HEADER + '"00000001_000.png,Mass,1,58\n'),
        ("Data_Entry_2017.csv", HEADER + ROW + "00000002_000.p"),
    ],
    ids=["half a gz", "no gz", "mangled name", "open quote", "cut in a row"],
)
def test_a_damaged_table_is_named(tmp_path, name, content):
    path = write(tmp_path, content, name)
    with pytest.raises(ValueError) as error:
        read_tables(find_tables(tmp_path))
    assert str(path) in str(error.value)


# Images by class: the release of 2020, the first release, the Kaggle sample.
COUNTS = {
    "Atelectasis": (11559, 11535, 508),
    "Cardiomegaly": (2776, 2772, 141),
    "Consolidation": (4667, 4667, 226),
    "Edema": (2303, 2303, 118),
    "Effusion": (13317, 13307, 644),
    "Emphysema": (2516, 2516, 127),
    "Fibrosis": (1686, 1686, 84),
    "Hernia": (227, 227, 13),
    "Infiltration": (19894, 19870, 967),
    "Mass": (5782, 5746, 284),
    "No Finding": (60361, 60412, 3044),
    "Nodule": (6331, 6323, 313),
    "Pleural_Thickening": (3385, 3385, 176),
    "Pneumonia": (1431, 1353, 62),
    "Pneumothorax": (5302, 5298, 271),
}


@pytest.mark.parametrize(
    "name, column, size, patients",
    [
        ("Data_Entry_2017_v2020.csv.gz", 0, 112_120, 30_805),
        ("Data_Entry_2017.csv.gz", 1, 112_120, 30_805),
        ("sample_labels.csv.gz", 2, 5_606, 4_230),
    ],
)
def test_the_real_tables_have_the_published_counts(nih_tables, name, column, size, patients):
    table = read_table(nih_tables / name)
    assert (len(table.rows), table.rows["patient"].nunique()) == (size, patients)
    counts = table.rows[list(CLASSES)].sum().to_dict()
    assert counts == {label: row[column] for label, row in COUNTS.items()}
    assert (table.rows["patient"] == table.rows["image"].str[:8]).all()
    assert table.rows["age"].dropna().between(0, 120).all()
    assert table.notes == []


@pytest.mark.parametrize(
    "smaller, differing", [("sample_labels.csv.gz", 10), ("Data_Entry_2017.csv.gz", 181)]
)
def test_where_the_real_tables_differ_it_is_counted(nih_tables, smaller, differing):
    table = read_tables([nih_tables / smaller, nih_tables / "Data_Entry_2017_v2020.csv.gz"])
    assert len(table.rows) == 112_120
    (note,) = table.notes
    assert note.startswith(f"{differing} images labelled differently in {smaller} and in Data_")
    reason = (
        "has more rows"
        if differing == 10
        else "which is used: it has the form of NIH's release of 2020"
    )
    assert reason in note
    assert table.rows[list(CLASSES)].sum().to_dict() == {k: row[0] for k, row in COUNTS.items()}


def test_rows_without_labels_are_pointed_to_what_scores_them(tmp_path):
    """Nobody is to be told to write a label that no one gave."""
    for content in ("Image Index,Finding Labels\na.png,Mass\nb.png,\n", "Image Index\na.png\n"):
        (tmp_path / "Data_Entry_2017.csv").write_text(content)
        with pytest.raises(ValueError, match=r"python -m chestxray\.predict") as refused:
            read_table(tmp_path / "Data_Entry_2017.csv")
        assert "No Finding" not in str(refused.value)
