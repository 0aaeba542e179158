"""Output of a job under torchrun, where one process prints for all.

The first process prints; the others are silent. A fault is reported by the process that meets it
first, since all may meet the same one, and torchrun ends the others before they could report it.
That it was reported is noted in torchrun's store, which outlives every process of the job.
"""

import os
import sys
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:  # torch takes seconds, and wrong usage is answered at once
    from torch.distributed import Store

UNDER_TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ
RANK = int(os.environ["RANK"]) if UNDER_TORCHRUN else 0
_REPORTED = "reported"


def silence_other_ranks() -> None:
    """Let only the first process print under torchrun, and only one report a fault."""
    if UNDER_TORCHRUN:
        sys.excepthook = _traceback_once
    if RANK > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # to the end of the process


def report_once(text: str) -> None:
    """Print on stderr why this command ends, unless another process of the job has."""
    if not UNDER_TORCHRUN:
        _print(text)
    elif _first_to_report():
        _print(f"process {RANK}: {text}" if RANK else text)


def describe_lost_peer(error: BaseException) -> str | None:
    """Describe a failed exchange with the other processes of the job; None for other errors."""
    if not UNDER_TORCHRUN:
        return None
    from torch.distributed import DistError

    gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    if not gloo and not isinstance(error, DistError):
        return None
    return (
        f"another process of the job has died or cannot be reached ({str(error).splitlines()[0]}); "
        "torchrun's report says which has died\nthe files are complete: a new torchrun with "
        "main.py --resume continues from the last save"
    )


def has_ended() -> bool:
    """Return whether a process of the job has reported why it ends."""
    return store().check([_REPORTED])


@cache
def store() -> "Store":
    """The key-value store of the job, which all its processes read and write.

    It is empty after torchrun has restarted them; each machine counts its own restarts.
    """
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    return PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], next(rendezvous("env://"))[0])


def _first_to_report() -> bool:
    from torch.distributed import DistError

    try:
        return store().add(_REPORTED, 1) == 1
    except DistError:  # torchrun has ended, and the store with it: better twice than never
        return True


def _print(text: str) -> None:
    stream = _stderr()
    if stream is not None:
        with suppress(OSError):  # nobody reads it; the exit code still tells
            print(text, file=stream, flush=True)


def _stderr() -> TextIO | None:
    return sys.__stderr__ if RANK > 0 else sys.stderr


def _traceback_once(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if _first_to_report():
        sys.stderr = _stderr()
        sys.__excepthook__(kind, error, trace)
