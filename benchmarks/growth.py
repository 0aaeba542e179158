"""What grows with the images and the epochs, and how long 112,120 take to the first batch.

python -m benchmarks.growth --json growth.json

Epochs of 1,000, 4,000 and 16,000 drawn images of 64 px, of the whole network; memory after some
epochs of a run. The start with all images runs main.py itself, batch 32 at 224 px, on empty
image files and a cache that says it holds them (a sparse file), until its first checkpoint.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.race import described, machine
from benchmarks.tables import made, make_images, released
from chestxray.data.cache import cache_file
from chestxray.data.entries import TEST_LIST, TRAIN_VAL_LIST
from chestxray.data.tables import read_table
from chestxray.phantom import draw_dataset

MAIN = Path(__file__).resolve().parents[1] / "main.py"
COUNTS, SIDE = (1_000, 4_000, 16_000), 64
EPOCHS = (2, 12, 42)
PROMISED_START, PROMISED_MEMORY = 15.0, 1.5  # seconds; GB beside the model
MODEL = 25.6e6 * 4 * 4  # bytes: weights, gradients and the two moments of Adam


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    print(described(machine()))
    with tempfile.TemporaryDirectory() as name:
        found = {
            "start": start(Path(name) / "start"),
            "epochs": [epochs(Path(name) / str(count), count) for count in COUNTS],
            "memory": memory(Path(name) / "memory"),
        }
    if args.json:
        content = {"machine": machine(), **found}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def command(data: Path, *words: object) -> list[str]:
    words = ("--data_path", data, "--weights", "none", *words)
    return [sys.executable, str(MAIN), *map(str, words)]


def start(folder: Path) -> dict[str, float]:
    """Seconds from the command to the first batch's checkpoint, and the memory of the process."""
    data, cache, out = folder / "data", folder / "cache", folder / "out"
    cache.mkdir(parents=True)
    table, lists, _ = released() or made(folder)
    make_images(data, read_table(table).rows["image"].tolist())
    for source in (table, lists / TEST_LIST, lists / TRAIN_VAL_LIST):
        shutil.copy(source, data)
    pixels = cache_file(cache, 224, data)
    names = {path.name: path.stat() for path in data.rglob("*.png")}
    keys = "".join(f"{name}\t{s.st_size}\t{s.st_mtime_ns}\n" for name, s in names.items())
    pixels.with_suffix(".index").write_text(keys, encoding="utf-8")
    with open(pixels, "wb") as file:
        os.truncate(file.fileno(), len(names) * 224**2)
    words = ("--cache-dir", cache, "--output-dir", out, "--save-minutes", 0)
    began = time.perf_counter()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command(data, *words), stdout=log, stderr=log)
        while not (out / "last.pth").exists() and process.poll() is None:
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        private = _anonymous(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait()
    if process.returncode != 128 + signal.SIGTERM:
        raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
    print(
        f"{len(names):,} images: {seconds:.1f} s to the first batch and its checkpoint "
        f"(promised: under {PROMISED_START:g} s), {(private - MODEL) / 1e9:.2f} GB of private "
        f"memory beside the model (promised: under {PROMISED_MEMORY:g} GB)",
        flush=True,
    )
    return {"images": len(names), "seconds": seconds, "private_bytes": private}


def epochs(folder: Path, count: int) -> dict[str, Any]:
    """Seconds of the epochs of a run, per image that it trains on."""
    draw_dataset(folder / "data", n=count, size=SIDE)
    words = ("--size", SIDE, "--epochs", 3, "--max-per-class", 0, "--output-dir", folder / "out")
    subprocess.run(
        command(folder / "data", *words, "--cache-dir", folder / "cache"),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lines = (folder / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    times = [1000 * record["seconds"] / record["images"] for record in records]
    print(
        f"{records[0]['images']:>6,} images an epoch: {statistics.median(times):.2f} "
        f"({min(times):.2f}-{max(times):.2f}) ms a image, validation included",
        flush=True,
    )
    return {"images": records[0]["images"], "milliseconds": times}


def memory(folder: Path) -> dict[str, int]:
    """Private memory after some epochs of one run."""
    draw_dataset(folder / "data", n=300, size=SIDE)
    words = ("--size", SIDE, "--epochs", EPOCHS[-1] + 1, "--output-dir", folder / "out")
    found = {}
    process = subprocess.Popen(
        command(folder / "data", *words, "--cache-dir", folder / "cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        ended = re.match(r"epoch (\d+)/", line)
        if ended and int(ended[1]) in EPOCHS:
            found[f"epoch_{ended[1]}"] = _anonymous(process.pid)
        for path in (folder / "out").glob("stage*.pth"):
            path.unlink()  # last.pth is its second name
    process.wait()
    print("private memory " + ", ".join(f"after {k}: {v / 1e9:.3f} GB" for k, v in found.items()))
    return found


def _anonymous(pid: int) -> int:
    """Bytes of a process that belong to no file."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
