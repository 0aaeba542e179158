"""The program that tests/runtime/test_processes.py starts under torchrun.

torchrun_worker.py main WORDS     main.py with notes and faults; see main_with_notes
torchrun_worker.py group FILE     the losses of an epoch's steps, and scores, for several counts
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import random_dataset  # noqa: E402

import main  # noqa: E402
from chestxray.data import decoding  # noqa: E402
from chestxray.evaluation.predict import predict  # noqa: E402
from chestxray.models import network as networks  # noqa: E402
from chestxray.models.features import Features  # noqa: E402
from chestxray.runtime.processes import Processes, process_group  # noqa: E402
from chestxray.training.batches import EpochBatches  # noqa: E402
from chestxray.training.losses import FocalLoss  # noqa: E402
from chestxray.training.run import Run  # noqa: E402
from chestxray.training.trainer import train_one_epoch  # noqa: E402

# Images that are scored: even and uneven shares, and fewer than there are processes.
SCORED = (15, 13, 2, 1, 0)
# Images of an epoch whose batches of 6 are cut alike by one, two and three processes: with a
# remainder that joins, of uneven shares, and of fewer than two for each process.
TRAINED, BATCH = (12, 13, 19, 5, 3), 6


def steps(count: int, processes: Processes) -> tuple[list[float], torch.Tensor]:
    """The mean loss of each step of an epoch of stage 4 in fp32, and the head at its end.

    The update is the gradient itself, whose scale Adam would not show.
    """
    network = networks.build_model(15, seed=0)
    network.set_stage(4)
    data = Features(random_dataset(count), network.frozen_stem())
    order = np.random.default_rng(5).permutation(count)
    epoch = EpochBatches(data, order, BATCH // processes.size, processes=processes)
    run = Run("r", 4, 1e-3, epochs_done=0, epochs_planned=1)
    sums = [(0, 0.0)]
    train_one_epoch(
        processes.wrap(network, lambda: None),
        FocalLoss(),
        torch.optim.SGD(network.trainable_parameters(), lr=1e-3),
        epoch,
        run,
        after_sync=lambda: sums.append((run.images_done, run.loss_sum)),
    )
    losses = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(sums, sums[1:], strict=False)]
    return losses, network.fc.weight.detach().clone()


def scores(count: int, processes: Processes) -> np.ndarray:
    """Scores of images, whichever process computed them."""
    scorer = networks.build_model(15, seed=0).folded_head()
    _, found = predict(scorer, random_dataset(count), 4, "scoring", processes=processes)
    return found


def main_with_notes(words: list[str]) -> int:
    """Run main.py. Environment:

    NOTES: a folder for the names of the images that are trained on (RANK.txt) or decoded
        (RANK.decoded).
    STOP: "RANK BATCH SIGNAL", a process that gets a signal (none: a TERM) before a batch.
    RAISE: "RANK BATCH", a process that runs out of memory before a batch.
    DECODE: "fail" or "die", which the first process does rather than decode.
    """
    rank = int(os.environ.get("RANK", 0))
    notes = Path(os.environ["NOTES"])
    gather, decode, batch = Features.gather, decoding.decode, 0

    def gather_with_notes(self: Features, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal batch
        if torch.is_grad_enabled():
            stop_rank, stop_batch, name, *_ = [*os.environ.get("STOP", "- -").split(), "SIGTERM"]
            if (stop_rank, stop_batch) == (str(rank), str(batch)):
                os.kill(os.getpid(), signal.Signals[name])
            if os.environ.get("RAISE") == f"{rank} {batch}":
                raise MemoryError("made up by a test")
            batch += 1
            _note(notes / f"{rank}.txt", *self.image_names[indices])
        return gather(self, indices)

    def decode_with_notes(path: str, size: int, bits: int) -> decoding.Decoded:
        _note(notes / f"{rank}.decoded", Path(path).name)
        if rank == 0 and os.environ.get("DECODE") == "fail":
            raise OSError("made up by a test")
        if rank == 0 and os.environ.get("DECODE") == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(path, size, bits)

    Features.gather = gather_with_notes  # type: ignore[method-assign]
    decoding.decode = decode_with_notes
    return main.main(words)


def _note(path: Path, *names: str) -> None:
    with open(path, "a") as file:
        file.write("".join(f"{name}\n" for name in names))


def _in_a_group(path: Path) -> None:
    with process_group(torch.device("cpu"), lambda: None) as processes:
        trained = [steps(count, processes) for count in TRAINED]
        found = {
            "steps": [(losses, head.tolist()) for losses, head in trained],
            "scores": [scores(count, processes).tolist() for count in SCORED],
        }
        if processes.rank == 0:
            path.write_text(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "main":
        sys.exit(main_with_notes(sys.argv[2:]))
    _in_a_group(Path(sys.argv[2]))
