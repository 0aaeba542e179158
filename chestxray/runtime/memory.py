"""Free memory, and what glibc does with freed memory."""

import ctypes
import gc
import resource
from pathlib import Path

import psutil
import torch

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
