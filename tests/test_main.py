"""main.py: what is typed, what is refused, and runs from end to end on drawn images."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, assert_same_tensors, load_plain, log_values, tensors
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from chestxray.checkpoints import lookup
from chestxray.labels import CLASSES, FINDINGS
from chestxray.options import build_parser
from chestxray.runtime import progress
from chestxray.scores import read_scores

Chest = Callable[..., int]
# A run of seconds: drawn images, small, from random weights.
SMALL = ("--weights", "none", "--size", 32, "--bs", 16, "--workers", 0)


def one_or_two_lines(text: str) -> bool:
    return 1 <= len(text.strip().splitlines()) <= 2 and "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stage 7", "--stage: invalid choice: 7"),
        ("--stage 2", "--stage 2 continues from a checkpoint: add --resume --ckpt FILE"),
        ("--stage 2 --test --ckpt a.pth", "--stage 2 is for training"),
        ("--resume=", "--resume is followed by an empty name"),
        ("--test --ckpt=", "--ckpt is followed by an empty name"),
        ("--output-dir=", "--output-dir is followed by an empty name"),
        ("--data_path=", "--data-path is followed by an empty name"),
        ("--test --ckpt a.pth --scores s.csv.gz", "s.csv.gz does not end in .csv"),
        ("--seed 4294967296", "0 to 4294967295"),
        ("--resume --test --ckpt a.pth", "give one of them"),
        ("--resume a.pth --ckpt b.pth", "name two checkpoints"),
        ("--test", "--test needs --ckpt FILE"),
        ("--ckpt a.pth", "--ckpt goes with --resume"),
        ("--lr nan", "'nan' is not a learning rate, 0 < lr < 1"),
        ("--lr 0", "'0' is not a learning rate, 0 < lr < 1"),
        ("--lr 1", "'1' is not a learning rate"),
        ("--lr 2", "'2' is not a learning rate, 0 < lr < 1"),
        ("--lr x", "'x' is not a learning rate"),
        ("--bs 0", "'0' is not a whole number, at least 1"),
        ("--bs 2.5", "'2.5' is not a whole number"),
        ("--epochs 0", "at least 1"),
        ("--size 8", "32 to 4096"),
        ("--save-minutes inf", "'inf' is not a number of minutes"),
        ("--workers -1", "0 to 1024"),
        ("--ci 100", "--ci goes with --test"),
        ("--split val", "--split goes with --test"),
        ("--same-patients", "--same-patients goes with --test"),
        ("--loss_func MSE", "invalid choice: 'MSE'"),
        ("--epoch 3", "unknown argument --epoch; did you mean --epochs?"),
        ("--datapath x", "did you mean --data-path?"),
        ("--los-func BCE", "did you mean --loss-func?"),
        ("hello", "unknown argument hello (--help"),
        ("--model resnet50", "unknown argument --model (--help shows all flags)"),
        ("--learning-rate 1e-4", "unknown argument --learning-rate; did you mean --lr?"),
        ("--learning_rate=1e-4", "did you mean --lr?"),
        ("--image-size 64", "did you mean --size?"),
        ("--checkpoint a.pth", "did you mean --ckpt?"),
        ("--hlep", "did you mean --help?"),
        ("-x", "unknown argument -x (--help"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    chest: Chest, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert chest(*words.split()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert one_or_two_lines(said.err) and said.out == ""
    assert os.listdir() == []


@pytest.mark.parametrize("words", [["--help"], ["--stage", "7"], ["--test"], ["--epoch", "3"]])
def test_help_and_wrong_usage_import_neither_torch_nor_pandas(words: list[str]) -> None:
    code = (
        "import sys, main\n"
        f"sys.argv = ['main.py', *{words!r}]\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'pandas', 'numpy', 'PIL'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_shows_every_group_default_and_the_examples(
    chest: Chest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chest("--help") == 0
    text = capsys.readouterr().out
    for part in ("data:", "model:", "training:", "evaluation:", "machine:"):
        assert part in text
    for line in (
        "python main.py --bs 32 --lr 1e-4 ",
        "python main.py --resume --ckpt stage1_0001_04.pth --stage 2 --bs 32 --lr 1e-4",
        "python main.py --test --ckpt stage1_0001_08.pth ",
    ):
        assert line in text
    assert text.count("(default: ") >= 16


def test_long_flags_may_be_written_with_dashes_or_underscores() -> None:
    for dashed in ("--data-path", "--split-seed", "--loss-func", "--output-dir", "--batch-size"):
        value = {"--split-seed": "7", "--loss-func": "BCE", "--batch-size": "7"}.get(dashed, "my_x")
        for flag in (dashed, dashed.replace("-", "_").replace("__", "--")):
            for words in ([flag, value], [f"{flag}={value}"]):
                _, typed = build_parser().parse(words)
                assert [str(v) for v in typed.values()] == [value], words


def test_only_what_was_typed_counts_as_typed() -> None:
    _, typed = build_parser().parse(["--bs", "32", "--resume", "--ckpt", "a_b.pth"])
    assert typed == {"bs": 32, "resume": True, "ckpt": "a_b.pth"}


def test_an_empty_data_folder_is_answered_with_both_ways_out(
    chest: Chest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for words in ((), ("--data_path", "nowhere")):
        assert chest(*words) == 1
        said = capsys.readouterr().err
        assert "docs/data.md" in said and "make demo" in said
        assert one_or_two_lines(said)


def test_a_checkpoint_that_is_not_there_is_answered_with_what_is(
    chest: Chest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/stage1_0001_03.pth").write_bytes(b"")
    for words in (["--test", "--ckpt", "stage1_0001_04.pth"], ["-r", "stage1_0001_04.pth"]):
        assert chest(*words) == 1
        said = capsys.readouterr().err
        assert "stage1_0001_04.pth was not found; checkpoints holds stage1_0001_03.pth" in said
        assert one_or_two_lines(said)


def test_a_batch_too_small_for_batch_norm_is_wrong_usage(
    chest: Chest, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = ("--resume", "--ckpt", two_epochs / "last.pth", "--stage", 3)
    for words in (("--size", 32, "--data_path", "nowhere"), resumed):  # said before data are read
        assert chest(*words, "--bs", 1) == 2
        said = capsys.readouterr()
        assert "at --size 32: BatchNorm sees one value of a channel and needs two" in said.err
        assert one_or_two_lines(said.err) and "have an image" not in said.out


def test_a_bare_resume_without_any_checkpoint_is_a_fault(
    chest: Chest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chest("--resume") == 1
    assert "--resume finds no checkpoint in checkpoints" in capsys.readouterr().err


def test_debug_shows_the_traceback(chest: Chest) -> None:
    with pytest.raises(FileNotFoundError):
        chest("--debug")


@pytest.fixture(scope="module")
def two_epochs(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of two epochs in one go, and of a test of them."""
    import main

    out = tmp_path_factory.mktemp("two") / "out"
    common = ["--output-dir", str(out), "--cache-dir", str(out.parent / "cache")]
    words = ["--data_path", drawn, *SMALL, "--epochs", 2, *common]
    assert main.main([str(word) for word in words]) == 0
    assert main.main(["--test", "--ckpt", "last.pth", "--ci", "5", *common]) == 0
    yield out
    shutil.rmtree(out)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_command_gives_the_same_bits_with_any_workers(
    chest: Chest, drawn: Path, two_epochs: Path, workers: int
) -> None:
    assert chest("--data_path", drawn, *SMALL, "--epochs", 2, "--workers", workers) == 0
    assert chest("--test", "--ckpt", "last.pth", "--workers", workers) == 0
    assert_same_tensors(two_epochs / "stage1_0001_02.pth", Path("checkpoints/stage1_0001_02.pth"))
    assert log_values(two_epochs) == log_values(Path("checkpoints"))
    ours, theirs = (p / "last_test_scores.csv" for p in (two_epochs, Path("checkpoints")))
    assert ours.read_bytes() == theirs.read_bytes()
    shutil.rmtree("checkpoints")


