"""Devices of this machine, and the number formats that they compute in."""

import os

import torch

from chestxray.runtime.distributed import UNDER_TORCHRUN


def pick_device(choice: str) -> torch.device:
    """Pick the device of that name; "auto" is CUDA, else MPS, else the CPU.

    Under torchrun each process of a machine gets its own CUDA device, and MPS, which cannot
    exchange gradients, is not used.

    Raises:
        ValueError: it is not available.
    """
    number = os.environ["LOCAL_RANK"] if UNDER_TORCHRUN else None
    found = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and number is None,
        "cpu": True,
    }
    if choice == "auto":
        choice = next(name for name, available in found.items() if available)
    if not found[choice]:
        available = ", ".join(name for name, yes in found.items() if yes)
        raise ValueError(
            f"--device {choice} is missing, or torch was built without it; available: {available}"
        )
    if choice != "cuda" or number is None:
        return torch.device(choice)
    if int(number) >= torch.cuda.device_count():
        raise ValueError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes and {torch.cuda.device_count()} CUDA "
            "devices on this machine: torchrun's --nproc-per-node=gpu starts one for each"
        )
    torch.cuda.set_device(int(number))
    return torch.device(f"cuda:{number}")


def compute_fp32_in_full() -> None:
    """Keep CUDA from shortening float32 to TF32's ten bits, its default in convolutions."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies in bfloat16, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
