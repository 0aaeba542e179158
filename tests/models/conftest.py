"""Threads of the tests that compare bits between batches of different sizes."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """With one thread oneDNN takes another fp32 kernel for some batch sizes; see reliability.md."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
