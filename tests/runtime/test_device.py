"""Devices are found, and refused when they are missing."""

import pytest
import torch

from chestxray.runtime import device


def test_a_missing_device_is_refused_and_auto_finds_one() -> None:
    assert device.pick_device("cpu").type == "cpu"
    assert device.pick_device("auto").type in ("cpu", "cuda", "mps")
    absent = next(
        name
        for name, there in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
        )
        if not there
    )
    with pytest.raises(ValueError, match=f"--device {absent}.*available: .*cpu"):
        device.pick_device(absent)
