"""Free memory, and the handling of freed memory by glibc."""

import ctypes
import gc
import resource
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def reuse_freed_memory() -> None:
    """Make glibc reuse freed memory rather than return it to the system.

    The maps of a batch are tens of megabytes each, and glibc maps such blocks anew every time: in
    scoring on a CPU the page faults took a sixth of the time. Only for a process that ends
    afterwards: over many epochs of training the memory would be fragmented, and training gains
    nothing. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return freed memory to the system.

    A figure of matplotlib is cycles of small objects that stay until they are collected, and
    glibc keeps the memory freed around them: over 42 epochs that was 200 MB.
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
    """Bytes that `ulimit -v` leaves; None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - psutil.Process().memory_info().vms)


def container_memory(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that the limits of a container or batch job leave; None without limits.

    Args:
        root: where the control groups (version 2) are mounted.
        own: the file that names the group of the process.
    """
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # not Linux
        return None
    name = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    folders = [root / name, *(root / name).parents]
    left = [_group_memory(folder) for folder in folders[: folders.index(root) + 1]]
    limits = [free for free in left if free is not None]
    return max(0, min(limits)) if limits else None


def _group_memory(folder: Path) -> int | None:
    """Bytes that the limit of one control group leaves; None without a limit."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
    except FileNotFoundError:  # the root group has no limit
        return None
    if limit == "max":
        return None
    cached = int(statistics[statistics.index("inactive_file") + 1])  # given up when needed
    return int(limit) - used + cached
