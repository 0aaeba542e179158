"""The same code on a GPU: the same numbers as on a CPU, and no waiting for it inside an epoch."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT

from chestxray.data.dataset import ChestDataset
from chestxray.evaluation.predict import predict
from chestxray.labels import CLASSES
from chestxray.models import network as networks
from chestxray.models.features import Features, keep_if_it_fits
from chestxray.runtime.device import compute_fp32_in_full
from chestxray.scores import read_scores
from chestxray.training.batches import EpochBatches
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run
from chestxray.training.trainer import train_one_epoch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def fp32_in_full() -> None:
    compute_fp32_in_full()


def images(count: int, device: torch.device, resident: bool = False) -> ChestDataset:
    rng = np.random.default_rng(0)
    return ChestDataset(
        image_names=np.array([f"{number:08d}_000.png" for number in range(count)], dtype=object),
        pixels=rng.integers(256, size=(count, 64, 64), dtype=np.uint8),
        cache_index=rng.permutation(count),
        targets=(rng.uniform(size=(count, len(CLASSES))) < 0.2).astype(np.uint8),
        device=device,
        resident=resident,
    )


def network_of(stage: int, device: torch.device, bf16: bool = False) -> networks.StagedNetwork:
    network = networks.build_model(len(CLASSES), seed=0).to(device)
    network.bf16 = bf16
    network.set_stage(stage)
    return network


def train_epoch(network: networks.StagedNetwork, data: Features, sync_every: int, run: Run) -> None:
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=1e-4, fused=True)
    order = np.random.default_rng(1).permutation(len(data))
    epoch = EpochBatches(data, order, 8, run.images_done, sync_every=sync_every)
    train_one_epoch(network, FocalLoss(), optimizer, epoch, run)


def test_a_batch_gathered_on_the_device_is_the_cpus() -> None:
    indices = np.array([3, 30, 0, 11])
    expected = images(40, CPU).gather(indices)
    for resident in (False, True):
        for ours, theirs in zip(images(40, CUDA, resident).gather(indices), expected, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-6)


def test_scores_of_a_gpu_in_fp32_are_the_cpus() -> None:
    scores = []
    for device in (CPU, CUDA):
        network = network_of(1, device)
        data = Features(images(40, device), network.frozen_stem())
        scores.append(predict(network.folded_head(), data, 16, "scoring")[1])
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stage", [1, 2, 4])
def test_a_step_on_a_gpu_has_the_loss_of_the_cpus(stage: int) -> None:
    sums = []
    for device in (CPU, CUDA):
        network = network_of(stage, device)
        data = Features(images(9, device, resident=device == CUDA), network.frozen_stem())
        run = Run("r", stage, 1e-4, epochs_done=0, epochs_planned=1)
        train_epoch(network, data, sync_every=16, run=run)  # one step: from the second on they part
        assert run.images_done == 9
        sums.append(run.loss_sum / 9)
    assert sums[1] == pytest.approx(sums[0], rel=1e-4)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("stage", [1, 3])
def test_the_host_waits_for_the_gpu_only_at_the_syncs(
    stage: int, resident: bool, bf16: bool
) -> None:
    network = network_of(stage, CUDA, bf16)
    data = Features(images(64, CUDA, resident), network.frozen_stem())
    if stage > 1:
        assert "is kept" in keep_if_it_fits([data], free=1 << 40)
    run = Run("r", stage, 1e-4, epochs_done=0, epochs_planned=1)
    train_epoch(network, data, sync_every=16, run=run)  # kernels are chosen, memory is taken
    run.images_done = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train_epoch(network, data, sync_every=4, run=run)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "called a synchronizing CUDA operation" in str(w.message)]
    assert len(waits) == 2, [f"{w.filename}:{w.lineno}: {w.message}" for w in waits]


def test_a_lineage_on_a_gpu_is_scored_alike_on_a_cpu(
    chest: Callable[..., int], drawn: Path, tmp_path: Path
) -> None:
    data = ("--data_path", drawn)
    words = ("--size", 64, "--bs", 8, "--epochs", 1)
    assert chest(*data, *words, "--weights", "none", "--device", "cuda") == 0
    assert chest("--resume", "--ckpt", "stage1_0001_01.pth", "--stage", 3, "--epochs", 2) == 0
    found = []
    for device in ("cuda", "cpu"):
        path = tmp_path / f"{device}.csv"
        test = ("--test", "--ckpt", "stage3_0001_03.pth", "--split", "all", "--scores", path)
        assert chest(*data, *test, "--device", device, "--precision", "fp32") == 0
        found.append(read_scores(path).scores)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-4)
    records = [json.loads(x) for x in Path("checkpoints/log.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == [1, 3, 3]
    assert all(np.isfinite(record["train_loss"]) for record in records)


def test_under_torchrun_a_gpu_is_used_over_nccl(drawn: Path, tmp_path: Path) -> None:
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", ROOT / "main.py")
    alone = (ROOT / "main.py",)
    words = ("--data_path", drawn, "--size", 64, "--bs", 8, "--epochs", 1)
    test = ("--test", "--ckpt", "last.pth", "--precision", "fp32", "--overwrite", "--scores")
    for command in (
        (*start, *words, "--weights", "none", "--save-minutes", 0),
        (*start, "--resume", "--ckpt", "last.pth", "--stage", 3, "--epochs", 1),
        (*start, *test, "torchrun.csv"),
        (*alone, *test, "alone.csv"),
    ):
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "cuda, " in done.stdout
    found = [read_scores(tmp_path / f"{name}.csv").scores for name in ("torchrun", "alone")]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)
