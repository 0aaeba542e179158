"""The job that a command belongs to: where it computes, who shares the work, who asked to stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from chestxray.runtime.device import compute_fp32_in_full, computes_in_bf16, pick_device
from chestxray.runtime.memory import free_memory
from chestxray.runtime.processes import Processes, process_group
from chestxray.runtime.signals import StopRequest
from chestxray.runtime.text import plural

STEPS_BETWEEN_SYNCS = 16  # on an accelerator


@dataclass(frozen=True)
class Job:
    """This process among those of its job.

    Attributes:
        device: on which it computes.
        precision: "fp32" or "bf16".
        processes: those who share the work.
        stop: whether a signal has asked this process to stop.
    """

    device: torch.device
    precision: str
    processes: Processes
    stop: StopRequest

    @property
    def writes(self) -> bool:
        """True in the one process that writes the files of the job."""
        return self.processes.rank == 0

    @property
    def sync_every(self) -> int:
        """Steps between two readings of the losses, which wait for all that is queued on a GPU."""
        return 1 if self.device.type == "cpu" else STEPS_BETWEEN_SYNCS

    def describe(self, batch_size: int) -> list[str | None]:
        """The job in lines for people."""
        threads = plural(torch.get_num_threads(), "CPU thread")
        return [
            f"{self.device.type}, {self.precision}, {threads}",
            self.processes.describe(batch_size),
        ]

    def check(self) -> None:
        """Raise Stopped in every process of the job where one was asked to stop."""
        self.processes.any_rank_stopped(self.stop)()

    def free_memory(self) -> int:
        """Bytes that this process could still take on its device."""
        return free_memory(self.device)

    def check_same(self, **facts: Callable[[], str]) -> None:
        """Raise ValueError where a process of the job has other facts than the first."""

        def found() -> dict[str, str]:
            where = f"{self.precision} on {self.device.type}"
            return {"precision": where} | {name: fact() for name, fact in facts.items()}

        self.processes.check_same(found, self.stop.check)


@contextmanager
def join_job(device: str, precision: str, stop: StopRequest) -> Iterator[Job]:
    """Join the processes of the job, from here to the end of the block.

    Args:
        device, precision: as typed.
        stop: whether a signal has asked to stop.

    Raises:
        ValueError: the device is not there.
    """
    picked = pick_device(device)
    bf16 = precision == "bf16" or (precision == "auto" and computes_in_bf16(picked))
    if not bf16:
        compute_fp32_in_full()
    with process_group(picked, stop.check) as processes:
        yield Job(picked, "bf16" if bf16 else "fp32", processes, stop)
