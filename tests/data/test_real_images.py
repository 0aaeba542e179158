"""On real NIH images and tables; every test skips where they are not at hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from chestxray.data.entries import read_entries
from chestxray.data.splits import assign_splits, draw_split
from chestxray.data.summary import summary
from chestxray.labels import CLASSES, encode
from chestxray.scores import read_scores


def test_the_real_images_are_split_by_the_official_lists(nih: Path) -> None:
    found = read_entries(nih)
    rows, notes = assign_splits(found, None, seed=0, test=False)
    assert len(rows) == 1642 and rows["patient"].nunique() == 1300
    assert "0 patients shared" in notes[0] and "official lists" in notes[0]
    on_list = set((nih / "test_list.txt").read_text().split())
    assert set(rows["image"][rows["split"] == "test"]) == on_list & set(rows["image"])
    assert (rows["split"] == "test").sum() == 115
    others = rows[rows["split"] != "test"]
    validation = rows[rows["split"] == "val"]
    assert validation["patient"].nunique() == round(0.1 * others["patient"].nunique())
    assert summary(rows).splitlines()[1].split() == ["images", "1,378", "149", "115", "1,642"]


def test_a_split_by_image_would_have_leaked_and_ours_does_not(nih: Path) -> None:
    rows = read_entries(nih).rows
    by_image = np.random.default_rng(0).permutation(len(rows)) < 0.2 * len(rows)
    seen = set(rows["patient"][~by_image])
    assert rows["patient"][by_image].isin(seen).mean() > 0.05
    parts = draw_split(rows, None, seed=0)
    assert rows.assign(part=parts).groupby("patient")["part"].nunique().max() == 1


def test_scores_of_real_images_agree_with_scikit_learn(
    nih: Path, chest: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    names = pd.read_csv(nih / "Data_Entry_2017.csv", index_col=False)["Image Index"]
    on_list = set((nih / "test_list.txt").read_text().split())
    chosen = [*names[~names.isin(on_list)][:60], *names[names.isin(on_list)]]
    Path("some.txt").write_text("\n".join(chosen))
    words = ("--data_path", nih, "--subset", "some.txt", "--weights", "none", "--size", 32)
    assert chest(*words, "--epochs", 1) == 0
    assert chest("--test", "--ckpt", "stage1_0001_01.pth") == 0
    printed = capsys.readouterr().out

    table = read_scores(Path("checkpoints/stage1_0001_01_test_scores.csv"))
    assert (
        table.image_names.tolist() == sorted(on_list & set(names)) and len(table.image_names) == 115
    )
    labels = pd.read_csv(nih / "Data_Entry_2017.csv", index_col=False).set_index("Image Index")
    expected = np.stack([encode(text) for text in labels.loc[table.image_names, "Finding Labels"]])
    np.testing.assert_array_equal(table.targets, expected)
    patients = labels.loc[table.image_names, "Patient ID"].astype(str).str.zfill(8)
    assert table.patients.tolist() == patients.tolist()
    ages = labels.loc[table.image_names, "Patient Age"].str.removesuffix("Y").astype(int)
    assert table.attributes["age"].tolist() == ages.astype(str).tolist()
    for ours, theirs in (("sex", "Patient Gender"), ("view", "View Position")):
        assert table.attributes[ours].tolist() == labels.loc[table.image_names, theirs].tolist()

    found = json.loads(Path("checkpoints/stage1_0001_01_test_metrics.json").read_text())
    assert found["undefined"] == {"Hernia": "no positives"}
    assert found["mean_of"] == 13 and "mean of 13 of 14 findings" in printed
    for k, name in enumerate(CLASSES):
        if name != "Hernia":
            y, p = table.targets[:, k], table.scores[:, k]
            assert found["classes"][name]["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-9)
            ap = average_precision_score(y, p)
            assert found["classes"][name]["ap"] == pytest.approx(ap, abs=1e-9)
    shutil.rmtree("checkpoints")