def test_one_epoch_and_a_resumed_one_equal_two_in_one_go(
    chest: Chest, drawn: Path, two_epochs: Path
) -> None:
    assert chest("--data_path", drawn, *SMALL, "--epochs", 1, "--no-cache") == 0
    assert chest("--resume", "--epochs", 1, "--no-cache") == 0
    assert_same_tensors(two_epochs / "stage1_0001_02.pth", Path("checkpoints/stage1_0001_02.pth"))
    assert log_values(two_epochs) == log_values(Path("checkpoints"))
    shutil.rmtree("checkpoints")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_how_to_resume_and_resumes_exactly(
    chest: Chest,
    drawn: Path,
    two_epochs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signum: signal.Signals,
) -> None:
    plain_advance = progress.Progress.advance

    def signal_in_second_batch(self: progress.Progress, images: int, loss: float | None = None):
        plain_advance(self, images, loss)
        if loss is not None and self.title == "epoch 2/2" and self.done == 32:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(progress.Progress, "advance", signal_in_second_batch)
    assert chest("--data_path", drawn, *SMALL, "--epochs", 2) == 128 + signum
    said = capsys.readouterr()
    assert "after 1 epoch and 32 images of the next" in said.out
    assert "python main.py --resume" in said.out
    assert one_or_two_lines(said.err)
    monkeypatch.setattr(progress.Progress, "advance", plain_advance)
    assert chest("--resume") == 0
    assert_same_tensors(two_epochs / "stage1_0001_02.pth", Path("checkpoints/stage1_0001_02.pth"))
    assert log_values(two_epochs) == log_values(Path("checkpoints"))
    shutil.rmtree("checkpoints")


