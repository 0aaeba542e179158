"""Tables, lists and images of a data folder, put together whatever its layout."""

import os
from pathlib import Path

import pandas as pd
import pytest

from chestxray.data.cache import load_images
from chestxray.data.entries import find_images, read_entries, read_lists, read_names
from chestxray.data.splits import draw_split
from chestxray.data.summary import describe_change, summary
from chestxray.labels import CLASSES

NAMES = [f"{patient:08d}_{number:03d}.png" for patient in range(1, 7) for number in range(2)]
LABELS = ["Mass", "Edema|Effusion", "No Finding"] * 4
COUNTS = {"Mass": 4, "Edema": 4, "Effusion": 4, "No Finding": 4}

FIRST = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
DIALECTS = {
    "2017": (
        f"{FIRST},OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\r\n",
        "{name},{labels},{number:03d},{patient:08d},058Y,M,PA,2682,2749,0.143,0.143\r\n",
    ),
    "2020": (
        f"{FIRST},OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n",
        "{name},{labels},{number},{patient},58,M,PA,2682,2749,0.14300000000000002,0.143\n",
    ),
    "sample": (
        f"{FIRST},OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,_y\n",
        "{name},{labels},{number:03d},{patient:08d},058Y,M,PA,2682,2749,0.143,0.143\n",
    ),
    "two columns": ("Image Index,Finding Labels\n", "{name},{labels}\n"),
}
TWELVE = [f"images_{number:03d}/images" for number in range(1, 13)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_table(path, dialect="2017", names=NAMES):
    header, row = DIALECTS[dialect]
    lines = [
        row.format(name=name, labels=labels, patient=int(name[:8]), number=int(name[9:12]))
        for name, labels in zip(NAMES, LABELS, strict=True)
        if name in names
    ]
    return write(path, header + "".join(lines))


def write_images(folder, names=NAMES):
    """Files with the name for content: no test here looks into an image."""
    for name in names:
        write(folder / name, name)


def folder_of(tmp_path, names=NAMES):
    write_table(tmp_path / "Data_Entry_2017.csv")
    write_images(tmp_path / "images", names)
    return tmp_path


@pytest.mark.parametrize(
    "tables, folders",
    [
        ({"Data_Entry_2017.csv": "2017"}, TWELVE),
        ({"Data_Entry_2017.csv": "2017"}, [folder.split("/")[0] for folder in TWELVE]),
        ({"Data_Entry_2017.csv": "2017"}, ["images"]),
        ({"Data_Entry_2017.csv": "2020"}, ["images"]),
        ({"Data_Entry_2017_v2020.csv": "2020"}, TWELVE),
        ({"sample_labels.csv": "sample"}, ["sample/images"]),
        ({"sample/sample_labels.csv": "sample"}, ["sample/images"]),
        (
            {"Data_Entry_2017.csv": "2017", "sample_labels.csv": "sample"},
            ["sample/images", *TWELVE],
        ),
        ({"Data_Entry_2017.csv": "two columns"}, ["images"]),
        ({"Data_Entry_2017.csv": "2017"}, ["."]),
    ],
    ids=[
        "Kaggle, twelve folders",
        "the archives of NIH",
        "flat",
        "2020 under the old name",
        "2020",
        "sample",
        "table one level below",
        "sample and full table",
        "no patient column",
        "images beside the table",
    ],
)
def test_every_layout_is_found_without_an_option(tmp_path, tables, folders):
    for path, dialect in tables.items():
        write_table(tmp_path / path, dialect)
    for number, name in enumerate(NAMES):
        write(tmp_path / folders[number % len(folders)] / name, name)

    entries = read_entries(tmp_path)
    assert entries.rows["image"].tolist() == NAMES
    assert [Path(path).read_text() for path in entries.rows["path"]] == NAMES
    assert entries.rows["patient"].tolist() == [name[:8] for name in NAMES]
    assert entries.label_counts() == dict.fromkeys(CLASSES, 0) | COUNTS
    assert set(entries.fingerprint) == {Path(path).name for path in tables}
    assert entries.lists is None
    assert entries.notes == ["12 of 12 rows have an image"]


def test_the_twin_folder_of_the_sample_is_used_once(tmp_path):
    for root in (tmp_path / "sample", tmp_path / "sample" / "sample"):
        write_table(root / "sample_labels.csv", "sample")
        write_images(root / "images")
    for folder in (tmp_path, tmp_path / "sample"):
        entries = read_entries(folder)
        assert entries.rows["image"].tolist() == NAMES
        assert entries.notes[0] == "12 of 12 rows have an image"
        assert entries.notes[1].startswith("12 images found more than once")


def test_the_sample_beside_a_larger_table_is_one_set(tmp_path):
    write_table(tmp_path / "Data_Entry_2017.csv", names=NAMES)
    write_table(tmp_path / "sample_labels.csv", "sample", names=NAMES[:4])
    write_images(tmp_path / "images", NAMES[:6])
    entries = read_entries(tmp_path)
    assert entries.rows["image"].tolist() == NAMES[:6]
    assert entries.notes == ["6 of 12 rows have an image"]


def test_the_same_name_with_other_bytes_stops_and_names_both(tmp_path):
    folder = folder_of(tmp_path)
    first = folder / "images" / NAMES[3]
    other = write(folder / "more" / NAMES[3], NAMES[4])  # as long as the first, and as old
    for path in (first, other):
        os.utime(path, (1e9, 1e9))
    with pytest.raises(ValueError, match="1 image found twice with different content") as error:
        read_entries(folder)
    assert str(other) in str(error.value)
    assert str(first) in str(error.value)


@pytest.mark.parametrize(
    "hidden",
    [
        f"images/._{NAMES[0]}",
        f"__MACOSX/images/{NAMES[0]}",
        f"__MACOSX/._{NAMES[0]}",
        f".cache/{NAMES[0]}",
        "images/Thumbs.db",
        "images/.DS_Store",
        "._Data_Entry_2017.csv",
    ],
)
def test_hidden_files_of_other_systems_are_ignored(tmp_path, hidden):
    folder = folder_of(tmp_path)
    write(folder / hidden, b"\x00\x05\x16\x07")
    entries = read_entries(folder)
    assert entries.rows["image"].tolist() == NAMES
    assert entries.notes == ["12 of 12 rows have an image"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".PNG", ".JPG"])
