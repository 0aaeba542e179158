"""main.py's flags: what may be typed, what contradicts what, and what a checkpoint adds."""

import argparse
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

from chestxray.runtime.cli import Parser, number

# Options that no checkpoint keeps, since they belong to a machine or to one command.
MACHINE = ("workers", "precision", "device", "output_dir", "cache_dir", "no_cache")
COMMAND = ("overwrite", "debug", "test", "split", "scores", "ci", "same_patients", "resume", "ckpt")
# Options that all runs of a lineage share, since images, weights and split depend on them; and
# those that an epoch under way cannot change, since its order and its mean loss depend on them.
FIXED_IN_LINEAGE = ("size", "bits", "seed", "split_seed")
FIXED_IN_EPOCH = ("max_per_class", "loss_func")
# What other trainers call our flags.
ELSEWHERE = {
    "learning-rate": "lr",
    "checkpoint": "ckpt",
    "image-size": "size",
    "img-size": "size",
    "num-epochs": "epochs",
    "pretrained": "weights",
    "root": "data-path",
}


@dataclass(frozen=True)
class Options:
    """The options of one command, named like their flags; `typed` names those that were typed."""

    data_path: str
    subset: str | None
    split_seed: int
    max_per_class: int
    size: int
    bits: int
    skip_bad_images: bool
    weights: str
    stage: int
    bs: int
    lr: float
    epochs: int
    loss_func: str
    resume: bool
    ckpt: str | None
    seed: int
    save_minutes: float
    test: bool
    split: str
    scores: str | None
    ci: int
    same_patients: bool
    workers: int | None
    precision: str
    device: str
    output_dir: str
    overwrite: bool
    cache_dir: str
    no_cache: bool
    debug: bool
    typed: frozenset[str] = frozenset()

    @property
    def output(self) -> Path:
        return Path(self.output_dir)

    @property
    def cache(self) -> Path | None:
        """The folder of decoded images; None keeps them in memory."""
        return None if self.no_cache else Path(self.cache_dir)

    @property
    def decoders(self) -> int:
        """Image-decoding processes."""
        return decoding_processes(self.workers)

    @property
    def finishes_only(self) -> bool:
        """A bare --resume, which asks for no epoch beyond those planned."""
        return self.resume and not self.ckpt and not self.typed & {"epochs", "stage"}

    def kept(self) -> dict[str, object]:
        """The options that a checkpoint keeps, as plain values."""
        names = [field.name for field in fields(self) if field.name != "typed"]
        return {name: getattr(self, name) for name in names if name not in MACHINE + COMMAND}

    def describe(self) -> str:
        """The options that all processes of a job must share, in a line."""
        names = [field.name for field in fields(self) if field.name not in (*MACHINE, "typed")]
        return shlex.join(f"{name}={getattr(self, name)}" for name in names)

    def typed_machine_flags(self) -> str:
        """The typed flags of the group machine, as they have to be typed again to resume."""
        words = []
        for name in MACHINE:
            if name in self.typed:
                value = getattr(self, name)
                words += [_flag(name)] + ([] if value is True else [shlex.quote(str(value))])
        return "".join(f" {word}" for word in words)

    def merged_with(
        self, kept: Mapping[str, object], epoch_under_way: bool
    ) -> tuple["Options", list[str]]:
        """Fill in a checkpoint's options where nothing was typed.

        Args:
            kept: the checkpoint's options.
            epoch_under_way: the checkpoint lies inside an epoch.

        Returns:
            The options, and the differences to the checkpoint in words.

        A typed option that the lineage, or the epoch under way, cannot change is wrong usage.
        """
        changes: dict[str, object] = {}
        kept, differences = self._without_other_files(kept)
        same_stage = "stage" not in self.typed or self.stage == kept["stage"]
        for name, value in kept.items():
            ours = getattr(self, name)
            if name not in self.typed or name == "weights":  # they also say what stage 1 trains
                changes[name] = value
            if name not in self.typed or ours == value:
                continue
            differs = f"{_flag(name)} {ours} is not the checkpoint's {value}"
            # Images to test with may come from another machine, with other bits.
            if name in FIXED_IN_LINEAGE and not (name == "bits" and self.test):
                refuse_usage(
                    f"{differs}, which is fixed for the whole lineage; leave it out, or start a "
                    "new run"
                )
            if name in FIXED_IN_EPOCH and epoch_under_way and same_stage:
                refuse_usage(
                    f"{differs}, which is fixed for the epoch under way; leave it out, or resume "
                    "from the checkpoint of a finished epoch"
                )
            differences.append(
                f"{_flag(name)} {ours} has no effect: the weights come from the checkpoint, whose "
                f"lineage began with {value}"
                if name == "weights"
                else f"{_flag(name)} {ours} instead of the checkpoint's {value}"
            )
        return Options(**vars(self) | changes), differences

    def _without_other_files(
        self, kept: Mapping[str, object]
    ) -> tuple[Mapping[str, object], list[str]]:
        """A checkpoint's options for a test, without its list of images of another data folder.

        A resumed run keeps the list: its images are the ones of its split, wherever they lie now.
        """
        folders = os.path.realpath(self.data_path), os.path.realpath(str(kept["data_path"]))
        elsewhere = self.test and "data_path" in self.typed and folders[0] != folders[1]
        if not elsewhere or "subset" in self.typed or not kept["subset"]:
            return kept, []
        return {**kept, "subset": None}, [
            f"the checkpoint's --subset {kept['subset']} is left out: it lists images of "
            f"{kept['data_path']}, not of {self.data_path}"
        ]


