"""Train a ResNet-50 on chest X-rays in stages, test it, and write scores for statistics.

    python main.py --bs 32 --lr 1e-4
    python main.py --resume --ckpt stage1_0001_04.pth --stage 2 --bs 32 --lr 1e-4
    python main.py --test --ckpt stage1_0001_08.pth

The flags are in README.md and in --help. This file reads the arguments and then goes through the
steps; each step has its room in the package chestxray.
"""

import argparse
import math
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chestxray.runtime.cli import Parser, number, run_command
from chestxray.runtime.distributed import silence_other_ranks
from chestxray.runtime.signals import Stopped, StopRequest

if TYPE_CHECKING:
    import torch

    from chestxray.runtime.processes import Processes

# What needs torch or pandas is imported where the steps begin: --help and wrong usage answer
# at once.

# Options that no checkpoint keeps, since they belong to a machine or to one command.
MACHINE = ("workers", "precision", "device", "output_dir", "cache_dir", "no_cache")
COMMAND = ("overwrite", "debug", "test", "split", "scores", "ci", "resume", "ckpt")


def learning_rate(word: str) -> float:
    rate = number(float, 0, 1, "a learning rate, 0 < lr < 1")(word)
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a learning rate, 0 < lr < 1")
    return float(rate)


def build_parser() -> Parser:
    at_least_0 = number(int, 0, math.inf, "a whole number, at least 0")
    at_least_1 = number(int, 1, math.inf, "a whole number, at least 1")
    seed = number(int, 0, 2**32 - 1, "a whole number, 0 to 4294967295")
    parser = Parser(
        prog="main.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a ResNet-50 on chest X-rays in stages, test it, write its scores.",
        epilog="""examples:
  python main.py --bs 32 --lr 1e-4                        stage 1, 4 epochs
  python main.py --resume --ckpt stage1_0001_04.pth --stage 2 --bs 32 --lr 1e-4
                                                          stage 2, 4 more
  python main.py --test --ckpt stage1_0001_08.pth         AUC table + scores CSV
  python main.py --resume                                 finish what was stopped

With --resume and --test, options that are not typed come from the checkpoint, those of the groups
evaluation and machine excepted. Every long flag may be written with dashes or underscores.""",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data_path",
        metavar="DIR",
        default="data",
        help="NIH images in any layout (default: data)",
    )
    data.add_argument(
        "--subset", metavar="FILE", help="use only the images named in it, one a line"
    )
    data.add_argument(
        "--split-seed",
        metavar="N",
        type=seed,
        default=0,
        help="draws the validation patients, and the test patients where no official list lies "
        "beside the table (default: 0)",
    )
    data.add_argument(
        "--max-per-class",
        metavar="N",
        type=at_least_0,
        default=10000,
        help="images of a class in an epoch, redrawn every epoch; 0: no cap (default: 10000)",
    )
    data.add_argument(
        "--size",
        metavar="N",
        type=number(int, 32, 4096, "a side in pixels, 32 to 4096"),
        default=224,
        help="side of the image that the network sees, in pixels (default: 224)",
    )
    data.add_argument(
        "--skip-bad-images",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="leave out images that cannot be read, and list them (default: they stop the run)",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--weights",
        metavar="W",
        default="imagenet",
        help="start of stage 1: imagenet, none, or the FILE of a ResNet-50 state dict; with none, "
        "stage 1 trains everything (default: imagenet)",
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--stage",
        type=int,
        choices=(1, 2, 3, 4),
        default=1,
        help="what trains: 1 layer2+layer3+layer4+fc, 2 layer3+layer4+fc, 3 layer4+fc, 4 fc "
        "(default: 1)",
    )
    training.add_argument(
        "--bs",
        "-b",
        "--batch-size",
        metavar="N",
        type=at_least_1,
        default=32,
        help="images a step, per process (default: 32)",
    )
    training.add_argument(
        "--lr",
        metavar="X",
        type=learning_rate,
        default=1e-4,
        help="learning rate of Adam, 0 < lr < 1 (default: 1e-4)",
    )
    training.add_argument(
        "--epochs", metavar="N", type=at_least_1, default=4, help="epochs of this run (default: 4)"
    )
    training.add_argument(
        "--loss_func",
        choices=("FocalLoss", "BCE"),
        default="FocalLoss",
        help="loss (default: FocalLoss)",
    )
    training.add_argument(
        "--resume",
        "-r",
        nargs="?",
        const=True,
        metavar="FILE",
        help="go on from FILE or --ckpt; alone: finish the newest unfinished run there",
    )
    training.add_argument(
        "--ckpt", metavar="FILE", help="a checkpoint, looked up as given, then in the output folder"
    )
    training.add_argument(
        "--seed",
        metavar="N",
        type=seed,
        default=0,
        help="of the first weights and the order of the images (default: 0)",
    )
    training.add_argument(
        "--save-minutes",
        metavar="X",
        type=number(float, 0, 1e6, "a number of minutes, at least 0"),
        default=10.0,
        help="also save inside an epoch after so long, in minutes (default: 10)",
    )
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--test",
        "-t",
        "--test-only",
        action="store_true",
        help="score a split with --ckpt, print the AUC table, write the scores CSV",
    )
    evaluation.add_argument(
        "--split",
        choices=("test", "val", "train", "all"),
        default="test",
        help="which images (default: test)",
    )
    evaluation.add_argument(
        "--scores",
        metavar="FILE",
        help="where the scores CSV goes (default: CHECKPOINT_SPLIT_scores.csv with the output)",
    )
    evaluation.add_argument(
        "--ci",
        metavar="N",
        type=at_least_0,
        default=0,
        help="bootstrap resamples over patients for AUC intervals, 1000 is usual (default: 0)",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--workers",
        "-j",
        metavar="N",
        type=number(int, 0, 1024, "a number of processes, 0 to 1024"),
        help="image-decoding processes; 0 works (default: 4, or as many as cores)",
    )
    machine.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 where the hardware computes in it, else fp32 (default: auto)",
    )
    machine.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="auto: cuda, else mps, else cpu; one that is not there is an error (default: auto)",
    )
    machine.add_argument(
        "--output-dir",
        metavar="DIR",
        default="checkpoints",
        help="all output (default: checkpoints)",
    )
    machine.add_argument(
        "--overwrite", action="store_true", help="a new run may replace another run's files"
    )
    machine.add_argument(
        "--cache-dir", metavar="DIR", default=".cache", help="decoded images (default: .cache)"
    )
    machine.add_argument(
        "--no-cache", action="store_true", help="keep decoded images in memory, not on the disk"
    )
    machine.add_argument("--debug", action="store_true", help="tracebacks")
    return parser


