"""Counts and lists in sentences for people."""

import pytest

from chestxray.runtime.text import counted, listed


@pytest.mark.parametrize(
    "number, text", [(0, "0 pictures"), (1, "1 picture"), (1642, "1,642 pictures")]
)
def test_a_count_agrees_with_its_noun(number, text):
    assert counted(number, "picture") == text


@pytest.mark.parametrize(
    "items, text",
    [([], ""), ("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more")],
)
def test_a_list_ends_where_it_gets_long(items, text):
    assert listed(items, most=3) == text


def test_a_long_list_says_how_many_are_left():
    expected = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 112,110 more"
    assert listed(number for number in range(112_120)) == expected
