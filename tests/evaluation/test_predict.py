"""Predictions count every image once, whatever the batch; and stand beside their rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from chestxray.data.dataset import ChestDataset
from chestxray.data.tables import read_table
from chestxray.data.workset import Workset
from chestxray.evaluation import predict
from chestxray.scores import Scores, read_scores, write_scores


class FirstPixels(nn.Module):
    """A network whose logits show which images it saw."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].flatten(1)[:, :15]


def numbered(n: int) -> ChestDataset:
    pixels = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    names = np.array([f"{i}.png" for i in range(n)], dtype=object)
    return ChestDataset(
        names, pixels, np.arange(n), np.zeros((n, 15), np.uint8), torch.device("cpu")
    )


@pytest.mark.parametrize("n", [0, 1, 2, 12, 13, 16])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 6, 100])
def test_every_image_is_scored_once_and_in_order(n: int, batch_size: int) -> None:
    logits, scores = predict.predict(FirstPixels(), numbered(n), batch_size, "test")
    assert logits.shape == scores.shape == (n, 15)
    assert (np.diff(logits[:, 0]) > 0).all()
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert scores.dtype == np.float32


def test_the_check_between_batches_can_end_a_prediction() -> None:
    def refuse() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        predict.predict(FirstPixels(), numbered(4), 2, "test", check=refuse)


def test_logits_that_are_not_finite_name_their_images() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = FirstPixels()(images)
            logits[images[:, 0, 0, 0] == images[:, 0].max(), 3] = float("inf")
            return logits

    with pytest.raises(FloatingPointError, match="1 image are not finite: 4.png"):
        predict.predict(Broken(), numbered(5), 5, "test")


def scored(table: Path, rows: slice | list[int] = slice(None)) -> Scores:
    """The scores file of some rows of a label table, written and read."""
    chosen = read_table(table).rows.iloc[rows].assign(split="test")
    n = len(chosen)
    images = Workset(chosen, np.zeros((n, 1, 1), np.uint8), np.arange(n))
    made = predict.scores_table(images, np.zeros((n, 15)), np.full((n, 15), 0.5))
    write_scores(Path("s.csv"), made)
    return read_scores(Path("s.csv"))


AGES = {
    **{"058Y": "58", "058y": "58", "58": "58", "58.0": "58", "0": "0", "120Y": "120"},
    **{"013M": "1.08333", "018M": "1.5", "024M": "2", "001D": "0.00273785", "1461D": "4"},
    **{"411Y": "", "414": "", "": "", "NaN": "", "unknown": "", "-3": "", "=1+1": ""},
}


def test_ages_are_written_as_short_as_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i:02d}.png,Mass,{i},{text}\n" for i, text in enumerate(AGES)]
    Path("t.csv").write_text("Image Index,Finding Labels,Patient ID,Patient Age\n" + "".join(rows))
    table = scored(Path("t.csv"))
    assert table.attributes["age"].tolist() == list(AGES.values())
    assert set(table.attributes["sex"]) == set(table.attributes["view"]) == {""}


@pytest.mark.parametrize(
    "name", ["Data_Entry_2017.csv.gz", "Data_Entry_2017_v2020.csv.gz", "sample_labels.csv.gz"]
)
def test_the_scores_stand_beside_sex_age_and_view_of_the_real_tables(
    name: str, nih_tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = pd.read_csv(nih_tables / name, index_col=False, dtype=str)
    odd = ~theirs["Patient Age"].str.fullmatch(r"0?\d\dY?")  # months, days, and above 99
    rows = [*np.flatnonzero(odd), *range(0, len(theirs), 300)]
    table = scored(nih_tables / name, rows := sorted(set(rows)))
    theirs = theirs.iloc[rows].sort_values("Image Index")
    assert table.image_names.tolist() == theirs["Image Index"].tolist()
    assert table.attributes["sex"].tolist() == theirs["Patient Gender"].tolist()
    assert table.attributes["view"].tolist() == theirs["View Position"].tolist()
    assert set(table.attributes["sex"]) == {"F", "M"}
    assert set(table.attributes["view"]) == {"AP", "PA"}
    units = {"M": 12, "D": 365.25}
    for text, age in zip(theirs["Patient Age"], table.attributes["age"], strict=True):
        years = int(text.rstrip("YMD")) / units.get(text[-1], 1)
        assert age == ("" if years > 120 else f"{years:g}")
