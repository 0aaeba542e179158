"""What tests/runtime/test_processes.py starts under torchrun.

torchrun_worker.py main WORDS     main.py, noting the images that it trains on; see _main
torchrun_worker.py steps FILE     the loss of every step of an epoch of some images
torchrun_worker.py rows FILE      what several counts of images are scored with
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from helpers import random_dataset  # noqa: E402

import main as door  # noqa: E402
from chestxray.data import decoding  # noqa: E402
from chestxray.evaluation.predict import predict  # noqa: E402
from chestxray.models import resnet  # noqa: E402
from chestxray.models.features import Features  # noqa: E402
from chestxray.runtime.processes import Processes, process_group  # noqa: E402
from chestxray.training import trainer  # noqa: E402
from chestxray.training.losses import FocalLoss  # noqa: E402
from chestxray.training.run import Run  # noqa: E402

CPU = torch.device("cpu")
COUNTS = (15, 13, 2, 1, 0)
# Images of an epoch whose batches of 6 are cut alike by one, two and three processes: with a
# remainder that joins, of uneven shares, and of fewer than two for each process.
TOTAL, LENGTHS = 6, (12, 13, 19, 5, 3)


def steps(count: int, batch_size: int, processes: Processes) -> tuple[list[float], torch.Tensor]:
    """The mean loss of each step of an epoch of stage 4 in fp32, and the head at its end.

    The update is the gradient itself, whose scale Adam would not show.
    """
    network = resnet.build_model(15, seed=0)
    network.set_trainable(resnet.STAGES[4])
    data = Features(random_dataset(count), network.frozen_stem())
    run = Run("r", 4, 1e-3, epochs_done=0, epochs_planned=1)
    sums = [(0, 0.0)]
    optimizer = torch.optim.SGD(network.trainable_parameters(), lr=1e-3)
    wrapped: nn.Module = processes.wrap(network, lambda: None)
    trainer.train_one_epoch(
        wrapped,
        FocalLoss(),
        optimizer,
        data,
        np.random.default_rng(5).permutation(count),
        batch_size,
        run,
        after_sync=lambda: sums.append((run.images_done, run.loss_sum)),
        processes=processes,
    )
    losses = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(sums, sums[1:], strict=False)]
    return losses, network.fc.weight.detach().clone()


def rows(count: int, processes: Processes) -> np.ndarray:
    """Scores of images, whatever process computed them."""
    network = resnet.build_model(15, seed=0)
    return predict(network.folded_head(), random_dataset(count), 4, "scoring", processes=processes)[
        1
    ]


def _main(words: list[str]) -> int:
    """main.py. NOTES: a folder for the names of the images of each batch that is trained on.
    STOP, RAISE: "RANK BATCH", a process that gets a TERM, or runs out of memory, before a batch.
    DECODE: "fail" or "die", what the first process does rather than decode. Decoded images are
    noted too."""
    rank = int(os.environ.get("RANK", 0))
    gather, batch = Features.gather, 0

    def noting(self: Features, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal batch
        if torch.is_grad_enabled():
            for what in ("STOP", "RAISE"):
                if os.environ.get(what) == f"{rank} {batch}" and what == "STOP":
                    os.kill(os.getpid(), signal.SIGTERM)
                elif os.environ.get(what) == f"{rank} {batch}":
                    raise MemoryError("made up by a test")
            batch += 1
            with open(Path(os.environ["NOTES"]) / f"{rank}.txt", "a") as notes:
                notes.write("".join(f"{name}\n" for name in self.image_names[indices]))
        return gather(self, indices)

    read_image = decoding.read_image

    def noting_decode(path: str, size: int) -> np.ndarray:
        with open(Path(os.environ["NOTES"]) / f"{rank}.decoded", "a") as notes:
            notes.write(f"{Path(path).name}\n")
        if rank == 0 and os.environ.get("DECODE") == "fail":
            raise OSError("made up by a test")
        if rank == 0 and os.environ.get("DECODE") == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(path, size)

    Features.gather = noting  # type: ignore[method-assign]
    decoding.read_image = noting_decode
    return door.main(words)


def _in_a_group(what: str, path: Path) -> None:
    with process_group(CPU, lambda: None) as processes:
        if what == "rows":
            found: object = [rows(count, processes).tolist() for count in COUNTS]
        else:
            found = [
                (losses, head.tolist())
                for count in LENGTHS
                for losses, head in [steps(count, TOTAL // processes.size, processes)]
            ]
        if processes.rank == 0:
            path.write_text(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "main":
        sys.exit(_main(sys.argv[2:]))
    _in_a_group(sys.argv[1], Path(sys.argv[2]))
