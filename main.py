"""Train a ResNet-50 on chest X-rays in stages, test it, and write scores for statistics.

    python main.py --bs 32 --lr 1e-4
    python main.py --resume --ckpt stage1_0001_04.pth --stage 2 --bs 32 --lr 1e-4
    python main.py --test --ckpt stage1_0001_08.pth

The flags are in docs/cli.md and in --help.
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chestxray.options import Options, parse_options
from chestxray.runtime.cli import run_command, say
from chestxray.runtime.distributed import silence_other_ranks
from chestxray.runtime.signals import StopRequest

if TYPE_CHECKING:
    from chestxray.runtime.job import Job

# Torch and pandas are imported where the steps begin: --help and wrong usage answer at once.


def main(argv: list[str] | None = None) -> int:
    silence_other_ranks()
    options = parse_options(sys.argv[1:] if argv is None else argv)
    return run_command(partial(run, options), options.debug)


def run(options: Options, stop: StopRequest) -> int:
    from chestxray.runtime.files import folder_lock
    from chestxray.runtime.job import join_job

    with join_job(options.device, options.precision, stop) as job:
        if options.test:
            return test(options, job)
        with folder_lock(options.output) if job.writes else nullcontext():
            return train(options, job)


def train(options: Options, job: "Job") -> int:
    """Train a new run or continue one, epoch by epoch."""
    from chestxray import inputs
    from chestxray.checkpoints import initial
    from chestxray.models.features import frozen_features
    from chestxray.training import losses, run_folder
    from chestxray.training.batches import next_epoch
    from chestxray.training.run import describe_start, make_optimizer, start_run
    from chestxray.training.saver import Saver
    from chestxray.training.trainer import train_one_epoch, validate

    options, opened = inputs.open_checkpoint(options)
    stored = opened.checkpoint if opened else None
    if inputs.is_finished(options, opened):
        return 0
    run = start_run(options, stored)
    say(*job.describe(options.bs), *describe_start(options, run, stored, job))
    if job.writes and not options.overwrite:
        run_folder.refuse_foreign_files(options.output, run)
    entries, rows = inputs.read_rows(options, opened)
    network = initial.start_network(options.weights, options.seed, opened, job)
    network.set_stage(options.stage, from_scratch=options.weights == "none")
    run_folder.check_room_for(network, options.output, job)
    images = inputs.read_images(options, rows, job)
    inputs.check_same(options, opened, network, images, job)

    parts = images.datasets([("train",), ("val",)], job.device, job.free_memory())
    folder = run_folder.open_folder(run, options, job, entries, images.rows, stored)
    criterion = losses.LOSSES[options.loss_func]()
    optimizer = make_optimizer(network.trainable_parameters(), run, stored)
    saver = Saver(folder, run, network, optimizer, job.check, 60 * options.save_minutes)
    with saver:
        train_data, val_data = frozen_features(network, parts, options.stage, job)
        model = job.processes.wrap(network, job.stop.check)
        while run.epochs_done < run.epochs_planned:
            saver.check()
            epoch = next_epoch(train_data, options, run, job)
            train_one_epoch(model, criterion, optimizer, epoch, run, saver.after_sync)
            with run.timed():
                job.processes.broadcast_buffers(network)
                scorer = network.folded_head()
                result = validate(scorer, criterion, val_data, options.bs, job.check, job.processes)
            run.finish_epoch(len(epoch), result)
            saver.save_epoch()
    return 0


def test(options: Options, job: "Job") -> int:
    """Score a split with a checkpoint, write the scores and print their metrics."""
    from chestxray import inputs, scores
    from chestxray.checkpoints import initial
    from chestxray.data.splits import PARTS
    from chestxray.evaluation.metrics import compute_metrics, metrics_table
    from chestxray.evaluation.predict import predict, scores_table
    from chestxray.runtime.files import check_room
    from chestxray.runtime.memory import reuse_freed_memory

    options, opened = inputs.open_checkpoint(options)
    assert opened is not None  # --test needs --ckpt
    say(*job.describe(options.bs))
    path = Path(options.scores or options.output / f"{opened.path.stem}_{options.split}_scores.csv")
    origin = inputs.scores_origin(options, opened, path)
    if job.writes and not options.overwrite:
        scores.refuse_foreign_files(path, origin)
    _, rows = inputs.read_rows(options, opened)
    network = initial.start_network(options.weights, options.seed, opened, job)
    if job.writes:
        check_room(path.parent, len(rows) * scores.ROW_BYTES)
    images = inputs.read_images(options, rows, job)
    inputs.check_same(options, opened, network, images, job)

    (data,) = images.datasets([PARTS], job.device, job.free_memory())
    reuse_freed_memory()
    logits, sigmoids = predict(
        network.folded_head(), data, options.bs, "scoring", job.check, job.processes
    )
    if job.writes:
        table = scores_table(images, logits, sigmoids)
        metrics = compute_metrics(table, options.ci, options.seed)
        beside = scores.write_with_metrics(path, table, origin, metrics.to_plain())
        say("", metrics_table(metrics), "", f"wrote {path}", f"wrote {beside}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