def parse_options(argv: list[str]) -> Options:
    """The options of a command line; wrong usage is said in a line and exits with 2."""
    parser = build_parser()
    args, typed = parser.parse(argv)
    for name, value in typed.items():
        if value == "":
            parser.error(f"{_flag(name)} is followed by an empty name")
    if isinstance(args.resume, str):
        if args.ckpt not in (None, args.resume):
            parser.error(
                f"--resume {args.resume} and --ckpt {args.ckpt} name two checkpoints: give one"
            )
        args.ckpt = args.resume
    args.resume = args.resume is not None
    options = Options(**vars(args), typed=frozenset(typed))
    fault = _contradiction(options)
    if fault:
        parser.error(fault)
    return options


def decoding_processes(workers: int | None) -> int:
    """The number that --workers stands for."""
    return min(4, os.cpu_count() or 1) if workers is None else workers


def refuse_usage(message: str) -> NoReturn:
    """End the command as wrong usage does, where only a checkpoint shows that it is wrong."""
    build_parser().error(message)


def _contradiction(options: Options) -> str | None:
    """The fault of a combination of flags; None where there is none."""
    of_test = ("split", "scores", "ci", "same_patients")
    beside_test = [_flag(n) for n in of_test if n in options.typed and not options.test]
    rules = {
        "--resume trains and --test does not: give one of them": options.resume and options.test,
        "--test needs --ckpt FILE, the checkpoint to test": options.test and not options.ckpt,
        "--ckpt goes with --resume (train on from it) or --test (score with it)": (
            options.ckpt and not (options.test or options.resume)
        ),
        f"--stage {options.stage} is for training, and --test scores: leave it out": (
            options.test and options.stage > 1
        ),
        f"--stage {options.stage} continues from a checkpoint: add --resume --ckpt FILE": (
            options.stage > 1 and not options.resume
        ),
        f"{''.join(beside_test[:1])} goes with --test": beside_test,
        f"--scores {options.scores} does not end in .csv": (
            options.scores and not options.scores.endswith(".csv")
        ),
    }
    return next((message for message, broken in rules.items() if broken), None)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _learning_rate(word: str) -> float:
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
        elsewhere=ELSEWHERE,
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
    add_reading_flags(data)
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
    add_batch_size(training)
    training.add_argument(
        "--lr",
        metavar="X",
        type=_learning_rate,
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
        help="resume from FILE or --ckpt; alone: finish the newest unfinished run there",
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
    evaluation.add_argument(
        "--same-patients",
        action="store_true",
        help="leave out patients whose ids trained or validated, also in a data folder that shares "
        "no image with the training's (default: there they are other people)",
    )
    machine = add_machine_flags(parser)
    machine.add_argument(
        "--output-dir",
        metavar="DIR",
        default="checkpoints",
        help="all output (default: checkpoints)",
    )
    machine.add_argument(
        "--overwrite", action="store_true", help="a new run may replace another run's files"
    )
    return parser


def add_reading_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags that say how image files are read."""
    group.add_argument(
        "--bits",
        metavar="N",
        type=number(int, 8, 16, "a number of bits, 8 to 16"),
        default=16,
        help="bits that the values of 16-bit images have, 12 from many machines: 2^N - 1 is white "
        "(default: 16)",
    )
    group.add_argument(
        "--skip-bad-images",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="leave out images that cannot be read, and list them (default: they stop the run)",
    )


def add_batch_size(group: argparse._ActionsContainer) -> None:
    """Add --bs."""
    group.add_argument(
        "--bs",
        "-b",
        "--batch-size",
        metavar="N",
        type=number(int, 1, math.inf, "a whole number, at least 1"),
        default=32,
        help="images a step, per process (default: 32)",
    )


def add_machine_flags(parser: Parser) -> argparse._ArgumentGroup:
    """Add the group of the flags that belong to a machine, which every command has."""
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
        "--cache-dir", metavar="DIR", default=".cache", help="decoded images (default: .cache)"
    )
    machine.add_argument(
        "--no-cache", action="store_true", help="keep decoded images in memory, not on the disk"
    )
    machine.add_argument("--debug", action="store_true", help="tracebacks")
    return machine
