"""The documented commands, typed as they stand in the README, on drawn images."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, load_plain
from torchvision.models import resnet50

from chestxray.phantom import draw_dataset
from chestxray.scores import read_scores

COMMANDS = (
    "python main.py --bs 32 --lr 1e-4",
    "python main.py --resume --ckpt stage1_0001_04.pth --stage 2 --bs 32 --lr 1e-4",
    "python main.py --test --ckpt stage1_0001_08.pth",
    "python -m chestxray.conformal checkpoints/stage2_0001_08_test_scores.csv "
    "--risk fnr --alpha 0.1",
)


@pytest.mark.timeout(900)
def test_the_documented_commands_work_as_typed_and_in_this_order(tmp_path: Path) -> None:
    # A checkout: the program, images in data/, and in torch's cache a file of ImageNet weights,
    # here random ones, since test machines may reach no network.
    for name in ("main.py", "chestxray"):
        (tmp_path / name).symlink_to(ROOT / name)
    draw_dataset(tmp_path / "data", n=90, size=64)
    # Few images to train on, and enough test patients for alpha = 0.1.
    names = sorted(path.name for path in (tmp_path / "data/images").iterdir())
    train_patients = sorted({name[:8] for name in names[:24]})[:-1]
    for file, in_list in (("train_val_list.txt", True), ("test_list.txt", False)):
        chosen = [name for name in names if (name[:8] in train_patients) == in_list]
        (tmp_path / "data" / file).write_text("\n".join(chosen))
    (tmp_path / "home/hub/checkpoints").mkdir(parents=True)
    torch.save(resnet50().state_dict(), tmp_path / "home/hub/checkpoints/resnet50-0676ba61.pth")
    environment = os.environ | {"TORCH_HOME": str(tmp_path / "home")}

    said = []
    for command in COMMANDS:
        assert f"    {command}" in (ROOT / "README.md").read_text()
        words = [sys.executable, *command.split()[1:]]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr
        said.append(done.stdout)

    written = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name[0] != "."}
    assert written == {
        *(f"stage1_0001_{n:02d}.pth" for n in (1, 2, 3, 4)),
        *(f"stage2_0001_{n:02d}.pth" for n in (5, 6, 7, 8)),
        *("last.pth", "best.pth", "log.jsonl", "curves.png"),
        *("stage2_0001_08_test_scores.csv", "stage2_0001_08_test_metrics.json"),
        "stage2_0001_08_test_scores_fnr_crc",
    }
    assert all("0 patients shared" in text for text in said[:3])
    assert all(
        "main.py --test --ckpt best.pth tests it" in text.splitlines()[-1] for text in said[:2]
    )
    assert "\nstage 1 trains layer2, layer3, layer4, fc; the rest is frozen\n" in said[0]
    assert "stage1_0001_08.pth is not there" in said[2]
    assert "stage2_0001_08.pth is used instead: epoch 08 of a lineage with a stage 1" in said[2]
    assert "findings" in said[2].splitlines()[-4]
    wrote = [line.removeprefix("wrote ") for line in said[2].splitlines() if line[:6] == "wrote "]
    assert [(tmp_path / name).is_file() for name in wrote] == [True, True]

    log = [
        json.loads(line) for line in (tmp_path / "checkpoints/log.jsonl").read_text().splitlines()
    ]
    assert [(record["stage"], record["epoch"]) for record in log] == [
        *((1, n) for n in (1, 2, 3, 4)),
        *((2, n) for n in (5, 6, 7, 8)),
    ]
    assert len({record["run_id"] for record in log}) == 1
    table = read_scores(tmp_path / wrote[0])
    assert table.image_names.tolist() == sorted(
        (tmp_path / "data/test_list.txt").read_text().split()
    )

    assert "(FNR) is at most 0.1 in expectation" in " ".join(said[3].split())
    calibrated = tmp_path / "checkpoints/stage2_0001_08_test_scores_fnr_crc"
    with open(calibrated / "sets.csv", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == table.image_names.tolist()

    first = load_plain(tmp_path / "checkpoints/stage1_0001_04.pth")["model"]
    second = load_plain(tmp_path / "checkpoints/stage2_0001_08.pth")["model"]
    for name, value in first.items():
        trained = name.startswith(("layer3", "layer4", "fc"))
        assert torch.equal(value, second[name]) != trained, name


def test_output_can_be_piped_and_a_killed_run_goes_on(tmp_path: Path, drawn: Path) -> None:
    main = [sys.executable, str(ROOT / "main.py")]
    begin = [*main, "--data_path", str(drawn), "--weights", "none", "--size", "32", "--bs", "16"]
    begin += ["--epochs", "2"]
    with subprocess.Popen(begin, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1/2"):
                process.kill()
                break
    done = subprocess.run([*main, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_plain(tmp_path / "checkpoints/last.pth")["epochs_done"] == 2


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_wrong_usage_that_cannot_be_said_has_its_exit_code(stderr: str) -> None:
    command = f"{sys.executable} {ROOT / 'main.py'} --stage 7 {stderr}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_torch_is_imported_is_heard(tmp_path: Path, signum: int) -> None:
    """A torch that takes an hour, stands before the installed one and swallows what is raised."""
    (tmp_path / "torch.py").write_text(
        "import time\nprint('importing', flush=True)\n"
        "try: time.sleep(1800)\nexcept BaseException: time.sleep(1800)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert said == f"stopped by {signal.Signals(signum).name}\n"
