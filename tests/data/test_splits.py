"""The split: by patient, drawn once, restored from a checkpoint."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spellings import spelling_of

from chestxray.data.entries import Entries, read_lists
from chestxray.data.splits import (
    Split,
    assign_splits,
    check_patients,
    check_training_part,
    count_seen,
    draw_split,
    restore_split,
)
from chestxray.data.tables import read_table


def people(n, seed=0):
    """Rows of n patients with one to five images each, as image and patient."""
    counts = np.random.default_rng(seed).integers(1, 6, size=n)
    names = [f"{p:08d}_{i:03d}.png" for p, count in enumerate(counts) for i in range(count)]
    return pd.DataFrame({"image": names, "patient": [name[:8] for name in names]})


def images(*names):
    return pd.DataFrame({"image": names, "patient": [name[:8] for name in names]})


def official(rows, n):
    """Lists that have the images of the first n patients for test."""
    in_test = rows["patient"].isin(rows["patient"].unique()[:n])
    return {"train_val": set(rows["image"][~in_test]), "test": set(rows["image"][in_test])}


def entries(rows, lists=None):
    return Entries(rows, lists, {}, [])


def patients_by_part(rows, parts):
    """Part -> how many patients, after a check that none is in two."""
    pairs = pd.DataFrame({"patient": rows["patient"], "part": parts}).drop_duplicates()
    assert not pairs["patient"].duplicated().any()
    return pairs["part"].value_counts().to_dict()


def drawn_split(rows, lists=None, seed=0):
    assigned, _ = assign_splits(entries(rows, lists), None, seed, test=False)
    return Split.from_rows(assigned, seed, official=lists is not None)


@pytest.mark.parametrize("seed", range(20))
def test_no_patient_is_in_two_parts_and_the_shares_are_70_10_20(seed):
    rows = people(200, seed)
    assert patients_by_part(rows, draw_split(rows, None, seed)) == {
        "train": 140,
        "val": 20,
        "test": 40,
    }


@pytest.mark.parametrize("seed", range(20))
def test_lists_give_the_test_and_a_tenth_of_the_rest_validates(seed):
    rows = people(200, seed)
    lists = official(rows, 50)
    parts = draw_split(rows, lists, seed)
    assert set(rows["image"][parts == "test"]) == lists["test"]
    assert patients_by_part(rows, parts) == {"train": 135, "val": 15, "test": 50}


@pytest.mark.parametrize("with_lists", [False, True])
def test_the_order_of_the_rows_does_not_change_the_split(with_lists):
    rows = people(100)
    lists = official(rows, 20) if with_lists else None
    parts = dict(zip(rows["image"], draw_split(rows, lists, 7), strict=True))
    shuffled = rows.sample(frac=1, random_state=1)
    assert dict(zip(shuffled["image"], draw_split(shuffled, lists, 7), strict=True)) == parts
    assert dict(zip(rows["image"], draw_split(rows, lists, 8), strict=True)) != parts


@settings(max_examples=30, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from([1, 10**9]))
def test_the_spelling_of_the_patients_does_not_change_the_split(data, with_lists, first):
    clean = people(12)
    numbers = clean["patient"].astype(int) + first
    lists = official(clean, 3) if with_lists else None
    clean = clean.assign(patient=numbers.astype(str).str.zfill(8))
    spelled = clean.assign(patient=[data.draw(spelling_of(number)) for number in numbers])
    stored, parts = drawn_split(clean, lists), draw_split(clean, lists, 0)
    assert draw_split(spelled, lists, 0).tolist() == parts.tolist()
    # Another image of each, spelled in another way, is not the one of an unseen patient.
    later = spelled.assign(image="b" + clean["image"])
    now = pd.concat([spelled, later], ignore_index=True)
    assigned, notes = assign_splits(entries(now), stored, 0, test=True)
    assert set(assigned["image"][len(spelled) :]) == set(later["image"][parts == "test"])
    left_out = int((parts != "test").sum())
    assert notes[-1].startswith(f"{left_out} image")


def test_a_split_that_cannot_tell_its_patients_apart_is_refused():
    rows = images("a_0.png", "b_0.png").assign(patient=["1.3E+01", "2"], split=["train", "test"])
    stored = Split.from_rows(rows, 0, official=False)
    now = entries(images("a_0.png", "c_0.png"))
    with pytest.raises(ValueError, match="cannot tell its patients apart.*rounded.*train anew"):
        assign_splits(now, stored, 0, test=True)


def test_patients_on_both_official_lists_are_refused():
    rows = people(30, seed=1)
    lists = official(rows, 10)
    shared = rows["patient"].value_counts().loc[lambda count: count > 1].index.sort_values()[:5]
    for patient in shared:
        first = rows["image"][rows["patient"] == patient].iloc[0]
        for names in lists.values():
            names.discard(first)
        lists["test"].add(first)
        second = rows["image"][rows["patient"] == patient].iloc[1]
        lists["test"].discard(second)
        lists["train_val"].add(second)
    with pytest.raises(ValueError, match="5 patients in more than one part") as error:
        draw_split(rows, lists, 0)
    assert ", ".join(shared[:3]) + " and 2 more" in str(error.value)


def test_images_in_no_part_do_not_count_as_a_second_part():
    check_patients(pd.Series(["a", "a", "b"]), np.array(["train", "", "val"], dtype=object))
    with pytest.raises(ValueError, match="1 patient in more than one part.*: a"):
        check_patients(pd.Series(["a", "a", "b"]), np.array(["train", "val", "val"], dtype=object))


@pytest.mark.parametrize("n", range(1, 10))
def test_few_patients_still_leave_some_for_training(n):
    rows = people(n)
    parts = draw_split(rows, None, 0)
    assert patients_by_part(rows, parts)["train"] >= 1


def test_one_patient_is_all_training():
    rows = images("00000001_000.png", "00000001_001.png")
    assert draw_split(rows, None, 0).tolist() == ["train", "train"]


def test_nothing_left_for_training_is_an_error():
    rows = images("00000001_000.png", "00000002_000.png")
    with pytest.raises(ValueError, match="no image is left for training: 2 images, 0 for val"):
        draw_split(rows, {"train_val": set(), "test": set(rows["image"])}, 0)


@pytest.mark.parametrize("lists, source", [(None, "no official lists"), (20, "official lists")])
def test_a_fresh_split_notes_its_source_and_no_shared_patient(lists, source):
    rows = people(100)
    assigned, notes = assign_splits(
        entries(rows, lists and official(rows, lists)), None, 3, test=False
    )
    assert assigned["image"].tolist() == rows["image"].tolist()
    assert notes[0].startswith(f"split: {source}") and "seed 3" in notes[0]
    assert notes[0].endswith("0 patients shared")


@pytest.mark.parametrize("n", [1, 50])
@pytest.mark.parametrize("with_lists", [False, True])
def test_a_split_survives_its_plain_form(n, with_lists):
    rows = people(n)
    lists = official(rows, n // 3) if with_lists else None
    assigned, _ = assign_splits(entries(rows, lists), None, 5, test=False)
    split = Split.from_rows(assigned, 5, with_lists)
    plain = split.to_plain()
    assert (plain["seed"], plain["official"]) == (5, with_lists)
    assert plain["train"]["images"].split("\n") == split.image_names["train"]
    assert json.loads(json.dumps(plain)) == plain
    assert Split.from_plain(plain) == split
    restored = split.rows().sort_values("image", ignore_index=True)
    expected = assigned[["image", "patient", "split"]].sort_values("image", ignore_index=True)
    assert restored.to_dict("list") == expected.to_dict("list")


@pytest.mark.parametrize("odd", ["a b", "Müller", "胸部", "a\x0cb", "a\x85b", "a\u2028b"])
def test_odd_characters_in_names_and_patients_survive(odd):
    rows = pd.DataFrame({"image": [f"{odd}.png", "z.png"], "patient": [odd, "z"]})
    split = Split.from_rows(rows.assign(split="train"), 0, official=False)
    restored = Split.from_plain(split.to_plain()).rows()
    assert restored["image"].tolist() == rows["image"].tolist()
    assert restored["patient"].tolist() == rows["patient"].tolist()


def test_the_empty_split_makes_all_images_test() -> None:
    rows = people(9)
    empty = Split.from_plain(Split.empty().to_plain())
    assert empty.is_empty and not drawn_split(rows).is_empty
    assigned, notes = assign_splits(entries(rows), empty, 0, test=True)
    assert set(assigned["split"]) == {"test"}
    assert notes == ["split: all test; 0 patients shared"]


def test_a_stored_split_is_restored_without_a_change_or_a_note():
    rows = people(60)
    stored = drawn_split(rows, seed=2)
    part_of = stored.rows().set_index("image")["split"]
    for seed, lists in [(2, None), (9, None), (2, official(rows, 5))]:  # neither matters now
        assigned, notes = assign_splits(entries(rows, lists), stored, seed, test=False)
        assert assigned["split"].tolist() == part_of[rows["image"]].tolist()
        assert notes == ["split: the checkpoint's; 0 patients shared"]


def test_missing_and_new_images_are_counted_the_rest_keep_parts():
    rows = people(60)
    stored = drawn_split(rows)
    now = pd.concat([rows[5:], images(*(f"0009999{n}_000.png" for n in range(3)))])
    parts, notes = restore_split(now, stored)
    part_of = stored.rows().set_index("image")["split"]
    assert parts.tolist() == [*part_of[rows["image"][5:]], "", "", ""]
    assert "5 images" in notes[0] and "are missing" in notes[0]
    assert "3 images" in notes[1] and "does not know" in notes[1]


def test_training_leaves_unseen_images_out():
    rows = people(60)
    now = pd.concat([rows, images("00099999_000.png")], ignore_index=True)
    assigned, notes = assign_splits(entries(now), drawn_split(rows), 0, test=False)
    assert assigned["image"].tolist() == rows["image"].tolist()
    assert "1 image that the run's split does not know" in notes[1]


def with_unseen(rows, stored):
    """One more image of a patient of each part, and one of a patient unknown."""
    first = stored.rows().drop_duplicates("split").set_index("split")["patient"]
    more = {part: f"{first[part]}_900.png" for part in ("train", "val", "test")}
    more["unknown"] = "00099999_900.png"
    return more, pd.concat([rows, images(*more.values())], ignore_index=True)


def test_unseen_images_are_test_unless_their_patient_is_known():
    rows = people(60)
    stored = drawn_split(rows)
    more, now = with_unseen(rows, stored)
    assigned, notes = assign_splits(entries(now), stored, 0, test=True)
    parts = assigned.set_index("image")["split"]
    assert parts[more["unknown"]] == "test" and parts[more["test"]] == "test"
    assert more["train"] not in parts and more["val"] not in parts
    assert parts[rows["image"]].tolist() == restore_split(rows, stored)[0].tolist()
    assert notes[-1].startswith("2 images left out")
    patients_by_part(assigned, assigned["split"])


def test_unseen_images_follow_the_lists_of_their_folder():
    rows = people(60)
    stored = drawn_split(rows)
    more, now = with_unseen(rows, stored)
    now = pd.concat([now, images("00088888_900.png")], ignore_index=True)
    lists = {
        "train_val": {more["train"], more["test"], "00088888_900.png"},
        "test": {more["val"], more["unknown"]},
    }
    assigned, notes = assign_splits(entries(now, lists), stored, 0, test=True)
    parts = assigned.set_index("image")["split"]
    assert parts[more["unknown"]] == "test" and parts["00088888_900.png"] == "train"
    assert parts[more["train"]] == "train"
    assert more["test"] not in parts and more["val"] not in parts
    assert notes[-1].startswith("2 images left out")
    patients_by_part(assigned, assigned["split"])


def other_hospital(n=8):
    """Images of other people, who are numbered from 1 as well."""
    return pd.DataFrame(
        {"image": [f"scan_{k}.png" for k in range(n)], "patient": [f"{k:08d}" for k in range(n)]}
    )


def test_equal_ids_in_a_folder_that_shares_no_image_are_others():
    theirs, stored = other_hospital(), drawn_split(people(60))
    assigned, notes = assign_splits(entries(theirs), stored, 0, test=True)
    assert assigned["image"].tolist() == theirs["image"].tolist()
    assert notes[0] == "split: all test; 0 patients shared"
    assert len(notes) == 2 and "taken for other people" in notes[1]
    assert "--same-patients" in notes[1]

    part_of = stored.rows().drop_duplicates("patient").set_index("patient")["split"]
    assigned, notes = assign_splits(entries(theirs), stored, 0, test=True, same_patients=True)
    assert assigned["patient"].tolist() == [p for p in theirs["patient"] if part_of[p] == "test"]
    assert "left out: their patients are in another part" in notes[-1]


def test_a_shared_name_in_the_tables_alone_makes_ids_comparable():
    rows, theirs = people(60), other_hospital()
    named = Entries(theirs, None, {}, [], frozenset(rows["image"][:1]))
    assigned, notes = assign_splits(named, drawn_split(rows), 0, test=True)
    assert 0 < len(assigned) < len(theirs)
    assert "left out" in notes[-1] and "other people" not in " ".join(notes)


def test_a_folder_of_unseen_patients_is_all_test():
    unseen = images(*(f"0009999{n}_000.png" for n in range(8)))
    assigned, _ = assign_splits(entries(unseen), drawn_split(people(60)), 0, test=True)
    assert assigned["image"].tolist() == unseen["image"].tolist()
    assert set(assigned["split"]) == {"test"}


def test_an_unfinished_epoch_needs_all_its_images():
    rows = people(60)
    stored = drawn_split(rows)
    images = np.array(stored.image_names["train"])
    check_training_part(images, stored, same_tables=True)
    check_training_part(np.append(images, "00099999_000.png"), stored, same_tables=True)
    with pytest.raises(ValueError, match="4 images of that epoch can no longer be used") as error:
        check_training_part(images[4:], stored, same_tables=True)
    assert ", ".join(sorted(images[:4])[:3]) + " and 1 more" in str(error.value)
    with pytest.raises(ValueError, match="the label tables are not the ones that it began"):
        check_training_part(images, stored, same_tables=False)


@pytest.mark.parametrize(
    "name, test_images, test_patients, others",
    [
        ("Data_Entry_2017_v2020.csv.gz", 25_596, 2_797, 28_008),
        ("sample_labels.csv.gz", 1_293, 685, 4_230 - 685),
    ],
)
def test_the_real_lists_give_the_official_test(
    nih, nih_tables, name, test_images, test_patients, others
):
    rows = read_table(nih_tables / name).rows
    parts = draw_split(rows, read_lists(nih, rows["image"]), 0)
    assert (parts == "test").sum() == test_images
    n_val = round(0.1 * others)
    assert patients_by_part(rows, parts) == {
        "train": others - n_val,
        "val": n_val,
        "test": test_patients,
    }


def test_patients_whom_weights_have_seen_are_counted():
    rows = images("00000001_000.png", "00000002_000.png", "00000003_000.png", "00000004_000.png")
    before = Split.from_rows(rows.assign(split=["train", "val", "test", "train"]), 0, False)
    other = images("1_9.png", "2_9.png", "3_9.png", "4_9.png")
    other["patient"] = ["1", "2", "3", "4.0"]  # further images of the same people
    other["split"] = ["test", "test", "test", "val"]
    assert count_seen(other, frozenset(rows["image"]), before) == 3
    assert count_seen(other.assign(split="train"), frozenset(rows["image"]), before) == 0
    assert count_seen(other, frozenset(), before) is None
