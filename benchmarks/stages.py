"""An epoch of each stage, validation and saving included, on the recipe's network at 224 pixels.

python -m benchmarks.stages --json stages.json

The images are random, which does not change the work; a tenth of them validates. From stage 2 on
the feature maps of the frozen layers are kept, as from the second epoch of such a stage; filling is
timed separately.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import variants
from benchmarks.harness import Spread, build_parser, seconds, this_machine, write_json
from chestxray.data.dataset import ChestDataset, epoch_order

EPOCHS = {1: 1, 2: 1, 3: 3, 4: 3}
PROMISED = {2: 1.4, 3: 3.5, 4: 50.0}  # times as fast as an epoch of stage 1, at least


@dataclass(frozen=True)
class StageTimes:
    """Seconds of each epoch and of filling the store, and whether the maps are kept."""

    epochs: list[float]
    filling: float
    kept: str | None


def main() -> None:
    args = build_parser(__doc__, images=4000, least=3).parse_args()
    print(this_machine())
    validation = -(-args.images // 10)
    train_set = variants.random_dataset(args.images - validation)
    val_set = variants.random_dataset(validation)
    times: dict[int, StageTimes] = {}
    faster: dict[int, float] = {}  # times as fast as stage 1
    for stage in EPOCHS:
        times[stage] = measure_stage(stage, train_set, val_set)
        stage_1, epoch = (Spread.of(times[number].epochs).median for number in (1, stage))
        faster[stage] = stage_1 / epoch
        print(describe(stage, times[stage], faster[stage]), flush=True)
    found = {stage: {**asdict(times[stage]), "times_stage_1": faster[stage]} for stage in times}
    write_json(args.json, {"images": args.images, "stages": found})


def describe(stage: int, times: StageTimes, faster: float) -> str:
    shown = ", ".join(f"{epoch:.1f}" for epoch in times.epochs)
    line = f"stage {stage}: epoch {shown} s"
    if stage in PROMISED:
        line += f", {faster:.1f} times as fast as stage 1 (promised: {PROMISED[stage]:g})"
        line += f"; filling {times.filling:.1f} s: {times.kept}"
    return line


def measure_stage(stage: int, train_set: ChestDataset, val_set: ChestDataset) -> StageTimes:
    training = variants.start_training(stage, epochs=EPOCHS[stage])
    parts = [training.features(train_set), training.features(val_set)]
    began = time.perf_counter()
    kept = variants.keep_features(parts) if stage > 1 else None
    filling = time.perf_counter() - began

    def epoch() -> None:
        order = epoch_order(train_set.targets, 0, training.run.epochs_done, 10000)
        variants.train_epoch(training, parts[0], order)
        variants.finish_epoch(training, parts[1])
        variants.save_epoch(training, folder)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        epochs = [seconds(epoch) for _ in range(EPOCHS[stage])]
    return StageTimes(epochs, filling, kept)


if __name__ == "__main__":
    main()
