"""Scripts without a main guard.

A process that is started afresh first runs the script of the one that has started it, as far as no
`if __name__ == "__main__":` keeps it out. A script that calls this program outside of one would
start the work again in each process, which waits for the lock of the first, and that for them.
"""

import multiprocessing
import sys

POOL = "chestxray-pool"  # how the names of our own processes begin
UNGUARDED = 77  # exit code of a process that has come to a call without a main guard
ADVICE = (
    "every process that this one starts runs the script again and comes to the same call: put it "
    'below `if __name__ == "__main__":`'
)


def refuse_unguarded_script() -> None:
    """End this process where it is only being started, and runs a script without a main guard.

    Raises:
        SystemExit: then. A process of a pool leaves the message to the one that has started it.
    """
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):  # set while a process prepares itself
        if not process.name.startswith(POOL):
            print(f"error: {ADVICE}", file=sys.stderr)
        raise SystemExit(UNGUARDED)