def test_another_suffix_is_matched_by_stem_and_noted(tmp_path, suffix):
    names = [name.replace(".png", suffix) for name in NAMES]
    entries = read_entries(folder_of(tmp_path, names))
    assert entries.rows["image"].tolist() == NAMES
    assert [Path(path).name for path in entries.rows["path"]] == names
    assert entries.notes[1] == (
        f"12 images matched by name without suffix ({names[0]}, for example)"
    )


def test_what_bears_the_name_of_an_image_is_named_among_the_broken(tmp_path):
    """A folder or a DICOM file in the place of an image; not where the image is there too."""
    folder_of(tmp_path, NAMES[4:])
    (tmp_path / "images" / NAMES[0]).mkdir()
    dicom = bytes(128) + b"DICM" + bytes(99)
    for name in (NAMES[1], NAMES[2].replace(".png", ".dcm"), NAMES[5].replace(".png", ".dcm")):
        write(tmp_path / "images" / name, dicom)
    write(tmp_path / "unpacked" / NAMES[4] / NAMES[4], NAMES[4])  # some programs unpack so
    found = read_entries(tmp_path)
    assert found.rows["image"].tolist() == [*NAMES[:3], *NAMES[4:]]
    broken = load_images(found.rows["path"].tolist()[:3], 32, tmp_path, None).broken
    assert [Path(path).name for path in broken] == [*NAMES[:2], NAMES[2].replace(".png", ".dcm")]
    folder, *files = broken.values()
    assert "folder" in folder
    assert all("DICOM" in reason for reason in files)
    assert not any("without a row" in note for note in found.notes)


