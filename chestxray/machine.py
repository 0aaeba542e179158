"""What this machine has: devices, number formats that it computes in, free memory."""

import ctypes
import gc
import os
import resource
from pathlib import Path

import psutil
import torch

from chestxray.voice import UNDER_TORCHRUN

_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def reuse_freed_memory() -> None:
    """Have glibc hand freed memory out again rather than return it to the system.

    The maps of a batch are tens of megabytes each, and glibc maps such blocks anew every time: in
    scoring on a CPU the page faults took a sixth of the time. For a process that ends after it:
    over many epochs of training the memory would come to lie in pieces, and training gains nothing.
    Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give the system back what lies freed between what is in use.

    A figure of matplotlib is cycles of small objects that lie about until the collector comes by,
    and what is freed around them stays with glibc: over 42 epochs that was 200 MB.
    """
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def pick_device(choice: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else MPS, else the CPU.

    Under torchrun each process of a machine gets a CUDA device of its own, and MPS, which cannot
    exchange gradients, is none.

    Raises:
        ValueError: it is not there.
    """
    number = os.environ["LOCAL_RANK"] if UNDER_TORCHRUN else None
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and number is None,
        "cpu": True,
    }
    if choice == "auto":
        choice = next(name for name, available in there.items() if available)
    if not there[choice]:
        available = ", ".join(name for name, yes in there.items() if yes)
        raise ValueError(
            f"--device {choice}: not here, or torch was built without it; there is {available}"
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
    """Have CUDA not shorten float32 to TF32's ten bits, as it does in convolutions by default."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16 itself, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still take on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = [psutil.virtual_memory().available, container_memory(), _limit_memory()]
    return min(free for free in left if free is not None)


def _limit_memory() -> int | None:
    """Bytes that `ulimit -v` leaves; None where it sets no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - psutil.Process().memory_info().vms)


def container_memory(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that the limits of a container or batch job leave; None where there are none.

    Args:
        root: where the control groups (version 2) are mounted.
        own: the file that names the process's group.
    """
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # not Linux
        return None
    name = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    folders = [root / name, *(root / name).parents]
    left = []
    for folder in folders[: folders.index(root) + 1]:
        try:
            limit = (folder / "memory.max").read_text(encoding="ascii").strip()
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
        except FileNotFoundError:  # the root group has no limit
            continue
        if limit != "max":
            cached = int(statistics[statistics.index("inactive_file") + 1])  # given up at need
            left.append(int(limit) - used + cached)
    return max(0, min(left)) if left else None