def check_usage(parser: Parser, args: argparse.Namespace, typed: dict[str, Any]) -> None:
    """Refuse flags that contradict each other (exit 2)."""
    for name in ("resume", "ckpt"):
        if typed.get(name) == "":
            parser.error(f"--{name} is followed by an empty name")
    named = args.resume if isinstance(args.resume, str) else None
    if args.resume and args.test:
        parser.error("--resume trains and --test does not: give one of them")
    if named and args.ckpt and named != args.ckpt:
        parser.error(f"--resume {named} and --ckpt {args.ckpt} name two checkpoints: give one")
    if args.test and not args.ckpt:
        parser.error("--test needs --ckpt FILE, the checkpoint to test")
    if args.ckpt and not (args.test or args.resume):
        parser.error("--ckpt goes with --resume (train on from it) or --test (score with it)")
    if args.test and args.stage > 1:
        parser.error(f"--stage {args.stage} is for training, and --test scores: leave it out")
    if args.stage > 1 and not args.resume:
        parser.error(f"--stage {args.stage} goes on from a checkpoint: add --resume --ckpt FILE")
    if not args.test:
        for name in ("split", "scores", "ci"):
            if name in typed:
                parser.error(f"--{name} goes with --test")
    if args.scores and not args.scores.endswith(".csv"):
        parser.error(f"--scores {args.scores} does not end in .csv")
    args.ckpt = args.ckpt or named


def main(argv: list[str] | None = None) -> int:
    silence_other_ranks()
    parser = build_parser()
    args, typed = parser.parse(sys.argv[1:] if argv is None else argv)
    check_usage(parser, args, typed)

    def work(stop: StopRequest) -> int:
        from chestxray.runtime.device import pick_device
        from chestxray.runtime.files import folder_lock
        from chestxray.runtime.processes import process_group

        device = pick_device(args.device)
        with process_group(device, stop.check) as processes:
            writes = processes.rank == 0 and not args.test
            with folder_lock(Path(args.output_dir)) if writes else nullcontext():
                return steps(parser, args, typed, stop, device, processes)

    return run_command(work, args.debug)