def test_images_of_other_names_are_named_with_the_way_to_score_them(tmp_path):
    write_table(tmp_path / "Data_Entry_2017.csv")
    write(tmp_path / "images" / "1.2.840.dcm", bytes(128) + b"DICM")
    with pytest.raises(ValueError, match=r"1.2.840.dcm was found; python -m chestxray.predict"):
        read_entries(tmp_path)


def test_a_name_is_preferred_to_its_stem(tmp_path):
    folder = folder_of(tmp_path)
    write_images(folder / "small", [name.replace(".png", ".jpg") for name in NAMES])
    entries = read_entries(folder)
    assert [Path(path).name for path in entries.rows["path"]] == NAMES
    assert entries.notes == [
        "12 of 12 rows have an image",
        "12 images without a row, left out",
    ]


def test_two_images_with_one_stem_are_refused(tmp_path):
    folder = folder_of(tmp_path, NAMES[1:])
    write(folder / NAMES[0].replace(".png", ".jpg"), "one")
    write(folder / NAMES[0].replace(".png", ".jpeg"), "other")
    with pytest.raises(ValueError, match="twice with different content"):
        read_entries(folder)


def test_a_linked_folder_is_followed_and_a_loop_is_not(tmp_path):
    write_images(tmp_path / "disk" / "images")
    folder = tmp_path / "data"
    write_table(folder / "Data_Entry_2017.csv")
    (folder / "images").symlink_to(tmp_path / "disk" / "images")
    (folder / "again").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "disk" / "images" / "back").symlink_to(folder)
    (folder / "here").symlink_to(".")
    entries = read_entries(folder)
    assert entries.rows["image"].tolist() == NAMES
    assert entries.notes == ["12 of 12 rows have an image"]


def test_spaces_and_other_scripts_in_the_path_work(tmp_path):
    folder = folder_of(tmp_path / "NIH Chest X-rays" / "Köln 胸部")
    subset = write(folder / "my subset.txt", "\n".join(NAMES[:5]))
    assert read_entries(folder, subset).rows["image"].tolist() == NAMES[:5]


def test_a_relative_path_and_the_working_folder_work(tmp_path, monkeypatch):
    folder_of(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert read_entries(Path("data")).rows["image"].tolist() == NAMES
    monkeypatch.chdir("data")
    assert read_entries(Path(".")).rows["image"].tolist() == NAMES


def test_rows_and_images_without_each_other_are_counted(tmp_path):
    folder = folder_of(tmp_path, NAMES[:7])
    write_images(folder, ["curves.png", "scan.jpg"])
    entries = read_entries(folder)
    assert entries.rows["image"].tolist() == NAMES[:7]
    assert entries.notes == ["7 of 12 rows have an image", "2 images without a row, left out"]


def test_rows_are_sorted_by_name(tmp_path):
    table = write_table(tmp_path / "Data_Entry_2017.csv")
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]))
    write_images(tmp_path / "z", NAMES[:5])
    write_images(tmp_path / "a", NAMES[5:])
    rows = read_entries(tmp_path).rows
    assert rows["image"].tolist() == NAMES
    assert rows.index.tolist() == list(range(12))


def test_an_empty_intersection_shows_one_name_of_each_side(tmp_path):
    folder = folder_of(tmp_path, ["scan 1.png"])
    with pytest.raises(ValueError, match=f"{NAMES[0]} was expected.*scan 1.png was found"):
        read_entries(folder)


def test_a_table_without_rows_is_reported(tmp_path):
    write_table(tmp_path / "Data_Entry_2017.csv", names=[])
    write_images(tmp_path / "images")
    with pytest.raises(ValueError, match="has no rows"):
        read_entries(tmp_path)


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "images", "a table"])
def test_a_folder_without_data_names_both_ways_out(tmp_path, there):
    folder = tmp_path / "data"
    if there != "nothing":
        folder.mkdir()
    if there == "images":
        write_images(folder)
    if there == "a table":
        write_table(folder / "Data_Entry_2017.csv")
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        read_entries(folder)
    for text in (str(folder), "docs/data.md", "--data_path", "make demo"):
        assert text in str(error.value)


