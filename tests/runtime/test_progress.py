"""Progress where stderr is not a terminal."""

import re
import time

import pytest

from chestxray.runtime import progress
from chestxray.runtime.progress import Progress


def test_progress_is_plain_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("epoch 1/4", total=1375, done=288) as bar:
        time.sleep(0.01)
        bar.advance(32, loss=0.081)
        bar.advance(32)
    out, err = capsys.readouterr()
    assert out == ""
    with_loss, without = err.splitlines()
    assert re.fullmatch(r"epoch 1/4  320/1375  loss 0\.0810?  \d+ images/s", with_loss)
    assert re.fullmatch(r"epoch 1/4  352/1375  \d+ images/s", without)


def test_the_rate_counts_only_what_was_done_since_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("epoch 1/4", total=2_000_000, done=1_000_000) as bar:
        time.sleep(0.1)
        bar.advance(100)
    rate = re.search(r"(\d+) images/s", capsys.readouterr().err)
    assert rate and 0 < int(rate[1]) <= 1000


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("decoding", total=3) as bar:
        for _ in range(3):
            bar.advance(1)
    assert capsys.readouterr().err == ""
