"""Groups that were chosen before looking: by a column of the scores file, or by bands of a number.

`--by sex` takes the values of a column; `--by age:18,40,60,80` cuts a number at 18, 40, 60 and 80.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from chestxray.runtime.text import is_harmless, join_limited, plural

if TYPE_CHECKING:  # which imports pandas
    from chestxray.scores import Scores

DESCRIBED = ("sex", "view", "age:18,40,60,80")  # by these the report shows the realised risk
_MOST = 12  # values of a column that is shown without being asked for
NOT_GIVEN = "not given"  # the group of the rows whose column is empty


@dataclass(frozen=True)
class Groups:
    """The group of each of N images.

    Attributes:
        of: (N,) text.
        names: of the groups, in their order; there may be more than rows have.
        column: that makes them; None where no column does.
    """

    of: np.ndarray
    names: tuple[str, ...]
    column: "Column | None" = None

    def take(self, mask: np.ndarray) -> "Groups":
        return replace(self, of=self.of[mask])


@dataclass(frozen=True)
class Column:
    """A column that makes groups, and the ages or other numbers at which it is cut, ascending."""

    name: str
    cuts: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Column":
        """Read COLUMN or COLUMN:CUT,CUT,...

        Raises:
            ValueError: cuts that are not ascending numbers.
        """
        name, colon, cuts = text.rpartition(":") if ":" in text else (text, "", "")
        try:
            numbers = tuple(float(cut) for cut in cuts.split(",")) if colon else ()
        except ValueError:
            numbers = (math.nan,)
        ascending = all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
        if not name.strip() or not ascending or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{text!r} is neither COLUMN nor COLUMN:CUT,CUT with rising numbers")
        return cls(name.strip(), numbers)

    @property
    def bands(self) -> tuple[str, ...]:
        """The names of the bands: under 18, 18 to under 40, 40 and over."""
        cuts = [f"{cut:g}" for cut in self.cuts]
        between = [f"{a} to under {b}" for a, b in zip(cuts, cuts[1:], strict=False)]
        return (f"under {cuts[0]}", *between, f"{cuts[-1]} and over")

    def groups(self, source: object, table: "Scores") -> Groups:
        """The group of each row of a scores file.

        Args:
            source: the file, for what is said of it.
            table: its rows.

        Raises:
            ValueError: no such column; no value in it; a value that is no number, or that a
                spreadsheet would run.
        """
        values = table.attributes.get(self.name)
        if values is None:
            names = join_limited(table.attributes, most=20) or "none that makes groups"
            raise ValueError(f"{source} has no column {self.name!r} for --by; it has {names}")
        if not (values != "").any():
            raise ValueError(f"{source}: the column {self.name} is empty; --by needs its values")
        odd = self._no_numbers(values)
        if odd:
            raise ValueError(
                f"{source}: {self.name} is not a number in {plural(len(odd), 'row')}: "
                f"{join_limited(map(repr, sorted(set(odd))), 3)}; --by {self.name} takes its "
                "values as they are"
            )
        _refuse_unsafe(source, self.name, values)
        return self.of_values(values)

    def of_values(self, values: np.ndarray) -> Groups:
        """The groups of rows, one more for those whose value is empty."""
        missing = np.isin(values, ["", NOT_GIVEN])
        of, names = values, tuple(sorted(set(values) - {"", NOT_GIVEN}))
        if self.cuts:
            places = np.searchsorted(self.cuts, list(map(_number, values)), side="right")
            of, names = np.array(self.bands, dtype=object)[places], self.bands
        if not missing.any():
            return Groups(of, names, self)
        return Groups(np.where(missing, NOT_GIVEN, of).astype(object), (*names, NOT_GIVEN), self)

    def _no_numbers(self, values: np.ndarray) -> list[str]:
        """The values that have no band."""
        return [v for v in values if v and np.isnan(_number(v))] if self.cuts else []

    def can_be_shown(self, values: np.ndarray) -> bool:
        """Return whether a column that nobody asked for makes a few groups that can be read."""
        if not (values != "").any() or self._no_numbers(values):
            return False
        return bool(self.cuts) or len(set(values)) <= _MOST


def described(table: "Scores", by: Column | None = None) -> dict[str, Groups]:
    """The groups by which the realised risk is shown unasked: those DESCRIBED, but not of --by.

    Returns:
        By column; one that the file has not, or that cannot be read so, is left out.
    """
    found = {}
    for column in map(Column.parse, DESCRIBED):
        if by is not None and by.name == column.name:
            continue
        values = table.attributes.get(column.name)
        if values is not None and column.can_be_shown(values):
            found[column.name] = column.of_values(values)
    return found


def _refuse_unsafe(source: object, name: str, values: np.ndarray) -> None:
    """Refuse values that a spreadsheet would run, or that would break a table of the report."""
    odd = {value for value in values if value and ("|" in value or not is_harmless(value))}
    unsafe = sorted(odd)
    if unsafe:
        raise ValueError(
            f"{source}: {name} with a control character or |, or beginning like a formula with - = "
            f"+ or @: {join_limited(map(repr, unsafe))}"
        )


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