def test_a_subset_keeps_its_images_and_counts_names_not_found(tmp_path):
    folder = folder_of(tmp_path)
    subset = write(tmp_path / "list.txt", f"{NAMES[5]}\n{NAMES[1]}\n00099999_000.png\n")
    entries = read_entries(folder, subset)
    assert entries.rows["image"].tolist() == [NAMES[1], NAMES[5]]
    assert entries.notes[-1] == f"subset {subset}: 2 images; 1 name on it not found"


def test_a_subset_that_names_nothing_is_an_error(tmp_path):
    folder = folder_of(tmp_path)
    for content, asked in [("00099999_000.png\n", "00099999_000.png"), ("\n", "nothing")]:
        subset = write(tmp_path / "list.txt", content)
        with pytest.raises(ValueError, match=f"it names {asked}, and the folder has {NAMES[0]}"):
            read_entries(folder, subset)
    with pytest.raises(FileNotFoundError, match="missing.txt does not exist; --subset FILE"):
        read_entries(folder, tmp_path / "missing.txt")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_entries(folder, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{0}\n{1}\n",
        "{0}\n{1}",
        "{0}\r\n{1}\r\n",
        "\ufeff{0}\n{1}\n",
        "{0}\n\n{1}\n\n  \n",
        "images/{0}\nimages_012/images/{1}\n",
        "images\\{0}\r\nC:\\NIH\\images\\{1}\r\n",
        "data/NIH Chest X-rays/images/{0}\ndata/NIH Chest X-rays/images/{1}\n",
        "{0} 0 1 0 0 0 0 0 0 0 0 0 0 0 0\n{1} 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        "{0}\t0\t1\n  {1}\t1\t0\n",
    ],
    ids=[
        "plain",
        "no last line end",
        "CRLF",
        "BOM",
        "blank lines",
        "folder before the name",
        "Windows path",
        "folder with spaces",
        "labels behind the name",
        "tabs",
    ],
)
def test_a_list_is_read_however_it_is_written(tmp_path, content):
    path = write(tmp_path / "test_list.txt", content.format(*NAMES))
    assert read_names(path) == NAMES[:2]


def test_a_list_that_is_not_text_is_named(tmp_path):
    path = write(tmp_path / "test_list.txt", b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match="test_list.txt is not a text file"):
        read_names(path)


@pytest.mark.parametrize("place", [".", "lists"])
def test_lists_beside_the_table_or_one_level_below_are_found(tmp_path, place):
    folder = folder_of(tmp_path, NAMES[:9])
    write(folder / place / "train_val_list.txt", "\n".join(NAMES[:8]))
    write(folder / place / "test_list.txt", "\n".join(NAMES[8:]))
    assert read_entries(folder).lists == {"train_val": set(NAMES[:8]), "test": set(NAMES[8:])}


def test_names_on_both_lists_stop_and_three_are_named(tmp_path):
    write(tmp_path / "train_val_list.txt", "\n".join(NAMES[:8]))
    write(tmp_path / "test_list.txt", "\n".join(NAMES[3:]))
    with pytest.raises(ValueError, match="5 names on") as error:
        read_lists(tmp_path, pd.Series(NAMES))
    assert ", ".join(NAMES[3:6]) + " and 2 more" in str(error.value)


def test_a_train_list_alone_is_half_a_split(tmp_path):
    path = write(tmp_path / "train_val_list.txt", "\n".join(NAMES))
    with pytest.raises(ValueError, match="has no test_list.txt beside it") as error:
        read_lists(tmp_path, pd.Series(NAMES))
    assert str(path) in str(error.value)


def test_a_test_list_alone_is_enough(tmp_path):
    write(tmp_path / "test_list.txt", "\n".join(NAMES[8:]))
    assert read_lists(tmp_path, pd.Series(NAMES)) == {"train_val": set(), "test": set(NAMES[8:])}


def test_lists_that_name_none_of_the_images_are_refused(tmp_path):
    write(tmp_path / "train_val_list.txt", "00099999_000.png\n")
    write(tmp_path / "test_list.txt", "00099998_000.png\n")
    with pytest.raises(ValueError, match=f"name none of its images: {NAMES[0]}"):
        read_lists(tmp_path, pd.Series(NAMES))


