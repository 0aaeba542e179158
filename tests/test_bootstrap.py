"""The patient bootstrap: draws that do not depend on blocks, sums and percentiles by hand."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from chestxray import bootstrap
from chestxray.bootstrap import patient_resamples, percentile_interval, resampled_sums


def test_each_resample_draws_as_many_patients_as_there_are() -> None:
    times = np.vstack(list(patient_resamples(7, 50, np.random.default_rng(0))))
    assert times.shape == (50, 7) and times.min() >= 0
    assert (times.sum(axis=1) == 7).all()


def test_a_resample_of_another_size_draws_that_many() -> None:
    times = np.vstack(list(patient_resamples(7, 50, np.random.default_rng(0), size=3)))
    assert (times.sum(axis=1) == 3).all()


@pytest.mark.parametrize("at_once", [1, 7, 20, 10**6])
def test_blocks_do_not_change_the_draws(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_AT_ONCE", at_once)
    blocks = list(patient_resamples(7, 10, np.random.default_rng(3)))
    assert max(map(len, blocks)) <= max(1, at_once // 7)
    whole = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), size=10)
    np.testing.assert_array_equal(np.vstack(blocks), whole)


def test_each_patient_is_drawn_once_on_average() -> None:
    times = np.vstack(list(patient_resamples(5, 20_000, np.random.default_rng(0))))
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(times.var(axis=0), 0.8, atol=0.03)  # binomial: 1 - 1/5


def test_sums_are_those_of_a_loop_over_the_patients_drawn() -> None:
    values = np.arange(12).reshape(4, 3)
    sums = resampled_sums(values, 6, np.random.default_rng(1))
    (times,) = patient_resamples(4, 6, np.random.default_rng(1))
    for row, drawn in zip(sums, times, strict=True):
        assert row.tolist() == sum(n * v for n, v in zip(drawn, values, strict=True)).tolist()


def test_the_interval_leaves_out_undefined_resamples() -> None:
    values = np.column_stack([np.arange(101.0), np.full(101, np.nan), np.arange(101.0)])
    values[::2, 2] = np.nan  # 1, 3, ... 99 are left
    ends = percentile_interval(values, 0.9)
    assert ends[:, 0] == pytest.approx([5, 95])
    assert np.isnan(ends[:, 1]).all()
    assert ends[:, 2] == pytest.approx([5.9, 94.1])
    assert percentile_interval(np.empty((5, 0)), 0.95).shape == (2, 0)


def test_the_interval_covers_a_known_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values = rng.exponential(size=(80, 1))
        drawn = resampled_sums(values, 300, rng) / 80
        low, high = percentile_interval(drawn, 0.9)[:, 0]
        covered += low <= 1 <= high
    assert 0.82 <= covered / 300 <= 0.95


def test_numpy_is_all_that_the_bootstrap_imports() -> None:
    code = (
        "import sys, chestxray.bootstrap\n"
        "assert {m for m in sys.modules if m.startswith('chestxray')}"
        " == {'chestxray', 'chestxray.bootstrap'}\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
