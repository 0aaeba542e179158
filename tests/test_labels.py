"""The 15 classes, their spellings, and the way from "A|B" to zeros and ones and back."""

import numpy as np
import pytest

from chestxray.labels import CLASSES, FINDINGS, NO_FINDING, canonical, decode, encode


def test_the_fifteen_classes_stand_in_their_fixed_order():
    assert ", ".join(CLASSES) == (
        "Atelectasis, Cardiomegaly, Consolidation, Edema, Effusion, Emphysema, Fibrosis, Hernia, "
        "Infiltration, Mass, No Finding, Nodule, Pleural_Thickening, Pneumonia, Pneumothorax"
    )
    assert FINDINGS == CLASSES[:10] + CLASSES[11:]


def test_a_cell_becomes_ones_at_the_places_of_its_classes():
    target = encode("Hernia|Atelectasis")
    assert (target.dtype, target.tolist()) == (np.uint8, [1, 0, 0, 0, 0, 0, 0, 1] + [0] * 7)


def test_decode_inverts_encode_in_any_order_of_the_labels():
    rng = np.random.default_rng(0)
    for count in [*range(1, 15)] * 10:
        names = rng.choice(FINDINGS, size=count, replace=False)
        assert decode(encode("|".join(names))) == "|".join(sorted(names))
    assert decode(encode(NO_FINDING)) == NO_FINDING


@pytest.mark.parametrize(
    "text",
    [
        "Mass|Effusion",
        "Effusion|Mass|Effusion",
        "Effusion|Mass|",
        "|Effusion||Mass",
        " Effusion | Mass ",
        "effusion|MASS",
    ],
)
def test_order_repeats_bars_spaces_and_case_do_not_matter(text):
    assert encode(text).tolist() == encode("Effusion|Mass").tolist()


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("Pleural_thickening", "Pleural_Thickening"),
        ("Pleural Thickening", "Pleural_Thickening"),
        ("pleural_thickening", "Pleural_Thickening"),
        ("No findings", "No Finding"),
        ("no finding", "No Finding"),
        ("No_Finding", "No Finding"),
        ("Infiltrate", "Infiltration"),
    ],
)
def test_spellings_of_public_files_are_understood(spelling, name):
    assert canonical(spelling) == name
    assert encode(spelling).tolist() == encode(name).tolist()


@pytest.mark.parametrize(
    "label, nearest",
    [("Atelectesis", "Atelectasis"), ("Pleural Effusion", "Effusion"), ("no findin", "No Finding")],
)
def test_an_unknown_label_is_refused_with_the_nearest_valid_one(label, nearest):
    with pytest.raises(ValueError, match=f"unknown label '{label}'.*'{nearest}'"):
        encode(f"Mass|{label}")


@pytest.mark.parametrize("text", ["COVID", "NA", "None", "nan", "0"])
def test_a_label_that_resembles_nothing_is_refused_too(text):
    with pytest.raises(ValueError, match=f"unknown label '{text}'"):
        encode(text)


@pytest.mark.parametrize("text", ["No Finding|Effusion", "effusion|no findings"])
def test_no_finding_beside_a_finding_contradicts_itself(text):
    with pytest.raises(ValueError, match="contradicts itself"):
        encode(text)


@pytest.mark.parametrize("text", ["", "  ", "|", " | "])
def test_an_empty_cell_is_not_a_healthy_image(text):
    with pytest.raises(ValueError, match="^no label$"):
        encode(text)