def test_the_lists_follow_jpg_images_by_the_names_of_the_table(tmp_path):
    folder = folder_of(tmp_path, [name.replace(".png", ".jpg") for name in NAMES])
    write(folder / "test_list.txt", "\n".join(NAMES[8:]))
    entries = read_entries(folder)
    parts = draw_split(entries.rows, entries.lists, seed=0)
    assert entries.rows["image"][parts == "test"].tolist() == NAMES[8:]


def test_the_summary_counts_images_patients_and_classes_by_part(tmp_path):
    rows = read_entries(folder_of(tmp_path)).rows.assign(split=["train"] * 8 + ["test"] * 4)
    lines = {line[:20].strip(): line[20:].split() for line in summary(rows).splitlines()}
    assert lines[""] == ["train", "test", "all"]
    assert lines["images"] == ["8", "4", "12"]
    assert lines["patients"] == ["4", "2", "6"]
    assert lines["Mass"] == ["3", "1", "4"]
    assert lines["Hernia"] == ["0", "0", "0"]
    assert "median age 58 (0 unknown), M 100%, PA 100%" in summary(rows)


def test_the_summary_of_a_test_says_nothing_of_a_training(tmp_path):
    rows = read_entries(folder_of(tmp_path)).rows.assign(split=["train"] * 8 + ["test"] * 4)
    said = [line for line in summary(rows).splitlines() if "training" in line or ".pth" in line]
    assert [line.split(":")[0] for line in said] == [
        "no images for validation",
        "no training image has Atelectasis, Cardiomegaly, Consolidation, Emphysema, Fibrosis, "
        "Hernia, Infiltration, Nodule, Pleural_Thickening, Pneumonia and 1 more",
    ]
    of_test = [line for line in summary(rows).splitlines() if line not in said]
    assert summary(rows, test=True).splitlines() == of_test


def test_only_a_changed_table_is_described(tmp_path):
    entries = read_entries(folder_of(tmp_path))
    stored = entries.fingerprint, entries.label_counts()
    assert describe_change(entries, *stored) == []

    table = tmp_path / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Mass", "Hernia", 1))
    (line,) = describe_change(read_entries(tmp_path), *stored)
    assert "Hernia 0 -> 1, Mass 4 -> 3" in line


def test_images_at_any_depth_are_found_and_other_files_are_not(tmp_path):
    write_images(tmp_path / "images", ["a.png", "b.JPEG", "c.txt", "png"])
    write_images(tmp_path / "a" / "b" / "c" / "d", ["e.jpg", "f.png.part"])
    assert sorted(find_images(tmp_path)["name"]) == ["a.png", "b.JPEG", "e.jpg"]


def test_drawn_data_and_its_lists_are_read(drawn):
    entries = read_entries(drawn)
    assert entries.notes == ["60 of 60 rows have an image"]
    assert entries.lists is not None
    assert entries.lists["train_val"] | entries.lists["test"] == set(entries.rows["image"])


def test_the_real_folder_is_read(nih):
    entries = read_entries(nih)
    assert len(entries.rows) == 1642
    assert entries.rows["patient"].nunique() == 1300
    assert entries.notes == ["1,642 of 1,642 rows have an image"]
    assert entries.lists is not None
    assert {part: len(names) for part, names in entries.lists.items()} == {
        "train_val": 86_524,
        "test": 25_596,
    }
    assert entries.rows["image"].isin(entries.lists["test"]).sum() == 115


@pytest.mark.parametrize("name", ["=cmd.png", "+1.png", "C:a.png", "a\tb.png", "images/-rf.png"])
def test_listed_names_that_are_not_file_names_are_refused(tmp_path, name):
    path = tmp_path / "test_list.txt"
    path.write_text(f"\n00000001_000.png\n{name}\n")
    with pytest.raises(ValueError, match="1 name that cannot be a file name\nline 3: "):
        read_names(path)
