"""Decoding of a data folder ahead of time, so that later runs begin at once.

python -m chestxray.data.prepare DIR
"""

import os
import sys
from pathlib import Path

from chestxray.data.cache import describe_notes, describe_skipped, load_images
from chestxray.runtime.cli import Parser, number, run_command, say
from chestxray.runtime.signals import StopRequest
from chestxray.runtime.text import plural


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m chestxray.data.prepare",
        allow_abbrev=False,
        description="Decode the images of a data folder ahead of time, for every later run.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="as main.py's --data_path")
    parser.add_argument(
        "--size",
        metavar="N",
        type=number(int, 32, 4096, "a side in pixels, 32 to 4096"),
        default=224,
        help="side of the decoded images, in pixels (default: 224)",
    )
    parser.add_argument(
        "--bits",
        metavar="N",
        type=number(int, 8, 16, "a number of bits, 8 to 16"),
        default=16,
        help="as main.py's --bits (default: 16)",
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", type=Path, default=Path(".cache"), help="(default: .cache)"
    )
    parser.add_argument(
        "--workers",
        "-j",
        metavar="N",
        type=number(int, 0, 1024, "a number of processes, 0 to 1024"),
        default=os.cpu_count() or 1,
        help="decoding processes; 0 works (default: as many as cores)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Decode a data folder ahead of time; returns the exit code."""
    args, _ = build_parser().parse(sys.argv[1:] if argv is None else argv)

    def work(stop: StopRequest) -> int:
        # With pandas, which decoding processes need not load.
        from chestxray.data.entries import read_entries

        entries = read_entries(args.folder)
        say(*entries.notes)
        paths = entries.rows["path"].tolist()
        images = load_images(
            paths, args.size, args.folder, args.cache_dir, args.workers, stop.check, args.bits
        )
        say(*describe_notes(images.notes))
        ready = len(paths) - len(images.broken)
        say(f"{plural(ready, 'image')} of {args.size} pixels a side ready in {args.cache_dir}")
        if images.broken:
            print(*describe_skipped(images.broken), sep="\n", file=sys.stderr)
        return 1 if images.broken else 0

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
