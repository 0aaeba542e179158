"""Growth of time and memory with images and epochs, and the start with 112,120 images.

python -m benchmarks.growth --json growth.json

Epochs of 1,000, 4,000 and 16,000 drawn images of 64 px, of the whole network; memory after some
epochs of a run. The start with all images runs main.py itself, batch 32 at 224 px, on empty
image files and a cache that claims to hold them (a sparse file), until its first checkpoint.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Spread, build_parser, main_command, this_machine, write_json
from benchmarks.tables import find_or_make_table, make_images
from chestxray.data.cache import cache_file
from chestxray.data.entries import TEST_LIST, TRAIN_VAL_LIST
from chestxray.data.tables import read_table
from chestxray.phantom import draw_dataset

COUNTS, SIDE = (1_000, 4_000, 16_000), 64
EPOCHS = (2, 12, 42)
PROMISED_START, PROMISED_MEMORY = 15.0, 1.5  # seconds; GB beside the model
MODEL = 25.6e6 * 4 * 4  # bytes: weights, gradients and the two moments of Adam


def main() -> None:
    args = build_parser(__doc__).parse_args()
    print(this_machine())
    with tempfile.TemporaryDirectory() as name:
        content = {
            "start": measure_start(Path(name) / "start"),
            "epochs": [measure_epochs(Path(name) / str(count), count) for count in COUNTS],
            "memory": measure_memory(Path(name) / "memory"),
        }
    write_json(args.json, content)


def command(folder: Path, *options: object) -> list[str]:
    folders = (folder / "data", folder / "cache", folder / "out")
    return main_command(*folders, "--weights", "none", *options)


def measure_start(folder: Path) -> dict[str, float]:
    """Seconds from the command to the first batch's checkpoint, and memory of the process."""
    images = fake_cached_images(folder)
    last = folder / "out" / "last.pth"
    began = time.perf_counter()
    with open(folder / "log", "wb") as log:
        words = command(folder, "--save-minutes", 0)
        process = subprocess.Popen(words, stdout=log, stderr=log)
        while not last.exists() and process.poll() is None:
            time.sleep(0.02)
        elapsed = time.perf_counter() - began
        private = private_memory(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait()
    if process.returncode != 128 + signal.SIGTERM:
        raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
    print(
        f"{images:,} images: {elapsed:.1f} s to the first batch and its checkpoint "
        f"(promised: under {PROMISED_START:g} s), {(private - MODEL) / 1e9:.2f} GB of private "
        f"memory beside the model (promised: under {PROMISED_MEMORY:g} GB)",
        flush=True,
    )
    return {"images": images, "seconds": elapsed, "private_bytes": private}


def fake_cached_images(folder: Path) -> int:
    """Make the NIH layout of empty images and a cache file that claims to hold them."""
    data, cache = folder / "data", folder / "cache"
    cache.mkdir(parents=True)
    table, lists, _ = find_or_make_table(folder)
    make_images(data, read_table(table).rows["image"].tolist())
    for source in (table, lists / TEST_LIST, lists / TRAIN_VAL_LIST):
        shutil.copy(source, data)
    pixels = cache_file(cache, 224, data)
    stats = {path.relative_to(data): path.stat() for path in data.rglob("*.png")}
    keys = "".join(f"{name}\t{s.st_size}\t{s.st_mtime_ns}\n" for name, s in stats.items())
    pixels.with_suffix(".index").write_text(keys, encoding="utf-8")
    pixels.touch()
    os.truncate(pixels, len(stats) * 224**2)
    return len(stats)


def measure_epochs(folder: Path, count: int) -> dict[str, object]:
    """Milliseconds per training image of each epoch of a run."""
    draw_dataset(folder / "data", n=count, size=SIDE)
    subprocess.run(
        command(folder, "--size", SIDE, "--epochs", 3, "--max-per-class", 0),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lines = (folder / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    times = [1000 * record["seconds"] / record["images"] for record in records]
    images = records[0]["images"]
    print(
        f"{images:>6,} images per epoch: {Spread.of(times):.2f} ms per image, validation included",
        flush=True,
    )
    return {"images": images, "milliseconds": times}


def measure_memory(folder: Path) -> dict[str, int]:
    """Private memory after some epochs of one run."""
    draw_dataset(folder / "data", n=300, size=SIDE)
    found = {}
    process = subprocess.Popen(
        command(folder, "--size", SIDE, "--epochs", EPOCHS[-1] + 1),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        ended = re.match(r"epoch (\d+)/", line)
        if ended and int(ended[1]) in EPOCHS:
            found[f"epoch_{ended[1]}"] = private_memory(process.pid)
        for path in (folder / "out").glob("stage*.pth"):
            path.unlink()  # last.pth is its second name
    process.wait()
    print("private memory " + ", ".join(f"after {k}: {v / 1e9:.3f} GB" for k, v in found.items()))
    return found


def private_memory(pid: int) -> int:
    """Bytes of a process that belong to no file."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
