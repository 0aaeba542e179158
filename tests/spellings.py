"""Patients' ids as people's files have them, for property tests."""

from hypothesis import strategies as st

BLANKS = st.text(" \t\u00a0", max_size=2)


@st.composite
def spelling_of(draw: st.DrawFn, number: int) -> str:
    """A spelling of a patient's number."""
    zeros, end = "0" * draw(st.integers(0, 8)), draw(st.sampled_from(["", ".0", ".", ".00", ",0"]))
    bare = draw(st.sampled_from(["", "'", "\u2018"])) + zeros + str(number) + end
    return draw(BLANKS) + bare + draw(BLANKS)
