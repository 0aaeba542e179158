"""A .pth in zip form -> tensors and plain values, without running any code of it.

torch.load(weights_only=True) is the guard. Before it: checksums, which torch does not look at;
sizes, since a small file can unpack to a huge one; and the classes that the file names, so that
what is refused can be said.
"""

import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from chestxray.checkpoints import file_kinds
from chestxray.runtime.text import join_limited

# What torch.save names where it writes tensors and plain values.
_PLAIN = re.compile(
    r"torch\._utils\._rebuild_(tensor_v2|parameter)|torch\.\w*Storage|torch\.storage\.\w*Storage"
    r"|torch\.(bool|b?float\d+|u?int\d+|device|Size)|collections\.OrderedDict|__builtin__\.set"
)
_MOST_STEPS = 1_000_000  # each may build an object; a whole model takes 28,000
# What zipfile raises on broken archives, and torch.load on broken contents.
_ARCHIVE_FAULTS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
)
CONTENT_FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    UnpicklingError,
)
# How NumPy has bytes pickled: a call of encode with a text, a character for each byte.
_ENCODE = ("GLOBAL", "_codecs.encode")
_MOST_CHARACTERS = 256  # a text may be encoded again and again
_Pushed = tuple[str, Any] | None  # what an operation has pushed last, where it is a name or a text
_BYTES: tuple[Callable[[str, _Pushed], bool], ...] = (
    lambda _, pushed: (
        pushed is not None and pushed[0] == "BINUNICODE" and len(pushed[1]) <= _MOST_CHARACTERS
    ),
    lambda _, pushed: pushed == ("BINUNICODE", "latin1"),
    lambda operation, _: operation == "TUPLE2",
    lambda operation, _: operation == "REDUCE",
)


def read(path: Path, stand_ins: Mapping[str, type] | None = None) -> Any:
    """Read the tensors and plain values of a file; tensors lie on the CPU.

    Args:
        stand_ins: further classes that the file may name, and what is built instead of each.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: not a .pth in zip form, damaged, larger inside than outside, or it names other
            classes or functions.
    """
    allowed = stand_ins or {}
    if not path.exists():
        raise FileNotFoundError(f"{path} was not found")
    if not path.is_file():
        raise ValueError(f"{path} is a folder or a device, not a file")
    named = _names(path, _pickle(path))
    foreign = sorted(n for n in named if not _PLAIN.fullmatch(n) and n not in allowed)
    if foreign:
        raise ValueError(
            f"{path} is not opened: besides tensors and plain values it names "
            f"{join_limited(foreign)}, and building these could run code; a file with "
            "its state dict alone is read by --weights and --test"
        )
    try:
        with torch.serialization.safe_globals([(kind, name) for name, kind in allowed.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CONTENT_FAULTS as error:
        reason = _first(error)
        raise ValueError(f"{path} cannot be read as tensors and plain values: {reason}") from error
    for tensor in _tensors(content):
        _check_size(path, tensor)
    return content


def check_finite(path: Path, what: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError with the name of the first tensor that holds NaN or infinity."""
    for name, value in tensors.items():
        # The least and the largest are found without a copy, and are NaN where one is.
        if (
            value.is_floating_point()
            and value.numel()
            and not all(map(torch.isfinite, value.aminmax()))
        ):
            raise ValueError(f"{path}: the {what} {name} are not all finite")


def _pickle(path: Path) -> bytes:
    """The pickle of an archive whose records are whole and no larger than the file."""
    try:
        if zipfile.is_zipfile(path):
            return _pickle_in_zip(path)
        description = file_kinds.describe(path)
    except _ARCHIVE_FAULTS as error:
        raise ValueError(f"{path} is not a .pth, or damaged: {_first(error)}") from error
    raise ValueError(description)


def _pickle_in_zip(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records) or (
            sum(record.file_size for record in records) > path.stat().st_size
        ):
            raise ValueError("it would unpack to more than the file holds; torch.save does not")
        if len({record.filename for record in records}) < len(records):
            raise ValueError("a record is there twice")
        wrong = archive.testzip()
        if wrong is not None:
            raise ValueError(f"{wrong} in it has another checksum than when written")
        pickles = [r for r in records if re.fullmatch(r"[^/]+/data\.pkl", r.filename)]
        if len(pickles) != 1:
            raise ValueError("it is a zip of something else: there is no data.pkl in it")
        return archive.read(pickles[0])


def _names(path: Path, pickled: bytes) -> set[str]:
    """The classes and functions that a pickle names; nothing of it is run.

    torch.serialization.get_unsafe_globals_in_checkpoint does not do: it leaves out what torch
    allows, bytearray(4 GB) among it, counts no steps, and does not name what STACK_GLOBAL builds.
    """
    names: set[str] = set()
    memo: dict[Any, _Pushed] = {}
    pushed: _Pushed = None
    awaited: tuple[Callable[[str, _Pushed], bool], ...] = ()
    try:
        for step, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
            if step == _MOST_STEPS:
                raise ValueError(f"it takes more than {_MOST_STEPS:,} steps to build")
            if operation.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = pushed
                continue
            names |= _named(operation.name, argument)
            pushed = _pushed(operation.name, argument, memo)
            if awaited and not awaited[0](operation.name, pushed):
                names.add(_ENCODE[1])  # with other arguments it may unpack, repeat or import
            awaited = awaited[1:] if awaited else _BYTES if pushed == _ENCODE else ()
    except (ValueError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{path} is not a .pth, or damaged: {_first(error)}") from error
    return names


def _named(operation: str, argument: Any) -> set[str]:
    """The class or function that an operation names; not encode, whose calls are looked at."""
    if operation in ("GLOBAL", "INST"):
        name = str(argument).replace(" ", ".")
        return set() if (operation, name) == _ENCODE else {name}
    built = operation in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
    return {f"something by {operation}"} if built else set()


def _pushed(operation: str, argument: Any, memo: Mapping[Any, _Pushed]) -> _Pushed:
    if operation in ("BINGET", "LONG_BINGET"):
        return memo.get(argument)
    if operation == "GLOBAL":
        return operation, str(argument).replace(" ", ".")
    return (operation, argument) if operation == "BINUNICODE" else None


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested values, each object looked at once."""
    seen, remaining = set(), [content]
    while remaining:
        item = remaining.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, Mapping):
            remaining.extend(item.values())
        elif isinstance(item, list | tuple | set):
            remaining.extend(item)
        elif hasattr(item, "__dict__"):
            remaining.append(vars(item))


def _check_size(path: Path, tensor: torch.Tensor) -> None:
    if (
        tensor.layout != torch.strided
        or tensor.device.type != "cpu"
        or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise ValueError(
            f"{path} is not opened: a tensor of shape {tuple(tensor.shape)} in it claims more "
            "numbers than the file holds"
        )


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
