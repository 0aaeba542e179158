"""Scores, and prediction sets, for images that nobody has labelled.

    python -m chestxray.predict DIR --ckpt stage2_0001_08.pth --thresholds thresholds.json

The flags are in docs/cli.md and in --help, the files in docs/files.md.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chestxray.options import (
    ELSEWHERE,
    add_batch_size,
    add_machine_flags,
    add_reading_flags,
    decoding_processes,
)
from chestxray.runtime.cli import Parser, run_command, say
from chestxray.runtime.distributed import silence_other_ranks
from chestxray.runtime.signals import StopRequest

if TYPE_CHECKING:
    from chestxray.data.cache import DecodedImages
    from chestxray.data.unlabelled import UnlabelledImages
    from chestxray.prediction import Thresholds
    from chestxray.runtime.job import Job

# Torch and pandas are imported where the steps begin: --help and wrong usage answer at once.


def main(argv: list[str] | None = None) -> int:
    """Score images from the command line; returns the exit code."""
    silence_other_ranks()
    options, _ = build_parser().parse(sys.argv[1:] if argv is None else argv)
    return run_command(partial(run, options), options.debug)


def run(options: argparse.Namespace, stop: StopRequest) -> int:
    """Check all that can be checked without a network, then score."""
    from chestxray.data.dicom import install_hint
    from chestxray.data.unlabelled import find_unlabelled

    images = find_unlabelled(options.images)
    missing = install_hint()
    if missing and "DICOM" in images.counts():
        build_parser().error(missing)

    from chestxray.data.patient_names import read_patient_table
    from chestxray.prediction import read_thresholds
    from chestxray.runtime.job import join_job

    say(*images.describe())
    thresholds = read_thresholds(options.thresholds) if options.thresholds else None
    if options.patients:
        images.rows["patient"] = read_patient_table(options.patients, images.rows["image"])
    with join_job(options.device, options.precision, stop) as job:
        return score(options, images, thresholds, job)


def score(
    options: argparse.Namespace,
    images: "UnlabelledImages",
    thresholds: "Thresholds | None",
    job: "Job",
) -> int:
    """Decode, score, and write what came of it."""
    from chestxray import prediction
    from chestxray.checkpoints.initial import start_network
    from chestxray.checkpoints.lookup import open_to_test
    from chestxray.data.patient_names import with_patients
    from chestxray.data.workset import keep_readable
    from chestxray.evaluation.predict import predict, scores_table
    from chestxray.models.network import weights_digest
    from chestxray.runtime.memory import reuse_freed_memory

    opened = open_to_test(str(options.ckpt), prediction.CHECKPOINTS)
    say(*opened.notes, prediction.note_on_size(opened), *job.describe(options.bs))
    origin = prediction.Origin.of(opened, job, choices_of(options))
    if job.writes:
        origin.check_folder(options.out, options.overwrite)
    decoded = decode(options, images, origin.size, job)
    workset, skipped = keep_readable(images.rows, decoded, options.skip_bad_images)
    workset, named = with_patients(workset, options.patients)
    say(*skipped, named)
    network = start_network("none", 0, opened, job)
    job.check_same(
        checkpoint=opened.digest,
        weights=partial(weights_digest, network),
        images=lambda: prediction.digest_of(workset),
    )
    reuse_freed_memory()
    dataset = workset.dataset(job.device, job.free_memory())
    logits, sigmoids = predict(
        network.folded_head(), dataset, options.bs, "scoring", job.check, job.processes
    )
    if job.writes:
        table = scores_table(workset, logits, sigmoids)
        found = prediction.Prediction(origin, images, decoded, table, named, thresholds)
        read = [path for path in (options.patients, options.thresholds) if path]
        say(*found.write(options.out, *read))
    return 0


def choices_of(options: argparse.Namespace) -> dict[str, object]:
    """What another command must share to replace the files of this one."""
    from chestxray.runtime.files import file_digest

    files = {"patients": options.patients, "thresholds": options.thresholds}
    return {
        "images": [str(path.resolve()) for path in options.images],
        "bits": options.bits,
        "skip_bad_images": options.skip_bad_images,
        **{name: file_digest(path) if path else None for name, path in files.items()},
    }


def decode(
    options: argparse.Namespace, images: "UnlabelledImages", size: int, job: "Job"
) -> "DecodedImages":
    """Decode the images, or take them from the cache, and say what was noted of them."""
    from chestxray.data.cache import describe_notes, load_images

    with job.processes.local_rank_first(job.stop.check, at_once=options.no_cache):
        decoded = load_images(
            images.rows["path"].tolist(),
            size,
            images.source,
            None if options.no_cache else Path(options.cache_dir),
            decoding_processes(options.workers),
            job.stop.check,
            options.bits,
        )
    say(*describe_notes(decoded.notes))
    return decoded


def _path(word: str) -> Path:
    """A type for argparse: an empty word, of a variable that is not set, is no name."""
    if not word:
        raise argparse.ArgumentTypeError("an empty name")
    return Path(word)


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m chestxray.predict",
        elsewhere=ELSEWHERE,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Score images that nobody has labelled: PNG, JPEG or DICOM (with the extra).",
        epilog="""examples:
  python -m chestxray.predict FOLDER --ckpt stage2_0001_08.pth
  python -m chestxray.predict a.png b.dcm --ckpt stage2_0001_08.pth --thresholds thresholds.json

An image is called by its path below FOLDER; names of files are written out, so they should tell
nothing of a patient. Not a medical device: nothing here may guide anyone's care.""",
    )
    parser.add_argument(
        "images", nargs="+", metavar="DIR|FILE", type=_path, help="images, or folders of them"
    )
    parser.add_argument(
        "--ckpt",
        metavar="FILE",
        type=_path,
        required=True,
        help="a checkpoint, looked up as given, then in checkpoints",
    )
    parser.add_argument(
        "--thresholds",
        metavar="FILE",
        type=_path,
        help="thresholds.json of a calibration: also write a prediction set for each image",
    )
    parser.add_argument(
        "--patients",
        metavar="CSV",
        type=_path,
        help="columns image and patient: whose each image is (default: of DICOM files p0001, p0002 "
        "and so on, by PatientID, which is never written)",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=_path,
        default=Path("predictions"),
        help="where the files go (default: predictions)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another prediction's files there"
    )
    add_batch_size(parser)
    add_reading_flags(parser)
    add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
