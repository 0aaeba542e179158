"""Counts and lists in sentences for people."""

import pytest

from chestxray.runtime.text import join_limited, plural


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
