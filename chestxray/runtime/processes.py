"""Processes of a job under torchrun: their shares of a batch, and what they exchange.

Every process takes the same steps on its share of a batch, over PyTorch's
DistributedDataParallel; only the first one writes. Without torchrun there is one process, and
nothing is exchanged.
"""

import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from chestxray.runtime import distributed
from chestxray.runtime.signals import Stopped, StopRequest
from chestxray.runtime.text import plural

_POLL_SECONDS = 0.1  # between two checks while waiting for others
_TIMEOUT = timedelta(minutes=30)  # for processes that run and do not answer
_BARRIER_TIMEOUT = timedelta(days=1)  # one of them may be decoding all images


class Processes:
    """The processes that share the work; this base class is a single one that does all of it."""

    rank, size, machines = 0, 1, 1
    command = "python main.py"

    def describe(self, batch_size: int) -> str | None:
        """The job in a line for people; None for a single process."""
        return None

    def scoring_share(self, indices: np.ndarray) -> np.ndarray:
        """The images of a batch that this process scores; the shares of all make the batch."""
        return indices[self.rank :: self.size]

    def training_share(self, indices: np.ndarray, batch_size: int) -> tuple[np.ndarray, float]:
        """The images of a batch that this process trains on, and the weight of its mean loss.

        The mean of the weighted means of all processes is the mean over the batch. A remainder of
        which a process would get fewer than two images, too few for batch statistics, is computed
        by each process as a whole.

        Args:
            indices: of the batch of all processes.
            batch_size: images of a full batch, per process.
        """
        if len(indices) < self.size * min(2, batch_size):
            return indices, 1.0
        part = indices[self.rank :: self.size]
        return part, len(part) * self.size / len(indices)

    def wrap(self, network: nn.Module, check: Callable[[], None]) -> nn.Module:
        """Wrap the network so that its gradients are the mean of those of all processes.

        Args:
            check: here and below, an exception from it ends the waiting for others.
        """
        return network

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of the values of all processes."""
        return values

    def gather_rows(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """Gather (count, C) on the CPU, in order, from the shares (n, C) of all processes."""
        return part

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy the running statistics of the first process to all."""

    def any_rank_stopped(self, stop: StopRequest) -> Callable[[], None]:
        """A check that raises Stopped in every process once one was asked to stop."""
        return stop.check

    def check_same(self, facts: Callable[[], dict[str, str]], check: Callable[[], None]) -> None:
        """Raise ValueError where the facts of a process differ from those of the first."""

    @contextmanager
    def local_rank_first(self, check: Callable[[], None], at_once: bool = False) -> Iterator[None]:
        """Let one process of each machine run the block before the others, or all at once.

        Either way there is one barrier, so that processes with other options do not wait forever.
        """
        yield


ONE_PROCESS = Processes()


class SeveralProcesses(Processes):
    """A process that torchrun has started with others, on one machine or several.

    Args:
        device: of this process.
        check: an exception from it ends the waiting for the others.
    """

    def __init__(self, device: torch.device, check: Callable[[], None]) -> None:
        self.rank, self.size = distributed.RANK, int(os.environ["WORLD_SIZE"])
        self.machines = int(os.environ["GROUP_WORLD_SIZE"])
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        start = f"--standalone --nproc-per-node={here}" if self.machines == 1 else "..."
        self.command = f"torchrun {start} main.py"
        self._device = device
        self._wait_for_all(check)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", distributed.store()),
            rank=self.rank,
            world_size=self.size,
            timeout=_TIMEOUT,
        )
        barriers = dist.new_group(backend="gloo", timeout=_BARRIER_TIMEOUT)
        assert isinstance(barriers, dist.ProcessGroup)  # else this process would not belong to it
        self._barriers = barriers

    def describe(self, batch_size: int) -> str | None:
        machines = f" on {self.machines} machines" if self.machines > 1 else ""
        return (
            f"processes: {self.size}{machines}, {plural(batch_size, 'image')} each, "
            f"{batch_size * self.size} a step"
        )

    def wrap(self, network: nn.Module, check: Callable[[], None]) -> nn.Module:
        self._barrier(check)  # NCCL's first exchange has no time limit and does not notice a death
        with warnings.catch_warnings():
            # The new name of broadcast_buffers is not in every release that we support.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(
                network,
                device_ids=[self._device] if self._device.type == "cuda" else None,
                broadcast_buffers=False,  # in training they are not used; see broadcast_buffers
                gradient_as_bucket_view=True,
            )

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(values)
        return values / self.size

    def gather_rows(self, part: torch.Tensor, count: int) -> torch.Tensor:
        if count == 0:
            return part
        longest = -(-count // self.size)
        padded = part.new_zeros((longest, *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    def broadcast_buffers(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)

    def any_rank_stopped(self, stop: StopRequest) -> Callable[[], None]:
        def check() -> None:
            asked = torch.tensor(stop.look() or 0)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            if asked:
                raise Stopped(int(asked))

        return check

    def check_same(self, facts: Callable[[], dict[str, str]], check: Callable[[], None]) -> None:
        store, ours = distributed.store(), facts()
        if self.rank == 0:
            store.set("facts", json.dumps(ours))
        self._barrier(check)
        first = json.loads(store.get("facts"))
        for name, value in ours.items():
            if value != first[name]:
                raise ValueError(
                    f"{name}: {value} here ({platform.node()}), {first[name]} in the first "
                    "process; all need the same command, images, tables and checkpoint"
                )

    @contextmanager
    def local_rank_first(self, check: Callable[[], None], at_once: bool = False) -> Iterator[None]:
        if int(os.environ["LOCAL_RANK"]) > 0 and not at_once:
            self._barrier(check)
            yield
        else:
            yield
            self._barrier(check)

    def _barrier(self, check: Callable[[], None]) -> None:
        """Wait for all processes; signals and lost connections end the waiting."""
        waiting = dist.barrier(self._barriers, async_op=True)
        assert waiting is not None
        while not waiting.is_completed():
            check()
            time.sleep(_POLL_SECONDS)
        waiting.wait()

    def _wait_for_all(self, check: Callable[[], None]) -> None:
        """Wait until all have started, before there is a group; some may have ended already."""
        store, end = distributed.store(), time.monotonic() + _TIMEOUT.total_seconds()
        store.add("started", 1)
        while (started := store.add("started", 0)) != self.size:
            check()
            if distributed.has_ended() or started > self.size or time.monotonic() > end:
                raise TimeoutError(f"{started} of {self.size} processes have started")
            time.sleep(_POLL_SECONDS)


@contextmanager
def process_group(device: torch.device, check: Callable[[], None]) -> Iterator[Processes]:
    """Join the processes of the job, to the end of the block."""
    if not distributed.UNDER_TORCHRUN:
        yield ONE_PROCESS
        return
    yield SeveralProcesses(device, check)
    dist.destroy_process_group()  # not after a fault: it could wait for the others
