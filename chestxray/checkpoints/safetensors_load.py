"""A safetensors file -> tensors by name. It holds numbers and names, and nothing that could run.

The library compares the header with the file before anything is built: each tensor's bytes are as
many as its shape says, and together they are the file, without gaps and without overlap. So no
tensor claims more than is there. The header itself, in JSON, may be 100 MB there; here it may be as
long as ten thousand tensors take.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from chestxray.checkpoints.safe_load import CONTENT_FAULTS

_LONGEST_HEADER = 2_000_000  # bytes; a ResNet-50's is 40,000


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file by name; they lie on the CPU, in memory.

    Raises:
        ValueError: the header is too long, or is not that of the bytes behind it.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(
                f"{path} is not opened: its header has {length:,} bytes, and at most "
                f"{_LONGEST_HEADER:,} are read"
            )
        file.seek(0)
        content = file.read()
    try:
        return load(content)
    except (SafetensorError, *CONTENT_FAULTS) as error:
        raise ValueError(
            f"{path} is a safetensors file that is damaged or only the beginning of one: {error}"
        ) from error
