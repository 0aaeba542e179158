"""Counts, sizes and lists in sentences for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestxray.runtime.text import join_limited, plural, size_text


@pytest.mark.parametrize("number, text", [(0, "0 images"), (1, "1 image"), (1642, "1,642 images")])
def test_a_count_agrees_with_its_noun(number, text):
    assert plural(number, "image") == text


@pytest.mark.parametrize(
    "items, text",
    [([], ""), ("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more")],
)
def test_a_list_ends_where_it_gets_long(items, text):
    assert join_limited(items, most=3) == text


def test_a_long_list_says_how_many_are_left():
    expected = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 112,110 more"
    assert join_limited(number for number in range(112_120)) == expected


@pytest.mark.parametrize(
    "number, text",
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (36_864, "36.9 kB"), (999_500, "1.00 MB")],
)
def test_a_size_has_a_unit_of_which_there_is_one(number, text):
    assert size_text(number) == text


@given(st.integers(1, 10**15 - 10**12))
def test_no_size_is_shown_as_nothing_or_far_off(number):
    value, unit = size_text(number).split(" ")
    assert len(value) <= 4 and 1 <= float(value) < 1000
    shown = float(value) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert shown == pytest.approx(number, rel=0.0051)