def steps(
    parser: Parser,
    args: argparse.Namespace,
    typed: dict[str, Any],
    stop: StopRequest,
    device: "torch.device",
    processes: "Processes",
) -> int:
    """What is done, in the order in which the data walk through; a test returns early."""
    import torch

    from chestxray import scores
    from chestxray.checkpoints import checkpoint, foreign, lookup
    from chestxray.data import cache
    from chestxray.data.dataset import MEAN, STD, ChestDataset, epoch_order
    from chestxray.data.entries import PARTS, read_entries
    from chestxray.data.splits import Split, assign_splits, check_training_part, rows_digest
    from chestxray.data.summary import describe_change, summary
    from chestxray.evaluation.metrics import metrics, table
    from chestxray.evaluation.predict import predict
    from chestxray.labels import CLASSES
    from chestxray.models import pretrained, resnet
    from chestxray.models.features import Features, keep_if_it_fits
    from chestxray.models.resnet import weights_digest
    from chestxray.runtime import memory
    from chestxray.runtime.device import compute_fp32_in_full, computes_in_bf16
    from chestxray.runtime.files import check_room, file_digest
    from chestxray.runtime.text import plural
    from chestxray.training import run as runs
    from chestxray.training import run_folder
    from chestxray.training.losses import LOSSES
    from chestxray.training.trainer import STEPS_BETWEEN_SYNCS, train

    output = Path(args.output_dir)
    first = processes.rank == 0  # who alone writes

    # The checkpoint, and the options that come from it
    stored: dict[str, Any] = {}
    path = Path()
    if args.test or args.resume:
        path, stored, notes = lookup.open_checkpoint(args.ckpt, output, args.test)
        bare = args.resume and not args.ckpt and not typed.keys() & {"epochs", "stage"}
        if bare and stored["epochs_done"] >= stored["epochs_planned"]:
            say(*notes)
            say(f"nothing to finish: {path} has all its {stored['epochs_planned']} epochs")
            return 0
        try:
            differences = runs.restore_options(vars(args), typed, stored)
        except ValueError as error:
            parser.error(str(error))
        say(*notes)
        say(*([f"going on from {path}", *differences] if args.resume else []))
    bf16 = args.precision == "bf16" or (args.precision == "auto" and computes_in_bf16(device))
    precision = "bf16" if bf16 else "fp32"
    if not bf16:
        compute_fp32_in_full()
    say(f"{device.type}, {precision}, {torch.get_num_threads()} CPU threads")
    say(processes.describe(args.bs))
    if args.resume:
        say(*lookup.other_machine(stored, precision, processes.size))

    # Where the output goes
    if args.test:
        target = Path(args.scores or output / f"{path.stem}_{args.split}_scores.csv")
        origin = scores.ScoresOrigin(
            target.name,
            path.name,
            args.split,
            stored["run_id"],
            stored["stage"],
            stored["epochs_done"],
        )
        if first and not args.overwrite:
            scores.refuse_foreign_files(target, origin)
    else:
        run = (
            runs.continue_run(stored, vars(args), more="epochs" in typed)
            if stored
            else runs.new_run(args.lr, args.epochs)
        )
        if stored and stored["images_done"] and not run.images_done:
            say("the epoch under way is not counted: a new stage begins between epochs")
        if first and not args.overwrite:
            run_folder.refuse_foreign_files(output, run)

    # Rows and their split
    found = read_entries(Path(args.data_path), Path(args.subset) if args.subset else None)
    say(*found.notes, *(describe_change(found, stored["table"]) if stored.get("table") else []))
    known = Split.from_plain(stored["split"]) if stored else None
    rows, notes = assign_splits(found, known, args.split_seed, args.test)
    say(*notes, summary(rows))
    if args.test and args.split != "all":
        rows = rows[rows["split"] == args.split]
    if rows.empty:
        raise ValueError(f"no image of {args.data_path} is in the split {args.split!r}")

    # The network, before the long part
    body = None
    if not stored and args.weights == "imagenet":
        with processes.local_rank_first(stop.check):
            body = pretrained.imagenet_weights()
    elif not stored and args.weights != "none":
        body = foreign.read_state_dict(Path(args.weights))
    network = resnet.build_model(len(CLASSES), args.seed, body)
    if stored:
        resnet.load_weights(network, stored["model"])
    network.to(device)
    network.bf16 = bf16
    if not args.test:
        network.set_trainable(resnet.trainable_parts(args.stage, args.weights == "none"))
    if first and args.test:
        check_room(target.parent, len(rows) * scores.ROW_BYTES)
    elif first:
        check_room(output, 2 * run_folder.checkpoint_bytes(network))

    # Images
    with processes.local_rank_first(stop.check, at_once=args.no_cache):
        images = cache.load_images(
            rows["path"].tolist(),
            args.size,
            source=Path(args.data_path),
            cache_dir=None if args.no_cache else Path(args.cache_dir),
            workers=min(4, os.cpu_count() or 1) if args.workers is None else args.workers,
            check=stop.check,
        )
    if images.broken:
        if not args.skip_bad_images:
            raise ValueError(cache.describe_broken(images.broken))
        say(*cache.describe_skipped(images.broken))
    readable = images.cache_index >= 0
    if not readable.any():
        raise ValueError(f"none of {plural(len(rows), 'image')} can be read")
    rows, cache_index = rows[readable], images.cache_index[readable]
    targets = rows[list(CLASSES)].to_numpy()
    processes.check_same(
        lambda: {
            "precision": f"{precision} on {device.type}",
            "options": shlex.join(f"{k}={v}" for k, v in vars(args).items() if k not in MACHINE),
            "checkpoint": file_digest(path) if stored else "none",
            "weights": weights_digest(network),
            "images": rows_digest(rows),
        },
        stop.check,
    )
    on_device = device.type == "cuda" and cache.fit_on_device(
        len(rows), args.size, memory.free_memory(device)
    )

    def part(*names: str) -> ChestDataset:
        mask = rows["split"].isin(names).to_numpy()
        return ChestDataset(
            rows["image"].to_numpy()[mask],
            images.pixels,
            cache_index[mask],
            targets[mask],
            device,
            resident=on_device,
        )

    if args.test:
        memory.reuse_freed_memory()
        logits, sigmoids = predict(
            network.folded_head(),
            part(*PARTS),
            args.bs,
            "scoring",
            processes.any_rank_stopped(stop),
            processes,
        )
        if not first:
            return 0
        patients = rows["patient"].to_numpy()
        figures = metrics(targets, sigmoids, patients, args.ci, args.seed)
        beside = scores.write_metrics(target, origin, figures)
        scores.write_scores(
            target,
            scores.Scores(
                image_names=rows["image"].to_numpy(),
                patients=patients,
                splits=rows["split"].to_numpy(),
                classes=CLASSES,
                targets=targets,
                logits=logits,
                scores=sigmoids,
            ),
        )
        say("", table(figures), "", f"wrote {target}", f"wrote {beside}")
        return 0

    # The stage: criterion, optimizer, and what every checkpoint of the run says
    criterion = LOSSES[args.loss_func]()
    optimizer = torch.optim.Adam(network.trainable_parameters(), lr=args.lr, fused=True)
    if stored and args.stage == stored["stage"]:
        runs.restore_optimizer(optimizer, stored["optimizer"])
    folder = run_folder.RunFolder(
        output,
        {
            "format": checkpoint.FORMAT,
            "arch": resnet.ARCH,
            "classes": list(CLASSES),
            "split": (
                known or Split.from_rows(rows, args.split_seed, found.lists is not None)
            ).to_plain(),
            "size": args.size,
            "mean": list(MEAN),
            "std": list(STD),
            "args": {
                name: value for name, value in vars(args).items() if name not in MACHINE + COMMAND
            },
            "versions": checkpoint.versions(),
            "threads": torch.get_num_threads(),
            "processes": processes.size,
            "precision": precision,
            "table": {"files": found.fingerprint, "labels": found.label_counts()},
        },
    )
    train_set, val_set = part("train"), part("val")
    if run.images_done and known:
        same_tables = found.fingerprint == stored["table"]["files"]
        check_training_part(train_set.image_names, known, same_tables)

    def keep_epoch() -> None:
        line = folder.save_epoch(run, network, optimizer)
        memory.return_freed_memory()
        say(line)

    def save_partial_epoch() -> None:
        folder.save_partial_epoch(run, network, optimizer)

    def scorer() -> resnet.FoldedNetwork:
        processes.broadcast_buffers(network)
        return network.folded_head()

    frozen = network.frozen_stem()
    train_features, val_features = Features(train_set, frozen), Features(val_set, frozen)
    try:
        if args.stage > 1 and processes.size > 1:
            say("several processes: what the frozen layers make is computed again in every epoch")
        elif args.stage > 1:
            free = memory.free_memory(device)
            say(keep_if_it_fits([train_features, val_features], free, stop.check))
        train(
            run,
            processes.wrap(network, stop.check),
            criterion,
            optimizer,
            train_features,
            val_features,
            batch_size=args.bs,
            order_of=lambda epoch: epoch_order(
                train_set.targets, args.seed, epoch, args.max_per_class
            ),
            save_seconds=60 * args.save_minutes,
            save_epoch=keep_epoch if first else lambda: None,
            save_partial_epoch=save_partial_epoch if first else lambda: None,
            check=processes.any_rank_stopped(stop),
            scorer=scorer,
            sync_every=1 if device.type == "cpu" else STEPS_BETWEEN_SYNCS,
            processes=processes,
        )
    except Stopped:
        typed_here = "".join(
            f" --{name.replace('_', '-')}"
            + ("" if typed[name] is True else f" {shlex.quote(str(typed[name]))}")
            for name in MACHINE
            if name in typed
        )
        say(folder.resume_hint(run, processes.command, typed_here))
        raise
    return 0


def say(*lines: str | None) -> None:
    for line in lines:
        if line is not None:
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
