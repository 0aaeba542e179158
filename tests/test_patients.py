"""One patient, one key: what spreadsheets and libraries do to an id changes nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spellings import BLANKS, spelling_of

from chestxray.patients import nih_spelling, patient_key, read_patients


@given(st.integers(0, 10**12), st.data())
def test_every_spelling_of_a_number_is_one_key(number: int, data: st.DataObject) -> None:
    assert patient_key(data.draw(spelling_of(number))) == str(number)


@given(st.text(max_size=12) | st.text("' 0.13", max_size=8), BLANKS)
def test_a_key_is_its_own_key_and_knows_no_blanks(text: str, blanks: str) -> None:
    try:
        key = patient_key(text)
    except ValueError:
        return
    assert patient_key(blanks + text + blanks) == key


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_different_numbers_are_different_patients(a: int, b: int) -> None:
    assert (patient_key(f"{a:08d}") == patient_key(f"{b}.0")) == (a == b)


@pytest.mark.parametrize("text", ["P0013", "13a", "13.5", "A 13", "0x13", "1-3", "13E5", "13,5"])
def test_other_ids_are_kept_as_they_are(text: str) -> None:
    assert patient_key(f" {text} ") == text


@pytest.mark.parametrize(
    "text", ["1.3E+01", "1e+16", "1,3E+07", " '2.10E+04", "1,000", "1.000", "12,000,000"]
)
def test_a_number_rounded_by_a_spreadsheet_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="spreadsheet has rounded"):
        patient_key(text)


@given(st.integers(0, 10**10), st.integers(0, 10**10))
def test_nihs_spelling_is_one_for_each_key(a: int, b: int) -> None:
    assert patient_key(nih_spelling(str(a))) == str(a)
    assert (nih_spelling(str(a)) == nih_spelling(str(b))) == (a == b)
    assert [nih_spelling(key) for key in ("13", "P13")] == ["00000013", "P13"]


@pytest.mark.parametrize("text", ["nan", "NA", " None", "<NA>", "'", ""])
def test_a_missing_id_is_no_patient(text: str) -> None:
    assert patient_key(text) == ""


def test_the_first_spelling_is_shown_and_the_others_counted() -> None:
    found = read_patients([" 13", "00000013", "7", "0007.0", "P1", "P1 ", "", " "])
    assert found.keys.tolist() == ["13", "13", "7", "7", "P1", "P1", "", ""]
    assert found.shown.tolist() == ["13", "13", "7", "7", "P1", "P1", "", ""]
    assert found.respelled == 3
