"""The keys of a checkpoint, each with its kind and its range."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class _Kind:
    """A test of a value, and in words what passes it."""

    passes: Callable[[Any], bool]
    words: str


def _whole(low: int, high: int = 2**63) -> _Kind:
    words = f"a whole number, at least {low}" + (f" and at most {high:,}" if high < 2**63 else "")
    return _Kind(lambda v: type(v) is int and low <= v <= high, words)


def _number(low: float) -> _Kind:
    def passes(value: Any) -> bool:
        return type(value) in (int, float) and low <= value < math.inf

    return _Kind(passes, f"a finite number, at least {low:g}")


def _optional(kind: _Kind) -> _Kind:
    return _Kind(lambda v: v is None or kind.passes(v), f"{kind.words}, or None")


def _one_of(*allowed: Any) -> _Kind:
    return _Kind(lambda v: type(v) in map(type, allowed) and v in allowed, f"one of {allowed}")


def _by_name(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(
        type(key) is str and isinstance(item, kind) for key, item in value.items()
    )


_TEXT = _Kind(lambda v: type(v) is str, "a text")
_TRUTH = _Kind(lambda v: type(v) is bool, "True or False")
_STAGE = _one_of(1, 2, 3, 4)
_RATE = _Kind(lambda v: type(v) is float and 0 < v < 1, "a learning rate, 0 < lr < 1")
_NAMES = _Kind(lambda v: type(v) is list and all(type(n) is str for n in v), "a list of names")
_THREE = _Kind(
    lambda v: type(v) is list and [type(x) for x in v] == 3 * [float], "a list of three numbers"
)
_TENSORS = _Kind(lambda v: _by_name(v, torch.Tensor), "tensors by name")
_TEXTS = _Kind(lambda v: _by_name(v, str), "texts by name")
_COUNTS = _Kind(lambda v: _by_name(v, int), "counts by name")
_MOMENTS = _Kind(
    lambda v: (
        isinstance(v, dict)
        and all(type(k) is int and _by_name(m, torch.Tensor) for k, m in v.items())
    ),
    "moments by the number of their parameter",
)
_PART = {"images": _TEXT, "patients": _TEXT}

SCHEMA: dict[str, Any] = {
    "format": _one_of(3),
    "run_id": _TEXT,
    "arch": _TEXT,
    "classes": _NAMES,
    "stage": _STAGE,
    "lr": _RATE,
    "epochs_done": _whole(0, 100_000),
    "epochs_planned": _whole(1, 100_000),
    "images_done": _whole(0),
    "loss_sum": _number(0),
    "seconds_done": _number(0),
    "parent": _optional(_TEXT),
    "split": {
        "seed": _whole(0),
        "official": _TRUTH,
        "train": _PART,
        "val": _PART,
        "test": _PART,
    },
    "size": _whole(32),
    "mean": _THREE,
    "std": _THREE,
    "args": {
        "data_path": _TEXT,
        "subset": _optional(_TEXT),
        "split_seed": _whole(0),
        "max_per_class": _whole(0),
        "size": _whole(32),
        "bits": _whole(8, 16),
        "skip_bad_images": _TRUTH,
        "weights": _TEXT,
        "stage": _STAGE,
        "bs": _whole(1),
        "lr": _RATE,
        "epochs": _whole(1),
        "loss_func": _one_of("FocalLoss", "BCE"),
        "seed": _whole(0),
        "save_minutes": _number(0),
    },
    "model": _TENSORS,
    "optimizer": {"state": _MOMENTS, "param_groups": _Kind(lambda v: type(v) is list, "a list")},
    "history": [
        {
            "run_id": _TEXT,
            "stage": _STAGE,
            "epoch": _whole(1),
            "lr": _RATE,
            "images": _whole(1),
            "train_loss": _number(0),
            "val_loss": _optional(_number(0)),
            "val_auc": _optional(_number(0)),
            "val_classes": _whole(0),
            "seconds": _number(0),
        }
    ],
    "versions": _TEXTS,
    "threads": _whole(1),
    "processes": _whole(1),
    "precision": _one_of("fp32", "bf16"),
    "table": {"files": _TEXTS, "labels": _COUNTS},
}


def check(value: Any, rule: Any = SCHEMA, where: str = "") -> None:
    """Compare nested plain values with a rule: a kind, a dict of rules, or a list of one.

    Raises:
        ValueError: the first key that is missing, unknown, or of a value that is not allowed.
    """
    if isinstance(rule, _Kind):
        if not rule.passes(value):
            shown = repr(value) if isinstance(value, str | int | float | None) else type(value)
            raise ValueError(f"{where} is {shown!s:.80}, not {rule.words}")
    elif isinstance(rule, list):
        if type(value) is not list:
            raise ValueError(f"{where} is not a list")
        for number, item in enumerate(value):
            check(item, rule[0], f"{where}[{number}]")
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not a dict")
        for key, inner in rule.items():
            name = f"{where}.{key}".removeprefix(".")
            if key not in value:
                raise ValueError(f"the key {name} is missing")
            check(value[key], inner, name)
        for key in value:
            if key not in rule:
                raise ValueError(f"the key {f'{where}.{key}'.removeprefix('.')} is not known")
