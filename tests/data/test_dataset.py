"""Batches, the order of an epoch, and the cap per class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torchvision.transforms import v2

from chestxray.data.dataset import MEAN, STD, ChestDataset, batches, cap, epoch_order
from chestxray.labels import CLASSES, HERNIA

CPU = torch.device("cpu")
HERNIA_COLUMN = CLASSES.index(HERNIA)


def dataset(count: int = 6, size: int = 20) -> ChestDataset:
    """Random images, stored in another order than they are asked for."""
    rng = np.random.default_rng(0)
    return ChestDataset(
        image_names=np.array([f"{number:08d}_000.png" for number in range(count)]),
        pixels=rng.integers(256, size=(count + 3, size, size), dtype=np.uint8),
        cache_index=rng.permutation(count + 3)[:count],
        targets=rng.integers(2, size=(count, len(CLASSES)), dtype=np.uint8),
        device=CPU,
    )


def random_targets(count: int) -> np.ndarray:
    return (np.random.default_rng(1).uniform(size=(count, len(CLASSES))) < 0.2).astype(np.uint8)


def test_gather_equals_torchvision_on_the_image_in_rgb() -> None:
    data = dataset()
    indices = np.array([4, 0, 4, 5])
    images, targets = data.gather(indices)
    reference = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    expected = torch.stack(
        [
            reference(Image.fromarray(data.pixels[data.cache_index[i]]).convert("RGB"))
            for i in indices
        ]
    )
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(targets, torch.tensor(data.targets[indices]).float())
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_equals_its_images() -> None:
    data = dataset()
    assert len(data) == 6
    images, targets = data.gather(np.arange(6))
    for index in range(6):
        image, target = data.gather(np.array([index]))
        assert torch.equal(images[index : index + 1], image)
        assert torch.equal(targets[index : index + 1], target)


def test_gather_reads_from_a_file_mapped_read_only(tmp_path) -> None:
    data = dataset()
    data.pixels.tofile(tmp_path / "pixels")
    mapped = np.memmap(tmp_path / "pixels", np.uint8, mode="r", shape=data.pixels.shape)
    from_file = ChestDataset(data.image_names, mapped, data.cache_index, data.targets, CPU)
    assert torch.equal(from_file.gather(np.arange(6))[0], data.gather(np.arange(6))[0])


def test_images_held_on_the_device_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chestxray.data.dataset._UPLOAD", 4)  # in two steps
    data = dataset()
    held = ChestDataset(
        data.image_names, data.pixels, data.cache_index, data.targets, CPU, resident=True
    )
    data.pixels = np.zeros_like(data.pixels)
    for indices in (np.array([5, 0, 3]), np.arange(6)):
        expected = dataset().gather(indices)
        assert all(torch.equal(*pair) for pair in zip(held.gather(indices), expected, strict=True))
    assert not torch.equal(data.gather(np.arange(6))[0], dataset().gather(np.arange(6))[0])


def test_the_order_is_a_permutation_that_seed_and_epoch_fix() -> None:
    targets = random_targets(50)
    order = epoch_order(targets, seed=3, epoch=2, max_per_class=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    np.testing.assert_array_equal(order, epoch_order(targets, 3, 2, 0))
    for seed, epoch in ((3, 1), (4, 2), (2, 3)):
        assert (order != epoch_order(targets, seed, epoch, 0)).any()


def test_a_capped_order_is_the_order_less_the_rows_held_back() -> None:
    targets = random_targets(200)
    whole = epoch_order(targets, 3, 2, 0)
    capped = epoch_order(targets, 3, 2, 10)
    np.testing.assert_array_equal(capped, whole[cap_row_by_row(targets[whole], 10)])
    assert 0 < len(capped) < 200
    np.testing.assert_array_equal(epoch_order(targets, 3, 2, 200), whole)


def cap_row_by_row(targets: np.ndarray, most: int) -> np.ndarray:
    counts = np.zeros(len(CLASSES), dtype=int)
    taken = []
    for row in targets.astype(bool):
        take = row[HERNIA_COLUMN] or not (counts[row] >= most).any()
        counts += row & take
        taken.append(take)
    return np.array(taken, dtype=bool)


@settings(deadline=None)
@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(0, 30), st.just(len(CLASSES))), elements=st.integers(0, 1)
    ),
    st.integers(1, 6),
)
def test_the_cap_equals_a_loop_over_the_rows(targets: np.ndarray, most: int) -> None:
    np.testing.assert_array_equal(cap(targets, most), cap_row_by_row(targets, most))


def test_a_row_with_hernia_is_always_taken() -> None:
    targets = np.zeros((9, len(CLASSES)), dtype=np.uint8)
    targets[:, CLASSES.index("Effusion")] = 1
    targets[4:, HERNIA_COLUMN] = 1
    np.testing.assert_array_equal(cap(targets, 2), [True, True, False, False] + 5 * [True])


@pytest.mark.parametrize("batch_size", range(1, 7))
@pytest.mark.parametrize("count", range(21))
def test_batches_cover_the_order_once_from_every_start(count: int, batch_size: int) -> None:
    order = np.random.default_rng(count).permutation(count)
    whole = [batch.tolist() for batch in batches(order, batch_size)]
    assert sum(whole, []) == order.tolist()
    start = 0
    for number, batch in enumerate(whole):
        rest = [later.tolist() for later in batches(order, batch_size, start)]
        assert rest == whole[number:]
        start += len(batch)
    assert list(batches(order, batch_size, start)) == []


@pytest.mark.parametrize("batch_size", range(1, 7))
@pytest.mark.parametrize("count", range(1, 21))
def test_a_remainder_of_one_joins_the_batch_before(count: int, batch_size: int) -> None:
    sizes = [len(batch) for batch in batches(np.arange(count), batch_size)]
    assert set(sizes[:-1]) <= {batch_size}
    assert sizes[-1] <= batch_size + 1
    if batch_size > 1 and count > 1:
        assert min(sizes) > 1
