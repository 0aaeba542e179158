"""Who speaks: this process, or under torchrun one process for the whole job.

The first process prints; the others are silent. A fault is said by the process that meets it first,
since all may meet the same one, and torchrun ends the others before they could say it. What has
been said is noted in torchrun's store, which outlives every process of the job.
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
_SAID = "said"


def silence_other_ranks() -> None:
    """Under torchrun: only the first process prints, and one process says what went wrong."""
    if UNDER_TORCHRUN:
        sys.excepthook = _traceback_once
    if RANK > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # to the end of the process


def report_once(text: str) -> None:
    """Print on stderr why this command ends, unless another process of the job has done so."""
    if not UNDER_TORCHRUN:
        _print(text)
    elif _first_to_report():
        _print(f"process {RANK}: {text}" if RANK else text)


def describe_lost_peer(error: BaseException) -> str | None:
    """What to say where an exchange with the other processes of the job failed; else None."""
    if not UNDER_TORCHRUN:
        return None
    from torch.distributed import DistError

    gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    if not gloo and not isinstance(error, DistError):
        return None
    return (
        f"another process of the job has died or cannot be reached ({str(error).splitlines()[0]}); "
        "torchrun's report says which has died\nthe files are whole: a new torchrun with main.py "
        "--resume trains on from the last save"
    )


def has_ended() -> bool:
    """Whether some process of the job has said why it ends."""
    return store().check([_SAID])


@cache
def store() -> "Store":
    """What all processes of the job can write into and read.

    Empty after torchrun has restarted them; on several machines each counts restarts by itself.
    """
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    return PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], next(rendezvous("env://"))[0])


def _first_to_report() -> bool:
    from torch.distributed import DistError

    try:
        return store().add(_SAID, 1) == 1
    except DistError:  # torchrun is gone, and the store with it: better twice than never
        return True


def _print(text: str) -> None:
    stream = _stderr()
    if stream is not None:
        with suppress(OSError):  # nobody reads it; the exit code still says it
            print(text, file=stream, flush=True)


def _stderr() -> TextIO | None:
    return sys.__stderr__ if RANK > 0 else sys.stderr


def _traceback_once(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if _first_to_report():
        sys.stderr = _stderr()
        sys.__excepthook__(kind, error, trace)