def test_a_signal_before_the_first_batch_leaves_no_checkpoint(
    chest: Chest, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signal_at_once(self: progress.Progress, images: int, loss: float | None = None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(progress.Progress, "advance", signal_at_once)  # while decoding
    assert chest("--data_path", drawn, *SMALL) == 143
    assert not list(Path("checkpoints").glob("[!.]*"))


def test_the_metrics_are_scikit_learns_on_the_exported_csv(
    drawn: Path, two_epochs: Path, chest: Chest, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = two_epochs / "last_test_scores.csv"
    frame = pd.read_csv(csv)
    found = json.loads((two_epochs / "last_test_metrics.json").read_text())
    assert chest("--test", "--ckpt", two_epochs / "last.pth", "--output-dir", two_epochs) == 0
    printed = capsys.readouterr().out
    areas, precisions = [], []
    for name in CLASSES:
        y, p = frame[f"y_{name}"], frame[f"p_{name}"].astype(np.float32)
        row = found["classes"][name]
        assert row["positives"] == y.sum() and row["negatives"] == len(y) - y.sum()
        if name in found["undefined"]:
            assert row["auc"] is None and row["ap"] is None and y.nunique() == 1
            continue
        assert row["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-9)
        assert row["ap"] == pytest.approx(average_precision_score(y, p), abs=1e-9)
        line = next(line for line in printed.splitlines() if f"{row['auc']:.3f}" in line)
        assert f"{row['ap']:.3f}" in printed and line
        if name in FINDINGS:
            areas.append(row["auc"])
            precisions.append(row["ap"])
    assert found["mean_auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert found["mean_ap"] == pytest.approx(np.mean(precisions), abs=1e-9)
    assert f"mean of {len(areas)} of 14 findings" in printed
    assert found["intervals"] is not None or "--ci" not in printed


def test_the_scores_csv_has_each_test_image_once_with_its_labels(
    drawn: Path, two_epochs: Path
) -> None:
    table = read_scores(two_epochs / "last_test_scores.csv")
    wanted = sorted((drawn / "test_list.txt").read_text().split())
    assert table.image_names.tolist() == wanted
    assert set(table.splits) == {"test"}
    labels = pd.read_csv(drawn / "Data_Entry_2017.csv", index_col=False).set_index("Image Index")
    assert list(table.attributes) == ["sex", "age", "view"]
    for ours, theirs in (("sex", "Patient Gender"), ("view", "View Position")):
        assert table.attributes[ours].tolist() == labels.loc[wanted, theirs].tolist()
    ages = labels.loc[wanted, "Patient Age"].tolist()
    assert [f"{int(age):03d}Y" for age in table.attributes["age"]] == ages
    for name, target in zip(table.image_names, table.targets, strict=True):
        assert (
            "|".join(c for c, y in zip(CLASSES, target, strict=True) if y)
            == (labels.loc[name, "Finding Labels"])
        )
    np.testing.assert_allclose(table.scores, 1 / (1 + np.exp(-table.logits)), rtol=1e-5)


def test_the_checkpoint_has_the_documented_keys_only(two_epochs: Path) -> None:
    held = torch.load(two_epochs / "last.pth", weights_only=True)
    keys = """format run_id arch classes stage lr epochs_done epochs_planned images_done loss_sum
    seconds_done parent split size mean std args model optimizer history versions threads
    processes precision table"""
    assert set(held) == set(keys.split())
    assert held["args"]["bs"] == 16 and "workers" not in held["args"]
    assert held["table"]["labels"].keys() == set(CLASSES)


def test_resume_keeps_what_is_not_typed_and_prints_what_differs(
    chest: Chest, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two_epochs, "checkpoints")
    words = ("--resume", "--ckpt", "stage1_0001_01.pth", "--no-cache")
    assert chest(*words, "--lr", "3e-4", "--loss_func", "BCE") == 0
    said = capsys.readouterr().out
    assert "--lr 0.0003 instead of the checkpoint's 0.0001" in said
    assert "--loss-func BCE instead of the checkpoint's FocalLoss" in said
    held = load_plain(Path("checkpoints/stage1_0003_02.pth"))
    assert (held["epochs_done"], held["epochs_planned"]) == (2, 2)
    assert held["optimizer"]["param_groups"][0]["lr"] == 3e-4
    assert held["args"]["bs"] == 16
    for flag in ("--size", "--seed", "--split-seed"):
        assert chest(*words, flag, 64) == 2
        assert f"{flag} 64 is not the checkpoint's" in capsys.readouterr().err
    shutil.rmtree("checkpoints")


def test_a_bare_resume_of_a_finished_run_says_so_and_exits_0(
    chest: Chest, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chest("--resume", "--output-dir", two_epochs) == 0
    assert "nothing to finish" in capsys.readouterr().out


def test_a_bare_resume_passes_over_a_damaged_last_and_says_so(
    chest: Chest, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two_epochs, "checkpoints")
    last = Path("checkpoints/last.pth")
    last.write_bytes(last.read_bytes()[:-1000])
    assert chest("--resume", "--epochs", 1, "--no-cache") == 0
    said = capsys.readouterr().out
    assert "passed over: checkpoints/last.pth is not a .pth, or damaged" in said
    assert "resuming from checkpoints/stage1_0001_02.pth" in said
    assert load_plain(last)["epochs_done"] == 3
    shutil.rmtree("checkpoints")


def test_a_new_stage_takes_the_weights_and_a_fresh_optimizer(
    chest: Chest, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two_epochs, "checkpoints")
    words = ("--ckpt", "last.pth", "--stage", 4, "--epochs", 1)
    assert chest("--resume", *words, "--no-cache") == 0
    said = capsys.readouterr().out.splitlines()
    assert "stage 4 trains fc; the rest is frozen" in said
    assert said[-1].startswith("best epoch: ")
    assert said[-1].endswith("; python main.py --test --ckpt best.pth --no-cache tests it")
    before = load_plain(Path("checkpoints/stage1_0001_02.pth"))
    after = load_plain(Path("checkpoints/stage4_0001_03.pth"))
    for name, value in before["model"].items():
        assert torch.equal(value, after["model"][name]) != name.startswith("fc."), name
    assert len(after["optimizer"]["state"]) == 2
    assert after["optimizer"]["state"][0]["step"] < before["optimizer"]["state"][0]["step"]
    assert after["run_id"] == before["run_id"] and after["parent"] == "stage1_0001_02.pth"
    shutil.rmtree("checkpoints")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stage_with_kept_features_resumes_exactly(
    chest: Chest, two_epochs: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    machine = ("--precision", precision, "--no-cache")
    for out in ("straight", "cut"):
        shutil.copytree(two_epochs, out)
        epochs = 2 if out == "straight" else 1
        words = ("--ckpt", "last.pth", "--stage", 3, "--epochs", epochs, "--output-dir", out)
        assert chest("--resume", *words, *machine) == 0
    assert capsys.readouterr().out.count("is kept") == 2
    assert chest("--resume", "--epochs", 1, "--output-dir", "cut", *machine) == 0
    for out in ("straight", "cut"):
        words = ("--ckpt", "stage3_0001_04.pth", "--output-dir", out)
        assert chest("--test", *words, *machine) == 0
    assert_same_tensors(Path("straight/stage3_0001_04.pth"), Path("cut/stage3_0001_04.pth"))
    assert log_values(Path("straight")) == log_values(Path("cut"))
    scored = [Path(out, "stage3_0001_04_test_scores.csv") for out in ("straight", "cut")]
    assert scored[0].read_bytes() == scored[1].read_bytes()
    shutil.rmtree("straight")
    shutil.rmtree("cut")


def test_a_signal_while_features_are_kept_changes_no_file(
    chest: Chest,
    two_epochs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def signal_in_the_filling(
        self: progress.Progress, images: int, loss: float | None = None
    ) -> None:
        if self.title == "frozen layers":
            os.kill(os.getpid(), signal.SIGTERM)

    shutil.copytree(two_epochs, "checkpoints")
    before = {path.name: path.stat().st_mtime_ns for path in Path("checkpoints").glob("[!.]*")}
    monkeypatch.setattr(progress.Progress, "advance", signal_in_the_filling)
    assert chest("--resume", "--ckpt", "last.pth", "--stage", 4, "--no-cache") == 143
    assert "nothing new is written" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in Path("checkpoints").glob("[!.]*")}
    assert after == before
    shutil.rmtree("checkpoints")


def test_a_new_run_does_not_replace_another_runs_files_unasked(
    chest: Chest, drawn: Path, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in two_epochs.glob("[!.]*")}
    words = ("--data_path", drawn, *SMALL, "--output-dir", two_epochs)
    assert chest(*words) == 1
    said = capsys.readouterr().err
    assert "--overwrite" in said and one_or_two_lines(said)
    assert before == {p.name: p.stat().st_mtime_ns for p in two_epochs.glob("[!.]*")}


def test_a_run_that_overwrites_another_can_be_resumed(
    chest: Chest, drawn: Path, two_epochs: Path
) -> None:
    shutil.copytree(two_epochs, "checkpoints")
    words = ("--data_path", drawn, *SMALL, "--epochs", 1, "--no-cache")
    assert chest(*words, "--overwrite") == 0
    assert chest("--resume", "--epochs", 1, "--no-cache") == 0  # over the other run's second epoch
    held = {lookup.read_run_id(path) for path in Path("checkpoints").glob("*.pth")}
    assert len(held) == 1
    assert chest("--test", "--ckpt", "last.pth") == 1  # the scores of the other run
    assert chest("--test", "--ckpt", "last.pth", "--overwrite") == 0
    shutil.rmtree("checkpoints")


def test_a_test_elsewhere_leaves_out_patients_the_run_has_seen(
    chest: Chest, drawn: Path, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, "elsewhere")
    for name in ("train_val_list.txt", "test_list.txt"):
        os.remove(f"elsewhere/{name}")
    seen = (drawn / "train_val_list.txt").read_text().split()[0]
    shutil.copy(f"elsewhere/images/{seen}", f"elsewhere/images/{seen[:8]}_777.png")
    shutil.copy(f"elsewhere/images/{seen}", "elsewhere/images/00009999_000.png")
    with open("elsewhere/Data_Entry_2017.csv", "a") as table:
        for name in (f"{seen[:8]}_777.png", "00009999_000.png"):
            table.write(f"{name},Mass,000,{name[:8]},050Y,F,PA,64,64,0.1,0.1\n")
    lines = Path("elsewhere/Data_Entry_2017.csv").read_text().splitlines()
    few = [",".join(line.split(",")[:4]) + "\n" for line in lines]  # no sex, age or view
    Path("elsewhere/Data_Entry_2017.csv").write_text("".join(few))
    held = load_plain(two_epochs / "last.pth")
    held["args"]["subset"] = "list of the training data.txt"
    Path("checkpoints").mkdir()
    torch.save(held, "checkpoints/last.pth")
    words = ("--test", "--ckpt", "last.pth", "--data_path", "elsewhere", "--no-cache")
    assert chest(*words) == 0
    said = capsys.readouterr().out
    assert "--subset list of the training data.txt is left out" in said
    assert "1 image left out: their patients are in another part" in said
    assert "are not the ones of the checkpoint" in said and "Mass" in said
    table = read_scores(Path("checkpoints/last_test_scores.csv"))
    known = (drawn / "test_list.txt").read_text().split()
    assert table.image_names.tolist() == sorted([*known, "00009999_000.png"])
    assert {name: set(texts) for name, texts in table.attributes.items()} == {
        name: {""} for name in ("sex", "age", "view")
    }


def test_12_bits_in_16_are_warned_of_and_read_with_bits_12(
    chest: Chest, drawn: Path, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, "deep")
    for path in Path("deep/images").iterdir():
        grey = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(np.round(grey * (4095 / 255)).astype(np.uint16)).save(path)
    words = ("--test", "--ckpt", two_epochs / "last.pth", "--overwrite", "--data_path", "deep")
    wanted = len((drawn / "test_list.txt").read_text().split())
    said, scores = [], []
    for bits in ((), ("--bits", 12)):
        assert chest(*words, *bits) == 0
        said.append(capsys.readouterr().out)
        scores.append(read_scores(Path("checkpoints/last_test_scores.csv")).scores)
    assert (
        said[0].count(f"warning: {wanted} images (") == said[0].count("no value above 4,095") == 1
    )
    assert "no value above" not in said[1]
    assert not np.array_equal(*scores)


def test_scores_of_something_else_are_not_replaced_unasked(
    chest: Chest, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.csv").write_text("precious")
    words = ("--test", "--ckpt", two_epochs / "last.pth", "--scores", "mine.csv", "--no-cache")
    assert chest(*words) == 1
    assert "mine.csv exists and belongs to another program" in capsys.readouterr().err
    assert Path("mine.csv").read_text() == "precious"
    assert chest(*words, "--overwrite", "--split", "all") == 0
    assert len(read_scores(Path("mine.csv")).image_names) == 60
    assert chest(*words, "--split", "all") == 0  # its own file by now
    assert chest(*words, "--split", "val") == 1


def test_unwritable_scores_are_refused_before_decoding(
    chest: Chest,
    two_epochs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("file").touch()
    monkeypatch.setattr("chestxray.data.cache.load_images", lambda *_, **__: pytest.fail("decoded"))
    words = ("--test", "--ckpt", two_epochs / "last.pth", "--no-cache")
    assert chest(*words, "--scores", "file/s.csv") == 1
    said = capsys.readouterr().err
    assert "file/.probe cannot be written" in said and one_or_two_lines(said)


def test_broken_images_stop_the_run_all_named_or_are_left_out(
    chest: Chest, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, "data")
    broken = sorted(Path("data/images").iterdir())[:2]
    broken[0].write_bytes(b"<html>not found</html>")
    broken[1].write_bytes(broken[1].read_bytes()[:900])
    assert chest(*SMALL, "--epochs", 1) == 1
    said = capsys.readouterr().err
    assert "2 images cannot be read; --skip-bad-images leaves them out" in said
    assert all(path.name in said for path in broken) and one_or_two_lines(said)
    assert not list(Path("checkpoints").glob("*.pth"))
    assert chest(*SMALL, "--epochs", 1, "--skip-bad-images") == 0
    assert "2 images cannot be read and are left out:" in capsys.readouterr().out
    for path in broken[0].parent.iterdir():
        shutil.copy(path, Path(path.name))
        path.write_bytes(b"")
    assert chest("--test", "--ckpt", "last.pth", "--split", "all") == 1
    assert "none of 60 images can be read" in capsys.readouterr().err
    assert not Path("checkpoints/last_all_scores.csv").exists()
    for path in broken[0].parent.iterdir():
        shutil.move(path.name, path)
    assert chest("--test", "--ckpt", "last.pth", "--split", "all") == 0
    images = read_scores(Path("checkpoints/last_all_scores.csv")).image_names
    assert len(images) == 58 and not {path.name for path in broken} & set(images)
    shutil.rmtree("checkpoints")


def test_one_run_at_a_time_holds_an_output_folder(
    chest: Chest, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from chestxray.runtime.files import folder_lock

    with folder_lock(Path("checkpoints")):
        assert chest("--data_path", drawn, *SMALL) == 1
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_weights_that_have_seen_a_patient_held_out_are_warned_of(
    chest: Chest, drawn: Path, two_epochs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if the run of the weights had had another split, with a patient for training."""
    held = load_plain(two_epochs / "last.pth")
    patient = held["split"]["test"]["patients"].split("\n")[0]
    train = held["split"]["train"]["patients"]
    words = ("--data_path", drawn, "--weights", "w.pth", "--size", 32, "--bs", 16, "--epochs", 1)
    for swapped in (False, True):
        if swapped:
            held["split"]["train"]["patients"] = train.replace(train.split("\n")[0], patient)
        torch.save(held, "w.pth")
        assert chest(*words, "--no-cache", "--overwrite") == 0
        said = capsys.readouterr().out
        assert ("trained or chosen on 1 patient of validation and test here" in said) == swapped
        assert ("it trained on no patient that is held out here" in said) != swapped


def test_weights_from_a_file_start_the_run(chest: Chest, drawn: Path, two_epochs: Path) -> None:
    start = two_epochs / "stage1_0001_01.pth"
    words = ("--data_path", drawn, "--weights", start, "--size", 32, "--bs", 16, "--epochs", 1)
    assert chest(*words, "--no-cache") == 0
    began, ended = tensors(start), load_plain(Path("checkpoints/last.pth"))["model"]
    assert torch.equal(began["conv1.weight"], ended["conv1.weight"])  # frozen in stage 1
    assert not torch.equal(began["layer4.0.conv1.weight"], ended["layer4.0.conv1.weight"])
    shutil.rmtree("checkpoints")
