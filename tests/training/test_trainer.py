"""The training loop on a small network: sums, stops, exact resumes."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import random_dataset
from torch import nn

from chestxray.checkpoints.checkpoint import EpochRecord
from chestxray.data.dataset import ChestDataset, epoch_order
from chestxray.runtime.signals import Stopped
from chestxray.training import trainer
from chestxray.training.batches import EpochBatches
from chestxray.training.losses import FocalLoss
from chestxray.training.run import Run
from chestxray.training.run_folder import RunFolder
from chestxray.training.saver import Saver

RNG = np.random.default_rng(0)


def small_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 15),
        )


def dataset(n: int, seed: int = 0) -> ChestDataset:
    return random_dataset(n, size=8, seed=seed)


class Bench:
    """A run of a few epochs on 21 images, five a step, that can be stopped and resumed."""

    def __init__(self) -> None:
        self.model = small_network()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.run = Run("r", stage=1, lr=1e-2, epochs_done=0, epochs_planned=3)
        self.checks = 0
        self.sync_every = 1
        self.epochs_saved: list[int] = []
        self.kept: Any = None

    def train(self, stop_at: int | None = None, val: int = 9, save_seconds: float = 1e9) -> None:
        def check() -> None:
            self.checks += 1
            if self.checks == stop_at:
                raise Stopped(15)

        folder = cast(RunFolder, self)  # the bench is its own output folder
        saver = Saver(folder, self.run, self.model, self.optimizer, check, save_seconds)
        data, criterion = dataset(21), FocalLoss()
        with saver:
            while self.run.epochs_done < self.run.epochs_planned:
                saver.check()
                order = epoch_order(data.targets, 3, self.run.epochs_done, 8)
                epoch = EpochBatches(
                    data, order, 5, self.run.images_done, sync_every=self.sync_every
                )
                trainer.train_one_epoch(
                    self.model, criterion, self.optimizer, epoch, self.run, saver.after_sync
                )
                result = trainer.validate(self.model, criterion, dataset(val, seed=1), 5, check)
                self.run.finish_epoch(len(epoch), result)
                saver.save_epoch()

    def save_epoch(self, run: Run, *_: object) -> str:
        self.epochs_saved.append(run.epochs_done)
        return ""

    def save_partial_epoch(self, *_: object) -> None:
        state = (self.model.state_dict(), self.optimizer.state_dict(), self.run)
        self.kept = copy.deepcopy(state)

    def resume_hint(self, run: Run) -> str:
        return f"resume after {run.position()}"

    def resumed(self) -> "Bench":
        other = Bench()
        weights, moments, other.run = copy.deepcopy(self.kept)
        other.model.load_state_dict(weights)
        other.optimizer.load_state_dict(moments)
        return other


def log_values(run: Run) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in run.history]


@pytest.fixture(scope="module")
def straight() -> Bench:
    bench = Bench()
    bench.train()
    return bench


def test_a_run_trains_records_and_saves_every_epoch(straight: Bench) -> None:
    assert straight.epochs_saved == [1, 2, 3]
    assert [r.epoch for r in straight.run.history] == [1, 2, 3]
    sizes = [len(epoch_order(dataset(21).targets, 3, epoch, 8)) for epoch in range(3)]
    assert [r.images for r in straight.run.history] == sizes
    assert straight.run.history[0].train_loss > straight.run.history[2].train_loss


def assert_same(first: Bench, second: Bench) -> None:
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name]), name
    for key, moments in second.optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, first.optimizer.state_dict()["state"][key][name])
    assert log_values(first.run) == log_values(second.run)


@pytest.mark.parametrize("stop_at", range(2, 22))
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(straight: Bench, stop_at: int) -> None:
    bench = Bench()
    if stop_at > straight.checks:
        pytest.fail("the straight run has fewer places to stop than this test asks for")
    with pytest.raises(Stopped):
        bench.train(stop_at)
    if bench.kept is None:  # between epochs: the finished epoch's own checkpoint is resumed
        bench.save_partial_epoch()
    for _ in range(2):  # one file can be resumed twice
        other = bench.resumed()
        other.train()
        assert_same(other, straight)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_stopped_again_and_again_has_the_same_bits(straight: Bench, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bench, stops = Bench(), 0
    while bench.run.epochs_done < 3:
        try:
            bench.train(stop_at=int(rng.integers(2, 6)))
        except Stopped:
            stops += 1
            if bench.kept is None:
                bench.save_partial_epoch()
            bench = bench.resumed()
    assert stops >= 4
    assert_same(bench, straight)


def test_a_stop_before_the_first_batch_keeps_nothing() -> None:
    bench = Bench()
    with pytest.raises(Stopped):
        bench.train(stop_at=1)
    assert bench.kept is None


def test_time_passed_saves_inside_an_epoch() -> None:
    bench = Bench()
    bench.train(save_seconds=0)
    assert bench.kept[2].images_done > 0


def test_the_mean_loss_weighs_batches_by_their_images() -> None:
    model, data = small_network().eval(), dataset(7)
    model.train = lambda mode=True: model  # type: ignore[method-assign]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = Run("r", 1, 0.1, 0, 1)
    epoch = EpochBatches(data, np.arange(7), 3)
    trainer.train_one_epoch(model, FocalLoss(), optimizer, epoch, run)
    images, targets = data.gather(np.arange(7))
    with torch.inference_mode():
        expected = FocalLoss()(model(images), targets).item()
    assert run.loss_sum / run.images_done == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sync_every", [2, 3, 99])
def test_reading_losses_now_and_then_changes_no_bit(straight: Bench, sync_every: int) -> None:
    bench = Bench()
    bench.sync_every = sync_every
    bench.train()
    assert log_values(bench.run) == log_values(straight.run)
    ended, expected = bench.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(ended[name], expected[name]) for name in expected)
    assert bench.checks < straight.checks


def test_a_broken_loss_between_two_syncs_is_named_at_the_next() -> None:
    class Broken(nn.Module):
        calls = 0

        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return logits.square().mean() * (float("nan") if self.calls == 2 else 1.0)

    model, data, criterion = small_network(), dataset(12), Broken()
    run = Run("r", 1, 0.5, 2, 4)
    syncs: list[int] = []
    with pytest.raises(FloatingPointError, match="nan in the batch after 2 images; .*2.png, 3.p"):
        trainer.train_one_epoch(
            model,
            criterion,
            torch.optim.Adam(model.parameters()),
            EpochBatches(data, np.arange(12), 2, sync_every=4),
            run,
            after_sync=lambda: syncs.append(run.images_done),
        )
    assert (criterion.calls, syncs, run.images_done) == (4, [], 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(value: float) -> None:
    class Broken(nn.Module):
        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return logits.square().mean() * value

    model, data = small_network(), dataset(6)
    before = copy.deepcopy([p.detach() for p in model.parameters()])
    optimizer = torch.optim.Adam(model.parameters())
    run = Run("r", 1, 0.5, 2, 4)
    with pytest.raises(FloatingPointError) as caught:
        epoch = EpochBatches(data, np.arange(6)[::-1], 2)
        trainer.train_one_epoch(model, Broken(), optimizer, epoch, run)
    for part in (f"the loss is {value}", "after 0 images", "5.png, 4.png"):
        assert part in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.state_dict()["state"] == {}


def test_a_diverging_run_names_epoch_and_lr_and_saves_nothing() -> None:
    bench = Bench()
    with torch.no_grad():
        bench.model[5].bias.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError, match="epoch 1 at lr 0.01 has diverged: the loss is nan"
    ):
        bench.train()
    assert bench.epochs_saved == [] and bench.kept is None


def test_a_single_training_image_is_refused() -> None:
    with pytest.raises(ValueError, match="1 training image: BatchNorm needs at least two"):
        EpochBatches(dataset(1), np.arange(1), 2)


@pytest.mark.parametrize(("n", "batch_size"), [(3, 2), (5, 4), (4, 100), (2, 1)])
def test_no_batch_of_one_is_made_where_two_images_remain(n: int, batch_size: int) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return self.inner(images)

    model = Counting()
    optimizer = torch.optim.Adam(model.parameters())
    run = Run("r", 1, 0.1, 0, 1)
    epoch = EpochBatches(dataset(n), np.arange(n), batch_size)
    trainer.train_one_epoch(model, FocalLoss(), optimizer, epoch, run)
    assert sum(seen) == n
    assert min(seen) > 1 or batch_size == 1


def test_an_empty_validation_part_has_null_metrics() -> None:
    bench = Bench()
    bench.train(val=0)
    record = bench.run.history[0]
    assert (record.val_loss, record.val_auc, record.val_classes) == (None, None, 0)
    assert "no validation images" in bench.run.describe_last_epoch()


def test_validation_metrics_are_those_of_the_whole_part() -> None:
    model, data = small_network(), dataset(40)
    found = trainer.validate(model, FocalLoss(), data, 7, check=lambda: None)
    images, targets = data.gather(np.arange(40))
    with torch.inference_mode():
        expected = FocalLoss()(model.eval()(images), targets).item()
    assert found.val_loss == pytest.approx(expected, rel=1e-6)
    assert found.val_classes == 14


def test_a_stop_leaves_the_run_after_a_whole_batch() -> None:
    def refuse() -> None:
        raise Stopped(2)

    model = small_network()
    optimizer = torch.optim.Adam(model.parameters())
    run = Run("r", 1, 0.1, 0, 1)
    after_batch: Callable[[], None] = refuse
    with pytest.raises(Stopped):
        epoch = EpochBatches(dataset(9), np.arange(9), 4)
        trainer.train_one_epoch(model, FocalLoss(), optimizer, epoch, run, after_batch)
    assert run.images_done == 4
