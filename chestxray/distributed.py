"""Several processes under torchrun: who this one is, what is shared out, what is put together.

Every process goes through the same steps, each on its share of a batch, over PyTorch's
DistributedDataParallel; the first one alone writes. Without torchrun there is one process, and
nothing is exchanged.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from chestxray import voice
from chestxray.interrupt import Stopped, StopRequest

_SECONDS_BETWEEN_LOOKS = 0.1  # of those who wait for another process's work
_TIMEOUT = timedelta(minutes=30)  # of an exchange, for processes that live and do not answer


class OneProcess:
    """The only process: all of each batch is its own."""

    rank, size, machines = 0, 1, 1
    command = "python main.py"

    def describe(self, batch_size: int) -> str | None:
        """The job in a line for people; None for one process that nobody shares with."""
        return None

    def part(self, indices: np.ndarray) -> np.ndarray:
        """Which of a batch's pictures this process takes; the parts of all make the batch."""
        return indices[self.rank :: self.size]

    def share(self, indices: np.ndarray) -> tuple[np.ndarray, float]:
        """What this process trains on, and how its mean loss weighs.

        The mean of the weighted means of all processes is the mean over the batch. Where a process
        would get fewer than two pictures of which to take batch statistics, each takes all.
        """
        part = self.part(indices)
        if 1 < self.size and len(indices) < 2 * self.size:
            return indices, 1.0
        return part, len(part) * self.size / len(indices)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network in a form whose gradients are the mean of those of all processes."""
        return network

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of what each process hands in."""
        return values

    def rows(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """(count, C) from what each process has of them, (n, C), on the CPU, in order."""
        return part

    def same_buffers(self, network: nn.Module) -> None:
        """Give every process the first one's running statistics."""

    def agreed(self, stop: StopRequest) -> Callable[[], None]:
        """A check that raises Stopped in every process where one was asked to stop."""
        return stop.check

    def compare(self, facts: dict[str, str], check: Callable[[], None]) -> None:
        """Raise ValueError where a process has other facts than the first; `check` ends waiting."""

    @contextmanager
    def first_here(self, check: Callable[[], None]) -> Iterator[None]:
        """Let one process of each machine go through the block before the others."""
        yield


ONE_PROCESS = OneProcess()


class ProcessGroup(OneProcess):
    """One of several processes that torchrun has started, on one machine or several.

    Args:
        device: of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = voice.RANK, int(os.environ["WORLD_SIZE"])
        self.machines = int(os.environ["GROUP_WORLD_SIZE"])
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        start = f"--standalone --nproc-per-node={here}" if self.machines == 1 else "..."
        self.command = f"torchrun {start} main.py"
        self._device = device
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=distributed.PrefixStore("group", voice.store()),
            rank=self.rank,
            world_size=self.size,
            timeout=_TIMEOUT,
        )

    def describe(self, batch_size: int) -> str | None:
        machines = f" on {self.machines} machines" if self.machines > 1 else ""
        return (
            f"processes: {self.size}{machines}, {batch_size} pictures each, "
            f"{batch_size * self.size} a step"
        )

    def wrap(self, network: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            # The new name of broadcast_buffers is not in every release that we run on.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(
                network,
                device_ids=[self._device] if self._device.type == "cuda" else None,
                broadcast_buffers=False,  # in training they are not used; see same_buffers
                gradient_as_bucket_view=True,
            )

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        distributed.all_reduce(values)
        return values / self.size

    def rows(self, part: torch.Tensor, count: int) -> torch.Tensor:
        longest = -(-count // self.size)
        padded = part.new_zeros((longest, *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    def same_buffers(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            distributed.broadcast(buffer, src=0)

    def agreed(self, stop: StopRequest) -> Callable[[], None]:
        def check() -> None:
            asked = torch.tensor(stop.signum or 0)
            distributed.all_reduce(asked, distributed.ReduceOp.MAX)
            if asked:
                raise Stopped(int(asked))

        return check

    def compare(self, facts: dict[str, str], check: Callable[[], None]) -> None:
        store = voice.store()
        if self.rank == 0:
            store.set("facts", json.dumps(facts))
            return
        _wait(lambda: store.check(["facts"]), check)
        first = json.loads(store.get("facts"))
        for name, value in facts.items():
            if value != first[name]:
                raise ValueError(
                    f"{name}: {value} here ({os.uname().nodename}), {first[name]} in the first "
                    "process; all need the same command, pictures, tables and checkpoint"
                )

    @contextmanager
    def first_here(self, check: Callable[[], None]) -> Iterator[None]:
        store = voice.store()

        def all_done() -> bool:
            return store.add("firsts", 0) == self.machines

        if int(os.environ["LOCAL_RANK"]) > 0:
            _wait(all_done, check)
            yield
        else:
            yield
            store.add("firsts", 1)
            _wait(all_done, check)


def _wait(done: Callable[[], bool], check: Callable[[], None]) -> None:
    """Wait for another process; not in an exchange, in which no signal is noticed."""
    while not done():
        check()
        if voice.has_ended():
            raise RuntimeError("another process has ended the job")
        time.sleep(_SECONDS_BETWEEN_LOOKS)


@contextmanager
def joined(device: torch.device) -> Iterator[OneProcess]:
    """This process among those of its job, from here to the end of the block."""
    if not voice.UNDER_TORCHRUN:
        yield ONE_PROCESS
        return
    group = ProcessGroup(device)
    yield group
    distributed.destroy_process_group()
