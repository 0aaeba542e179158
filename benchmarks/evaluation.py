"""Scoring against a plain PyTorch loop, and against the network alone.

python -m benchmarks.evaluation --json evaluation.json

(a) plain: benchmarks/plain.py. (b) project: predict on the decoded pictures of a warm cache.
(c) ceiling: the same network and precision on one batch that lies in memory.
"""

import torch

from benchmarks import plain
from benchmarks.race import BATCH, SIZE, Lap, Track, arguments, race, ratio, report
from benchmarks.training import CPU, loaded
from chestxray import machine, model
from chestxray.evaluator import predict

PROMISED = {"project_over_plain": 4.0, "project_over_ceiling": 0.95}


def whole_network() -> model.Constant:
    machine.reuse_freed_memory()
    network = model.build_model(15, seed=0)
    network.bf16 = machine.computes_in_bf16(CPU)
    return network.trained_part()


def project(track: Track) -> Lap:
    scorer, dataset = whole_network(), loaded(track, track.scratch / "cache")
    return lambda: len(predict(scorer, dataset, BATCH, "scoring")[1])


def ceiling(track: Track) -> Lap:
    scorer = whole_network()
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    steps = len(track.paths) // BATCH

    def lap() -> int:
        with torch.inference_mode():
            for _ in range(steps):
                scorer(images)
        return steps * BATCH

    return lap


def main() -> None:
    args = arguments(__doc__, pictures=512)
    found = race({"plain": plain.evaluation, "project": project, "ceiling": ceiling}, args)
    ratios = {
        "project_over_plain": ratio(found, "project", "plain"),
        "project_over_ceiling": ratio(found, "project", "ceiling"),
    }
    report(found, ratios, PROMISED, args)


if __name__ == "__main__":
    main()
